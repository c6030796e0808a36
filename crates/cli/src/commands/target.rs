//! `target`: the places that instances run on.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use clawfarm_api::{AddTarget, DockerSettings};
use clawfarm_model::Error;
use clawfarm_model::name::TargetName;
use clawfarm_model::target::RuntimeKind;
use clawfarm_runtime_docker::DEFAULT_SOCKET;

use super::input;
use crate::app::App;
use crate::errors::{OK, Outcome};
use crate::output::{Column, Table};

/// The help's examples.
pub(crate) const EXAMPLES: &str = "Examples:\n  clawfarm target ls\n  clawfarm target add docker";

/// `clawfarm target`.
#[derive(Debug, Subcommand)]
pub(crate) enum TargetCommand {
    /// List the targets and what they have to give
    #[command(after_help = "Examples:\n  clawfarm target ls\n  clawfarm target ls --json")]
    Ls,
    /// Add a place that instances run on: a container engine of the server's machine
    #[command(
        after_help = "Examples:\n  clawfarm target add docker\n  clawfarm target add podman --socket /run/podman/podman.sock\n  clawfarm target add docker --base-image debian:12-slim    where images are built without Docker Hub"
    )]
    Add(AddArgs),
    /// Remove targets that nothing is on
    #[command(after_help = "Examples:\n  clawfarm target rm podman")]
    Rm(RmArgs),
}

/// `clawfarm target add`.
#[derive(Debug, Args)]
pub(crate) struct AddArgs {
    /// Its name: a-z, 0-9 and '-'
    name: TargetName,
    /// The engine's socket, Docker's or Podman's [default: DOCKER_HOST, else /var/run/docker.sock]
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// What images are built on [default: the base of the claw type's own image]
    #[arg(long, value_name = "IMAGE")]
    base_image: Option<String>,
    /// A label, as KEY=VALUE
    #[arg(long, value_name = "KEY=VALUE", value_parser = input::pair)]
    label: Vec<(String, String)>,
}

/// `clawfarm target rm`.
#[derive(Debug, Args)]
pub(crate) struct RmArgs {
    /// Their names
    #[arg(required = true, value_name = "TARGET")]
    names: Vec<TargetName>,
}

impl AddArgs {
    /// The server does not know which folder this command was typed in.
    fn socket(&self) -> Result<String, Error> {
        let path = match (&self.socket, std::env::var("DOCKER_HOST")) {
            (Some(path), _) => path.clone(),
            (None, Ok(host)) if !host.is_empty() => match host.strip_prefix("unix://") {
                Some(path) => PathBuf::from(path),
                None => {
                    return Err(Error::invalid(
                        "DOCKER_HOST",
                        format!("'{host}' is no socket of this machine"),
                    )
                    .fix("give the engine's socket with --socket"));
                }
            },
            (None, _) => PathBuf::from(DEFAULT_SOCKET),
        };
        let absolute = std::path::absolute(&path)
            .map_err(|e| Error::invalid("--socket", format!("{} can't be used: {e}", path.display())))?;
        absolute
            .to_str()
            .map(str::to_owned)
            .ok_or_else(|| Error::invalid("--socket", format!("{} is no UTF-8 path", path.display())))
    }
}

/// `clawfarm target`.
pub(crate) async fn run(app: &App, command: &TargetCommand) -> Outcome {
    match command {
        TargetCommand::Ls => list(app).await,
        TargetCommand::Add(args) => add(app, args).await,
        TargetCommand::Rm(args) => remove(app, args).await,
    }
}

async fn add(app: &App, args: &AddArgs) -> Outcome {
    let request = AddTarget {
        name: args.name.clone(),
        runtime: RuntimeKind::Docker,
        settings: DockerSettings { socket: args.socket()?, base_image: args.base_image.clone() },
        labels: args.label.iter().cloned().collect(),
    };
    let added = app.client().await?.add_target(&request).await?;
    if app.ui.json {
        app.ui.document(&added)?;
    } else {
        app.ui.line(&added.name)?;
        app.ui.note(format_args!("To make an instance on it: clawfarm new openclaw --target {}", added.name));
    }
    Ok(OK)
}

async fn remove(app: &App, args: &RmArgs) -> Outcome {
    let client = app.client().await?;
    for name in &args.names {
        client.remove_target(name).await?;
        if !app.ui.json {
            app.ui.line(name)?;
        }
    }
    Ok(OK)
}

async fn list(app: &App) -> Outcome {
    let targets = app.client().await?.targets().await?;
    if app.ui.json {
        app.ui.document(&targets)?;
        return Ok(OK);
    }
    let columns = ["TARGET", "RUNTIME", "INSTANCES", "CPUS", "MEMORY(MIB)", "AVAILABLE(MIB)"].map(Column);
    let mut table = Table::new(&app.ui, &columns);
    for view in &targets.items {
        let figure = |text: Option<String>| text.unwrap_or_else(|| "?".to_owned());
        let capacity = view.capacity;
        table.row(vec![
            table.text(view.target.name.as_str()),
            table.text(view.target.runtime.as_str()),
            table.text(&view.instances.to_string()),
            table.text(&figure(capacity.map(|c| c.cpus.to_string()))),
            table.text(&figure(capacity.map(|c| c.memory_mib.to_string()))),
            table.text(&figure(capacity.map(|c| c.memory_available_mib.to_string()))),
        ]);
    }
    app.ui.line(table.render())?;
    Ok(OK)
}
