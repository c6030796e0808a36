//! `db`: backups of the state, and what is made of them.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use clawfarm_model::{Code, Error};
use clawfarm_server::HomeLock;
use clawfarm_store::{Database, OwnTarget, Restore, Store};

use crate::app::App;
use crate::connect::VERSION;
use crate::database::{DatabaseArgs, remember};
use crate::errors::{OK, Outcome};
use crate::master_key::{MasterKeyArgs, Source};
use crate::node::Node;
use crate::server::own_target;

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
    #[command(flatten)]
    master_key: MasterKeyArgs,
    /// Replace a state that is there
    #[arg(long)]
    force: bool,
    /// The name of this home's server in a PostgreSQL database, when it has none yet
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
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
    let key = args.master_key.source(&home)?;
    if let Source::Home(file) = &key
        && !file.exists()
    {
        return Err(Error::new(Code::NotFound, format!("there is no {}", file.display()))
            .fix("put the master.key there that belongs to the backup: without it the secrets can't be read")
            .into());
    }
    // Whoever runs here would go on with what it knows.
    let _lock = HomeLock::take(&home)?;
    let key = key.load().await?;
    let database = args.database.choose(&home)?;
    let own = own_target_of(&home, &database, args.node.as_deref())?;
    let how = Restore { force: args.force, own: Some(&own) };
    let contents = Store::restore(&database, &file, &key, how).await?;
    remember(&home, &database, "PostgreSQL")?;
    if app.ui.json {
        app.ui.document(&serde_json::json!({
            "file": file, "rows": contents.rows, "instances": contents.instances,
            "made_at": contents.made_at, "version": contents.version, "target": own.target.name,
        }))?;
    } else {
        app.ui.line(format_args!(
            "The state is that of {}: {} rows, {} instances",
            contents.made_at, contents.rows, contents.instances
        ))?;
    }
    if let Some(moved) = &contents.moved {
        app.ui.note(format_args!(
            "This machine's own target is named '{}' now, not '{}'; {} instances are on it",
            own.target.name, moved.target, moved.instances
        ));
    }
    if matches!(database, Database::Sqlite(_)) {
        for others in &contents.of_others {
            app.ui.warn(format_args!(
                "{} instances are on target '{}', which only its own server reaches, and that can't use this database; to keep them, restore into PostgreSQL and start that server",
                others.instances, others.target
            ));
        }
    }
    Ok(OK)
}

/// What the next server of this home will call its processes.
fn own_target_of(home: &Path, database: &Database, name: Option<&str>) -> Result<OwnTarget, Error> {
    let shared = matches!(database, Database::Postgres(_));
    if !shared && name.is_some() {
        return Err(Error::invalid("--node", "a server whose state is in its home is alone")
            .fix("leave it out, or give --database with a PostgreSQL database"));
    }
    let node = if shared { Some(Node::load_or_make(home, name)?) } else { Node::load(home)? };
    let target = own_target(node.as_ref().filter(|_| shared))?;
    Ok(OwnTarget { target, node: node.map(|n| n.id) })
}

fn absolute(file: &Path) -> Result<PathBuf, Error> {
    std::path::absolute(file).map_err(|e| {
        Error::invalid("file", format!("{} can't be used: {e}", file.display()))
            .fix("give the name of a file")
    })
}
