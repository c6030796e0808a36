//! `update`: another version of the claws' software, a few at a time.

use clap::Args;
use clawfarm_api::{InstanceQuery, MACHINE, UpdateSoftware};

use super::lifecycle::Which;
use super::wait;
use crate::app::App;
use crate::errors::Outcome;

/// `clawfarm update`.
#[derive(Debug, Args)]
#[command(
    long_about = "Has instances run another version of their software. The version is installed beside the old one; then the instance finishes its work and is stopped, its data is copied, and the new version has to answer within the time its start may take. When it does not, the old version comes back with that data, and the last lines of the new one are told. An instance that is down or asleep stays so, and tries the new version at its next start.\n\nSeveral are updated one after the other, or as many at a time as --max-unavailable says; after one that fails no further one is begun.",
    after_help = "Examples:\n  clawfarm update alice\n  clawfarm update alice --version 2026.9.6\n  clawfarm update --all --max-unavailable 3"
)]
pub(crate) struct UpdateArgs {
    /// Instances, by id, name or a unique beginning of either
    #[arg(value_name = "INSTANCE", required_unless_present = "all", conflicts_with = "all")]
    ids: Vec<String>,
    /// The version to run [default: the one that this clawfarm was tested with]
    #[arg(long, value_name = "VERSION")]
    version: Option<String>,
    /// Every instance
    #[arg(long)]
    all: bool,
    /// How many may be down for it at the same time
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    max_unavailable: u16,
    /// Return at once, with all of them begun; print the operations instead of waiting for them
    #[arg(long, short, conflicts_with_all = ["all", "max_unavailable"])]
    detach: bool,
}

/// `clawfarm update`.
pub(crate) async fn run(app: &App, args: &UpdateArgs) -> Outcome {
    let client = app.client().await?;
    let client = &client;
    let request = UpdateSoftware { version: args.version.clone() };
    let ids = if args.all {
        let all = client.all_instances(&InstanceQuery::default()).await?;
        // A bare machine has no software of clawfarm's.
        let claws = all.into_iter().filter(|it| it.claw_type.as_str() != MACHINE);
        claws.map(|instance| instance.id.as_str().to_owned()).collect()
    } else {
        args.ids.clone()
    };
    let ask = |id: String| {
        let request = request.clone();
        async move { client.update_software(&id, &request).await }
    };
    let which = Which { ids, detach: args.detach };
    if args.detach {
        return wait::each(app, client, &which, ask).await;
    }
    wait::some_at_a_time(app, client, &which.ids, usize::from(args.max_unavailable), ask).await
}
