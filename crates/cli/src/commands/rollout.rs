//! `rollout`: revisions on their way to their instances.

use std::time::Duration;

use clap::{Args, Subcommand};
use clawfarm_api::{MembersQuery, RolloutsQuery};
use clawfarm_client::{Client, Steer};
use clawfarm_config::{Member, MemberState, Pause, Rollout, Stage};
use clawfarm_model::{Code, ConfigName, Error};
use tokio::time::{Instant, sleep};

use super::wait::CtrlC;
use crate::app::App;
use crate::connect;
use crate::errors::{FAILED, Failure, INTERRUPTED, OK, Outcome};
use crate::output::{Column, Progress, Table, clean_line, clock, passed};

/// The help's examples.
pub(crate) const EXAMPLES: &str = "\
Examples:
  clawfarm rollout ls
  clawfarm rollout status support --watch
  clawfarm rollout promote support";

/// The pause between two looks.
const PAUSE: Duration = Duration::from_millis(300);
/// How long a server that went away is looked for.
const LOST_MAX: Duration = Duration::from_secs(60);
/// So many instances that went wrong are listed.
const SHOWN: u32 = 20;

/// `clawfarm rollout`.
#[derive(Debug, Subcommand)]
pub(crate) enum RolloutCommand {
    /// List rollouts, the newest first
    #[command(after_help = "Examples:\n  clawfarm rollout ls\n  clawfarm rollout ls --config support")]
    Ls(LsArgs),
    /// Show where a rollout is, and what went wrong
    #[command(
        after_help = "Examples:\n  clawfarm rollout status support\n  clawfarm rollout status support --watch"
    )]
    Status(StatusArgs),
    /// Begin with no more instances; those on their way go on
    #[command(after_help = "Examples:\n  clawfarm rollout pause support")]
    Pause(Which),
    /// Go on with a rollout that was paused
    #[command(after_help = "Examples:\n  clawfarm rollout resume support")]
    Resume(Which),
    /// End a rollout where it is: who has the new revision keeps it
    #[command(after_help = "Examples:\n  clawfarm rollout abort support")]
    Abort(Which),
    /// Go on to the next step without waiting any longer
    #[command(after_help = "Examples:\n  clawfarm rollout promote support")]
    Promote(Which),
    /// Give those that were changed back what they had
    #[command(after_help = "Examples:\n  clawfarm rollout rollback support")]
    Rollback(Which),
}

/// `clawfarm rollout ls`.
#[derive(Debug, Args)]
pub(crate) struct LsArgs {
    /// Only those of this configuration
    #[arg(long, value_name = "NAME")]
    config: Option<ConfigName>,
    /// So many of the newest
    #[arg(long, short = 'n', value_name = "COUNT", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=500))]
    limit: u32,
}

/// One rollout.
#[derive(Debug, Args)]
pub(crate) struct Which {
    /// The rollout by its id, or its configuration by name for the newest of it
    #[arg(value_name = "ROLLOUT OR CONFIG")]
    which: String,
}

/// `clawfarm rollout status`.
#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    which: Which,
    /// Go on showing it until it ends
    #[arg(long, short)]
    watch: bool,
}

/// `clawfarm rollout`.
pub(crate) async fn run(app: &App, command: &RolloutCommand) -> Outcome {
    match command {
        RolloutCommand::Ls(args) => list(app, args).await,
        RolloutCommand::Status(args) => status(app, args).await,
        RolloutCommand::Pause(which) => steer(app, which, Steer::Pause).await,
        RolloutCommand::Resume(which) => steer(app, which, Steer::Resume).await,
        RolloutCommand::Abort(which) => steer(app, which, Steer::Abort).await,
        RolloutCommand::Promote(which) => steer(app, which, Steer::Promote).await,
        RolloutCommand::Rollback(which) => steer(app, which, Steer::Rollback).await,
    }
}

async fn list(app: &App, args: &LsArgs) -> Outcome {
    let query = RolloutsQuery { config: args.config.clone(), limit: Some(args.limit) };
    let rollouts = app.client().await?.rollouts(&query).await?;
    if app.ui.json {
        app.ui.document(&rollouts)?;
        return Ok(OK);
    }
    if rollouts.items.is_empty() {
        app.ui.note("Nothing was published yet. See: clawfarm config ls");
        return Ok(OK);
    }
    let columns =
        ["ROLLOUT", "CONFIG", "REVISION", "STAGE", "INSTANCES", "BEGUN(UTC)", "MESSAGE"].map(Column);
    let mut table = Table::new(&app.ui, &columns);
    for it in &rollouts.items {
        let counts = &it.counts;
        table.row(vec![
            table.text(&it.id),
            table.text(it.config.as_str()),
            table.text(&it.to.to_string()),
            table.text(stage(it.stage)),
            table.text(&format!("{}/{}", counts.proven, counts.all())),
            table.text(&clock(it.created_at)),
            table.text(&it.message),
        ]);
    }
    app.ui.line(table.render())?;
    Ok(OK)
}

async fn status(app: &App, args: &StatusArgs) -> Outcome {
    let client = app.client().await?;
    let rollout = find(&client, &args.which).await?;
    if args.watch && !rollout.stage.is_over() {
        let mut ctrl_c = CtrlC::watch()?;
        return to_its_end(app, &client, rollout, &mut ctrl_c).await;
    }
    show(app, &client, &rollout).await?;
    Ok(OK)
}

async fn steer(app: &App, which: &Which, what: Steer) -> Outcome {
    let client = app.client().await?;
    let id = find(&client, which).await?.id;
    let rollout = client.steer_rollout(&id, what).await?;
    if app.ui.json {
        app.ui.document(&rollout)?;
    } else {
        let promoted = if what == Steer::Promote { ", and goes on" } else { "" };
        app.ui.line(format_args!(
            "{} of {} is {}{promoted}",
            rollout.id,
            rollout.config,
            stage(rollout.stage)
        ))?;
    }
    Ok(OK)
}

/// By its id, or the newest of a configuration.
async fn find(client: &Client, which: &Which) -> Result<Rollout, Error> {
    let text = which.which.as_str();
    let known = match client.rollout(text).await {
        Err(error) if matches!(error.code(), Code::NotFound | Code::InvalidInput) => None,
        other => Some(other?),
    };
    if let Some(rollout) = known {
        return Ok(rollout);
    }
    let config = ConfigName::new(text)?;
    let query = RolloutsQuery { config: Some(config.clone()), limit: Some(1) };
    client.rollouts(&query).await?.items.into_iter().next().ok_or_else(|| {
        Error::not_found("rollout", text)
            .field("rollout")
            .fix(format!("see clawfarm rollout ls, or begin one: clawfarm config publish {config}"))
    })
}

/// Shows a rollout until it ends, or waits for somebody's word. Ctrl-C ends the look and nothing
/// else.
pub(super) async fn to_its_end(app: &App, client: &Client, begun: Rollout, ctrl_c: &mut CtrlC) -> Outcome {
    let ended = ended(app, client, begun, ctrl_c).await?;
    show(app, client, &ended).await?;
    outcome(&ended)
}

/// Shows one that was turned round: that all have again what they had is what was asked for.
pub(super) async fn to_its_beginning(
    app: &App,
    client: &Client,
    turned: Rollout,
    ctrl_c: &mut CtrlC,
) -> Outcome {
    let ended = ended(app, client, turned, ctrl_c).await?;
    show(app, client, &ended).await?;
    if ended.stage == Stage::RolledBack { Ok(OK) } else { outcome(&ended) }
}

fn outcome(ended: &Rollout) -> Outcome {
    match check(ended) {
        Ok(()) => Ok(OK),
        Err(_) => Err(Failure::Told(FAILED)),
    }
}

/// The same without a word at the end.
pub(super) async fn ended(
    app: &App,
    client: &Client,
    begun: Rollout,
    ctrl_c: &mut CtrlC,
) -> Result<Rollout, Failure> {
    let id = begun.id.clone();
    tokio::select! {
        ended = until_ended(app, client, begun) => ended,
        () = ctrl_c.pressed() => {
            app.ui.note(format_args!(
                "Not waiting any longer: the rollout goes on. Look at it with: clawfarm rollout status {id} --watch; end it with: clawfarm rollout abort {id}"
            ));
            Err(Failure::Told(INTERRUPTED))
        }
    }
}

/// One that did not get through as an error.
pub(super) fn check(rollout: &Rollout) -> Result<(), Error> {
    if !matches!(rollout.stage, Stage::RolledBack | Stage::Halted | Stage::Aborted) {
        return Ok(());
    }
    let why = rollout.error.as_deref().map_or_else(String::new, |why| format!(": {why}"));
    Err(Error::new(Code::ClawFailed, format!("{} is {}{why}", rollout.subject(), stage(rollout.stage)))
        .fix(format!("see clawfarm rollout status {}", rollout.id)))
}

async fn until_ended(app: &App, client: &Client, mut rollout: Rollout) -> Result<Rollout, Failure> {
    let mut progress = Progress::new(&app.ui);
    let mut answered = Instant::now();
    loop {
        let (done, all) = so_far(&rollout);
        progress.update(&line(&rollout), done, all);
        // A word that nobody gives here would be waited for in vain.
        let word = rollout.stage == Stage::Waiting && !rollout.promoted && waits_for_a_word(&rollout);
        if rollout.stage.is_over() || matches!(rollout.stage, Stage::Paused | Stage::Halted) || word {
            return Ok(rollout);
        }
        sleep(PAUSE).await;
        match client.rollout(&rollout.id).await {
            Ok(now) => {
                rollout = now;
                answered = Instant::now();
            }
            Err(e)
                if matches!(e.code(), Code::Unavailable | Code::Timeout | Code::Overloaded)
                    && answered.elapsed() < LOST_MAX =>
            {
                // What can't be mended now may mend itself until the time is over.
                let _ = connect::revive(app).await;
            }
            Err(e) => return Err(e.into()),
        }
    }
}

/// Whether it goes on only when somebody says so, or when one that sleeps has woken.
fn waits_for_a_word(rollout: &Rollout) -> bool {
    pause(rollout) == Some(Pause::Promotion) || rollout.counts.seen == 0
}

/// What is waited for after the present step.
fn pause(rollout: &Rollout) -> Option<Pause> {
    let step = usize::try_from(rollout.step).ok()?;
    rollout.strategy.steps.get(step).map(|it| it.then)
}

/// How many of how many are where they shall be.
fn so_far(rollout: &Rollout) -> (u32, u32) {
    let counts = &rollout.counts;
    match rollout.stage {
        Stage::RollingBack | Stage::RolledBack => {
            let back = counts.proven + counts.failed + counts.changing + counts.reverting + counts.reverted;
            (counts.reverted, back)
        }
        _ => (counts.proven + counts.failed + counts.skipped, counts.all()),
    }
}

fn line(rollout: &Rollout) -> String {
    let steps = rollout.strategy.steps.len();
    let step = match (rollout.stage, steps) {
        (_, 0) | (Stage::RollingBack | Stage::Done | Stage::RolledBack | Stage::Aborted, _) => String::new(),
        _ => format!(", step {} of {}", rollout.step + 1, steps + 1),
    };
    format!("{}@{}: {}{step}", rollout.config, rollout.to, stage(rollout.stage))
}

/// A stage in words.
fn stage(stage: Stage) -> &'static str {
    match stage {
        Stage::Going => "going out",
        Stage::Waiting => "waiting",
        Stage::Paused => "paused",
        Stage::Halted => "halted",
        Stage::RollingBack => "rolling back",
        Stage::Done => "done",
        Stage::RolledBack => "rolled back",
        Stage::Aborted => "aborted",
    }
}

/// Where it is, what went wrong, and what to do.
async fn show(app: &App, client: &Client, rollout: &Rollout) -> Result<(), Failure> {
    if app.ui.json {
        return app.ui.document(rollout);
    }
    let (ui, id, counts) = (&app.ui, &rollout.id, &rollout.counts);
    let from = rollout.from.map_or_else(String::new, |number| format!(", from revision {number}"));
    ui.line(format_args!(
        "{}{from} ({id}, begun {} ago by {})",
        line(rollout),
        passed(rollout.created_at),
        clean_line(&rollout.author)
    ))?;
    let parts = [
        (counts.proven, "have it"),
        (counts.changing, "on their way"),
        (counts.pending, "to come"),
        (counts.failed, "failed"),
        (counts.skipped, "left out"),
        (counts.reverting, "on their way back"),
        (counts.reverted, "have again what they had"),
        (counts.revert_failed, "are not well with what they had"),
    ];
    let parts: Vec<_> = parts.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}")).collect();
    let all = if parts.is_empty() { "no instance goes by it".to_owned() } else { parts.join(", ") };
    ui.line(format_args!("  instances: {all}"))?;
    if let Some(error) = &rollout.error {
        ui.line(format_args!("  because: {}", clean_line(error)))?;
    }
    for member in wrong(client, rollout).await? {
        let why = member.error.as_deref().unwrap_or("for no reason that is known");
        ui.line(format_args!("  {}: {}", member.instance, clean_line(why)))?;
    }
    match rollout.stage {
        Stage::Waiting if rollout.counts.seen == 0 => {
            ui.note(format_args!("Nobody was seen to run with it yet: wake one that has it, or go on all the same: clawfarm rollout promote {id}"));
        }
        Stage::Waiting if pause(rollout) == Some(Pause::Promotion) => {
            ui.note(format_args!("It waits for a word: clawfarm rollout promote {id}, or clawfarm rollout rollback {id}"));
        }
        Stage::Paused => ui.note(format_args!("It goes on with: clawfarm rollout resume {id}")),
        Stage::Halted => ui.note(format_args!("Give back what there was: clawfarm rollout rollback {id}; or leave it so: clawfarm rollout abort {id}")),
        _ => {}
    }
    Ok(())
}

/// The instances that it went wrong with.
async fn wrong(client: &Client, rollout: &Rollout) -> Result<Vec<Member>, Error> {
    let counts = &rollout.counts;
    let states = [
        (MemberState::Failed, counts.failed),
        (MemberState::Skipped, counts.skipped),
        (MemberState::Reverted, counts.reverted),
        (MemberState::RevertFailed, counts.revert_failed),
    ];
    let mut found = Vec::new();
    for (state, _) in states.iter().filter(|(_, count)| *count > 0) {
        let query = MembersQuery { state: Some(*state), after: None, limit: Some(SHOWN) };
        found.extend(client.rollout_members(&rollout.id, query).await?.items);
    }
    found.retain(|it| it.error.is_some());
    Ok(found)
}
