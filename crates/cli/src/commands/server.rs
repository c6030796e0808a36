//! `server`: the servers that share one database.

use clap::Subcommand;

use crate::app::App;
use crate::errors::{OK, Outcome};
use crate::output::{Column, Table};

/// The help's examples.
pub(crate) const EXAMPLES: &str = "Examples:\n  clawfarm server ls";

/// `clawfarm server`.
#[derive(Debug, Subcommand)]
pub(crate) enum ServerCommand {
    /// List the servers that share the database, with their shares of the work
    #[command(after_help = "Examples:\n  clawfarm server ls\n  clawfarm server ls --json")]
    Ls,
}

/// `clawfarm server`.
pub(crate) async fn run(app: &App, command: &ServerCommand) -> Outcome {
    match command {
        ServerCommand::Ls => list(app).await,
    }
}

async fn list(app: &App) -> Outcome {
    let servers = app.client().await?.servers().await?;
    if app.ui.json {
        app.ui.document(&servers)?;
        return Ok(OK);
    }
    let columns = ["SERVER", "VERSION", "STATE", "LEASES", "TARGETS", "ADDRESS", "SEEN(UTC)"].map(Column);
    let mut table = Table::new(&app.ui, &columns);
    for view in &servers.items {
        let server = &view.server;
        let name = if view.this { format!("{} (this)", server.name) } else { server.name.clone() };
        let targets: Vec<&str> = server.targets.iter().map(|t| t.as_str()).collect();
        table.row(vec![
            table.text(&name),
            table.text(&server.version),
            table.text(if server.live { "live" } else { "gone" }),
            table.text(&server.leases.to_string()),
            table.text(&targets.join(",")),
            table.text(server.address.as_deref().unwrap_or("-")),
            table.text(&server.seen_at.to_string()),
        ]);
    }
    app.ui.line(table.render())?;
    Ok(OK)
}
