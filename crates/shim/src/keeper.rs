//! The shim at work: one thread, one loop over everything that can happen.
//!
//! One thread, because the shim forks (see [`crate::spawner`]), because nothing here takes
//! long, and because it is small that way.

mod ask;
mod begin;
mod connection;
mod end;
mod freeze;
mod helpers;
mod poll;
mod requests;
mod session;
mod usage;

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clawfarm_model::ObservedState;
use nix::fcntl::Flock;
use nix::sys::signal::Signal;
use nix::sys::signalfd::SignalFd;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use secrecy::SecretString;

use crate::cgroup::Cgroups;
use crate::layout::ShimState;
use crate::logline::Source;
use crate::output::Output;
use crate::protocol::ShimStatus;
use crate::spawner::Spawner;
use crate::spec::{Started, User};
use crate::tree;
use ask::Asking;
use connection::Connection;
use poll::Event;

const SECOND: Duration = Duration::from_secs(1);

/// How often the memory of a claw without a cgroup is measured.
const WATCH_EVERY: Duration = SECOND;

/// How much of the claw's output is taken in a second; more makes the claw wait. A claw that
/// prints without end would otherwise have a processor of the shim's for it.
const OUTPUT_A_SECOND: usize = 16 * 1024 * 1024;

/// How the claw's main process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    Code(i32),
    Signal(i32),
}

impl Ended {
    /// As shells say it: the code, or 128 and the signal's number.
    const fn as_code(self) -> i32 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => 128 + signal,
        }
    }
}

/// A shim and its claw.
#[derive(Debug)]
pub(crate) struct Keeper {
    dir: PathBuf,
    lock: Flock<File>,
    token: SecretString,
    user: Option<User>,
    memory_limit: u64,
    term_grace: Duration,
    /// `None` when it is gone: then no further command can be run.
    spawner: Option<Spawner>,
    cgroups: Cgroups,
    state: ShimState,
    output: Output,
    /// Standard output and error of the claw, as long as they are open.
    pipes: [Option<OwnedFd>; 2],
    /// What runs beside it: process and name.
    helpers: Vec<(u32, String)>,
    /// The names of those that ended although the claw goes on.
    lost: Vec<String>,
    /// How it is asked to end, where not by SIGTERM.
    asking: Option<Asking>,
    listener: UnixListener,
    signals: SignalFd,
    connections: Vec<Connection>,
    next_id: u64,
    /// Commands whose connection was dropped, with the time at which they are killed.
    hung_up: Vec<(u32, Instant)>,
    frozen: bool,
    /// Someone asked for the claw's end; at this time it is killed.
    stop_at: Option<Instant>,
    requested: bool,
    over_memory: bool,
    watched_at: Instant,
    /// How much output may still be taken before this time and a second.
    output_budget: (usize, Instant),
    ended: Option<Ended>,
}

impl Keeper {
    /// What the starter is told.
    pub(crate) fn started(&self) -> Started {
        Started {
            pid: self.state.pid,
            shim_pid: self.state.shim_pid,
            started_at: self.state.started_at,
            confinement: self.state.confinement.clone(),
        }
    }

    /// Keeps the claw until it has ended, then tidies up.
    pub(crate) fn run(mut self) {
        while self.ended.is_none() {
            let timeout = self.next_timer();
            for event in self.wait(timeout) {
                self.handle(event);
            }
            self.timers();
            self.drop_closed();
        }
        self.finish();
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Signal => self.take_signal(),
            Event::Accept => self.accept(),
            Event::Output(index) => {
                self.read_output(index);
            }
            Event::Connection { id, read, write } => self.serve(id, read, write),
            Event::Session { id, read, write } => self.pump(id, read, write),
        }
    }

    fn take_signal(&mut self) {
        while let Ok(Some(info)) = self.signals.read_signal() {
            if info.ssi_signo == Signal::SIGTERM as u32 {
                self.stop(self.term_grace);
            }
        }
        self.reap();
    }

    /// Takes note of every child that has ended.
    fn reap(&mut self) {
        loop {
            let (pid, ended) = match waitpid(None::<Pid>, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => (pid, Ended::Code(code)),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, Ended::Signal(signal as i32)),
                Ok(WaitStatus::StillAlive) | Err(nix::errno::Errno::ECHILD) => return,
                Ok(_) | Err(nix::errno::Errno::EINTR) => continue,
                // A signal that nix has no name for: a real-time one.
                Err(_) => continue,
            };
            self.note_end(pid.as_raw().cast_unsigned(), ended);
        }
    }

    fn note_end(&mut self, pid: u32, ended: Ended) {
        self.hung_up.retain(|(other, _)| *other != pid);
        if pid == self.state.pid {
            self.ended = Some(ended);
        } else if self.spawner.as_ref().is_some_and(|spawner| spawner.pid == pid) {
            self.spawner = None;
            self.output
                .note("no more commands can be run beside the claw: it ended the process that starts them");
        } else if let Some(at) = self.helpers.iter().position(|(helper, _)| *helper == pid) {
            let (_, name) = self.helpers.swap_remove(at);
            // One that ends in peace was told to by the claw's own end.
            if ended != Ended::Code(0) {
                let how = ended.as_code();
                self.output.note(&format!("{name}, which the claw needs beside it, ended with {how}"));
                if !self.requested {
                    self.lost.push(name);
                    self.announce();
                }
            }
        } else if let Some(session) = self.connections.iter_mut().find_map(|c| c.session_of(pid)) {
            session.note_end(ended.as_code());
        }
    }

    /// Takes what the claw has printed; whether there may be more.
    fn read_output(&mut self, index: usize) -> bool {
        let mut buffer = [0; 64 * 1024];
        let Some(pipe) = self.pipes.get_mut(index) else { return false };
        let Some(fd) = pipe.as_ref() else { return false };
        match nix::unistd::read(fd, &mut buffer) {
            Ok(0) => *pipe = None,
            Ok(n) => {
                self.output_budget.0 = self.output_budget.0.saturating_sub(n);
                let source = if index == 0 { Source::Stdout } else { Source::Stderr };
                self.output.feed(source, buffer.get(..n).unwrap_or_default());
                return true;
            }
            Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EINTR) => {}
            Err(_) => *pipe = None,
        }
        false
    }

    /// Asks the claw to end. A later call can only make the grace shorter.
    fn stop(&mut self, grace: Duration) {
        let at = Instant::now() + grace.min(Duration::from_secs(24 * 3600));
        self.stop_at = Some(self.stop_at.map_or(at, |before| before.min(at)));
        self.requested = true;
        if let Err(reason) = self.thaw() {
            self.output.note(&format!("could not be thawed before its stop: {reason}"));
        }
        self.ask_to_end();
        self.announce();
    }

    /// Sends SIGKILL to everything of the claw.
    fn kill_all(&mut self) {
        self.cgroups.kill();
        tree::signal(&self.processes(), Signal::SIGKILL);
        self.frozen = false;
    }

    /// Everything of the claw that lives.
    fn processes(&self) -> Vec<tree::Process> {
        let spawner: Vec<u32> = self.spawner.iter().map(|spawner| spawner.pid).collect();
        tree::descendants(self.state.shim_pid, &spawner)
    }

    fn watches_memory(&self) -> bool {
        self.cgroups.memory.is_none()
    }

    /// How long nothing has to be done if nothing happens.
    fn next_timer(&self) -> Option<Duration> {
        let now = Instant::now();
        let until = |at: Instant| at.saturating_duration_since(now);
        let mut timers: Vec<Duration> = Vec::new();
        timers.extend(self.stop_at.map(until));
        timers.extend(self.asking.as_ref().and_then(Asking::again_at).map(until));
        timers.extend(self.hung_up.iter().map(|(_, at)| until(*at)));
        timers.extend(self.output.next_flush());
        timers.extend(self.connections.iter().filter_map(Connection::deadline).map(until));
        if self.output_budget.0 == 0 {
            timers.push(until(self.output_budget.1 + SECOND));
        }
        if self.watches_memory() {
            timers.push(until(self.watched_at + WATCH_EVERY));
        }
        timers.into_iter().min()
    }

    fn timers(&mut self) {
        let now = Instant::now();
        self.output.flush(false);
        if self.output_budget.1 + SECOND <= now {
            self.output_budget = (OUTPUT_A_SECOND, now);
        }
        if self.stop_at.is_some_and(|at| at <= now) {
            self.stop_at = Some(now + WATCH_EVERY);
            self.kill_all();
        }
        if self.asking.as_ref().and_then(Asking::again_at).is_some_and(|at| at <= now) {
            self.ask_to_end();
        }
        if self.watches_memory() && self.watched_at + WATCH_EVERY <= now {
            self.watched_at = now;
            self.watch_memory();
        }
        for pid in self.hung_up.extract_if(.., |(_, at)| *at <= now).map(|(pid, _)| pid).collect::<Vec<_>>() {
            let mut doomed = tree::descendants(pid, &[]);
            doomed.extend(tree::Process::look(pid));
            tree::signal(&doomed, Signal::SIGKILL);
        }
        for connection in &mut self.connections {
            connection.check_deadline(now);
        }
    }

    /// What anyone who asks is told.
    fn status(&self) -> ShimStatus {
        let state = match (&self.state.exit, self.frozen) {
            (Some(_), _) => ObservedState::Exited,
            (None, true) => ObservedState::Frozen,
            (None, false) => ObservedState::Running,
        };
        ShimStatus {
            run: self.state.run,
            state,
            pid: self.state.exit.is_none().then_some(self.state.pid),
            started_at: Some(self.state.started_at),
            exit: self.state.exit.clone(),
            confinement: Some(self.state.confinement.clone()),
            stopping: self.requested && self.state.exit.is_none(),
            lost: self.lost.clone(),
        }
    }
}
