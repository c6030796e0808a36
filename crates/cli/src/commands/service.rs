//! `service`: the server as a service of systemd, so that it starts with the machine.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use clawfarm_api::Shutdown;
use clawfarm_model::{Code, Error};
use serde_json::json;

use crate::app::App;
use crate::background::own_program;
use crate::cli::{Cli, Command};
use crate::database::{DATABASE, keep_for_service};
use crate::errors::{OK, Outcome};
use crate::server::{CACHE_DIR, SIM_WORLD};
use crate::service::{MARK, NAME, Scope, Systemctl, Unit, trust};
use crate::vm::{ACCELERATOR, HOST_PORTS};
use crate::{connect, context};

/// The help's examples.
pub(crate) const EXAMPLES: &str = "\
Examples:
  clawfarm service install --now           for you: starts with the machine, runs as you
  sudo clawfarm service install --system   for the machine: each claw with a user id of its own
  clawfarm service status
  clawfarm service uninstall";

/// What starts after a reboot: told by `install`, and in docs/service.md.
const RULE: &str = "After a reboot the server starts, and starts again every instance that was wanted up: what ran when the machine went down, whatever its restart policy. What was stopped, sleeps, has failed, or had ended by itself and is not to be restarted stays as it was; a message wakes what sleeps.";

/// How long a server in the background may take to end.
const END_LIMIT: Duration = Duration::from_secs(30);
/// Where systemd looks for programs when it is told nothing (systemd.exec(5)).
const SYSTEMD_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// `clawfarm service`.
#[derive(Debug, Subcommand)]
pub(crate) enum ServiceCommand {
    /// Have systemd start the server with the machine, and again when it ends
    #[command(
        long_about = "Writes a unit for systemd and enables it. Without --system it is a service of your own: it runs as you, and starts with the machine once lingering is on, which is asked for. With --system it runs as root, so that each claw has a user id of its own; with --run-as it runs as another user, and claws are kept apart by Landlock alone. The claws go on when the service is stopped or started anew.",
        after_help = "Examples:\n  clawfarm service install --now\n  clawfarm service install --print\n  sudo clawfarm service install --system --now -- --listen 127.0.0.1:8420\n  sudo clawfarm service install --system --run-as claws --home /srv/claws"
    )]
    Install(InstallArgs),
    /// Stop the service and remove its unit; the claws go on
    #[command(
        after_help = "Examples:\n  clawfarm service uninstall\n  sudo clawfarm service uninstall --system"
    )]
    Uninstall(WhichArgs),
    /// Show whether it is installed, and what systemd says of it
    #[command(after_help = "Examples:\n  clawfarm service status\n  clawfarm service status --system --json")]
    Status(WhichArgs),
}

/// Whose service.
#[derive(Debug, Args)]
pub(crate) struct WhichArgs {
    /// The machine's instead of your own
    #[arg(long)]
    system: bool,
}

/// `clawfarm service install`.
#[derive(Debug, Args)]
pub(crate) struct InstallArgs {
    #[command(flatten)]
    which: WhichArgs,
    /// Run the machine's service as this user instead of root
    #[arg(long, value_name = "USER", requires = "system")]
    run_as: Option<String>,
    /// Start it at once; a server in the background is replaced, and its claws go on
    #[arg(long)]
    now: bool,
    /// Print the unit, and change nothing
    #[arg(long, conflicts_with = "now")]
    print: bool,
    /// Options of 'clawfarm serve' for it, after '--'
    #[arg(last = true, value_name = "OPTIONS")]
    options: Vec<OsString>,
}

/// `clawfarm service`.
pub(crate) async fn run(app: &App, command: &ServiceCommand) -> Outcome {
    // A server elsewhere is a service elsewhere.
    app.server()?.local_home()?;
    match command {
        ServiceCommand::Install(args) => install(app, args).await,
        ServiceCommand::Uninstall(args) => uninstall(app, &args.scope()).await,
        ServiceCommand::Status(args) => status(app, &args.scope()).await,
    }
}

impl WhichArgs {
    const fn scope(&self) -> Scope {
        if self.system { Scope::System { run_as: None } } else { Scope::User }
    }
}

async fn install(app: &App, args: &InstallArgs) -> Outcome {
    let unit = unit(app, args)?;
    let text = unit.text()?;
    let path = Unit::path(&unit.scope, &context::config_folder()?);
    if args.print {
        if let Err(error) = trust::check(&unit) {
            app.ui.warn(format_args!("{}", error.message()));
        }
        if app.ui.json {
            app.ui.document(&json!({ "path": path, "unit": text, "rule": RULE }))?;
        } else {
            app.ui.raw(text.as_bytes())?;
        }
        return Ok(OK);
    }
    let systemctl = Systemctl::of(&unit.scope);
    // Before anything is written.
    systemctl.check().await?;
    check_ours(&path)?;
    trust::check(&unit)?;
    let kept = keep_database(args, &unit.home)?;
    write(&path, &text)?;
    systemctl.run(&["daemon-reload"]).await?;
    systemctl.run(&["enable", NAME]).await?;
    let starts_at_boot = unit.scope != Scope::User || linger(app).await;
    if args.now {
        end_background_server(app).await?;
        // Starts it where it does not run, and waits until it says that it is ready.
        systemctl.run(&["restart", NAME]).await?;
    }
    if app.ui.json {
        app.ui.document(&json!({
            "path": path, "home": unit.home, "started": args.now, "starts_at_boot": starts_at_boot, "rule": RULE,
            "database_file": kept,
        }))?;
        return Ok(OK);
    }
    app.ui.line(format_args!("{} is installed: the server of {}", path.display(), unit.home.display()))?;
    if let Some(kept) = kept {
        app.ui.line(format_args!("{} has what {DATABASE} says; only its server reads it", kept.display()))?;
    }
    if !args.now {
        app.ui.line(format_args!("Start it with: {}", systemctl.typed("restart clawfarm")))?;
    }
    app.ui.line(format_args!("{RULE}"))?;
    Ok(OK)
}

fn unit(app: &App, args: &InstallArgs) -> Result<Unit, Error> {
    let scope = if args.which.system { Scope::System { run_as: args.run_as.clone() } } else { Scope::User };
    let mut home = app.home()?;
    if let Some(name) = &args.run_as {
        let user = nix::unistd::User::from_name(name).ok().flatten().ok_or_else(|| {
            Error::invalid("--run-as", format!("this machine has no user '{}'", name.escape_debug()))
                .fix("give a user of this machine, or make it: useradd --system --create-home NAME")
        })?;
        if app.global.home.is_none() {
            home = user.dir.join(".clawfarm");
        }
    }
    let program = own_program().map_err(|e| Error::internal("this program does not find its file", e))?;
    let mut environment = Vec::new();
    for name in ["CLAWFARM_LOG", CACHE_DIR, ACCELERATOR, HOST_PORTS, SIM_WORLD] {
        if let Ok(value) = std::env::var(name)
            && !value.is_empty()
        {
            let is_folder = matches!(name, CACHE_DIR | SIM_WORLD);
            let value = if is_folder { absolute(name, Path::new(&value))? } else { value };
            environment.push((name.to_owned(), value));
        }
    }
    environment.extend(path_with_npm());
    Ok(Unit { scope, program, home, options: serve_options(&args.options)?, environment })
}

/// Keeps the database of the environment for the service, which has an environment of its own.
fn keep_database(args: &InstallArgs, home: &Path) -> Result<Option<PathBuf>, Error> {
    let owner = args.run_as.as_ref().and_then(|name| nix::unistd::User::from_name(name).ok().flatten());
    let owner = owner.map(|user| (user.uid.as_raw(), user.gid.as_raw()));
    let typed = ["clawfarm", "serve"].into_iter().map(OsString::from).chain(args.options.iter().cloned());
    match Cli::try_parse_from(typed).map(|cli| cli.command) {
        Ok(Command::Serve(serve)) => keep_for_service(serve.database(), home, owner),
        // Refused already, where the unit is made.
        _ => Ok(None),
    }
}

fn absolute(name: &str, path: &Path) -> Result<String, Error> {
    let whole = std::path::absolute(path)
        .map_err(|e| Error::invalid(name, format!("{} can't be used: {e}", path.display())))?;
    Ok(whole.to_string_lossy().into_owned())
}

/// A PATH for the service where npm, which installs the claws, is not where systemd looks.
fn path_with_npm() -> Option<(String, String)> {
    let has = |folder: &Path| folder.join("npm").is_file();
    if std::env::split_paths(SYSTEMD_PATH).any(|folder| has(&folder)) {
        return None;
    }
    let path = std::env::var_os("PATH")?;
    let folder = std::env::split_paths(&path).find(|folder| folder.is_absolute() && has(folder))?;
    Some(("PATH".to_owned(), format!("{}:{SYSTEMD_PATH}", folder.to_str()?)))
}

/// Reads the options as `serve` will, so that a wrong one is told now and not at the next boot.
fn serve_options(given: &[OsString]) -> Result<Vec<String>, Error> {
    let typed = ["clawfarm", "serve"].into_iter().map(OsString::from).chain(given.iter().cloned());
    let refused = |text: &str| {
        let first = text.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned();
        Error::invalid("options", first).fix("see 'clawfarm serve --help' for what can stand after '--'")
    };
    let cli = Cli::try_parse_from(typed).map_err(|e| refused(&e.render().to_string()))?;
    let Command::Serve(serve) = cli.command else { return Err(refused("these are no options of serve")) };
    if !serve.in_foreground() || serve.is_background_child() {
        return Err(refused("a service runs in the foreground"));
    }
    let options = serve.pass_on()?;
    options
        .into_iter()
        .map(|option| option.into_string().map_err(|_| refused("an option is no UTF-8 text")))
        .collect()
}

/// Refuses a unit of that name that somebody else wrote.
fn check_ours(path: &Path) -> Result<(), Error> {
    match fs::read_to_string(path) {
        Ok(text) if text.starts_with(MARK) => Ok(()),
        Ok(_) => Err(Error::new(
            Code::Conflict,
            format!("{} is there already, and was not written by clawfarm", path.display()),
        )
        .fix("move it away, or change it by hand as 'clawfarm service install --print' shows")),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(refused(path, e)),
    }
}

fn refused(path: &Path, error: io::Error) -> Error {
    let denied = error.kind() == io::ErrorKind::PermissionDenied;
    let code = if denied { Code::Forbidden } else { Code::Internal };
    Error::new(code, format!("{}: {error}", path.display())).source(error).fix(if denied {
        "the machine's services are root's: use sudo, or leave out --system"
    } else {
        "check the folder, and that the disk is not full"
    })
}

/// Replaces the unit's file: the old one or the new one, whatever happens.
fn write(path: &Path, text: &str) -> Result<(), Error> {
    let failed = |e| refused(path, e);
    let folder = path.parent().unwrap_or(Path::new("/"));
    fs::DirBuilder::new().recursive(true).mode(0o755).create(folder).map_err(failed)?;
    let new = path.with_extension("service.new");
    match fs::remove_file(&new) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(failed(e)),
        _ => {}
    }
    let mut file =
        fs::OpenOptions::new().write(true).create_new(true).mode(0o644).open(&new).map_err(failed)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
    fs::rename(&new, path).map_err(failed)
}

/// Lets the user's services start with the machine instead of with the first login. Whether
/// they do now.
async fn linger(app: &App) -> bool {
    let user = nix::unistd::User::from_uid(nix::unistd::geteuid()).ok().flatten().map(|user| user.name);
    // loginctl(1): a file by the user's name says it.
    if user.as_ref().is_some_and(|name| Path::new("/var/lib/systemd/linger").join(name).exists()) {
        return true;
    }
    let asked = tokio::process::Command::new("loginctl")
        .arg("enable-linger")
        .stdin(std::process::Stdio::null())
        .output()
        .await;
    let why = match asked {
        Ok(done) if done.status.success() => return true,
        Ok(done) => String::from_utf8_lossy(&done.stderr).trim().to_owned(),
        Err(e) => e.to_string(),
    };
    app.ui.warn(format_args!(
        "the server will start when you log in, not with the machine (loginctl: {}): sudo loginctl enable-linger {}",
        crate::output::clean_line(&why),
        user.as_deref().unwrap_or("YOU"),
    ));
    false
}

/// Two servers can't have one home.
async fn end_background_server(app: &App) -> Result<(), Error> {
    if let Some((client, info)) = app.running().await?
        && !info.supervised
    {
        client.shutdown(Shutdown { claws: false }).await?;
        connect::wait_until_ended(app, &info, END_LIMIT).await?;
    }
    Ok(())
}

async fn uninstall(app: &App, scope: &Scope) -> Outcome {
    let path = Unit::path(scope, &context::config_folder()?);
    let was_there = path.symlink_metadata().is_ok();
    if was_there {
        check_ours(&path)?;
        let systemctl = Systemctl::of(scope);
        systemctl.run(&["disable", "--now", NAME]).await?;
        fs::remove_file(&path).map_err(|e| refused(&path, e))?;
        systemctl.run(&["daemon-reload"]).await?;
    }
    if app.ui.json {
        app.ui.document(&json!({ "path": path, "was_installed": was_there }))?;
    } else if was_there {
        app.ui.line(format_args!("{} is removed; the claws go on", path.display()))?;
    } else {
        app.ui.note("No service was installed.");
    }
    Ok(OK)
}

async fn status(app: &App, scope: &Scope) -> Outcome {
    let path: PathBuf = Unit::path(scope, &context::config_folder()?);
    let installed = fs::read_to_string(&path).is_ok_and(|text| text.starts_with(MARK));
    let systemctl = Systemctl::of(scope);
    let enabled = systemctl.word("is-enabled", NAME).await?;
    let active = systemctl.word("is-active", NAME).await?;
    let server = app.running().await.ok().flatten().map(|(_, info)| info);
    if app.ui.json {
        app.ui.document(&json!({
            "path": path, "installed": installed, "enabled": enabled, "active": active, "server": server,
        }))?;
        return Ok(OK);
    }
    app.ui.line(format_args!(
        "unit     {}{}",
        path.display(),
        if installed { "" } else { " (not installed)" }
    ))?;
    app.ui.line(format_args!("enabled  {}", crate::output::clean_line(&enabled)))?;
    app.ui.line(format_args!("active   {}", crate::output::clean_line(&active)))?;
    match server {
        Some(info) if info.supervised => {
            app.ui.line(format_args!("server   {} (pid {})", info.version, info.pid))?;
        }
        Some(info) => app.ui.line(format_args!(
            "server   {} (pid {}), started by a command and not by a service",
            info.version, info.pid
        ))?,
        None => app.ui.line("server   not running")?,
    }
    Ok(OK)
}
