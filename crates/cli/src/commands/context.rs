//! `context`: several servers by name.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use clawfarm_client::Endpoint;
use clawfarm_model::{Code, Error};
use secrecy::SecretString;
use serde_json::{Value, json};

use super::input;
use crate::app::App;
use crate::context::{self, Changing, Choice, LOCAL, Named, choose, name};
use crate::errors::{OK, Outcome};
use crate::output::{Column, Table, clean_line};

/// The help's examples.
pub(crate) const EXAMPLES: &str = "\
Examples:
  clawfarm context add prod --server https://farm.example:8420    asks for the token
  clawfarm context use prod
  clawfarm context ls
  clawfarm --context prod ps
  clawfarm context use local";

/// `clawfarm context`.
#[derive(Debug, Subcommand)]
pub(crate) enum ContextCommand {
    /// List the servers that have a name
    #[command(after_help = "Examples:\n  clawfarm context ls")]
    Ls,
    /// Say which server commands are for from now on
    #[command(
        long_about = "Says which server commands are for where neither an option (--context, --host, --home) nor the environment (CLAWFARM_CONTEXT, CLAWFARM_HOST, CLAWFARM_HOME) names one. 'local' is this machine's own, which is started when it does not run.",
        after_help = "Examples:\n  clawfarm context use prod\n  clawfarm context use local"
    )]
    Use(NameArgs),
    /// Give a server a name, and keep the token it is reached with
    #[command(
        long_about = "Gives a server a name. Its token comes from a prompt that does not show it, from standard input when that is a pipe, or from a file; it is kept in clawfarm/contexts.json in your configuration folder (mode 0600). The server is not asked: it need not run.",
        after_help = "Examples:\n  clawfarm context add prod --server https://farm.example:8420\n  clawfarm context add lab --server https://lab:8420 --ca lab-ca.pem --token-file lab.token\n  clawfarm context add other --server /srv/farm/clawfarm.sock --token-file /srv/farm/admin.token"
    )]
    Add(AddArgs),
    /// Forget names and their tokens; the servers go on
    #[command(after_help = "Examples:\n  clawfarm context rm prod")]
    Rm(RmArgs),
    /// Show which server commands are for, and why
    #[command(after_help = "Examples:\n  clawfarm context show\n  clawfarm context show prod")]
    Show(ShowArgs),
}

/// `clawfarm context use`.
#[derive(Debug, Args)]
pub(crate) struct NameArgs {
    /// Its name
    #[arg(value_parser = name)]
    name: String,
}

/// `clawfarm context add`.
#[derive(Debug, Args)]
pub(crate) struct AddArgs {
    /// Its name: letters, digits, '-', '_' and '.'
    #[arg(value_parser = name)]
    name: String,
    /// Where it is: https://HOST, https://HOST:PORT, http://HOST:PORT, or the path of its socket
    #[arg(long, value_name = "URL")]
    server: String,
    /// A PEM file of the authorities to trust instead of the system's
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Put it in the place of one of the same name
    #[arg(long)]
    replace: bool,
    /// Use it from now on
    #[arg(long = "use")]
    use_it: bool,
}

/// `clawfarm context rm`.
#[derive(Debug, Args)]
pub(crate) struct RmArgs {
    /// Their names
    #[arg(required = true, value_name = "NAME", value_parser = name)]
    names: Vec<String>,
}

/// `clawfarm context show`.
#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    /// Its name [default: the one that commands are for now]
    #[arg(value_parser = name)]
    name: Option<String>,
}

/// `clawfarm context`.
pub(crate) fn run(app: &App, command: &ContextCommand) -> Outcome {
    match command {
        ContextCommand::Ls => list(app),
        ContextCommand::Use(args) => switch(app, &args.name),
        ContextCommand::Add(args) => add(app, args),
        ContextCommand::Rm(args) => remove(app, args),
        ContextCommand::Show(args) => show(app, args),
    }
}

fn list(app: &App) -> Outcome {
    let contexts = context::read()?;
    let current = contexts.current.as_deref().unwrap_or(LOCAL);
    let mut items = vec![document(LOCAL, None, current == LOCAL)];
    items.extend(contexts.contexts.iter().map(|(name, it)| document(name, Some(it), current == name)));
    if app.ui.json {
        app.ui.document(&json!({ "current": current, "items": items }))?;
        return Ok(OK);
    }
    let mut table = Table::new(&app.ui, &["CURRENT", "NAME", "SERVER", "CA"].map(Column));
    for item in &items {
        let text = |field: &str| item[field].as_str().unwrap_or("-");
        table.row(vec![
            table.text(if item["current"] == true { "*" } else { "" }),
            table.text(text("name")),
            table.text(item["server"].as_str().unwrap_or("(this machine's own)")),
            table.text(text("ca")),
        ]);
    }
    app.ui.line(table.render())?;
    Ok(OK)
}

/// What may be shown of a context: all but its token.
fn document(name: &str, named: Option<&Named>, current: bool) -> Value {
    json!({
        "name": name, "server": named.map(|it| &it.server), "ca": named.and_then(|it| it.ca.as_ref()),
        "current": current,
    })
}

fn switch(app: &App, name: &str) -> Outcome {
    let mut changing = Changing::begin()?;
    if name != LOCAL && !changing.contexts.contexts.contains_key(name) {
        return Err(context::unknown(name).into());
    }
    changing.contexts.current = (name != LOCAL).then(|| name.to_owned());
    changing.keep()?;
    if app.ui.json {
        app.ui.document(&json!({ "current": name }))?;
    } else {
        app.ui.line(format_args!("Commands are for {name} now"))?;
    }
    hidden_by_environment(app);
    Ok(OK)
}

/// What has just been said has no effect where the environment says otherwise.
fn hidden_by_environment(app: &App) {
    for variable in ["CLAWFARM_CONTEXT", "CLAWFARM_HOST", "CLAWFARM_HOME"] {
        if std::env::var_os(variable).is_some_and(|value| !value.is_empty()) {
            app.ui.warn(format_args!("{variable} is set, and comes before the current context"));
        }
    }
}

fn add(app: &App, args: &AddArgs) -> Outcome {
    if args.name == LOCAL {
        return Err(Error::invalid("NAME", "'local' is this machine's own server, and always there")
            .fix("choose another name")
            .into());
    }
    let absolute = |option: &str, path: &PathBuf| {
        std::path::absolute(path)
            .map_err(|e| Error::invalid(option, format!("{} can't be used: {e}", path.display())))
    };
    let authorities = args.ca.as_ref().map(|path| absolute("--ca", path)).transpose()?;
    if let Some(path) = &authorities {
        std::fs::File::open(path).map_err(|e| {
            Error::invalid("--ca", format!("{} can't be read: {e}", path.display()))
                .fix("give the PEM file of the server's authority")
        })?;
    }
    let endpoint = context::endpoint(&args.server, authorities.clone())
        .map_err(|e| if e.field_name() == Some("server") { e.field("--server") } else { e })?;
    let token = match app.global.typed_token_file() {
        Some(path) => input::secret_from_file("--token-file", path)?,
        None => input::secret_from_prompt_or_stdin("token", &format!("Token of {endpoint}"))?,
    };
    let token = one_word(&token)?;
    let server = match &endpoint {
        Endpoint::Unix(path) => absolute("--server", path)?.to_string_lossy().into_owned(),
        other => other.to_string(),
    };
    let mut changing = Changing::begin()?;
    if changing.contexts.contexts.contains_key(&args.name) && !args.replace {
        return Err(Error::new(Code::Conflict, format!("there is a context '{}' already", args.name))
            .field("NAME")
            .fix("choose another name, or put this one in its place with --replace")
            .into());
    }
    let named = Named { server, ca: authorities, token };
    let shown = document(&args.name, Some(&named), args.use_it);
    changing.contexts.contexts.insert(args.name.clone(), named);
    if args.use_it {
        changing.contexts.current = Some(args.name.clone());
    }
    changing.keep()?;
    if endpoint.in_the_clear() {
        app.ui
            .warn(format_args!("{endpoint} is reached without TLS: everyone on the way can read the token"));
    }
    if app.ui.json {
        app.ui.document(&shown)?;
    } else {
        app.ui.line(format_args!("{} is {endpoint}", args.name))?;
    }
    if args.use_it {
        hidden_by_environment(app);
    }
    Ok(OK)
}

fn one_word(text: &str) -> Result<SecretString, Error> {
    let token = text.trim();
    if token.is_empty() || token.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err(Error::invalid("token", "a token is one word")
            .fix("copy it from admin.token in the server's home folder"));
    }
    Ok(SecretString::from(token.to_owned()))
}

fn remove(app: &App, args: &RmArgs) -> Outcome {
    let mut changing = Changing::begin()?;
    for name in &args.names {
        if changing.contexts.contexts.remove(name).is_none() {
            // Nothing is kept: all of them or none.
            return Err(context::unknown(name).into());
        }
    }
    let was_current = changing.contexts.current.as_ref().is_some_and(|current| args.names.contains(current));
    if was_current {
        changing.contexts.current = None;
    }
    changing.keep()?;
    if was_current {
        app.ui.note("It was the current one: commands are for this machine's own server now.");
    }
    if app.ui.json {
        app.ui.document(&json!({ "removed": args.names }))?;
    } else {
        for name in &args.names {
            app.ui.line(format_args!("{name} is removed"))?;
        }
    }
    Ok(OK)
}

fn show(app: &App, args: &ShowArgs) -> Outcome {
    let (choice, why) = match &args.name {
        Some(name) if name == LOCAL => (Choice::Local, None),
        Some(name) => {
            let named = context::read()?.contexts.remove(name).ok_or_else(|| context::unknown(name))?;
            (Choice::Context(name.clone(), named), None)
        }
        None => {
            let (choice, by) = choose(&app.global, context::read)?;
            (choice, Some(by.words()))
        }
    };
    let (name, server, authorities) = match &choice {
        Choice::Local => (Some(LOCAL), app.home()?.display().to_string(), None),
        Choice::Host => (None, app.global.host.clone().unwrap_or_default(), None),
        Choice::Context(name, it) => (Some(name.as_str()), it.server.clone(), it.ca.as_ref()),
    };
    if app.ui.json {
        app.ui.document(&json!({ "name": name, "server": server, "ca": authorities, "because": why }))?;
        return Ok(OK);
    }
    app.ui.line(format_args!("{:<8} {}", "name", name.unwrap_or("-")))?;
    app.ui.line(format_args!("{:<8} {}", "server", clean_line(&server)))?;
    if let Some(path) = authorities {
        app.ui.line(format_args!("{:<8} {}", "ca", path.display()))?;
    }
    if let Some(why) = why {
        app.ui.line(format_args!("{:<8} {why}", "because"))?;
    }
    Ok(OK)
}
