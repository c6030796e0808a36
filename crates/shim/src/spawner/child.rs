//! From a copy of the spawner to the claw's program.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use clawfarm_model::{Code, Error};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::stat::{Mode, fstat, umask};
use nix::unistd::{geteuid, getppid, setsid};

use super::inside::Inside;
use super::{Order, Program, wire};
use crate::confine::{files, modes, privileges};
use crate::process;
use crate::spec::{RunsAs, ServedSpec};

/// What a new process was doing when it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Stage {
    /// Setting up session, terminal and streams.
    Setup = 1,
    /// Giving up privileges and changing its user.
    Privileges = 2,
    /// Entering its folder.
    Folder = 3,
    /// Executing the program.
    Execute = 4,
    /// Opening the folder that it is to serve.
    Served = 5,
    /// Confining it further than what is beside it.
    Confine = 6,
}

impl Stage {
    /// The error for whoever asked for the process.
    pub(super) fn error(self, program: &str, errno: Errno) -> Error {
        match (self, errno) {
            (Self::Execute, Errno::ENOENT | Errno::ENOTDIR) => Error::new(
                Code::NotFound,
                format!("{program} could not be executed: there is no such program"),
            )
            .field("argv")
            .fix("check the name; a program is looked up in the instance's PATH"),
            (Self::Execute, Errno::EACCES) => Error::new(
                Code::InvalidInput,
                format!("{program} could not be executed: it may not be, or lies where the claw can't reach"),
            )
            .field("argv")
            .fix("check its mode, and that the instance's confinement lets it execute files there"),
            (Self::Execute, errno) => {
                Error::new(Code::InvalidInput, format!("{program} could not be executed: {}", errno.desc()))
                    .field("argv")
            }
            (Self::Folder, errno) => {
                Error::new(Code::Internal, format!("the working folder can't be entered: {}", errno.desc()))
                    .field("cwd")
                    .fix("check that it exists and that the claw's user may enter it")
            }
            (Self::Privileges, errno) => {
                Error::new(Code::Internal, format!("privileges could not be given up: {}", errno.desc()))
                    .field("user")
                    .fix("run the server as root, or without users of the claws' own")
            }
            (Self::Served, errno) => Error::new(
                Code::Conflict,
                format!("the folder that {program} is to serve is not the one that it was: {}", errno.desc()),
            )
            .fix("see that nobody moves or replaces it, or puts a link on the way to it; then start it again"),
            (Self::Confine, errno) => {
                Error::new(Code::Internal, format!("{program} can't be confined: {}", errno.desc()))
                    .fix("look at `clawfarm doctor` for what this machine can do; what serves a folder of root's needs Landlock")
            }
            (Self::Setup, errno) => {
                Error::new(Code::Internal, format!("a process could not be set up: {}", errno.desc()))
            }
        }
    }
}

/// Reads what a failed child left; `None` when it executed its program, or was killed.
pub(super) fn decode(report: &[u8]) -> Option<(Stage, Errno)> {
    let (&stage, errno) = report.split_first()?;
    let errno = i32::from_be_bytes(errno.try_into().ok()?);
    let stage = match stage {
        1 => Stage::Setup,
        2 => Stage::Privileges,
        3 => Stage::Folder,
        5 => Stage::Served,
        6 => Stage::Confine,
        _ => Stage::Execute,
    };
    Some((stage, Errno::from_raw(errno)))
}

/// Variables as `execve(2)` wants them. The spec's check has refused NUL bytes; one that has
/// them all the same is left out.
pub(super) fn environment<'a>(variables: impl Iterator<Item = (&'a str, &'a str)>) -> Vec<CString> {
    variables.filter_map(|(name, value)| CString::new(format!("{name}={value}")).ok()).collect()
}

/// Where the pipe that tells of failures ends up.
const OUTCOME: i32 = 3;

/// Waits for its leave and executes the program, or says why not. Never returns.
pub(super) fn become_program(inside: &Inside<'_>, order: &Order, fds: &[OwnedFd; wire::MAX_FDS]) -> ! {
    let [_, _, _, go, outcome] = fds;
    let mut leave = [0u8; 1];
    // The end of the pipe instead of a byte: the shim has changed its mind, or is gone.
    if nix::unistd::read(go, &mut leave) == Ok(1) {
        match streams(fds) {
            Err(errno) => tell(outcome.as_raw_fd(), Stage::Setup, errno),
            Ok(()) => {
                let failed = set_up(inside, order).err();
                let (stage, errno) = failed.unwrap_or_else(|| execute(inside, order));
                tell(OUTCOME, stage, errno);
            }
        }
    }
    // SAFETY: ends this process at once, which is what a forked process has to do.
    unsafe { libc::_exit(127) }
}

fn tell(pipe: i32, stage: Stage, errno: Errno) {
    let [a, b, c, d] = (errno as i32).to_be_bytes();
    let report = [stage as u8, a, b, c, d];
    // SAFETY: writes from a local buffer; a wrong descriptor would be answered with an error.
    unsafe { libc::write(pipe, report.as_ptr().cast(), report.len()) };
}

fn set_up(inside: &Inside<'_>, order: &Order) -> Result<(), (Stage, Errno)> {
    session(order).map_err(|errno| (Stage::Setup, errno))?;
    if inside.is_asked(&order.program) {
        block_ends().map_err(|errno| (Stage::Setup, errno))?;
    }
    confine(inside, &order.program)?;
    privileges::drop_all(inside.user(&order.program), inside.groups(&order.program))
        .map_err(|errno| (Stage::Privileges, errno))?;
    // A change of user clears this, so it comes after; the parent is the shim.
    prctl::set_pdeathsig(Signal::SIGKILL).map_err(|errno| (Stage::Setup, errno))?;
    if getppid().as_raw().cast_unsigned() != inside.shim_pid {
        return Err((Stage::Setup, Errno::ESRCH));
    }
    let cwd = match (&order.program, &inside.spec.exec_cwd) {
        (Program::Claw | Program::Helper(_), _) | (_, None) => &inside.spec.cwd,
        (_, Some(cwd)) => cwd,
    };
    nix::unistd::chdir(cwd).map_err(|errno| (Stage::Folder, errno))
}

/// Takes from it what only others of the claw's programs need.
fn confine(inside: &Inside<'_>, program: &Program) -> Result<(), (Stage, Errno)> {
    let helper = match program {
        Program::Helper(at) => inside.spec.helpers.get(*at),
        _ => None,
    };
    let served = helper.and_then(|helper| helper.serves.as_ref());
    let folder = served.map(open_served).transpose().map_err(|errno| (Stage::Served, errno))?;
    let own = match program {
        Program::Claw => inside.spec.claw_landlock.as_ref(),
        _ => helper.and_then(|helper| helper.landlock.as_ref()),
    };
    // With root's own rights and no rules it could use every file of root's.
    let needed = helper.is_some_and(|helper| helper.user == RunsAs::Server) && geteuid().is_root();
    if let Some(own) = own.filter(|_| needed || files::is_there()) {
        let opened = folder.as_ref().map(AsFd::as_fd);
        let writes = served.is_some_and(|served| !served.read_only);
        files::restrict_with(own, opened.map(|folder| (folder, writes))).map_err(|why| {
            let said = format!("clawfarm: {why}\n");
            // SAFETY: writes from a local buffer to standard error.
            unsafe { libc::write(2, said.as_ptr().cast(), said.len()) };
            (Stage::Confine, Errno::EPERM)
        })?;
    }
    if served.is_some() {
        modes::forbid_setuid().map_err(|errno| (Stage::Confine, errno))?;
    }
    Ok(())
}

/// The folder itself, by no link: what it is called may be changed by others at any moment, and
/// what is served is what was decided about.
fn open_served(served: &ServedSpec) -> Result<OwnedFd, Errno> {
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let folder = openat2(AT_FDCWD, &served.folder, how)?;
    let about = fstat(&folder)?;
    if (about.st_dev, about.st_ino) == served.inode { Ok(folder) } else { Err(Errno::ESTALE) }
}

/// What is asked to end by a message is not ended by a signal that goes to every process when the
/// whole machine shuts down: to QEMU that is a power cut, and what it needs must last as long.
fn block_ends() -> Result<(), Errno> {
    let ends: SigSet = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP].into_iter().collect();
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&ends), None)
}

fn session(order: &Order) -> Result<(), Errno> {
    setsid()?;
    if order.tty {
        // SAFETY: takes numbers only; standard input is the terminal.
        Errno::result(unsafe { libc::ioctl(0, libc::TIOCSCTTY, 0) })?;
    }
    umask(Mode::from_bits_truncate(0o077));
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    process::default_signals();
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)
}

/// Leaves 0, 1, 2, and at 3 the pipe that tells of failures, which the execution closes.
fn streams(fds: &[OwnedFd; wire::MAX_FDS]) -> Result<(), Errno> {
    let [stdin, stdout, stderr, _, outcome] = fds;
    for (number, fd) in [stdin, stdout, stderr].into_iter().enumerate() {
        let number = libc::c_int::try_from(number).map_err(|_| Errno::EBADF)?;
        // SAFETY: received descriptors are above 3 (the socket is there), so none is overwritten.
        Errno::result(unsafe { libc::dup2(fd.as_raw_fd(), number) })?;
    }
    // SAFETY: as above; 3 was the socket to the shim.
    Errno::result(unsafe { libc::dup3(outcome.as_raw_fd(), OUTCOME, libc::O_CLOEXEC) })?;
    process::close_from(OUTCOME + 1);
    Ok(())
}

/// Executes the program; answers only when it could not.
fn execute(inside: &Inside<'_>, order: &Order) -> (Stage, Errno) {
    let mut env = inside.env.clone();
    if let Some(term) = &order.term {
        env.retain(|var| !var.as_bytes().starts_with(b"TERM="));
        env.extend(environment(std::iter::once(("TERM", term.as_str()))));
    }
    if order.program == Program::Shell {
        names(&mut env);
    }
    let argv: Vec<CString> =
        inside.argv(&order.program).into_iter().filter_map(|arg| CString::new(arg).ok()).collect();
    let mut result = Errno::ENOENT;
    for path in candidates(&order.program, &argv, &env) {
        let (argv, env) = match order.program {
            Program::Shell => as_shell(&path, inside.spec.id.as_str(), &env),
            Program::Claw | Program::Helper(_) | Program::Command(_) => (argv.clone(), env.clone()),
        };
        let failed = nix::unistd::execve(&path, &argv, &env);
        let Err(errno) = failed;
        // As execvp(3): what is not there or not allowed may be further along the PATH.
        match errno {
            Errno::ENOENT | Errno::ENOTDIR => {}
            Errno::EACCES => result = errno,
            errno => return (Stage::Execute, errno),
        }
    }
    (Stage::Execute, result)
}

/// A claw's user has no entry in the machine's list of users: programs that look for its name in
/// the environment first find one there.
fn names(env: &mut Vec<CString>) {
    for name in ["USER", "LOGNAME"] {
        let set = [name.as_bytes(), b"="].concat();
        if !env.iter().any(|var| var.as_bytes().starts_with(&set)) {
            env.extend(environment(std::iter::once((name, "claw"))));
        }
    }
}

/// The arguments and the environment of a person's shell. Its prompt names the instance; a prompt
/// with the user's name would say "I have no name!". It reads no start-up file: the claw can
/// write those, and a shell that its owner types in is to do what is typed.
fn as_shell(path: &CString, id: &str, env: &[CString]) -> (Vec<CString>, Vec<CString>) {
    let (arguments, prompt): (&[&CStr], _) = if path.as_bytes().ends_with(b"/bash") {
        (&[c"bash", c"--norc"], format!("{id}:\\w\\$ "))
    } else {
        // What every other shell understands too.
        (&[c"sh"], format!("{id}:$PWD$ "))
    };
    let mut env: Vec<CString> =
        env.iter().filter(|var| !var.as_bytes().starts_with(b"PS1=")).cloned().collect();
    env.extend(environment(std::iter::once(("PS1", prompt.as_str()))));
    (arguments.iter().map(|argument| CString::from(*argument)).collect(), env)
}

/// Where the program may be.
fn candidates(program: &Program, argv: &[CString], env: &[CString]) -> Vec<CString> {
    if *program == Program::Shell {
        let shells = [c"/bin/bash", c"/usr/bin/bash", c"/usr/local/bin/bash", c"/bin/sh", c"/usr/bin/sh"];
        return shells.map(CString::from).to_vec();
    }
    let Some(name) = argv.first() else { return Vec::new() };
    if name.as_bytes().contains(&b'/') {
        return vec![name.clone()];
    }
    let path = env.iter().find_map(|var| var.as_bytes().strip_prefix(b"PATH=")).unwrap_or(b"/usr/bin:/bin");
    let join = |dir: &[u8]| {
        let dir = if dir.is_empty() { b"." } else { dir };
        CString::new([dir, b"/", name.as_bytes()].concat()).ok()
    };
    path.split(|&b| b == b':').filter_map(join).collect()
}
