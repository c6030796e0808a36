//! Asking the claw to end: by SIGTERM, or by a message to a socket of its own.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::fcntl::{OFlag, open};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::sockopt::PeerCredentials;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, getsockopt, socket};
use nix::sys::stat::Mode;
use nix::unistd::Pid;

use super::Keeper;
use crate::spec::{AskSpec, MAX_SPEC_BYTES, WakeSpec};

/// How often it is asked again: a guest's system that starts does not see its power button yet.
const AGAIN: Duration = Duration::from_secs(3);

/// A message that asks the claw to end.
#[derive(Debug)]
pub(super) struct Asking {
    spec: AskSpec,
    /// Kept, so that what was written is not lost with the connection.
    stream: Option<UnixStream>,
    asked_at: Option<Instant>,
}

impl Asking {
    pub(super) const fn new(spec: AskSpec) -> Self {
        Self { spec, stream: None, asked_at: None }
    }

    /// When it is asked again; `None` as long as nobody wants its end.
    pub(super) fn again_at(&self) -> Option<Instant> {
        self.asked_at.map(|at| at + AGAIN)
    }

    fn ask(&mut self, claw: u32) -> io::Result<()> {
        self.asked_at = Some(Instant::now());
        let said = self.say(claw);
        if said.is_err() {
            self.stream = None;
        }
        said
    }

    fn say(&mut self, claw: u32) -> io::Result<()> {
        let stream = match &mut self.stream {
            Some(stream) => stream,
            none => none.insert(reach(&self.spec, claw)?),
        };
        if let Some(wake) = self.spec.wake.as_ref().filter(|wake| sleeps(wake)) {
            stream.write_all(wake.text.as_bytes())?;
        }
        stream.write_all(self.spec.text.as_bytes())
    }
}

/// Whether the claw is meant to stand still. It is looked at each time: letting go on what stands
/// still for another reason (its memory is being saved) could make two machines of one.
fn sleeps(wake: &WakeSpec) -> bool {
    let mut text = String::new();
    let read =
        File::open(&wake.file).and_then(|file| file.take(MAX_SPEC_BYTES as u64).read_to_string(&mut text));
    let about: Option<serde_json::Value> = read.ok().and_then(|_| serde_json::from_str(&text).ok());
    about.is_some_and(|about| about.get(&wake.field) == Some(&serde_json::Value::Bool(true)))
}

/// Connects without waiting: who does not accept must not hold the shim up. And never by a link,
/// nor to anybody but the claw: it may write where its socket is, and could lead us to another's.
fn reach(spec: &AskSpec, claw: u32) -> io::Result<UnixStream> {
    let there = open(&spec.socket, OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty())?;
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd: OwnedFd = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    let itself = format!("/proc/self/fd/{}", there.as_raw_fd());
    connect(fd.as_raw_fd(), &UnixAddr::new(itself.as_str())?)?;
    let peer = getsockopt(&fd, PeerCredentials)?.pid();
    if peer.cast_unsigned() != claw {
        let why = format!("process {peer} listens at '{}', which is not the claw", spec.socket.display());
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
    }
    Ok(fd.into())
}

impl Keeper {
    /// Asks the claw to end. One whose socket does not answer gets the signal, once nobody can
    /// ask it any more.
    pub(super) fn ask_to_end(&mut self) {
        if let Some(asking) = &mut self.asking {
            match asking.ask(self.state.pid) {
                Ok(()) => return,
                Err(error) => self.output.note(&format!("it could not be asked to end: {error}")),
            }
            return;
        }
        let _ = kill(Pid::from_raw(self.state.pid.cast_signed()), Signal::SIGTERM);
    }
}
