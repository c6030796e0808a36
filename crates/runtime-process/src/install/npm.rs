//! Running npm: no shell, a time limit, ended with everything it started when nobody waits
//! for it any more.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use clawfarm_model::{Code, Error, Result};
use clawfarm_runtime::Progress;
use rustix::process::{Pid, Signal, kill_process_group};

use super::fault::npm_failed;
use clawfarm_files::io_error;

const POLL: Duration = Duration::from_millis(200);

/// The npm to use.
#[derive(Clone, Debug)]
pub(crate) struct Npm {
    /// The program: a path, or a name to be found in `PATH`.
    pub(crate) program: OsString,
    /// How long one run may take.
    pub(crate) time_limit: Duration,
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
    /// Runs it to its end, telling how many packages it has fetched.
    ///
    /// `lock` becomes its standard input: so that an npm which outlives a killed server keeps
    /// the next installation waiting instead of writing into its folder.
    pub(super) async fn run(&self, run: Run<'_>, lock: &File, progress: &dyn Progress) -> Result<()> {
        let log = File::create(run.log).map_err(|e| io_error(format!("write '{}'", run.log.display()), e))?;
        let out = log.try_clone().map_err(|e| io_error("write npm's log", e))?;
        let input = lock.try_clone().map_err(|e| io_error("hand the lock to npm", e))?;
        let mut command = tokio::process::Command::new(&self.program);
        command
            .args(run.arguments)
            .current_dir(run.cwd)
            .env("npm_config_update_notifier", "false")
            .env_remove("NODE_OPTIONS")
            .stdin(Stdio::from(input))
            .stdout(Stdio::from(out))
            .stderr(Stdio::from(log))
            .process_group(0);
        if let Some(bin) = run.node_bin {
            command.env("PATH", path_with(bin)?);
        }
        let mut child = command.spawn().map_err(|e| missing(&self.program, e))?;
        let _group = Group(child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)));
        let deadline = tokio::time::Instant::now() + self.time_limit;
        let mut count = FetchCount::default();
        let status = loop {
            match tokio::time::timeout(POLL, child.wait()).await {
                Ok(status) => break status.map_err(|e| io_error("wait for npm", e))?,
                Err(_) => progress.advance(count.update(run.log)),
            }
            if tokio::time::Instant::now() > deadline {
                return Err(self.too_slow(run.what));
            }
        };
        progress.advance(count.update(run.log));
        if status.success() { Ok(()) } else { Err(npm_failed(run.what, status, &log_end(run.log))) }
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

/// Ends npm and everything it started, when its run ends in whatever way.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // Already gone is what is hoped for.
            let _ = kill_process_group(group, Signal::KILL);
        }
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

/// Counts the lines that tell of a fetched package, reading only what is new.
#[derive(Default)]
pub(super) struct FetchCount {
    offset: u64,
    fetched: u64,
    rest: Vec<u8>,
}

impl FetchCount {
    pub(super) fn update(&mut self, log: &Path) -> u64 {
        let mut new = Vec::new();
        if let Ok(mut file) = File::open(log)
            && file.seek(SeekFrom::Start(self.offset)).is_ok()
            && file.take(16 << 20).read_to_end(&mut new).is_ok()
        {
            self.offset += new.len() as u64;
            self.rest.extend(new);
            while let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                // `npm http fetch GET 200 https://... 85ms`
                self.fetched += u64::from(line.windows(10).any(|part| part == b"http fetch"));
            }
        }
        self.fetched
    }
}

/// The last lines npm wrote, those that say what went wrong, without control characters.
fn log_end(log: &Path) -> String {
    const LAST: u64 = 64 * 1024;
    let mut text = Vec::new();
    let read = File::open(log).and_then(|mut file| {
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(LAST)))?;
        file.take(LAST).read_to_end(&mut text)
    });
    if let Err(error) = read {
        tracing::warn!(%error, log = %log.display(), "npm's log could not be read");
    }
    String::from_utf8_lossy(&text).chars().filter(|c| *c == '\n' || !c.is_control()).collect()
}

/// npm's version, for `doctor`.
pub(crate) async fn npm_version(program: &OsStr) -> Result<String> {
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
