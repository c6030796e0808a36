//! `start`, `stop`, `restart`, `kill`, `suspend`, `resume`: one request an instance, then a wait.

use clap::Args;
use clawfarm_api::{StopRequest, SuspendRequest};

use super::wait;
use crate::app::App;
use crate::errors::Outcome;

/// Which instances, and whether to wait for them.
#[derive(Clone, Debug, Args)]
pub(crate) struct Which {
    /// Instances, by id, name or a unique beginning of either
    #[arg(required = true, value_name = "INSTANCE")]
    pub(crate) ids: Vec<String>,
    /// Return at once; print the operation instead of waiting for it
    #[arg(long, short)]
    pub(crate) detach: bool,
}

/// `clawfarm start`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  clawfarm start alice\n  clawfarm start alice bob --detach")]
pub(crate) struct StartArgs {
    #[command(flatten)]
    which: Which,
}

/// `clawfarm stop`.
#[derive(Debug, Args)]
#[command(
    long_about = "Stops instances. Each is asked to finish its work first and takes nothing new meanwhile; that can take minutes.",
    after_help = "Examples:\n  clawfarm stop alice\n  clawfarm stop alice --force    without letting it finish its work"
)]
pub(crate) struct StopArgs {
    #[command(flatten)]
    which: Which,
    /// Do not let it finish its work first
    #[arg(long, short)]
    force: bool,
}

/// `clawfarm restart`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  clawfarm restart alice")]
pub(crate) struct RestartArgs {
    #[command(flatten)]
    which: Which,
}

/// `clawfarm kill`.
#[derive(Debug, Args)]
#[command(
    long_about = "Ends instances at once, with everything they started. Work under way is lost; 'stop' lets them finish it.",
    after_help = "Examples:\n  clawfarm kill alice"
)]
pub(crate) struct KillArgs {
    #[command(flatten)]
    which: Which,
}

/// `clawfarm suspend`.
#[derive(Debug, Args)]
#[command(
    long_about = "Puts instances to sleep: they finish what they do, write their state to disk and hold no memory. One that is working is refused, with what it works on.",
    after_help = "Examples:\n  clawfarm suspend alice\n  clawfarm suspend alice --warm     freeze it in memory; it wakes in milliseconds\n  clawfarm suspend alice --force    even when it is working"
)]
pub(crate) struct SuspendArgs {
    #[command(flatten)]
    which: Which,
    /// Freeze it in memory instead of ending it
    #[arg(long)]
    warm: bool,
    /// Even when it is working
    #[arg(long, short)]
    force: bool,
}

/// `clawfarm resume`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  clawfarm resume alice")]
pub(crate) struct ResumeArgs {
    #[command(flatten)]
    which: Which,
}

/// `clawfarm start`.
pub(crate) async fn start(app: &App, args: &StartArgs) -> Outcome {
    let client = app.client().await?;
    let client = &client;
    wait::each(app, client, &args.which, |id| async move { client.start(&id).await }).await
}

/// `clawfarm stop`.
pub(crate) async fn stop(app: &App, args: &StopArgs) -> Outcome {
    let client = app.client().await?;
    let (client, request) = (&client, StopRequest { force: args.force });
    wait::each(app, client, &args.which, |id| async move { client.stop(&id, request).await }).await
}

/// `clawfarm restart`.
pub(crate) async fn restart(app: &App, args: &RestartArgs) -> Outcome {
    let client = app.client().await?;
    let client = &client;
    wait::each(app, client, &args.which, |id| async move { client.restart(&id).await }).await
}

/// `clawfarm kill`.
pub(crate) async fn kill(app: &App, args: &KillArgs) -> Outcome {
    let client = app.client().await?;
    let client = &client;
    wait::each(app, client, &args.which, |id| async move { client.kill(&id).await }).await
}

/// `clawfarm suspend`.
pub(crate) async fn suspend(app: &App, args: &SuspendArgs) -> Outcome {
    let client = app.client().await?;
    let (client, request) = (&client, SuspendRequest { warm: args.warm, force: args.force });
    wait::each(app, client, &args.which, |id| async move { client.suspend(&id, request).await }).await
}

/// `clawfarm resume`.
pub(crate) async fn resume(app: &App, args: &ResumeArgs) -> Outcome {
    let client = app.client().await?;
    let client = &client;
    wait::each(app, client, &args.which, |id| async move { client.resume(&id).await }).await
}
