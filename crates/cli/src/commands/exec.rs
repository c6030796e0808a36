//! `exec`: a command inside an instance.

use clap::Args;
use clawfarm_api::ConsoleRequest;

use crate::app::App;
use crate::console;
use crate::errors::Outcome;

/// `clawfarm exec`.
#[derive(Debug, Args)]
#[command(
    long_about = "Runs a command inside an instance, under the same confinement as the claw, and ends with its exit code. No shell is put in between.",
    after_help = "Examples:\n  clawfarm exec alice -- ls -la\n  echo hello | clawfarm exec -i alice -- cat\n  clawfarm exec -it alice -- bash"
)]
pub(crate) struct ExecArgs {
    /// Pass standard input on to the command
    #[arg(long, short)]
    interactive: bool,
    /// Give the command a terminal
    #[arg(long, short)]
    tty: bool,
    /// The instance, by id, name or a unique beginning of either
    #[arg(value_name = "INSTANCE")]
    id: String,
    /// The program and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    argv: Vec<String>,
}

/// `clawfarm exec`. With `--json` each piece of output is a document on a line, and the exit
/// code the last of them.
pub(crate) async fn run(app: &App, args: ExecArgs) -> Outcome {
    let request = ConsoleRequest { argv: args.argv, tty: args.tty, ..ConsoleRequest::default() };
    console::run(app, &args.id, request, args.interactive).await
}
