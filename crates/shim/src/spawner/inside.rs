//! The spawner itself: the process that orders are sent to.

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use clawfarm_model::Error;
use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::unistd::getppid;

use super::{Order, Program, child, wire};
use crate::confine::{InForce, files, mounts};
use crate::process;
use crate::spec::{RunsAs, ShimSpec, User};

/// Where the socket to the shim is in this process.
const SOCKET: i32 = 3;

/// The variable by which [`crate::sweep()`] knows a claw's processes when nothing better does.
pub const MARK: &str = "CLAWFARM_INSTANCE";

/// What the spawner knows of its claw.
pub(super) struct Inside<'a> {
    pub(super) spec: &'a ShimSpec,
    pub(super) shim_pid: u32,
    /// `NAME=value`, as `execve(2)` wants them.
    pub(super) env: Vec<CString>,
}

/// Is the spawner until the shim ends. Never returns, and runs no destructor of the shim's.
pub(super) fn run(spec: &ShimSpec, socket: &OwnedFd, shim_pid: u32) -> ! {
    let ended = prepare(socket, shim_pid).and_then(|()| {
        let mark = std::iter::once((MARK, spec.id.as_str()));
        let given = spec.env.iter().map(|var| (var.name.as_str(), var.expose()));
        let env = child::environment(given.filter(|(name, _)| *name != MARK).chain(mark));
        serve(&Inside { spec, shim_pid, env })
    });
    // SAFETY: ends this process at once, which is what a forked process has to do.
    unsafe { libc::_exit(i32::from(ended.is_err())) }
}

fn prepare(socket: &OwnedFd, shim_pid: u32) -> Result<(), Error> {
    let broken = |errno: Errno| Error::internal("the spawner can't be set up", errno);
    prctl::set_pdeathsig(Signal::SIGKILL).map_err(broken)?;
    if getppid().as_raw().cast_unsigned() != shim_pid {
        return Err(broken(Errno::ESRCH));
    }
    // The shim's lock, sockets and pipes are not ours.
    if socket.as_raw_fd() != SOCKET {
        // SAFETY: SOCKET is not owned by anything that runs in this process after the fork.
        Errno::result(unsafe { libc::dup2(socket.as_raw_fd(), SOCKET) }).map_err(broken)?;
    }
    process::close_from(SOCKET + 1);
    let _ = prctl::set_name(c"claw-spawner");
    let _ = nix::unistd::chdir("/");
    // Inherited by the claw: when the whole machine is out of memory, a claw goes before
    // the server and the shims. Landlock will forbid it to change this.
    // A process that can't be dumped does not own this file; no claw runs yet that could use
    // the moment.
    let _ = prctl::set_dumpable(true);
    let _ = std::fs::write("/proc/self/oom_score_adj", "300");
    let _ = prctl::set_dumpable(false);
    Ok(())
}

fn socket() -> std::os::fd::BorrowedFd<'static> {
    // SAFETY: `prepare` has put the socket there, and it stays open as long as this process lives.
    unsafe { std::os::fd::BorrowedFd::borrow_raw(SOCKET) }
}

fn serve(inside: &Inside<'_>) -> Result<(), Error> {
    let confined = confine(inside.spec);
    answer(&confined)?;
    if confined.is_err() {
        return Ok(());
    }
    loop {
        let Ok((text, fds)) = wire::receive(socket()) else { return Ok(()) };
        let Ok(order) = serde_json::from_slice::<Order>(&text) else { return Ok(()) };
        let Ok(fds) = <[OwnedFd; wire::MAX_FDS]>::try_from(fds) else { return Ok(()) };
        answer(&inside.make(&order, &fds).map_err(|errno| errno as i32))?;
    }
}

fn answer<T: serde::Serialize>(what: &T) -> Result<(), Error> {
    let text = serde_json::to_vec(what).map_err(|error| Error::internal("no JSON", error))?;
    wire::send(socket().as_fd(), &text, &[]).map_err(|error| Error::internal("the shim is gone", error))
}

/// Puts in force what this machine can; what it can't is said.
fn confine(spec: &ShimSpec) -> Result<InForce, String> {
    let mut in_force = InForce::default();
    match spec.mounts.as_ref().map(mounts::enter) {
        None => in_force.missing.push("private mounts: not asked for".into()),
        Some(Ok(())) => in_force.private_mounts = true,
        Some(Err(mounts::Failure::Unchanged(reason))) => {
            in_force.missing.push(format!("private mounts: {reason}"));
        }
        Some(Err(mounts::Failure::HalfDone(reason))) => return Err(reason),
    }
    if in_force.private_mounts
        && spec.user.is_some()
        && let Err(reason) = mounts::hide_processes()
    {
        in_force.missing.push(reason);
    }
    // Root could do without, others are not allowed to use Landlock before this.
    prctl::set_no_new_privs().map_err(|error| format!("privileges can't be given up: {error}"))?;
    match spec.landlock.as_ref().map(files::restrict) {
        None => in_force.missing.push("Landlock: not asked for".into()),
        Some(Ok(abi)) => in_force.landlock_abi = Some(abi),
        Some(Err(reason)) => in_force.missing.push(format!("Landlock: {reason}")),
    }
    Ok(in_force)
}

impl Inside<'_> {
    /// Makes a process for an order. Answers its number.
    fn make(&self, order: &Order, fds: &[OwnedFd; wire::MAX_FDS]) -> Result<u32, Errno> {
        // The child becomes the shim's. Its end is told to the shim by SIGCHLD, because that is
        // how the shim is told of the end of the spawner itself (clone(2), CLONE_PARENT).
        // SAFETY: like fork() in a process of one thread; no stack is given, so the child has
        // a copy of this one.
        let pid = unsafe { libc::syscall(libc::SYS_clone, libc::CLONE_PARENT | libc::SIGCHLD, 0, 0, 0, 0) };
        match Errno::result(pid)? {
            0 => child::become_program(self, order, fds),
            pid => u32::try_from(pid).map_err(|_| Errno::EOVERFLOW),
        }
    }

    /// The user of an order's process; `None` for the server's.
    pub(super) fn user(&self, program: &Program) -> Option<User> {
        let Program::Helper(at) = program else { return self.spec.user };
        match self.spec.helpers.get(*at).map(|helper| helper.user) {
            Some(RunsAs::Server) => None,
            Some(RunsAs::User(user)) => Some(user),
            Some(RunsAs::Claw) | None => self.spec.user,
        }
    }

    /// The groups of an order's process beside its user's.
    pub(super) fn groups(&self, program: &Program) -> &[u32] {
        match program {
            Program::Claw => &self.spec.groups,
            Program::Helper(_) | Program::Command(_) | Program::Shell => &[],
        }
    }

    /// Whether an order's process ends by what the claw is told, and by no signal.
    pub(super) fn is_asked(&self, program: &Program) -> bool {
        self.spec.ask.is_some() && matches!(program, Program::Claw | Program::Helper(_))
    }

    /// The arguments of an order.
    pub(super) fn argv(&self, program: &Program) -> Vec<String> {
        match program {
            Program::Claw => self.spec.argv.clone(),
            Program::Helper(at) => self.spec.helpers.get(*at).map_or_else(Vec::new, |h| h.argv.clone()),
            Program::Command(argv) => argv.clone(),
            // What a shell is called depends on which one there is (`child`).
            Program::Shell => Vec::new(),
        }
    }
}
