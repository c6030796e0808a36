//! `completion`: a script that makes a shell complete what is typed.

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::app::App;
use crate::cli::Cli;
use crate::errors::{OK, Outcome};

/// `clawfarm completion`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  clawfarm completion bash > ~/.local/share/bash-completion/completions/clawfarm\n  clawfarm completion zsh > ~/.zfunc/_clawfarm\n  clawfarm completion fish > ~/.config/fish/completions/clawfarm.fish"
)]
pub(crate) struct CompletionArgs {
    /// The shell that is to complete
    shell: Shell,
}

/// `clawfarm completion`.
pub(crate) fn run(app: &App, args: &CompletionArgs) -> Outcome {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "clawfarm", &mut script);
    if app.ui.json {
        let document = serde_json::json!({
            "shell": args.shell.to_string(), "script": String::from_utf8_lossy(&script),
        });
        app.ui.document(&document)?;
    } else {
        app.ui.raw(&script)?;
    }
    Ok(OK)
}
