//! Starting shims, whether they live, and what is left of them.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use clawfarm_files::{blocking, io_error};
use clawfarm_model::{ClawId, Code, Error, Result};
use clawfarm_shim::spec::{StartReply, Started};
use clawfarm_shim::{ShimSpec, ShimState, lock};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use secrecy::SecretString;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};

use crate::client::{LIMIT, Shim};

/// How long a shim may take to say that it started what it keeps. Helpers are waited for too.
const START: Duration = Duration::from_secs(90);
/// What a shim itself complains about; the output of what it keeps is elsewhere.
const SHIM_LOG: &str = "shim.err";
/// How often a lock is looked at again while a shim comes up or goes down.
const POLL: Duration = Duration::from_millis(50);

/// Whether the shim of an instance's folder lives.
///
/// # Errors
/// When the folder can't be read.
pub async fn is_up(dir: &Path) -> Result<bool> {
    let dir = dir.to_owned();
    blocking(move || lock::is_held(&dir)).await
}

/// A connection to the shim; `None` when it does not live. A shim that has just taken the lock
/// has no socket yet, and one that is ending holds the lock a little longer than its socket.
///
/// # Errors
/// `Unavailable` when it lives and does not answer.
pub async fn shim(dir: &Path, id: &ClawId) -> Result<Option<Shim>> {
    let deadline = tokio::time::Instant::now() + LIMIT;
    loop {
        if !is_up(dir).await? {
            return Ok(None);
        }
        match Shim::connect(dir, id).await {
            Ok(shim) => return Ok(Some(shim)),
            Err(error) if error.code() != Code::Unavailable => return Err(error),
            Err(error) if tokio::time::Instant::now() >= deadline => return Err(error),
            Err(_) => tokio::time::sleep(POLL).await,
        }
    }
}

/// As [`shim`], for verbs that need a running claw.
///
/// # Errors
/// `Gone` when it does not run; `Unavailable` as for [`shim`].
pub async fn running_shim(dir: &Path, id: &ClawId) -> Result<Shim> {
    shim(dir, id).await?.ok_or_else(|| {
        Error::new(Code::Gone, format!("'{id}' does not run"))
            .fix(format!("start it with `clawfarm start {id}`"))
    })
}

/// Waits until the shim has ended.
///
/// # Errors
/// `Unavailable` when it does not within `limit`.
pub async fn wait_for_end(dir: &Path, id: &ClawId, limit: Duration) -> Result<()> {
    let deadline = tokio::time::Instant::now() + limit;
    while is_up(dir).await? {
        if tokio::time::Instant::now() >= deadline {
            return Err(Error::new(
                Code::Unavailable,
                format!("the keeper (shim) of '{id}' did not end within {} seconds", limit.as_secs()),
            )
            .fix(format!("try again, or end it with `clawfarm kill {id}`")));
        }
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}

/// Kills the shim that holds the lock of an instance's folder. What it keeps ends with it.
///
/// # Errors
/// When its state can't be read.
pub fn kill_shim(dir: &Path) -> Result<()> {
    let Some(state) = ShimState::read(dir)? else { return Ok(()) };
    let pid = i32::try_from(state.shim_pid).ok().and_then(Pid::from_raw);
    let Some(fd) = pid.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok()) else { return Ok(()) };
    // The last argument of a shim is its folder: no other process by that number has it.
    let command = std::fs::read(format!("/proc/{}/cmdline", state.shim_pid)).unwrap_or_default();
    let is_shim = command.split(|byte| *byte == 0).any(|argument| argument == dir.as_os_str().as_bytes());
    if is_shim && lock::is_held(dir)? {
        // Gone already is what is wanted.
        let _ = pidfd_send_signal(&fd, Signal::KILL);
    }
    Ok(())
}

/// What a connection to the shim must present: 256 random bits.
///
/// # Errors
/// `Internal` when the system has no random numbers.
pub fn token() -> Result<SecretString> {
    let mut bytes = [0_u8; 32];
    getrandom::fill(&mut bytes)
        .map_err(|e| Error::internal("the operating system gave no random numbers", e))?;
    Ok(SecretString::from(bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))))
}

/// Starts a shim by a command to which the instance's folder is added.
///
/// # Errors
/// What the shim says, or `Timeout`. What it may have started meanwhile is left to the caller.
pub async fn start(command: &[OsString], dir: &Path, spec: &ShimSpec) -> Result<Started> {
    let mut child = spawn(command, dir)?;
    let said = tokio::time::timeout(START, converse(&mut child, spec)).await;
    let result = said.unwrap_or_else(|_| {
        Err(Error::new(
            Code::Timeout,
            format!("the keeper (shim) of '{}' did not start it within {} seconds", spec.id, START.as_secs()),
        )
        .fix("the machine may be overloaded: try again, or look with `clawfarm doctor`"))
    });
    if result.is_err() {
        // What it may have started meanwhile is ended by the caller.
        if let Err(error) = child.start_kill() {
            tracing::debug!(%error, "a shim that failed was gone already");
        }
    }
    // Takes note of its end, so that it leaves no zombie while the server lives.
    tokio::spawn(async move { child.wait().await });
    result
}

fn spawn(command: &[OsString], dir: &Path) -> Result<tokio::process::Child> {
    let Some((program, arguments)) = command.split_first() else {
        return Err(Error::internal("no command starts a shim", "shim_command is empty"));
    };
    let log_path = dir.join("logs").join(SHIM_LOG);
    let log = std::fs::File::create(&log_path)
        .map_err(|e| io_error(format!("write '{}'", log_path.display()), e))?;
    let mut command = std::process::Command::new(program);
    command
        .args(arguments)
        .arg(dir)
        .env_clear()
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::from(log))
        .process_group(0);
    tokio::process::Command::from(command).spawn().map_err(|e| {
        io_error(format!("start the keeper (shim) '{}'", program.display()), e)
            .fix("check that the clawfarm program is still there and can be executed")
    })
}

/// Gives the shim its spec and reads its one line.
async fn converse(child: &mut tokio::process::Child, spec: &ShimSpec) -> Result<Started> {
    let failed = |e| io_error("talk to the new shim", e);
    let (Some(mut input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
        return Err(Error::internal("a new shim has no pipes", "stdin or stdout is missing"));
    };
    let text =
        serde_json::to_vec(spec).map_err(|e| Error::internal("a launch could not be put into JSON", e))?;
    let text = zeroize::Zeroizing::new(text);
    // One that ends early says why on its output; a broken pipe says nothing.
    let written = async {
        input.write_all(&text).await?;
        input.shutdown().await
    }
    .await;
    drop(input);
    let mut line = String::new();
    BufReader::new(output.take(1 << 20)).read_line(&mut line).await.map_err(failed)?;
    if line.is_empty() {
        written.map_err(failed)?;
        return Err(Error::new(Code::Internal, "the keeper (shim) ended without a word")
            .fix("look into logs/shim.err in the instance's folder"));
    }
    serde_json::from_str::<StartReply>(&line)
        .map_err(|e| Error::internal("the keeper (shim) said something that makes no sense", e))?
        .into_result()
}
