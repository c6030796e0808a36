//! `config save`, `edit`, `rm`.

use std::path::PathBuf;
use std::process::Command;

use clap::Args;
use clawfarm_api::{ConfigView, SaveConfig};
use clawfarm_config::Template;
use clawfarm_model::{Code, ConfigName, Error};

use super::change_line;
use crate::app::App;
use crate::errors::{Failure, OK, Outcome, exit_code, tell_error};
use crate::manifest;

/// `clawfarm config save`.
#[derive(Debug, Args)]
pub(crate) struct SaveArgs {
    /// The configuration: a template's name, global, tenant or project.NAME
    name: ConfigName,
    /// The file with what it says: variables, body, locks; '-' is standard input
    #[arg(long, short = 'f', value_name = "FILE")]
    file: PathBuf,
    /// What for
    #[arg(long, short, value_name = "TEXT", default_value = "")]
    message: String,
}

/// `clawfarm config edit`.
#[derive(Debug, Args)]
pub(crate) struct EditArgs {
    /// The configuration: a template's name, global, tenant or project.NAME
    name: ConfigName,
    /// What for
    #[arg(long, short, value_name = "TEXT", default_value = "")]
    message: String,
}

/// `clawfarm config rm`.
#[derive(Debug, Args)]
pub(crate) struct RmArgs {
    /// Configurations by name
    #[arg(value_name = "NAME", required = true)]
    names: Vec<ConfigName>,
}

pub(super) async fn save(app: &App, args: &SaveArgs) -> Outcome {
    let text = manifest::text_of(&args.file)?;
    let content = read(&text)?;
    let client = app.client().await?;
    let before = match client.config(&args.name).await {
        Ok(view) => Some(view),
        Err(error) if error.code() == Code::NotFound => None,
        Err(error) => return Err(error.into()),
    };
    let save = SaveConfig { content, message: args.message.clone() };
    // What was read is what was looked at; who was faster wins.
    let expect = before.as_ref().map_or(0, |it| it.config.version);
    let after = client.save_config(&args.name, &save, Some(expect)).await?;
    tell(app, before.as_ref(), &after)
}

pub(super) async fn edit(app: &App, args: &EditArgs) -> Outcome {
    let client = app.client().await?;
    let before = client.config(&args.name).await?;
    let file = tempfile::Builder::new().prefix("clawfarm-").suffix(".yaml").tempfile()?;
    std::fs::write(file.path(), manifest::write_one(&before.newest.content)?)?;
    edited(file.path())?;
    let saved = async {
        let content = read(&manifest::text_of(file.path())?)?;
        let save = SaveConfig { content, message: args.message.clone() };
        client.save_config(&args.name, &save, Some(before.config.version)).await
    };
    match saved.await {
        Ok(after) => tell(app, Some(&before), &after),
        Err(error) => {
            // Nobody types it twice.
            if let Ok((_, path)) = file.keep() {
                app.ui.note(format_args!("What was edited is kept in {}", path.display()));
            }
            Err(error.into())
        }
    }
}

/// Has the editor of the environment change a file.
fn edited(path: &std::path::Path) -> Result<(), Error> {
    let name = ["VISUAL", "EDITOR"]
        .iter()
        .find_map(|name| std::env::var(name).ok().filter(|it| !it.trim().is_empty()));
    let name = name.unwrap_or_else(|| "vi".to_owned());
    let mut words = name.split_whitespace();
    let fix = "set EDITOR to an editor that waits until the file is closed, or use: clawfarm config get, clawfarm config save";
    let program = words.next().unwrap_or("vi");
    let ended = Command::new(program)
        .args(words)
        .arg(path)
        .status()
        .map_err(|e| Error::invalid("EDITOR", format!("'{program}' can't be started: {e}")).fix(fix))?;
    if ended.success() {
        return Ok(());
    }
    Err(Error::invalid("EDITOR", format!("'{program}' ended with {ended}; nothing was saved")).fix(fix))
}

/// What a file says as a configuration.
fn read(text: &str) -> Result<Template, Error> {
    let value = manifest::parse_one(text)?;
    let content: Template = serde_path_to_error::deserialize(value).map_err(|error| {
        let path = error.path().to_string();
        let refused = Error::of_serde(path, &error.inner().to_string());
        match refused.fix_text() {
            Some(_) => refused,
            None => refused.fix("a configuration has variables, a body and locks; see docs/configs.md. A whole document is for: clawfarm apply"),
        }
    })?;
    content.check()?;
    Ok(content)
}

fn tell(app: &App, before: Option<&ConfigView>, after: &ConfigView) -> Outcome {
    if app.ui.json {
        app.ui.document(after)?;
        return Ok(OK);
    }
    let (name, head) = (&after.config.name, after.config.head);
    if before.is_some_and(|it| it.config.head == head) {
        app.ui.line(format_args!("{name} is unchanged: revision {head} says the same"))?;
        return Ok(OK);
    }
    for change in &after.newest.changes {
        app.ui.line(change_line(change))?;
    }
    app.ui.line(format_args!("{name} has revision {head}"))?;
    app.ui.note(format_args!(
        "It goes to nobody yet. See: clawfarm config plan {name}; then: clawfarm config publish {name}"
    ));
    Ok(OK)
}

pub(super) async fn remove(app: &App, args: &RmArgs) -> Outcome {
    let client = app.client().await?;
    let (mut removed, mut code) = (Vec::new(), OK);
    for name in &args.names {
        match client.remove_config(name).await {
            Ok(()) => removed.push(name),
            Err(error) => {
                tell_error(&app.ui, &error);
                code = if code == OK { exit_code(error.code()) } else { code };
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
    if code == OK { Ok(OK) } else { Err(Failure::Told(code)) }
}
