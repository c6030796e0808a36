//! The one who makes a claw's processes: the shim's side.
//!
//! The spawner is a small process, forked from the shim while that has one thread only. It
//! enters the mount namespace and the Landlock rules once, keeps its privileges (it has to
//! change users later) and then waits for the shim's orders. So the claw and every command
//! run beside it later are in the *same* Landlock domain: they can signal each other, which
//! two domains with equal rules could not. It makes them with `CLONE_PARENT`, so that they
//! are the shim's own children: the shim reaps them, and they die with it.
//!
//! The claw can do nothing to the spawner when it runs under a user id of its own. Under the
//! server's id it can kill it: then commands can't be run any more, and that is all. The
//! spawner is outside of the claw's cgroups, so that it is neither frozen nor limited.

mod child;
mod inside;
mod wire;

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use clawfarm_model::{Code, Error, Result};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{ForkResult, Pid, fork, pipe2};
use serde::{Deserialize, Serialize};

use crate::confine::InForce;
use crate::spec::ShimSpec;
pub use inside::MARK;

/// How long the spawner may take for an answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a program's execution may take: a hostile claw can stop a process that runs
/// under its own user id, and must not stop the shim with it.
const PATIENCE_MS: u16 = 10_000;

/// What is to be run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Program {
    /// The claw itself.
    Claw,
    /// One of its helpers, by its place in the spec.
    Helper(usize),
    /// A command.
    Command(Vec<String>),
    /// The best shell there is.
    Shell,
}

/// An order to the spawner; standard input, output, error and two pipes go with it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Order {
    pub(crate) program: Program,
    /// Its standard input is a terminal, which becomes its own.
    pub(crate) tty: bool,
    /// The value of `TERM`.
    pub(crate) term: Option<String>,
}

/// The spawner, as the shim sees it.
#[derive(Debug)]
pub(crate) struct Spawner {
    socket: UnixStream,
    /// Its process.
    pub(crate) pid: u32,
    /// What it has put in force for all it makes.
    pub(crate) in_force: InForce,
}

/// A process that was made and waits for its leave to execute its program.
#[derive(Debug)]
pub(crate) struct Waiting {
    /// Its number. It is a child of this process.
    pub(crate) pid: u32,
    go: File,
    outcome: File,
    program: String,
}

impl Spawner {
    /// Makes the spawner. The spec must be that of the claw, with its environment.
    ///
    /// # Errors
    /// `Internal` when it can't be made, or could not put in force what it must.
    pub(crate) fn start(spec: &ShimSpec) -> Result<Self> {
        let broken = |error| Error::internal("the claw's spawner could not be made", error);
        let (socket, theirs) = UnixStream::pair().map_err(broken)?;
        socket.set_read_timeout(Some(PATIENCE)).map_err(broken)?;
        socket.set_write_timeout(Some(PATIENCE)).map_err(broken)?;
        let shim_pid = std::process::id();
        // SAFETY: this process has one thread (checked at its start), so the child may do
        // anything; it never returns from `run`.
        match unsafe { fork() }.map_err(|error| broken(error.into()))? {
            ForkResult::Child => inside::run(spec, &theirs.into(), shim_pid),
            ForkResult::Parent { child } => {
                drop(theirs);
                let mut spawner =
                    Self { socket, pid: child.as_raw().cast_unsigned(), in_force: InForce::default() };
                let report: std::result::Result<InForce, String> = spawner.receive()?;
                spawner.in_force = report.map_err(|reason| {
                    Error::new(Code::Internal, format!("the claw can't be confined: {reason}"))
                        .fix("look at `clawfarm doctor` for what this machine can do")
                })?;
                Ok(spawner)
            }
        }
    }

    /// Makes a process that waits for its leave.
    ///
    /// # Errors
    /// `Unavailable` when the spawner is gone; `Insufficient` when there can't be another
    /// process.
    pub(crate) fn spawn(&self, order: &Order, stdio: [&OwnedFd; 3]) -> Result<Waiting> {
        let broken = |errno: Errno| Error::internal("a pipe could not be made", errno);
        let (their_go, go) = pipe2(OFlag::O_CLOEXEC).map_err(broken)?;
        let (outcome, their_outcome) = pipe2(OFlag::O_CLOEXEC).map_err(broken)?;
        let [stdin, stdout, stderr] = stdio;
        let fds = [stdin, stdout, stderr, &their_go, &their_outcome].map(AsRawFd::as_raw_fd);
        let order_text =
            serde_json::to_vec(order).map_err(|error| Error::internal("an order is no JSON", error))?;
        wire::send(self.socket.as_fd(), &order_text, &fds).map_err(gone)?;
        drop((their_go, their_outcome));
        let pid: std::result::Result<u32, i32> = self.receive()?;
        let pid = pid.map_err(|errno| {
            let error = Errno::from_raw(errno);
            Error::new(Code::Insufficient, format!("no further process can be made: {error}"))
                .fix("look for what has filled the process table, or raise the limit")
        })?;
        let program = match &order.program {
            Program::Command(argv) => argv.first().cloned().unwrap_or_default(),
            Program::Claw => "the claw".into(),
            Program::Helper(_) => "a helper of the claw".into(),
            Program::Shell => "a shell".into(),
        };
        Ok(Waiting { pid, go: go.into(), outcome: outcome.into(), program })
    }

    fn receive<T: for<'de> Deserialize<'de>>(&self) -> Result<T> {
        let (text, _) = wire::receive(self.socket.as_fd()).map_err(gone)?;
        serde_json::from_slice(&text)
            .map_err(|error| Error::internal("the spawner's answer is no JSON", error))
    }
}

fn gone(error: std::io::Error) -> Error {
    Error::new(Code::Unavailable, "the process that starts commands beside the claw does not answer")
        .fix("restart the instance with `clawfarm restart`")
        .source(error)
}

impl Waiting {
    /// Lets it execute its program, and waits until it has.
    ///
    /// # Errors
    /// Says what was in the way; the process has ended then and is to be reaped.
    pub(crate) fn execute(mut self) -> Result<()> {
        let lost = |error| Error::internal("the new process could not be told to go on", error);
        self.go.write_all(b"g").map_err(lost)?;
        let mut ready = [PollFd::new(self.outcome.as_fd(), PollFlags::POLLIN)];
        if poll(&mut ready, PollTimeout::from(PATIENCE_MS)).map_err(|errno| lost(errno.into()))? == 0 {
            let _ = kill(Pid::from_raw(self.pid.cast_signed()), Signal::SIGKILL);
            return Err(Error::new(Code::Timeout, format!("{} was not executed in time", self.program))
                .fix("try again; if it goes on, restart the instance"));
        }
        let mut report = Vec::new();
        self.outcome.read_to_end(&mut report).map_err(lost)?;
        match child::decode(&report) {
            None => Ok(()),
            Some((stage, errno)) => Err(stage.error(&self.program, errno)),
        }
    }
}
