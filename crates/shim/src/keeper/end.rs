//! The claw has ended: what is left of it ends too, and everyone is told.

use std::time::{Duration, Instant};

use clawfarm_model::Timestamp;
use clawfarm_model::observed::Exit;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::connection::{Connection, Mode};
use super::{Ended, Keeper};
use crate::layout::{RUN_DIR, SOCKET_FILE};
use crate::lock::nap;

/// How long what is left may take to die: it can hang in the kernel, on a dead disk.
const DYING: Duration = Duration::from_secs(10);
/// How long clients may take to read the last words to them.
const FAREWELL: Duration = Duration::from_secs(2);

impl Keeper {
    /// Ends what is left, writes down how it ended, tidies up, and tells everyone. The order
    /// makes sure that whoever is told can start the instance again at once.
    pub(super) fn finish(mut self) {
        let out_of_memory = self.was_out_of_memory();
        let all_ended = self.end_the_rest();
        self.drain();
        self.state.exit = Some(self.exit(out_of_memory));
        // What did not die is ended by whoever looks next, before anything is started here again.
        self.state.active = !all_ended;
        if let Err(error) = self.state.write(&self.dir) {
            self.output.note(&format!("how the claw ended could not be written down: {error}"));
        }
        if let Some(spawner) = self.spawner.take() {
            let _ = kill(Pid::from_raw(spawner.pid.cast_signed()), Signal::SIGKILL);
        }
        self.cgroups.remove();
        let _ = std::fs::remove_file(self.dir.join(RUN_DIR).join(SOCKET_FILE));
        let _ = self.lock.relock(nix::fcntl::FlockArg::Unlock);
        self.say_farewell();
    }

    /// Whether the kernel or we have ended it for want of memory.
    fn was_out_of_memory(&self) -> bool {
        let killed = self.ended == Some(Ended::Signal(libc::SIGKILL)) && !self.requested;
        self.over_memory || (killed && self.cgroups.out_of_memory_kills() > 0)
    }

    /// Kills until nothing is left. Nothing can hide: whoever loses its parent becomes ours. Whether
    /// all died.
    fn end_the_rest(&mut self) -> bool {
        let deadline = Instant::now() + DYING;
        loop {
            self.kill_all();
            self.reap();
            if self.processes().is_empty() && self.cgroups.processes().is_empty() {
                return true;
            }
            if Instant::now() > deadline {
                let left = self.processes().len();
                self.output.note(&format!("{left} processes of the claw did not die"));
                return false;
            }
            nap(Duration::from_millis(2));
        }
    }

    /// Takes the last of the output.
    fn drain(&mut self) {
        for index in 0..self.pipes.len() {
            while self.read_output(index) {}
        }
        self.output.flush(true);
    }

    fn exit(&self, out_of_memory: bool) -> Exit {
        let (code, signal) = match self.ended {
            Some(Ended::Code(code)) => (Some(code), None),
            Some(Ended::Signal(signal)) => (None, Some(signal)),
            None => (None, None),
        };
        Exit {
            code,
            signal,
            at: Timestamp::now(),
            out_of_memory,
            requested: self.requested && !self.over_memory,
            log_tail: self.output.tail(),
        }
    }

    /// Answers those who wait, and gives all a moment to read it.
    fn say_farewell(mut self) {
        let status = self.status();
        for connection in &mut self.connections {
            match &connection.mode {
                Mode::AwaitingEnd | Mode::Watching => connection.reply(Ok(&status)),
                Mode::Exec(session) => {
                    let code = session.exit_code().unwrap_or(128 + libc::SIGKILL);
                    connection.end_session(code);
                }
                _ => {}
            }
            connection.leave();
        }
        let deadline = Instant::now() + FAREWELL;
        while self.connections.iter().any(|c| !Connection::is_closed(c)) && Instant::now() < deadline {
            self.connections.iter_mut().for_each(Connection::write);
            nap(Duration::from_millis(2));
        }
    }
}
