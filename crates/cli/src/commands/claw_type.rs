//! `type`: the claw types, and those that the user adds with a file.

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use clawfarm_adapters::generic::{Generic, MAX_BYTES};
use clawfarm_adapters::{Registry, type_file};
use clawfarm_api::InstanceQuery;
use clawfarm_model::name::ClawType;
use clawfarm_model::{Code, Error};
use serde_json::json;

use crate::app::App;
use crate::errors::{FAILED, Failure, OK, Outcome};
use crate::output::{Column, Table, clean_line};

/// The help's examples.
pub(crate) const EXAMPLES: &str =
    "Examples:\n  clawfarm type ls\n  clawfarm type add mine.toml\n  clawfarm new mine alice";

/// The folder of the user's own types, in the home.
const FOLDER: &str = "types";

/// `clawfarm type`.
#[derive(Debug, Subcommand)]
pub(crate) enum TypeCommand {
    /// List the claw types that instances can be made of
    #[command(after_help = "Examples:\n  clawfarm type ls\n  clawfarm type ls --json")]
    Ls,
    /// Check the file of a claw type of your own, and add it; or replace it
    #[command(
        long_about = "Checks the file of a claw type of your own and puts it into the folder 'types' of the server's home, from where the server reads it when it is needed. A type that is there is replaced; its instances take the new one at their next start. For a server elsewhere, or several that share a database, do so on the machine of each.",
        after_help = "Examples:\n  clawfarm type add mine.toml                 a type 'mine'\n  clawfarm type add mine.toml --name yours    under another name\n  clawfarm type add mine.toml --dry-run       only check it"
    )]
    Add(AddArgs),
    /// Remove claw types of your own that no instance is of
    #[command(after_help = "Examples:\n  clawfarm type rm mine")]
    Rm(RmArgs),
}

/// `clawfarm type add`.
#[derive(Debug, Args)]
pub(crate) struct AddArgs {
    /// Its file (TOML); docs/claw-types.md has the fields
    file: PathBuf,
    /// Its name: a-z, 0-9 and '-' [default: the file's]
    #[arg(long, value_name = "NAME")]
    name: Option<ClawType>,
    /// Check it and change nothing
    #[arg(long)]
    dry_run: bool,
}

/// `clawfarm type rm`.
#[derive(Debug, Args)]
pub(crate) struct RmArgs {
    /// Their names
    #[arg(required = true, value_name = "TYPE")]
    names: Vec<ClawType>,
}

/// The claw types that a home has.
pub(crate) fn registry(home: &Path) -> Registry {
    Registry::builtin().with_folder(home.join(FOLDER))
}

/// `clawfarm type`.
pub(crate) async fn run(app: &App, command: &TypeCommand) -> Outcome {
    match command {
        TypeCommand::Ls => list(app),
        TypeCommand::Add(args) => add(app, args),
        TypeCommand::Rm(args) => remove(app, args).await,
    }
}

fn list(app: &App) -> Outcome {
    let home = app.home()?;
    let registry = registry(&home);
    let mut items = Vec::new();
    let mut table = Table::new(&app.ui, &["TYPE", "VERSION", "FILE"].map(Column));
    let mut broken = Vec::new();
    for claw_type in registry.types() {
        let file = (!registry.is_builtin(&claw_type)).then(|| type_file(&home.join(FOLDER), &claw_type));
        let shown = file.as_ref().map(|path| path.display().to_string());
        let version = match registry.get(&claw_type) {
            Ok(adapter) => Some(adapter.default_version().to_owned()),
            Err(error) => {
                broken.push(error);
                None
            }
        };
        table.row(vec![
            table.text(claw_type.as_str()),
            table.text(version.as_deref().unwrap_or("broken")),
            table.text(shown.as_deref().unwrap_or("-")),
        ]);
        items.push(json!({ "name": claw_type, "version": version, "file": shown }));
    }
    if app.ui.json {
        app.ui.document(&json!({ "items": items }))?;
    } else {
        app.ui.line(table.render())?;
    }
    let code = if broken.is_empty() { OK } else { FAILED };
    for error in broken {
        crate::errors::tell_error(&app.ui, &error);
    }
    Ok(code)
}

fn add(app: &App, args: &AddArgs) -> Outcome {
    let name = match &args.name {
        Some(name) => name.clone(),
        None => name_of(&args.file)?,
    };
    if Registry::builtin().is_builtin(&name) {
        return Err(Error::invalid("--name", format!("'{name}' is a type that clawfarm has already"))
            .fix("give it another name: --name my-claw")
            .into());
    }
    let text = read(&args.file)?;
    let shown = clean_line(&args.file.display().to_string());
    let generic = Generic::parse(name.clone(), &text).map_err(|error| {
        let fix = error.fix_text().unwrap_or_default().to_owned();
        let field = error.field_name().unwrap_or("type").to_owned();
        Error::invalid(field, format!("{shown}: {}", error.message())).fix(fix)
    })?;
    if args.dry_run {
        app.ui.note(format_args!("{shown} is in order; nothing was changed."));
        return Ok(OK);
    }
    let folder = app.home()?.join(FOLDER);
    put(&folder, &name, &text)?;
    if app.ui.json {
        app.ui.document(
            &json!({ "name": name, "file": type_file(&folder, &name), "about": generic.about() }),
        )?;
    } else {
        app.ui.line(&name)?;
        app.ui.note(format_args!("To make an instance of it: clawfarm new {name}"));
    }
    Ok(OK)
}

/// The name that a file gives its type.
fn name_of(file: &Path) -> Result<ClawType, Error> {
    let stem = file.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    ClawType::new(stem).map_err(|error| {
        Error::invalid("--name", error.message().to_owned()).fix("give the type a name: --name my-claw")
    })
}

fn read(file: &Path) -> Result<String, Error> {
    let failed = |e: io::Error| {
        Error::invalid("file", format!("{} can't be read: {e}", clean_line(&file.display().to_string())))
            .fix("give the path of a type's file; docs/claw-types.md has an example")
    };
    let mut text = String::new();
    let opened = fs::File::open(file).map_err(failed)?;
    opened.take(MAX_BYTES + 1).read_to_string(&mut text).map_err(failed)?;
    if text.len() as u64 > MAX_BYTES {
        return Err(Error::invalid("file", format!("it is larger than {MAX_BYTES} bytes"))
            .fix("keep what is large in the software's own folder"));
    }
    Ok(text)
}

/// Puts a file in place, whole or not at all.
fn put(folder: &Path, name: &ClawType, text: &str) -> Result<(), Error> {
    let path = type_file(folder, name);
    let part = folder.join(format!(".{name}.{}", std::process::id()));
    let write = || -> io::Result<()> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&part)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&part, &path)?;
        fs::File::open(folder)?.sync_all()
    };
    write().map_err(|e| failed("written", &path, e))
}

fn failed(done: &str, path: &Path, error: io::Error) -> Error {
    Error::new(Code::Internal, format!("{} can't be {done}: {error}", path.display()))
        .fix("do it as the user that the server's home belongs to")
        .source(error)
}

async fn remove(app: &App, args: &RmArgs) -> Outcome {
    let folder = app.home()?.join(FOLDER);
    for name in &args.names {
        let path = type_file(&folder, name);
        if !path.exists() {
            let error = if Registry::builtin().is_builtin(name) {
                Error::invalid("type", format!("'{name}' is a type of clawfarm's own and can't be removed"))
                    .fix("remove its instances, if there are any")
            } else {
                Error::not_found("claw type", name).fix("clawfarm type ls lists them")
            };
            return Err(error.into());
        }
        nobody_is_of(app, name).await?;
        fs::remove_file(&path).map_err(|e| failed("removed", &path, e))?;
        if !app.ui.json {
            app.ui.line(name)?;
        }
    }
    Ok(OK)
}

/// Without its type an instance can be neither started nor asked to end.
async fn nobody_is_of(app: &App, name: &ClawType) -> Result<(), Failure> {
    let query = InstanceQuery { claw_type: Some(name.clone()), ..InstanceQuery::default() };
    let of_it = app.client().await?.all_instances(&query).await?;
    if of_it.is_empty() {
        return Ok(());
    }
    let ids: Vec<_> = of_it.iter().take(5).map(|instance| instance.id.as_str()).collect();
    let more = if of_it.len() > ids.len() { ", ..." } else { "" };
    Err(Error::new(Code::Conflict, format!("there are instances of '{name}': {}{more}", ids.join(", ")))
        .field("type")
        .fix(format!("remove them first: clawfarm rm {}", ids.join(" ")))
        .into())
}
