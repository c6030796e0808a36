//! `target`: the places that instances run on.

use clap::Subcommand;

use crate::app::App;
use crate::errors::{OK, Outcome};
use crate::output::{Column, Table};

/// The help's examples.
pub(crate) const EXAMPLES: &str = "Examples:\n  clawfarm target ls";

/// `clawfarm target`.
#[derive(Debug, Subcommand)]
pub(crate) enum TargetCommand {
    /// List the targets and what they have to give
    #[command(after_help = "Examples:\n  clawfarm target ls\n  clawfarm target ls --json")]
    Ls,
}

/// `clawfarm target`.
pub(crate) async fn run(app: &App, command: &TargetCommand) -> Outcome {
    match command {
        TargetCommand::Ls => list(app).await,
    }
}

async fn list(app: &App) -> Outcome {
    let targets = app.client().await?.targets().await?;
    if app.ui.json {
        app.ui.document(&targets)?;
        return Ok(OK);
    }
    let columns = ["TARGET", "RUNTIME", "INSTANCES", "CPUS", "MEMORY(MIB)", "AVAILABLE(MIB)"].map(Column);
    let mut table = Table::new(&app.ui, &columns);
    for view in &targets.items {
        let figure = |text: Option<String>| text.unwrap_or_else(|| "?".to_owned());
        let capacity = view.capacity;
        table.row(vec![
            table.text(view.target.name.as_str()),
            table.text(view.target.runtime.as_str()),
            table.text(&view.instances.to_string()),
            table.text(&figure(capacity.map(|c| c.cpus.to_string()))),
            table.text(&figure(capacity.map(|c| c.memory_mib.to_string()))),
            table.text(&figure(capacity.map(|c| c.memory_available_mib.to_string()))),
        ]);
    }
    app.ui.line(table.render())?;
    Ok(OK)
}
