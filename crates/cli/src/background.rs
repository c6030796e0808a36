//! The server in the background: starts it, and waits until it answers.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use clawfarm_api::ServerInfo;
use clawfarm_client::Client;
use clawfarm_model::{Code, Error, Timestamp};
use tokio::time::{Instant, sleep};

use crate::app::App;
use crate::connect::{self, Server};
use crate::output::clean_block;
use crate::server::{ANOTHER_RUNS, CACHE_DIR, SIM_WORLD};
use crate::service;

/// How long a server may take until it answers: it opens its store and looks at every claw.
const LIMIT: Duration = Duration::from_secs(20);
/// Set for what is started in the background.
const CHILD: &str = "CLAWFARM_BACKGROUND_CHILD";
/// How often to look.
const POLL: Duration = Duration::from_millis(20);
/// A log longer than this, in bytes, is put aside before the next server starts.
const LOG_MAX: u64 = 10 << 20;
/// How much of the log's end is shown when the server ended, in bytes.
const TAIL: u64 = 4096;
/// How many lines of it.
const TAIL_LINES: usize = 12;

/// Starts a server on `home` in the background and waits until it answers. When another
/// command starts one at the same moment, the lock lets one of them live, and both wait for it.
pub(crate) async fn start(
    app: &App,
    server: &Server,
    home: &Path,
    arguments: &[OsString],
) -> Result<(Client, ServerInfo), Error> {
    let log = home.join("server.log");
    if service::is_coming(home).await {
        // Between two lives of a service: its home is not to be taken from it.
        return wait(app, server, home, &log, None).await;
    }
    let child = spawn(home, &log, arguments).map_err(|e| {
        Error::new(Code::Internal, format!("the server can't be started in {}: {e}", home.display()))
            .field("--home")
            .fix("give a folder that you may write to with --home or CLAWFARM_HOME")
            .source(e)
    })?;
    wait(app, server, home, &log, Some(child)).await
}

/// Waits until a server answers, and says why when `child` ends before.
async fn wait(
    app: &App,
    server: &Server,
    home: &Path,
    log: &Path,
    mut child: Option<Child>,
) -> Result<(Client, ServerInfo), Error> {
    if app.ui.err_is_terminal && !app.ui.json {
        app.ui.note(app.ui.err.dim("Starting the server in the background ..."));
    }
    let begun = Instant::now();
    while begun.elapsed() < LIMIT {
        sleep(POLL).await;
        // The token's file and the socket appear one after the other: not yet is no error here.
        match connect::connect(server).await {
            Ok(Some(found)) => return Ok(found),
            Err(e) if !is_early(&e) => return Err(e),
            Ok(None) | Err(_) => {}
        }
        if let Some(status) = child.as_mut().and_then(|c| c.try_wait().ok().flatten()) {
            // Another server has the home's lock: it is the one to wait for.
            if status.code() != Some(i32::from(ANOTHER_RUNS)) {
                return Err(ended(log, &status.to_string()));
            }
            child = None;
        }
    }
    Err(Error::new(
        Code::Timeout,
        format!("the server did not answer within {} s{}", LIMIT.as_secs(), tail(log)),
    )
    .fix(format!(
        "see {}, or run 'clawfarm serve --home {}' to watch it start",
        log.display(),
        home.display()
    )))
}

fn is_early(error: &Error) -> bool {
    matches!(error.code(), Code::Unavailable | Code::Timeout | Code::Unauthenticated)
}

fn spawn(home: &Path, log: &Path, arguments: &[OsString]) -> io::Result<Child> {
    // A server that is started in the background starts none itself, whatever else goes wrong.
    if std::env::var_os(CHILD).is_some() {
        return Err(io::Error::other("a server in the background does not start another"));
    }
    fs::DirBuilder::new().recursive(true).mode(0o700).create(home)?;
    put_aside(log)?;
    let out = OpenOptions::new().create(true).append(true).mode(0o600).open(log)?;
    let mut command = Command::new(own_program()?);
    command
        .arg("serve")
        .arg("--background-child")
        .arg("--home")
        .arg(home)
        .args(arguments)
        .env(CHILD, "1")
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(out.try_clone()?)
        .stderr(out);
    // What a server elsewhere is reached with is nothing for the server here, and neither are
    // the keys in the shell that the first command happened to be typed in.
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(is_private) {
            command.env_remove(name);
        }
    }
    // Its working folder is another one than this command's.
    for name in [CACHE_DIR, SIM_WORLD] {
        if let Some(folder) = std::env::var_os(name).filter(|folder| !folder.is_empty()) {
            command.env(name, std::path::absolute(folder)?);
        }
    }
    // Said of the server that is to be started, in the place of a file.
    if let Some(key) = crate::master_key::given() {
        command.env(crate::master_key::VARIABLE, secrecy::ExposeSecret::expose_secret(key));
    }
    // SAFETY: setsid is async-signal-safe and touches no memory; nothing else is done between
    // fork and exec.
    unsafe {
        command.pre_exec(|| Ok(rustix::process::setsid().map(drop)?));
    }
    command.spawn()
}

/// This program's file. When it was replaced while it runs (an upgrade), Linux says that it
/// is deleted: then the new one at its place is meant.
pub(crate) fn own_program() -> io::Result<PathBuf> {
    let path = std::env::current_exe()?;
    let name = path.to_string_lossy();
    Ok(name.strip_suffix(" (deleted)").map_or_else(|| path.clone(), PathBuf::from))
}

/// Whether a variable holds what only the shell's owner should have. `NPM_TOKEN` stays: npm's
/// own configuration refers to it.
fn is_private(name: &str) -> bool {
    let upper = name.to_ascii_uppercase();
    let ends = ["_KEY", "_TOKEN", "_SECRET", "_PASSWORD", "_PASSWD", "_CREDENTIALS"];
    matches!(upper.as_str(), "CLAWFARM_CONTEXT" | "CLAWFARM_HOST" | "CLAWFARM_TOKEN_FILE" | "CLAWFARM_HOME")
        || (ends.iter().any(|end| upper.ends_with(end)) && upper != "NPM_TOKEN")
}

fn put_aside(log: &Path) -> io::Result<()> {
    match fs::metadata(log) {
        Ok(found) if found.len() > LOG_MAX => fs::rename(log, log.with_extension("log.1")),
        _ => Ok(()),
    }
}

fn ended(log: &Path, how: &str) -> Error {
    Error::new(Code::Unavailable, format!("the server ended at once ({how}){}", tail(log)))
        .fix(format!("mend what it says there; all of it is in {}", log.display()))
}

/// The last lines of the server's log, to stand in an error.
fn tail(log: &Path) -> String {
    let text = read_end(log).unwrap_or_default();
    let clean = clean_block(&text);
    let lines: Vec<&str> = clean.lines().filter(|l| !l.trim().is_empty()).collect();
    let last = &lines[lines.len().saturating_sub(TAIL_LINES)..];
    if last.is_empty() { String::new() } else { format!("; its log ends with:\n{}", last.join("\n")) }
}

fn read_end(log: &Path) -> io::Result<String> {
    let mut file = File::open(log)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
    let mut bytes = Vec::new();
    file.take(TAIL).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Whether this process is there and no later one that was given the same number: a server
/// says when it started, and its process can't be younger than that.
pub(crate) fn is_server(pid: u32, started_at: Timestamp) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    // Field 3, after the name in brackets: Z and X have ended and only wait to be counted.
    let Some((_, rest)) = stat.rsplit_once(") ") else { return false };
    if rest.starts_with(['Z', 'X']) {
        return false;
    }
    let made = fs::metadata(format!("/proc/{pid}")).and_then(|m| m.modified());
    let Some(made) = made.ok().and_then(|t| t.duration_since(std::time::UNIX_EPOCH).ok()) else {
        return true;
    };
    let made = Timestamp::from_millis(i64::try_from(made.as_millis()).unwrap_or(i64::MAX));
    // A reserve of a minute, for a clock that was set in between.
    made <= started_at.after(Duration::from_secs(60))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_the_shell_stay_out_of_the_server() {
        for name in [
            "OPENAI_API_KEY",
            "GITHUB_TOKEN",
            "DB_PASSWORD",
            "aws_secret",
            "CLAWFARM_HOST",
            "CLAWFARM_CONTEXT",
        ] {
            assert!(is_private(name), "{name}");
        }
        for name in
            ["PATH", "HOME", "NPM_TOKEN", "HTTPS_PROXY", "npm_config_registry", "CLAWFARM_LOG", "KEYBOARD"]
        {
            assert!(!is_private(name), "{name}");
        }
    }

    #[test]
    fn a_server_that_is_gone_is_not_taken_for_a_later_process() {
        assert!(is_server(std::process::id(), Timestamp::now()));
        assert!(!is_server(u32::MAX, Timestamp::now()));
    }

    #[test]
    fn the_logs_end_is_shown_clean() {
        let folder = tempfile::tempdir().expect("a folder");
        let log = folder.path().join("server.log");
        let lines: String = (0..600).map(|n| format!("line {n} \u{1b}[31mred\u{1b}[0m\n")).collect();
        fs::write(&log, lines).expect("written");
        let tail = tail(&log);
        assert!(
            tail.ends_with("line 599 red") && tail.contains("line 588 red") && !tail.contains("line 587")
        );
    }
}
