//! `down`: stops the server.

use std::time::Duration;

use clap::Args;
use clawfarm_api::Shutdown;
use clawfarm_model::{Code, Error};

use crate::app::App;
use crate::connect;
use crate::errors::{OK, Outcome};

/// How long the server may take to end: it finishes the step that it is at.
const LIMIT: Duration = Duration::from_secs(30);
/// With `--all` each claw finishes its work first: OpenClaw ends within 325 s (measured), and
/// they end side by side.
const LIMIT_WITH_CLAWS: Duration = Duration::from_secs(400);

/// `clawfarm down`.
#[derive(Debug, Args)]
#[command(
    long_about = "Stops the server. The claws go on; the next command starts a server again, which takes them over. With --all the claws are stopped first, and stay stopped until they are started.",
    after_help = "Examples:\n  clawfarm down\n  clawfarm down --all    stop the claws as well"
)]
pub(crate) struct DownArgs {
    /// Stop every claw first
    #[arg(long)]
    all: bool,
}

/// `clawfarm down`.
pub(crate) async fn run(app: &App, args: &DownArgs) -> Outcome {
    let Some((client, info)) = app.running().await? else {
        if app.ui.json {
            app.ui.document(&serde_json::json!({ "was_running": false }))?;
        } else {
            app.ui.note("No server is running.");
        }
        return Ok(OK);
    };
    if info.supervised {
        return Err(Error::new(
            Code::Conflict,
            format!("the server (pid {}) is run by a service manager, which would start it again", info.pid),
        )
        .fix("systemctl stop clawfarm, with --user for a service of your own; claws are stopped with 'clawfarm stop'")
        .into());
    }
    match client.shutdown(Shutdown { claws: args.all }).await {
        Ok(()) => {}
        // With `--all` it answers once the claws are down, which can take longer than a call;
        // it goes on with it, and its end is waited for below.
        Err(e) if args.all && e.code() == Code::Timeout => {}
        Err(e) => return Err(e.into()),
    }
    let limit = if args.all { LIMIT_WITH_CLAWS } else { LIMIT };
    connect::wait_until_ended(app, &info, limit).await?;
    if app.ui.json {
        app.ui.document(
            &serde_json::json!({ "was_running": true, "pid": info.pid, "claws_stopped": args.all }),
        )?;
    } else if args.all {
        app.ui.note("The claws and the server are stopped.");
    } else {
        app.ui.note("The server is stopped; its claws go on. 'clawfarm down --all' stops them too.");
    }
    Ok(OK)
}
