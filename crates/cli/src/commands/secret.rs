//! `secret`: keys and passwords that configuration refers to by name.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use clawfarm_api::SetSecret;
use clawfarm_client::Client;
use clawfarm_model::ClawId;
use clawfarm_model::secret::SecretName;

use super::input;
use crate::app::App;
use crate::errors::{Failure, OK, Outcome, exit_code, tell_error};
use crate::output::{Column, Table, clock};

/// The help's examples.
pub(crate) const EXAMPLES: &str = "\
Examples:
  clawfarm secret set anthropic-key                      asks for the value without showing it
  clawfarm secret set anthropic-key --from-env ANTHROPIC_API_KEY
  clawfarm secret ls
  clawfarm secret rm anthropic-key";

/// `clawfarm secret`.
#[derive(Debug, Subcommand)]
pub(crate) enum SecretCommand {
    /// Set a secret; its value comes from a prompt, standard input, a file or a variable
    #[command(
        long_about = "Sets a secret. There is no option for the value itself: arguments can be read by everyone on the machine. Without an option it is asked for without being shown, or read from standard input when that is a pipe. Configuration refers to it by its name, as in --set channels.telegram.bot_token.secret=telegram.",
        after_help = "Examples:\n  clawfarm secret set telegram\n  pass show telegram | clawfarm secret set telegram --instance alice\n  clawfarm secret set telegram --from-file token.txt"
    )]
    Set(SetArgs),
    /// List the secrets' names; values are never shown
    #[command(after_help = "Examples:\n  clawfarm secret ls")]
    Ls,
    /// Remove secrets
    #[command(
        after_help = "Examples:\n  clawfarm secret rm telegram\n  clawfarm secret rm telegram --instance alice"
    )]
    Rm(RmArgs),
}

/// `clawfarm secret set`.
#[derive(Debug, Args)]
pub(crate) struct SetArgs {
    /// Its name: letters, digits, '_', '.' and '-'
    name: SecretName,
    /// For this instance alone; it goes when the instance is removed
    #[arg(long, short)]
    instance: Option<String>,
    /// The file that holds the value; '-' is standard input
    #[arg(long, value_name = "FILE")]
    from_file: Option<PathBuf>,
    /// The environment variable that holds the value
    #[arg(long, value_name = "VARIABLE", conflicts_with = "from_file")]
    from_env: Option<String>,
}

/// `clawfarm secret rm`.
#[derive(Debug, Args)]
pub(crate) struct RmArgs {
    /// Their names
    #[arg(required = true, value_name = "NAME")]
    names: Vec<SecretName>,
    /// Those of this instance alone
    #[arg(long, short)]
    instance: Option<String>,
}

/// `clawfarm secret`.
pub(crate) async fn run(app: &App, command: &SecretCommand) -> Outcome {
    match command {
        SecretCommand::Set(args) => set(app, args).await,
        SecretCommand::Ls => list(app).await,
        SecretCommand::Rm(args) => remove(app, args).await,
    }
}

async fn set(app: &App, args: &SetArgs) -> Outcome {
    let value = match (&args.from_env, &args.from_file) {
        (Some(variable), _) => input::secret_from_env("--from-env", variable)?,
        (None, Some(path)) => input::secret_from_file("--from-file", path)?,
        (None, None) => input::secret_from_prompt_or_stdin("value", &format!("Value of {}", args.name))?,
    };
    let client = app.client().await?;
    let instance = whole_id(&client, args.instance.as_deref()).await?;
    let info = client.set_secret(&args.name, &SetSecret { value, instance }).await?;
    if app.ui.json {
        app.ui.document(&info)?;
    } else {
        let owner = info.instance.map(|id| format!(" for {id}")).unwrap_or_default();
        app.ui.line(format_args!("{} is set{owner}", info.name))?;
    }
    Ok(OK)
}

/// The API takes whole ids where it stores them.
async fn whole_id(client: &Client, instance: Option<&str>) -> Result<Option<ClawId>, Failure> {
    match instance {
        Some(id) => Ok(Some(client.instance(id).await?.id)),
        None => Ok(None),
    }
}

async fn list(app: &App) -> Outcome {
    let secrets = app.client().await?.secrets().await?;
    if app.ui.json {
        app.ui.document(&secrets)?;
        return Ok(OK);
    }
    if secrets.items.is_empty() {
        app.ui.note("No secrets. Set one with: clawfarm secret set NAME");
        return Ok(OK);
    }
    let mut table = Table::new(&app.ui, &["SECRET", "INSTANCE", "CREATED(UTC)", "UPDATED(UTC)"].map(Column));
    for secret in &secrets.items {
        table.row(vec![
            table.text(secret.name.as_str()),
            table.text(secret.instance.as_ref().map_or("-", |id| id.as_str())),
            table.text(&clock(secret.created_at)),
            table.text(&clock(secret.updated_at)),
        ]);
    }
    app.ui.line(table.render())?;
    Ok(OK)
}

async fn remove(app: &App, args: &RmArgs) -> Outcome {
    let client = app.client().await?;
    let instance = whole_id(&client, args.instance.as_deref()).await?;
    let mut removed = Vec::new();
    let mut first_error = None;
    for name in &args.names {
        match client.remove_secret(name, instance.as_ref()).await {
            Ok(()) => removed.push(name),
            Err(error) => {
                tell_error(&app.ui, &error);
                first_error.get_or_insert(exit_code(error.code()));
            }
        }
    }
    if app.ui.json {
        app.ui.document(&serde_json::json!({ "removed": removed }))?;
    } else {
        for name in removed {
            app.ui.line(format_args!("{name} is removed"))?;
        }
    }
    first_error.map_or(Ok(OK), |code| Err(Failure::Told(code)))
}
