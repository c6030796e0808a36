//! From the command `clawfarm shim` to a process that is nobody's child.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::ExitCode;

use clawfarm_model::{Code, Error, Result};
use nix::fcntl::OFlag;
use nix::sys::prctl;
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, fork, pipe2, setsid};
use secrecy::zeroize::Zeroizing;

use crate::keeper::Keeper;
use crate::layout::LOG_DIR;
use crate::process;
use crate::protocol::Reply;
use crate::spec::{MAX_SPEC_BYTES, SPEC_VERSION, ShimSpec, StartReply, Started};

/// Runs `clawfarm shim <instance-dir>`: reads a [`ShimSpec`] from standard input to its end,
/// starts the shim and the claw, prints one line with a [`StartReply`], and answers the exit
/// code: 0 when the claw was started, 1 when not. The shim itself goes on as a process of its
/// own session, a child of no one who waits for it.
///
/// Must be called while the program has one thread: before any async runtime is made.
pub fn main(dir: &Path) -> ExitCode {
    let reply: StartReply = begin(dir).into();
    let code = if matches!(reply, Reply::Ok(_)) { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    let mut line = serde_json::to_string(&reply).unwrap_or_default();
    line.push('\n');
    // Nobody is left to be told when this fails; the shim is adopted by its lock then.
    let _ = io::stdout().write_all(line.as_bytes());
    code
}

fn begin(dir: &Path) -> Result<Started> {
    if process::threads() > 1 {
        return Err(Error::new(Code::Internal, "the shim was started in a program that has threads already"));
    }
    let dir = dir.canonicalize().map_err(|error| {
        Error::invalid("instance-dir", format!("{} can't be used: {error}", dir.display()))
            .fix("give the folder of an instance that exists")
    })?;
    let spec = read_spec()?;
    let broken = |errno| Error::internal("a process for the shim could not be made", errno);
    let (theirs, outcome) = pipe2(OFlag::O_CLOEXEC).map_err(broken)?;
    // SAFETY: this process has one thread, so the child may do anything; it never returns.
    match unsafe { fork() }.map_err(broken)? {
        ForkResult::Child => detach(&dir, spec, outcome),
        ForkResult::Parent { child } => {
            drop((outcome, spec));
            let _ = waitpid(child, None);
            wait_for_outcome(theirs)
        }
    }
}

fn read_spec() -> Result<ShimSpec> {
    let unreadable = |error: String| {
        Error::invalid("spec", format!("the spec on standard input can't be read: {error}"))
            .fix("write one ShimSpec as JSON and close the pipe")
    };
    // The text holds secrets: one allocation that never moves, wiped when it is dropped.
    let mut text = Zeroizing::new(Vec::with_capacity(MAX_SPEC_BYTES + 1));
    let limit = MAX_SPEC_BYTES as u64 + 1;
    io::stdin().lock().take(limit).read_to_end(&mut text).map_err(|error| unreadable(error.to_string()))?;
    if text.len() > MAX_SPEC_BYTES {
        return Err(unreadable(format!("it is longer than {MAX_SPEC_BYTES} bytes")));
    }
    let spec: ShimSpec = serde_json::from_slice(&text).map_err(|error| unreadable(safe_text(&error)))?;
    if spec.version != SPEC_VERSION {
        return Err(Error::new(
            Code::Unsupported,
            format!("the spec has version {}, this clawfarm reads {SPEC_VERSION}", spec.version),
        )
        .field("spec.version")
        .fix("restart the server, so that it and the shims are of the same version"));
    }
    spec.check()?;
    Ok(spec)
}

/// What is wrong with the JSON, without quoting from it: it holds secrets. The names of
/// fields that are missing are our own.
fn safe_text(error: &serde_json::Error) -> String {
    let text = error.to_string();
    if text.starts_with("missing field") {
        return text;
    }
    format!("{:?} error at line {}, column {}", error.classify(), error.line(), error.column())
}

fn wait_for_outcome(pipe: OwnedFd) -> Result<Started> {
    let mut text = Vec::new();
    File::from(pipe)
        .read_to_end(&mut text)
        .map_err(|error| Error::internal("the shim's answer could not be read", error))?;
    let reply: StartReply = serde_json::from_slice(&text).map_err(|error| {
        Error::internal("the shim ended before it had started the claw", error)
            .fix(format!("look at {LOG_DIR}/shim.err in the instance's folder"))
    })?;
    reply.into_result()
}

/// The second of three processes: makes the third and ends, so that nobody is its parent.
fn detach(dir: &Path, spec: ShimSpec, outcome: OwnedFd) -> ! {
    let _ = setsid();
    // SAFETY: as in `begin`.
    let code = match unsafe { fork() } {
        Ok(ForkResult::Parent { .. }) => 0,
        Ok(ForkResult::Child) => {
            catch_unwind(AssertUnwindSafe(|| live(dir, spec, File::from(outcome)))).map_or(101, |()| 0)
        }
        Err(error) => {
            let error = Error::internal("a process for the shim could not be made", error);
            tell(File::from(outcome), Err(error));
            1
        }
    };
    // SAFETY: ends a forked process at once. Its caller's destructors and buffers belong to
    // the process that was called.
    unsafe { libc::_exit(code) }
}

fn tell(mut pipe: File, outcome: Result<Started>) {
    let reply: StartReply = outcome.into();
    let _ = pipe.write_all(&serde_json::to_vec(&reply).unwrap_or_default());
}

/// The shim's whole life.
fn live(dir: &Path, spec: ShimSpec, outcome: File) {
    // Its memory holds secrets and its descriptors are worth something: closed to everyone
    // who is not root, also to processes of its own user.
    let _ = prctl::set_dumpable(false);
    let _ = prctl::set_name(c"claw-shim");
    process::leave_stdio();
    let started = Keeper::start(dir, spec);
    let keeper = match started {
        Ok(keeper) => {
            tell(outcome, Ok(keeper.started()));
            keeper
        }
        Err(error) => return tell(outcome, Err(error)),
    };
    // From here on nobody reads our errors; a panic's last words go to a file.
    process::stderr_to(&dir.join(LOG_DIR).join("shim.err"));
    keeper.run();
}
