//! What the claw needs beside it.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use clawfarm_model::{Code, Error, Result};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open};
use nix::sys::stat::{Mode, SFlag, fstat};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, fchownat};

use super::begin::Streams;
use crate::cgroup::Cgroups;
use crate::lock::nap;
use crate::spawner::{Order, Program, Spawner};
use crate::spec::{HelperSpec, RunsAs, ShimSpec, User};

/// How long a helper may take until it listens, on a machine that does much else.
const LISTENING: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(5);
/// What is told of the last words of one that ended, in bytes.
const WORDS: usize = 2048;

/// Starts them in their order, each after the one before it listens. Answers their processes.
pub(super) fn start(
    spec: &ShimSpec,
    spawner: &Spawner,
    cgroups: &Cgroups,
    streams: &Streams,
) -> Result<Vec<(u32, String)>> {
    let mut started = Vec::with_capacity(spec.helpers.len());
    for (at, helper) in spec.helpers.iter().enumerate() {
        let order = Order { program: Program::Helper(at), tty: false, term: None };
        let waiting = spawner.spawn(&order, streams.theirs())?;
        let pid = waiting.pid;
        cgroups.place(pid).map_err(|reason| Error::new(Code::Internal, reason).field("cgroup"))?;
        waiting.execute()?;
        if let Some(socket) = &helper.listens {
            wait(helper, pid, socket, streams)?;
            if let Some(user) = spec.user.filter(|_| helper.user != RunsAs::Claw) {
                give(socket, user).map_err(|error| {
                    Error::internal(format!("the claw can't be let at the socket of {}", helper.name), error)
                })?;
            }
        }
        started.push((pid, helper.name.clone()));
    }
    Ok(started)
}

/// Gives the claw's user a socket that another user made. Nothing else that lies there instead: a
/// link would lead to a file of anybody's.
fn give(socket: &Path, user: User) -> Result<(), Errno> {
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let fd = open(socket, flags, Mode::empty())?;
    let kind = SFlag::from_bits_truncate(fstat(&fd)?.st_mode & SFlag::S_IFMT.bits());
    if kind != SFlag::S_IFSOCK {
        return Err(Errno::ENOTSOCK);
    }
    fchownat(&fd, "", Some(user.uid.into()), Some(user.gid.into()), AtFlags::AT_EMPTY_PATH)
}

fn wait(helper: &HelperSpec, pid: u32, socket: &Path, streams: &Streams) -> Result<()> {
    let deadline = Instant::now() + LISTENING;
    loop {
        if is_listening(&fs::read_to_string("/proc/net/unix").unwrap_or_default(), socket) {
            return Ok(());
        }
        let ended = !matches!(
            waitpid(Pid::from_raw(pid.cast_signed()), Some(WaitPidFlag::WNOHANG)),
            Ok(WaitStatus::StillAlive) | Err(Errno::EINTR)
        );
        if ended || Instant::now() > deadline {
            let what = if ended { "ended before it listened" } else { "did not listen in time" };
            let name = &helper.name;
            return Err(Error::new(
                Code::ClawFailed,
                format!("{name}, which it needs beside it, {what}: {}", last_words(&streams.ours[1])),
            )
            .fix("see clawfarm doctor for what this machine can do"));
        }
        nap(LOOK);
    }
}

fn last_words(pipe: &OwnedFd) -> String {
    let mut buffer = [0; WORDS];
    let count = nix::unistd::read(pipe, &mut buffer).unwrap_or(0);
    let text = String::from_utf8_lossy(buffer.get(..count).unwrap_or_default()).into_owned();
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.trim().is_empty() { "it said nothing".to_owned() } else { text.trim().to_owned() }
}

/// Whether the kernel's list has a listening socket of this path: a line is `Num: RefCount
/// Protocol Flags Type St Inode Path`, and bit 16 of the flags says so (`proc(5)`).
fn is_listening(sockets: &str, path: &Path) -> bool {
    let Some(path) = path.to_str() else { return false };
    sockets.lines().any(|line| {
        let flags = line.split_ascii_whitespace().nth(3).and_then(|f| u32::from_str_radix(f, 16).ok());
        line.strip_suffix(path).is_some_and(|rest| rest.ends_with(' '))
            && flags.is_some_and(|flags| flags & 0x1_0000 != 0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listening_socket_is_told_from_others() {
        let sockets = "Num       RefCount Protocol Flags    Type St Inode Path\n\
                       000000: 00000002 00000000 00010000 0001 01 12345 /run/a b\n\
                       000000: 00000003 00000000 00000000 0001 03 12346 /run/c\n";
        let of = |path: &str| is_listening(sockets, Path::new(path));
        assert!(of("/run/a b"));
        assert!(!of("/run/c") && !of("/run/a") && !of("un/a b") && !of(""));
    }
}
