//! `version`: of this command, and of the server if one runs.

use clap::Args;

use crate::app::App;
use crate::connect::VERSION;
use crate::errors::{OK, Outcome};

/// `clawfarm version`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  clawfarm version\n  clawfarm version --json")]
pub(crate) struct VersionArgs {}

/// `clawfarm version`. Starts no server, and no server's answer is no failure.
pub(crate) async fn run(app: &App, _args: &VersionArgs) -> Outcome {
    let server = match app.running().await {
        Ok(running) => running.map(|(_, info)| info),
        Err(error) => {
            app.ui.warn(format_args!("the server does not say its version: {}", error.message()));
            None
        }
    };
    if app.ui.json {
        app.ui.document(&serde_json::json!({ "version": VERSION, "server": server }))?;
        return Ok(OK);
    }
    app.ui.line(format_args!("clawfarm {VERSION}"))?;
    match server {
        Some(info) => {
            app.ui.line(format_args!("server   {} (pid {}, {})", info.version, info.pid, info.home))?;
        }
        None => app.ui.line("server   not running")?,
    }
    Ok(OK)
}
