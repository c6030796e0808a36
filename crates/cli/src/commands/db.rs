//! `db`: backups of the state, and what is made of them.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use clawfarm_model::{Code, Error};
use clawfarm_server::HomeLock;
use clawfarm_store::{MasterKey, Store};

use crate::app::App;
use crate::connect::VERSION;
use crate::database::{DatabaseArgs, remember};
use crate::errors::{OK, Outcome};

/// The help's examples.
pub(crate) const EXAMPLES: &str =
    "Examples:\n  clawfarm db backup farm.backup\n  clawfarm db restore farm.backup";

/// `clawfarm db`.
#[derive(Debug, Subcommand)]
pub(crate) enum DbCommand {
    /// Write the whole state to a file; the server may run
    #[command(
        after_help = "Examples:\n  clawfarm db backup farm.backup\n  clawfarm db backup --database postgres://farm@db.example/clawfarm farm.backup"
    )]
    Backup(BackupArgs),
    /// Make the state what a backup says; the server must not run
    #[command(
        after_help = "Examples:\n  clawfarm db restore farm.backup\n  clawfarm db restore --database postgres://farm@db.example/clawfarm farm.backup    from SQLite to PostgreSQL"
    )]
    Restore(RestoreArgs),
}

/// `clawfarm db backup`.
#[derive(Debug, Args)]
pub(crate) struct BackupArgs {
    /// The file to write; there must be none of this name
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    database: DatabaseArgs,
}

/// `clawfarm db restore`.
#[derive(Debug, Args)]
pub(crate) struct RestoreArgs {
    /// A file that 'clawfarm db backup' wrote
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    database: DatabaseArgs,
    /// Replace a state that is there
    #[arg(long)]
    force: bool,
}

/// `clawfarm db`.
pub(crate) async fn run(app: &App, command: &DbCommand) -> Outcome {
    match command {
        DbCommand::Backup(args) => Box::pin(backup(app, args)).await,
        DbCommand::Restore(args) => Box::pin(restore(app, args)).await,
    }
}

async fn backup(app: &App, args: &BackupArgs) -> Outcome {
    let database = args.database.choose(&app.home()?)?;
    let file = absolute(&args.file)?;
    let rows = Store::backup(&database, &file, VERSION).await?;
    if app.ui.json {
        app.ui.document(&serde_json::json!({ "file": file, "rows": rows }))?;
    } else {
        app.ui.line(format_args!("{} has the state: {rows} rows", file.display()))?;
        app.ui
            .note("Keep master.key of the home with it, in another place: secrets can't be read without it");
    }
    Ok(OK)
}

async fn restore(app: &App, args: &RestoreArgs) -> Outcome {
    let home = app.home()?;
    let file = absolute(&args.file)?;
    let key = home.join("master.key");
    if !key.exists() {
        return Err(Error::new(Code::NotFound, format!("there is no {}", key.display()))
            .fix("put the master.key there that belongs to the backup: without it the secrets can't be read")
            .into());
    }
    // Whoever runs here would go on with what it knows.
    let _lock = HomeLock::take(&home)?;
    let key = MasterKey::load_or_create(&key)?;
    let database = args.database.choose(&home)?;
    let contents = Store::restore(&database, &file, &key, args.force).await?;
    remember(&home, &database, "PostgreSQL")?;
    if app.ui.json {
        app.ui.document(&serde_json::json!({
            "file": file, "rows": contents.rows, "instances": contents.instances,
            "made_at": contents.made_at, "version": contents.version,
        }))?;
    } else {
        app.ui.line(format_args!(
            "The state is that of {}: {} rows, {} instances",
            contents.made_at, contents.rows, contents.instances
        ))?;
    }
    Ok(OK)
}

fn absolute(file: &Path) -> Result<PathBuf, Error> {
    std::path::absolute(file).map_err(|e| {
        Error::invalid("file", format!("{} can't be used: {e}", file.display()))
            .fix("give the name of a file")
    })
}
