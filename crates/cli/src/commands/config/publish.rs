//! `config publish` and `rollback`.

use clap::Args;
use clawfarm_api::{PublishRequest, RollbackRequest};
use clawfarm_config::{Amount, Pause, Rollout, Stage, Step, Strategy};
use clawfarm_model::ConfigName;

use super::Selection;
use crate::app::App;
use crate::commands::{input, rollout, wait};
use crate::errors::{OK, Outcome};

/// `clawfarm config publish`.
#[derive(Debug, Args)]
pub(crate) struct PublishArgs {
    /// The configuration: a template's name, global, tenant or project.NAME
    name: ConfigName,
    /// The revision [default: the newest]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(i64).range(1..))]
    revision: Option<i64>,
    #[command(flatten)]
    how: How,
    #[command(flatten)]
    selection: Selection,
    /// What for
    #[arg(long, short, value_name = "TEXT", default_value = "")]
    message: String,
    /// Return at once; print the rollout instead of waiting for its end
    #[arg(long, short)]
    detach: bool,
    /// Wait for its end; this is what happens unless --detach is given
    #[arg(long, conflicts_with = "detach")]
    wait: bool,
}

/// `clawfarm config rollback`.
#[derive(Debug, Args)]
pub(crate) struct RollbackArgs {
    /// The configuration: a template's name, global, tenant or project.NAME
    name: ConfigName,
    /// The revision to go back to [default: the one that was published before]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(i64).range(1..))]
    to: Option<i64>,
    #[command(flatten)]
    how: How,
    /// Return at once; print the rollout instead of waiting for its end
    #[arg(long, short)]
    detach: bool,
}

/// How it goes out.
#[derive(Clone, Debug, Args)]
pub(super) struct How {
    /// A step before the last, which is always all: how many have it then, and how long to look at
    /// them before the next: 10%:5m, 5:90s, 1:manual; several times for several
    #[arg(long, value_name = "AMOUNT[:PAUSE]", value_parser = step)]
    step: Vec<Step>,
    /// Those with this label come first; without --step they are the first step. Several times for
    /// several that must all be there
    #[arg(long, value_name = "NAME=VALUE", value_parser = input::pair)]
    canary_label: Vec<(String, String)>,
    /// How many may be on their way at once
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
    parallel: Option<u32>,
    /// How many may fail before it has failed
    #[arg(long, value_name = "COUNT")]
    max_failures: Option<u32>,
    /// How long an instance may take until it is ready with it: 90s, 5m
    #[arg(long, value_name = "TIME", value_parser = input::seconds)]
    ready_within: Option<u32>,
    /// When it has failed, stop and wait instead of giving back what there was
    #[arg(long)]
    no_rollback: bool,
}

/// Reads `10%:5m`, `5`, `1:manual`.
fn step(text: &str) -> Result<Step, String> {
    let (amount, pause) = text.split_once(':').unwrap_or((text, ""));
    let to: Amount = amount.parse().map_err(|e: clawfarm_model::Error| e.message().to_owned())?;
    let then = match pause {
        "" => Pause::None,
        "manual" => Pause::Promotion,
        time => Pause::Secs(input::seconds(time)?),
    };
    Ok(Step { to, then })
}

impl How {
    /// The usual strategy, but for what was said.
    pub(super) fn strategy(&self, usual: &Strategy) -> Strategy {
        Strategy {
            steps: self.step.clone(),
            first: self.canary_label.iter().cloned().collect(),
            parallel: self.parallel.unwrap_or(usual.parallel),
            max_failures: self.max_failures.unwrap_or(usual.max_failures),
            ready_within_secs: self.ready_within.unwrap_or(usual.ready_within_secs),
            roll_back: usual.roll_back && !self.no_rollback,
        }
    }
}

pub(super) async fn publish(app: &App, args: &PublishArgs) -> Outcome {
    let request = PublishRequest {
        revision: args.revision,
        selector: args.selection.selector()?,
        strategy: args.how.strategy(&Strategy::default()),
        message: args.message.clone(),
    };
    let client = app.client().await?;
    let mut ctrl_c = wait::CtrlC::watch()?;
    let begun = client.publish(&args.name, &request).await?;
    if args.detach {
        return detached(app, &begun);
    }
    rollout::to_its_end(app, &client, begun, &mut ctrl_c).await
}

pub(super) async fn roll_back(app: &App, args: &RollbackArgs) -> Outcome {
    // Nothing said: the server knows whether the revision was proven not long ago.
    let back = Strategy::back();
    let strategy = Some(args.how.strategy(&back)).filter(|it| *it != back);
    let request = RollbackRequest { to: args.to, strategy };
    let client = app.client().await?;
    let mut ctrl_c = wait::CtrlC::watch()?;
    let begun = client.roll_back(&args.name, &request).await?;
    if args.detach {
        return detached(app, &begun);
    }
    // One that was under way was turned round.
    if begun.stage == Stage::RollingBack {
        return rollout::to_its_beginning(app, &client, begun, &mut ctrl_c).await;
    }
    rollout::to_its_end(app, &client, begun, &mut ctrl_c).await
}

pub(super) fn detached(app: &App, rollout: &Rollout) -> Outcome {
    if app.ui.json {
        app.ui.document(rollout)?;
    } else {
        app.ui.line(&rollout.id)?;
        app.ui.note(format_args!("It has begun. Look at it with: clawfarm rollout status {}", rollout.id));
    }
    Ok(OK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_read() {
        assert_eq!(step("10%:5m"), Ok(Step { to: Amount::Percent(10), then: Pause::Secs(300) }));
        assert_eq!(step("1:manual"), Ok(Step { to: Amount::Count(1), then: Pause::Promotion }));
        assert_eq!(step("5"), Ok(Step { to: Amount::Count(5), then: Pause::None }));
        for wrong in ["", "10%:soon", "all", ":5m", "1:2:3"] {
            assert!(step(wrong).is_err(), "{wrong}");
        }
    }
}
