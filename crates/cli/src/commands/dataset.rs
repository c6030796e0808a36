//! `dataset`: the data of instances that were removed.

use clap::{Args, Subcommand};
use clawfarm_model::ClawId;

use crate::app::App;
use crate::errors::{Failure, OK, Outcome, exit_code, tell_error};
use crate::output::{Column, Table, bytes, clock};

/// The help's examples.
pub(crate) const EXAMPLES: &str = "\
Examples:
  clawfarm dataset ls
  clawfarm new openclaw alice --dataset alice-x7k2m
  clawfarm dataset rm alice-x7k2m";

/// `clawfarm dataset`.
#[derive(Debug, Subcommand)]
pub(crate) enum DatasetCommand {
    /// List the datasets
    #[command(after_help = "Examples:\n  clawfarm dataset ls")]
    Ls,
    /// Remove datasets for good
    #[command(after_help = "Examples:\n  clawfarm dataset rm alice-x7k2m")]
    Rm(RmArgs),
}

/// `clawfarm dataset rm`.
#[derive(Debug, Args)]
pub(crate) struct RmArgs {
    /// Datasets, by their whole id: what is removed for good is named in full
    #[arg(required = true, value_name = "DATASET")]
    ids: Vec<ClawId>,
}

/// `clawfarm dataset`.
pub(crate) async fn run(app: &App, command: &DatasetCommand) -> Outcome {
    match command {
        DatasetCommand::Ls => list(app).await,
        DatasetCommand::Rm(args) => remove(app, &args.ids).await,
    }
}

async fn list(app: &App) -> Outcome {
    let datasets = app.client().await?.datasets().await?;
    if app.ui.json {
        app.ui.document(&datasets)?;
        return Ok(OK);
    }
    if datasets.items.is_empty() {
        app.ui.note("No datasets. 'clawfarm rm' leaves one of each instance it removes.");
        return Ok(OK);
    }
    let columns = ["DATASET", "IMAGE", "SIZE", "CREATED(UTC)", "TARGET"].map(Column);
    let mut table = Table::new(&app.ui, &columns);
    for dataset in &datasets.items {
        table.row(vec![
            table.text(dataset.id.as_str()),
            table.text(&format!("{}:{}", dataset.claw_type, dataset.version)),
            table.text(&bytes(dataset.size_bytes)),
            table.text(&clock(dataset.created_at)),
            table.text(dataset.target.as_str()),
        ]);
    }
    app.ui.line(table.render())?;
    Ok(OK)
}

async fn remove(app: &App, ids: &[ClawId]) -> Outcome {
    let client = app.client().await?;
    let mut removed = Vec::new();
    let mut code = OK;
    for id in ids {
        match client.remove_dataset(id).await {
            Ok(()) => removed.push(id),
            Err(error) => {
                tell_error(&app.ui, &error);
                code = if code == OK { exit_code(error.code()) } else { code };
            }
        }
    }
    if app.ui.json {
        app.ui.document(&serde_json::json!({ "removed": removed }))?;
    } else {
        for id in removed {
            app.ui.line(format_args!("{id} is removed for good"))?;
        }
    }
    if code == OK { Ok(OK) } else { Err(Failure::Told(code)) }
}
