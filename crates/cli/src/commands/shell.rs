//! `shell`: a shell inside an instance, in this terminal.

use clap::Args;
use clawfarm_api::ConsoleRequest;
use clawfarm_model::Error;

use crate::app::App;
use crate::console;
use crate::errors::Outcome;
use crate::terminal;

/// `clawfarm shell`.
#[derive(Debug, Args)]
#[command(
    long_about = "Opens a shell inside an instance: with this terminal's size, with Ctrl-C going to the shell, and with its exit code.",
    after_help = "Examples:\n  clawfarm shell alice"
)]
pub(crate) struct ShellArgs {
    /// The instance, by id, name or a unique beginning of either
    #[arg(value_name = "INSTANCE")]
    id: String,
}

/// `clawfarm shell`.
pub(crate) async fn run(app: &App, args: &ShellArgs) -> Outcome {
    if app.ui.json || !terminal::stdin_is_terminal() {
        return Err(Error::invalid("shell", "a shell needs a terminal to be typed in")
            .fix(format!("for scripts: clawfarm exec -i {} -- sh", args.id))
            .into());
    }
    let request = ConsoleRequest { tty: true, ..ConsoleRequest::default() };
    console::run(app, &args.id, request, true).await
}
