//! `secret`: keys and passwords that configuration refers to by name.

mod rotate;

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use clawfarm_api::{SecretDetail, SecretQuery, SecretRemovalQuery, SetSecret};
use clawfarm_client::Client;
use clawfarm_model::ClawId;
use clawfarm_model::name::ProjectName;
use clawfarm_model::secret::{RotationStage, SecretInfo, SecretName, SecretScope};

use super::{input, several};
use crate::app::App;
use crate::errors::{Failure, OK, Outcome};
use crate::output::{Column, Table, clock};

/// The help's examples.
pub(crate) const EXAMPLES: &str = "\
Examples:
  clawfarm secret set anthropic-key                      asks for the value without showing it
  clawfarm secret set anthropic-key --from-env ANTHROPIC_API_KEY
  clawfarm secret rotate anthropic-key                   and have those that run take it up
  clawfarm secret ls
  clawfarm secret rm anthropic-key";

/// `clawfarm secret`.
#[derive(Debug, Subcommand)]
pub(crate) enum SecretCommand {
    /// Set a secret; its value comes from a prompt, standard input, a file or a variable
    #[command(
        long_about = "Sets a secret. There is no option for the value itself: arguments can be read by everyone on the machine. Without an option it is asked for without being shown, or read from standard input when that is a pipe. Configuration refers to it by its name, as in --set channels.telegram.bot_token.secret=telegram. A claw sees its own secrets first, then its project's, its tenant's and the whole farm's. One that is up gets a new value at its next start; 'secret rotate' brings it to those that are up.",
        after_help = "Examples:\n  clawfarm secret set telegram\n  pass show telegram | clawfarm secret set telegram --instance alice\n  clawfarm secret set telegram --from-file token.txt\n  clawfarm secret set openai-key --scope global"
    )]
    Set(SetArgs),
    /// Give a secret a new value, and bring it to the claws that run with it
    #[command(
        long_about = "Gives a secret a new value, and brings it to the claws that run with it: what only clawfarm itself checks is taken up while they run; the others are started again, each given the time to finish its work, a few at a time. Those that are down get it at their next start. When one does not come up with it, no other is given it. The value before is kept until all have the new one; --back goes back to it. Ctrl-C ends the look at it and nothing else.",
        after_help = "Examples:\n  clawfarm secret rotate anthropic-key --dry-run     what would be started again\n  pass show anthropic | clawfarm secret rotate anthropic-key --parallel 2\n  clawfarm secret rotate anthropic-key --back"
    )]
    Rotate(rotate::RotateArgs),
    /// List the secrets' names; values are never shown
    #[command(after_help = "Examples:\n  clawfarm secret ls")]
    Ls,
    /// Show who is configured with a secret, and whether they have its present value
    #[command(after_help = "Examples:\n  clawfarm secret show anthropic-key")]
    Show(ShowArgs),
    /// Remove secrets
    #[command(
        after_help = "Examples:\n  clawfarm secret rm telegram\n  clawfarm secret rm telegram --instance alice"
    )]
    Rm(RmArgs),
}

/// Whose secret is meant.
#[derive(Clone, Debug, Args)]
pub(crate) struct Whose {
    /// For whom it is; the tenant when nothing is said
    #[arg(long, value_enum, value_name = "SCOPE")]
    scope: Option<Scope>,
    /// For the claws of this project
    #[arg(long, value_name = "NAME", conflicts_with = "instance")]
    project: Option<ProjectName>,
    /// For this claw alone; it goes when the claw is removed
    #[arg(long, short, value_name = "NAME")]
    instance: Option<String>,
}

/// For whom a secret is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Scope {
    /// All claws of all tenants
    Global,
    /// All claws of the tenant
    Tenant,
    /// The claws of a project, named with --project
    Project,
    /// One claw, named with --instance
    Instance,
}

impl Scope {
    const fn of(self) -> SecretScope {
        match self {
            Self::Global => SecretScope::Global,
            Self::Tenant => SecretScope::Tenant,
            Self::Project => SecretScope::Project,
            Self::Instance => SecretScope::Instance,
        }
    }
}

impl Whose {
    /// As the API takes it: it takes whole ids where it stores them.
    async fn query(&self, client: &Client) -> Result<SecretQuery, Failure> {
        Ok(SecretQuery {
            scope: self.scope.map(Scope::of),
            project: self.project.clone(),
            instance: whole_id(client, self.instance.as_deref()).await?,
        })
    }
}

/// Where a value comes from.
#[derive(Clone, Debug, Args)]
pub(crate) struct From {
    /// The file that holds the value; '-' is standard input
    #[arg(long, value_name = "FILE")]
    from_file: Option<PathBuf>,
    /// The environment variable that holds the value
    #[arg(long, value_name = "VARIABLE", conflicts_with = "from_file")]
    from_env: Option<String>,
}

impl From {
    fn read(&self, what: &str) -> Result<String, Failure> {
        match (&self.from_env, &self.from_file) {
            (Some(variable), _) => Ok(input::secret_from_env("--from-env", variable)?),
            (None, Some(path)) => Ok(input::secret_from_file("--from-file", path)?),
            (None, None) => input::secret_from_prompt_or_stdin("value", what),
        }
    }
}

/// `clawfarm secret set`.
#[derive(Debug, Args)]
pub(crate) struct SetArgs {
    /// Its name: letters, digits, '_', '.' and '-'
    name: SecretName,
    #[command(flatten)]
    whose: Whose,
    #[command(flatten)]
    from: From,
}

/// `clawfarm secret show`.
#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    /// Its name
    name: SecretName,
    #[command(flatten)]
    whose: Whose,
}

/// `clawfarm secret rm`.
#[derive(Debug, Args)]
pub(crate) struct RmArgs {
    /// Their names
    #[arg(required = true, value_name = "NAME")]
    names: Vec<SecretName>,
    #[command(flatten)]
    whose: Whose,
    /// Also those that somebody is configured with, who can't be started without them
    #[arg(long)]
    force: bool,
}

/// `clawfarm secret`.
pub(crate) async fn run(app: &App, command: &SecretCommand) -> Outcome {
    match command {
        SecretCommand::Set(args) => set(app, args).await,
        SecretCommand::Rotate(args) => Box::pin(rotate::run(app, args)).await,
        SecretCommand::Ls => list(app).await,
        SecretCommand::Show(args) => show(app, args).await,
        SecretCommand::Rm(args) => remove(app, args).await,
    }
}

async fn set(app: &App, args: &SetArgs) -> Outcome {
    let value = args.from.read(&format!("Value of {}", args.name))?;
    let client = app.client().await?;
    let SecretQuery { scope, project, instance } = args.whose.query(&client).await?;
    let info = client.set_secret(&args.name, &SetSecret { value, scope, project, instance }).await?;
    if app.ui.json {
        app.ui.document(&info)?;
    } else {
        app.ui.line(format_args!("{} is set{}", info.name, whom(&info)))?;
    }
    Ok(OK)
}

/// For whom a secret is, where it is not the usual.
fn whom(info: &SecretInfo) -> String {
    match (info.scope, &info.project, &info.instance) {
        (_, _, Some(id)) => format!(" for {id}"),
        (_, Some(project), _) => format!(" for the claws of project {project}"),
        (SecretScope::Global, ..) => " for the whole farm".to_owned(),
        _ => String::new(),
    }
}

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
    let columns = ["SECRET", "SCOPE", "OF", "VERSION", "USED BY", "ROTATION", "SET(UTC)"].map(Column);
    let mut table = Table::new(&app.ui, &columns);
    for secret in &secrets.items {
        let of = secret.instance.as_ref().map(|id| id.as_str());
        let of = of.or_else(|| secret.project.as_ref().map(|it| it.as_str())).unwrap_or("-");
        table.row(vec![
            table.text(secret.name.as_str()),
            table.text(secret.scope.as_str()),
            table.text(of),
            table.text(&secret.version.to_string()),
            table.text(&secret.used_by.to_string()),
            table.text(rotation(secret)),
            table.text(&clock(secret.updated_at)),
        ]);
    }
    app.ui.line(table.render())?;
    Ok(OK)
}

/// Where its rotation is, in a word.
fn rotation(secret: &SecretInfo) -> &'static str {
    match secret.rotation.as_ref().map(|it| it.stage) {
        None => "-",
        Some(RotationStage::Going) => "under way",
        Some(RotationStage::Grace) => "in grace",
        Some(RotationStage::Halted) => "halted",
    }
}

async fn show(app: &App, args: &ShowArgs) -> Outcome {
    let client = app.client().await?;
    let query = args.whose.query(&client).await?;
    let detail = client.secret(&args.name, &query).await?;
    tell(app, &detail)?;
    Ok(OK)
}

/// A secret and its users.
fn tell(app: &App, detail: &SecretDetail) -> Result<(), Failure> {
    if app.ui.json {
        app.ui.document(detail)?;
        return Ok(());
    }
    let secret = &detail.secret;
    app.ui.line(format_args!(
        "{}{}: version {}, set {} UTC{}",
        secret.name,
        whom(secret),
        secret.version,
        clock(secret.updated_at),
        if secret.previous_kept { "; the value before is kept" } else { "" }
    ))?;
    if let Some(going) = &secret.rotation {
        let why = going.error.as_deref().map_or_else(String::new, |why| format!(": {why}"));
        app.ui.line(format_args!("Rotation: {}{why}", rotation(secret)))?;
    }
    for config in &detail.configs {
        app.ui.line(format_args!("Named by configuration {config}"))?;
    }
    if !detail.instances.is_empty() {
        users(app, detail)?;
    }
    Ok(())
}

/// Who uses it, as a table.
fn users(app: &App, detail: &SecretDetail) -> Result<(), Failure> {
    let mut table = Table::new(&app.ui, &["INSTANCE", "VALUE", "A NEW ONE NEEDS", "FIELDS"].map(Column));
    for user in &detail.instances {
        table.row(vec![
            table.text(user.instance.as_str()),
            table.text(user.state.as_str()),
            table.text(if user.restarts { "a start" } else { "nothing" }),
            table.text(&user.fields.join(", ")),
        ]);
    }
    app.ui.line(table.render())?;
    Ok(())
}

async fn remove(app: &App, args: &RmArgs) -> Outcome {
    let client = app.client().await?;
    let SecretQuery { scope, project, instance } = args.whose.query(&client).await?;
    let query = SecretRemovalQuery { scope, project, instance, force: args.force };
    let one = async |name: &SecretName| client.remove_secret(name, &query).await;
    several::remove(app, &args.names, one, |name| format!("{name} is removed")).await
}
