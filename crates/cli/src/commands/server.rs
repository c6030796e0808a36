//! `server`: the servers that share one database.

use clap::{Args, Subcommand};
use clawfarm_model::Code;
use clawfarm_store::{Database, Store, StoreConfig};

use super::rotate_key::{self, RotateMasterKeyArgs};
use crate::admin_token;
use crate::app::App;
use crate::database::DatabaseArgs;
use crate::errors::{OK, Outcome};
use crate::master_key::MasterKeyArgs;
use crate::output::{Column, Table};

/// The help's examples.
pub(crate) const EXAMPLES: &str =
    "Examples:\n  clawfarm server ls\n  clawfarm server renew-token\n  clawfarm server rotate-master-key";

/// `clawfarm server`.
#[derive(Debug, Subcommand)]
pub(crate) enum ServerCommand {
    /// List the servers that share the database, with their shares of the work
    #[command(after_help = "Examples:\n  clawfarm server ls\n  clawfarm server ls --json")]
    Ls,
    /// Give the server, and all others of its database, a new token for callers
    #[command(
        long_about = "Makes a new admin.token; the one before is worth nothing within seconds, at every server of the database. Give the new one to contexts and clients elsewhere. It works on the home folder, whether its server runs or not.",
        after_help = "Examples:\n  clawfarm server renew-token\n  clawfarm server renew-token --database postgres://farm@db.example/clawfarm"
    )]
    RenewToken(RenewTokenArgs),
    /// Change the master key, without any server being stopped
    #[command(
        long_about = "Changes the key that the stored secrets are encrypted under. It works on the home folder, whether its server runs or not: the old and the new key are both valid until it is over, and secrets are wrapped anew in small steps beside the usual work. Interrupted, it goes on when it is given again. Where the key is master.key in the home and the home has the database, all is done at once. Servers that share a database need the new key each: put it there, then give --finish.",
        after_help = "Examples:\n  clawfarm server rotate-master-key\n  clawfarm server rotate-master-key --new-key-file /etc/clawfarm/new.key\n  clawfarm server rotate-master-key --master-key-file /etc/clawfarm/new.key --finish"
    )]
    RotateMasterKey(RotateMasterKeyArgs),
}

/// `clawfarm server renew-token`.
#[derive(Debug, Args)]
pub(crate) struct RenewTokenArgs {
    #[command(flatten)]
    database: DatabaseArgs,
    #[command(flatten)]
    master_key: MasterKeyArgs,
}

/// `clawfarm server`.
pub(crate) async fn run(app: &App, command: &ServerCommand) -> Outcome {
    match command {
        ServerCommand::Ls => list(app).await,
        ServerCommand::RenewToken(args) => Box::pin(renew_token(app, args)).await,
        ServerCommand::RotateMasterKey(args) => Box::pin(rotate_key::run(app, args)).await,
    }
}

async fn renew_token(app: &App, args: &RenewTokenArgs) -> Outcome {
    let server = app.server()?;
    let home = server.local_home()?;
    let database = args.database.choose(home)?;
    let shared = matches!(database, Database::Postgres(_));
    let store = if shared {
        let key = args.master_key.source(home)?.load().await.map_err(|error| match error.code() {
            Code::NotFound => {
                error.fix("do it in the home of a server of that database: --home, or CLAWFARM_HOME")
            }
            _ => error,
        })?;
        Some(Store::open(StoreConfig::new(database, key)).await?)
    } else {
        None
    };
    admin_token::renew(home, store.as_ref()).await?;
    let file = home.join("admin.token");
    if app.ui.json {
        app.ui.document(&serde_json::json!({ "file": file, "all_servers": shared }))?;
        return Ok(OK);
    }
    app.ui.line(format_args!("{} is new", file.display()))?;
    app.ui.note(if shared {
        "The servers of this database that run take it within seconds, the others when they start. Give it to contexts and clients elsewhere."
    } else {
        "A server that runs takes it within seconds. Give it to contexts and clients elsewhere."
    });
    Ok(OK)
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
