//! `token`: an instance's gateway token.

use clap::{Args, Subcommand};

use super::lifecycle::Which;
use super::wait;
use crate::app::App;
use crate::errors::{OK, Outcome};
use crate::output::clean_line;

/// The help's examples.
pub(crate) const EXAMPLES: &str = "\
Examples:
  clawfarm token reveal alice
  clawfarm token rotate alice";

/// `clawfarm token`.
#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Print the gateway token; the reveal is written to the audit log
    #[command(after_help = "Examples:\n  clawfarm token reveal alice")]
    Reveal(RevealArgs),
    /// Give the gateway a new token; the old one is worth nothing from then on
    #[command(after_help = "Examples:\n  clawfarm token rotate alice")]
    Rotate(RotateArgs),
}

/// `clawfarm token reveal`.
#[derive(Debug, Args)]
pub(crate) struct RevealArgs {
    /// The instance, by id, name or a unique beginning of either
    #[arg(value_name = "INSTANCE")]
    id: String,
}

/// `clawfarm token rotate`.
#[derive(Debug, Args)]
pub(crate) struct RotateArgs {
    #[command(flatten)]
    which: Which,
}

/// `clawfarm token`.
pub(crate) async fn run(app: &App, command: &TokenCommand) -> Outcome {
    match command {
        TokenCommand::Reveal(args) => reveal(app, &args.id).await,
        TokenCommand::Rotate(args) => rotate(app, &args.which).await,
    }
}

async fn reveal(app: &App, id: &str) -> Outcome {
    let view = app.client().await?.reveal_token(id).await?;
    if app.ui.json {
        app.ui.document(&view)?;
    } else {
        // Alone on standard output, so that it can be piped into a password manager.
        app.ui.line(clean_line(&view.token))?;
        app.ui.note("Whoever has this token controls the claw. 'clawfarm token rotate' makes it worthless.");
    }
    Ok(OK)
}

async fn rotate(app: &App, which: &Which) -> Outcome {
    let client = app.client().await?;
    let client = &client;
    wait::each(app, client, which, |id| async move { client.rotate_token(&id).await }).await
}
