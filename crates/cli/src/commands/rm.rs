//! `rm`: removes instances.

use clap::Args;
use clawfarm_api::RemoveQuery;

use super::lifecycle::Which;
use super::wait;
use crate::app::App;
use crate::errors::Outcome;

/// `clawfarm rm`.
#[derive(Debug, Args)]
#[command(
    long_about = "Removes instances. The data of each (configuration and workspace) stays as a dataset, which 'clawfarm dataset ls' lists and 'clawfarm new --dataset' takes up again; with --purge it goes too, for good.",
    after_help = "Examples:\n  clawfarm rm alice\n  clawfarm rm alice --purge    its data too, for good\n  clawfarm rm alice --force    without letting it finish its work"
)]
pub(crate) struct RmArgs {
    #[command(flatten)]
    which: Which,
    /// Remove its data too, for good
    #[arg(long)]
    purge: bool,
    /// Do not let it finish its work first
    #[arg(long, short)]
    force: bool,
}

/// `clawfarm rm`.
pub(crate) async fn run(app: &App, args: &RmArgs) -> Outcome {
    let client = app.client().await?;
    let (client, query) = (&client, RemoveQuery { purge: args.purge, force: args.force });
    wait::each(app, client, &args.which, |id| async move { client.remove(&id, query).await }).await
}
