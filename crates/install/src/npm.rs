//! Running npm.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use clawfarm_model::{Code, Error, Result};
use clawfarm_runtime::Progress;

use super::fault::npm_failed;
use super::run::{self, End, FETCHED, log_end};
use clawfarm_files::io_error;

/// The npm to use.
#[derive(Clone, Debug)]
pub struct Npm {
    /// The program: a path, or a name to be found in `PATH`.
    pub program: OsString,
    /// How long one run may take.
    pub time_limit: Duration,
}

/// One run of it.
pub(super) struct Run<'a> {
    pub(super) arguments: &'a [OsString],
    /// Where its standard error goes: its log, and our progress.
    pub(super) log: &'a Path,
    pub(super) cwd: &'a Path,
    /// A folder to find `node` in before all others.
    pub(super) node_bin: Option<&'a Path>,
    /// What is being installed, for errors.
    pub(super) what: &'a str,
}

pub(super) fn install_arguments(prefix: &Path, package: &str) -> Vec<OsString> {
    let mut arguments = common("install", prefix);
    // `http` makes npm write a line for each package it fetched.
    for argument in
        // A registry that falls silent is asked again after a minute, not after npm's five.
        [
            "--ignore-scripts",
            "--no-audit",
            "--no-fund",
            "--save-exact",
            "--loglevel=http",
            "--fetch-timeout=60000",
            "--fetch-retries=3",
            "--",
            package,
        ]
    {
        arguments.push(argument.into());
    }
    arguments
}

pub(super) fn rebuild_arguments(prefix: &Path, package: &str) -> Vec<OsString> {
    let mut arguments = common("rebuild", prefix);
    // A user's own `ignore-scripts=true` would leave the claw unable to start.
    for argument in ["--ignore-scripts=false", "--foreground-scripts", "--loglevel=warn", "--", package] {
        arguments.push(argument.into());
    }
    arguments
}

fn common(verb: &str, prefix: &Path) -> Vec<OsString> {
    // `--global=false`: a user's setting would put the packages elsewhere.
    vec![verb.into(), "--prefix".into(), prefix.into(), "--global=false".into()]
}

impl Npm {
    /// Runs it to its end, telling how many packages it has fetched; see [`run::to_end`].
    pub(super) async fn run(&self, run: Run<'_>, lock: &File, progress: &dyn Progress) -> Result<()> {
        let mut command = tokio::process::Command::new(&self.program);
        command
            .args(run.arguments)
            .current_dir(run.cwd)
            .env("npm_config_update_notifier", "false")
            .env_remove("NODE_OPTIONS");
        if let Some(bin) = run.node_bin {
            command.env("PATH", path_with(bin)?);
        }
        match run::to_end(command, run.log, lock, self.time_limit, FETCHED, progress).await? {
            End::Status(status) if status.success() => Ok(()),
            End::Status(status) => Err(npm_failed(run.what, status, &log_end(run.log))),
            End::NotStarted(error) => Err(missing(&self.program, error)),
            End::TooSlow => Err(self.too_slow(run.what)),
        }
    }

    fn too_slow(&self, what: &str) -> Error {
        Error::new(
            Code::Timeout,
            format!("npm did not install {what} within {} seconds", self.time_limit.as_secs()),
        )
        .fix("check the connection to the npm registry (`npm ping`), then try again: what was fetched is kept in npm's cache")
    }
}

fn missing(program: &OsStr, error: std::io::Error) -> Error {
    let program = program.display();
    match error.kind() {
        // Looking a name up answers the latter when a folder of PATH can't be searched.
        std::io::ErrorKind::NotFound | std::io::ErrorKind::PermissionDenied => Error::new(Code::Unsupported, format!("'{program}' was not found, or may not be executed"))
            .field("npm")
            .fix("install Node.js with npm (Debian and Ubuntu: `sudo apt-get install nodejs npm`; others: https://nodejs.org), then try again"),
        _ => io_error(format!("run '{program}'"), error).field("npm"),
    }
}

fn path_with(first: &Path) -> Result<OsString> {
    let rest = std::env::var_os("PATH").unwrap_or_default();
    let all = std::iter::once(first.to_owned()).chain(std::env::split_paths(&rest));
    std::env::join_paths(all).map_err(|e| {
        Error::internal(format!("'{}' can't be part of PATH", first.display()), e)
            .fix("choose a cache folder without ':' in its path")
    })
}

/// npm's version, for `doctor`.
pub async fn npm_version(program: &OsStr) -> Result<String> {
    let output = tokio::process::Command::new(program)
        .arg("--version")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(Duration::from_secs(20), output)
        .await
        .map_err(|_| Error::new(Code::Timeout, "npm did not answer within 20 seconds"))?
        .map_err(|e| missing(program, e))?;
    let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if output.status.success() && !said.is_empty() {
        return Ok(said);
    }
    let complaint = String::from_utf8_lossy(&output.stderr);
    let complaint = complaint.lines().next_back().unwrap_or("it said nothing").to_owned();
    Err(Error::new(Code::Unsupported, format!("npm does not work: {complaint}"))
        .field("npm")
        .fix("install Node.js with npm again (Debian and Ubuntu: `sudo apt-get install nodejs npm`)"))
}
