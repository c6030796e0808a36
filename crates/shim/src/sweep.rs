//! Cleaning up after a shim that was killed.
//!
//! The kernel ends the claw's main process with its shim. What the claw had made besides can
//! go on, and `state.json` still says that it runs.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use clawfarm_model::observed::Exit;
use clawfarm_model::{Code, Error, Result, Timestamp};
use nix::sys::signal::Signal;

use crate::cgroup::Cgroups;
use crate::layout::{RUN_DIR, SOCKET_FILE, ShimState};
use crate::spawner::MARK;
use crate::{lock, tree};

/// How long what was killed may take to be gone, on a machine with much else to do.
const DYING: Duration = Duration::from_secs(10);

/// Ends what a dead shim has left of its claw, and writes down that it has ended. Answers
/// what is in `state.json` then. Done again, it changes nothing.
///
/// # Errors
/// `Conflict` when a shim lives; `Unavailable` when something of it does not end; `Internal` when
/// the state can't be read or written.
pub fn sweep(dir: &Path) -> Result<Option<ShimState>> {
    let _lock = lock::take(dir)?;
    clean(dir)
}

/// As [`sweep`], for who holds the lock.
pub(crate) fn clean(dir: &Path) -> Result<Option<ShimState>> {
    let Some(mut state) = ShimState::read(dir)? else { return Ok(None) };
    if !state.active {
        return Ok(Some(state));
    }
    if state.boot_id == tree::boot_id()? {
        let left = end_leftovers(&state);
        if left > 0 {
            // Written down as ended, it could be started beside itself, on the same disk.
            return Err(Error::new(Code::Unavailable, format!("{left} processes of it were killed and do not end"))
                .field("processes")
                .fix("they hang in the kernel, as a rule on a disk that does not answer: see `dmesg`, and this machine's disks; it is looked at again"));
        }
    }
    let _ = fs::remove_file(dir.join(RUN_DIR).join(SOCKET_FILE));
    state.active = false;
    state.source = "sweep".into();
    state.exit.get_or_insert(Exit {
        code: None,
        signal: None,
        at: Timestamp::now(),
        out_of_memory: false,
        requested: false,
        log_tail: String::new(),
    });
    state.write(dir)?;
    Ok(Some(state))
}

/// Kills them, and answers how many do not die.
fn end_leftovers(state: &ShimState) -> usize {
    Cgroups::adopt(&state.cgroups).remove();
    let deadline = Instant::now() + DYING;
    loop {
        let mut left = tree::all();
        left.retain(|process| process.state != 'Z' && belongs(process, state));
        if left.is_empty() || Instant::now() > deadline {
            return left.len();
        }
        tree::signal(&left, Signal::SIGKILL);
        lock::nap(Duration::from_millis(5));
    }
}

/// Whether a process can only be this claw's: it is its main process, or runs under its own
/// user id, or has its mark in the environment that it was executed with.
fn belongs(process: &tree::Process, state: &ShimState) -> bool {
    if process.pid == state.pid && process.start_ticks == state.start_ticks {
        return true;
    }
    let of_own_user = state.uid.is_some_and(|uid| uid != 0 && tree::owner(process.pid) == Some(uid));
    of_own_user || (process.start_ticks >= state.start_ticks && has_mark(process.pid, state))
}

fn has_mark(pid: u32, state: &ShimState) -> bool {
    let Some(id) = &state.id else { return false };
    let mark = format!("{MARK}={id}");
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    environment.split(|&b| b == 0).any(|variable| variable == mark.as_bytes())
}
