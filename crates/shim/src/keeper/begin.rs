//! Starting the claw.

use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::{Duration, Instant};

use clawfarm_model::observed::Confinement;
use clawfarm_model::{Code, Error, Result, Timestamp};
use nix::fcntl::OFlag;
use nix::sys::prctl;
use nix::sys::stat::{Mode, umask};
use nix::unistd::{geteuid, getgroups, pipe2};
use secrecy::ExposeSecret;

use super::Keeper;
use super::ask::Asking;
use crate::cgroup::Cgroups;
use crate::layout::{RUN_DIR, SOCKET_FILE, STATE_FILE, ShimState, TOKEN_FILE, write_atomic};
use crate::output::Output;
use crate::spawner::{Order, Program, Spawner};
use crate::spec::{RunsAs, ShimSpec};
use crate::{lock, process, sweep, tree};

impl Keeper {
    /// Takes the lock, starts the claw, and has it written down before it is executed.
    ///
    /// # Errors
    /// `Conflict` when the instance runs already; what was in the way else. Nothing runs then.
    pub(crate) fn start(dir: &Path, spec: ShimSpec) -> Result<Self> {
        check_user(&spec)?;
        umask(Mode::from_bits_truncate(0o077));
        let lock = lock::take(dir)?;
        let before = sweep::clean(dir)?;
        let internal = |what: &'static str| move |error| Error::internal(what, error);
        prctl::set_child_subreaper(true)
            .map_err(|errno| internal("the shim can't adopt orphans")(errno.into()))?;
        let signals = process::take_signals().map_err(internal("the shim's signals can't be set up"))?;
        let output = Output::open(dir, &spec.logs)?;
        let listener = listen(dir, spec.token.expose_secret())?;
        let cgroups = match &spec.cgroup {
            Some(cgroup) => Cgroups::make(cgroup, &spec.resources, spec.max_tasks),
            None => Cgroups::none(),
        };
        let launched = Launched::new(dir, &spec, &cgroups).inspect_err(|_| {
            cgroups.remove();
            withdraw(dir, before.as_ref());
        })?;
        Ok(Self {
            dir: dir.to_owned(),
            lock,
            token: spec.token,
            user: spec.user,
            memory_limit: u64::from(spec.resources.memory_mib) << 20,
            term_grace: Duration::from_millis(spec.term_grace_ms),
            spawner: Some(launched.spawner),
            cgroups,
            state: launched.state,
            output,
            pipes: launched.pipes.map(Some),
            helpers: launched.helpers,
            lost: Vec::new(),
            asking: spec.ask.map(Asking::new),
            listener,
            signals,
            connections: Vec::new(),
            next_id: 0,
            hung_up: Vec::new(),
            frozen: false,
            stop_at: None,
            requested: false,
            over_memory: false,
            watched_at: Instant::now(),
            output_budget: (super::OUTPUT_A_SECOND, Instant::now()),
            ended: None,
        })
    }
}

/// A claw that was executed.
struct Launched {
    spawner: Spawner,
    state: ShimState,
    pipes: [OwnedFd; 2],
    helpers: Vec<(u32, String)>,
}

impl Launched {
    fn new(dir: &Path, spec: &ShimSpec, cgroups: &Cgroups) -> Result<Self> {
        let spawner = Spawner::start(spec)?;
        let streams = Streams::make()?;
        let order = Order { program: Program::Claw, tty: false, term: None };
        let waiting = spawner.spawn(&order, streams.theirs())?;
        let state = state(spec, &spawner, cgroups, waiting.pid)?;
        state.write(dir)?;
        cgroups.place(waiting.pid).map_err(|reason| Error::new(Code::Internal, reason).field("cgroup"))?;
        // They die with this process when the claw is not executed after all.
        let helpers = super::helpers::start(spec, &spawner, cgroups, &streams)?;
        waiting.execute()?;
        Ok(Self { spawner, state, pipes: streams.ours, helpers })
    }
}

/// Whether anything of it gets a user that is not the server's.
fn wants_users(spec: &ShimSpec) -> bool {
    spec.user.is_some() || spec.helpers.iter().any(|helper| matches!(helper.user, RunsAs::User(_)))
}

fn check_user(spec: &ShimSpec) -> Result<()> {
    match spec.user {
        Some(user) if user.uid == 0 || user.gid == 0 => {
            Err(Error::invalid("user", "root can't be a claw's own user").fix("choose ids above 0"))
        }
        _ if !geteuid().is_root() && wants_users(spec) => Err(Error::new(
            Code::Unsupported,
            "a claw can get a user of its own only from a server that runs as root",
        )
        .field("user")
        .fix("leave the user out, or run the server as root")),
        _ => Ok(()),
    }
}

/// The socket, only for this user, with a path of any length: it is bound from inside its
/// folder.
fn listen(dir: &Path, token: &str) -> Result<UnixListener> {
    let run = dir.join(RUN_DIR);
    let made = (|| {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&run)?;
        let _ = std::fs::remove_file(run.join(SOCKET_FILE));
        std::env::set_current_dir(&run)?;
        let listener = UnixListener::bind(SOCKET_FILE)?;
        listener.set_nonblocking(true)?;
        std::env::set_current_dir("/")?;
        Ok(listener)
    })();
    let listener = made.map_err(|error: std::io::Error| {
        Error::internal(format!("the socket in {} could not be made: {error}", run.display()), error)
            .fix("check that the folder belongs to the server's user and is on a local disk")
    })?;
    write_atomic(&run.join(TOKEN_FILE), token.as_bytes())?;
    Ok(listener)
}

/// What the claw and its helpers print to: our ends and theirs.
pub(super) struct Streams {
    pub(super) ours: [OwnedFd; 2],
    theirs: [OwnedFd; 3],
}

impl Streams {
    fn make() -> Result<Self> {
        let broken = |error| Error::internal("the claw's streams could not be made", error);
        let stdin = process::dev_null(false).map_err(broken)?;
        let (out, their_out) = pipe2(OFlag::O_CLOEXEC).map_err(|errno| broken(errno.into()))?;
        let (err, their_err) = pipe2(OFlag::O_CLOEXEC).map_err(|errno| broken(errno.into()))?;
        process::set_nonblocking(&out).map_err(broken)?;
        process::set_nonblocking(&err).map_err(broken)?;
        Ok(Self { ours: [out, err], theirs: [stdin, their_out, their_err] })
    }

    pub(super) fn theirs(&self) -> [&OwnedFd; 3] {
        self.theirs.each_ref()
    }
}

fn state(spec: &ShimSpec, spawner: &Spawner, cgroups: &Cgroups, pid: u32) -> Result<ShimState> {
    let process = tree::Process::look(pid).ok_or_else(|| {
        Error::new(Code::Internal, "the claw's process is not to be seen in /proc").fix("mount /proc")
    })?;
    Ok(ShimState {
        active: true,
        pid,
        start_ticks: process.start_ticks,
        shim_pid: std::process::id(),
        started_at: Timestamp::now(),
        boot_id: tree::boot_id()?,
        run: spec.run,
        source: "shim".into(),
        id: Some(spec.id.clone()),
        uid: spec.user.map(|user| user.uid),
        cgroups: cgroups.dirs.clone(),
        exit: None,
        confinement: confinement(spec, spawner, cgroups),
    })
}

/// What is in force, said honestly.
fn confinement(spec: &ShimSpec, spawner: &Spawner, cgroups: &Cgroups) -> Confinement {
    let in_force = &spawner.in_force;
    let mut missing = in_force.missing.clone();
    if spec.user.is_none() {
        let why = if geteuid().is_root() { "not asked for" } else { "the server does not run as root" };
        missing.push(format!("a user of its own: {why}"));
    }
    if !geteuid().is_root() && getgroups().is_ok_and(|groups| groups.len() > 1) {
        missing.push("the server's groups stay with the claw: the server does not run as root".into());
    }
    missing.extend(cgroups.missing.iter().cloned());
    let name = |controller: &Option<crate::cgroup::Controller>| {
        controller.as_ref().map(|controller| controller.version.name().to_owned())
    };
    Confinement {
        landlock_abi: in_force.landlock_abi,
        own_uid: spec.user.map(|user| user.uid),
        private_mounts: in_force.private_mounts,
        memory: name(&cgroups.memory).or_else(|| Some("watchdog".into())),
        cpu: name(&cgroups.cpu),
        freezer: name(&cgroups.freezer).or_else(|| Some("SIGSTOP".into())),
        missing,
    }
}

/// A claw that was never executed leaves nothing: no socket, and the state of before.
fn withdraw(dir: &Path, before: Option<&ShimState>) {
    let _ = match before {
        Some(state) => state.write(dir),
        None => {
            let _ = std::fs::remove_file(dir.join(STATE_FILE));
            Ok(())
        }
    };
    let _ = std::fs::remove_file(dir.join(RUN_DIR).join(SOCKET_FILE));
}
