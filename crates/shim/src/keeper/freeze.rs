//! Freezing in memory, by whoever can do it here.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use clawfarm_model::{Code, Error, Result};
use nix::sys::signal::Signal;

use super::Keeper;
use crate::{lock, tree};

/// How many looks may find processes that were made meanwhile.
const PASSES: u32 = 20;
/// How long a tree may take to stand still: a process stops when it gets the processor again.
/// Well below what a server waits for an answer.
const STOP_WITHIN: Duration = Duration::from_secs(5);

impl Keeper {
    /// Stops everything of the claw where it stands. Frozen already is a success.
    pub(super) fn freeze(&mut self) -> Result<()> {
        if self.frozen {
            return Ok(());
        }
        if self.requested {
            return Err(Error::new(Code::Conflict, "the claw is on its way down")
                .fix("wait until it is stopped, then start it"));
        }
        match &self.cgroups.freezer {
            Some(freezer) => {
                self.cgroups.freeze(freezer).map_err(|reason| Error::new(Code::Internal, reason))?;
            }
            None => self.stop_processes()?,
        }
        self.frozen = true;
        self.announce();
        // Whoever waits for the freeze does not wait for this.
        drop(self.cgroups.give_memory_back());
        Ok(())
    }

    /// Lets everything of it go on. Going on already is a success.
    pub(super) fn thaw(&mut self) -> Result<(), String> {
        if !self.frozen {
            return Ok(());
        }
        match &self.cgroups.freezer {
            Some(freezer) => self.cgroups.thaw(freezer)?,
            None => tree::signal(&self.processes(), Signal::SIGCONT),
        }
        self.cgroups.keep_memory();
        self.frozen = false;
        self.announce();
        Ok(())
    }

    fn stop_processes(&self) -> Result<()> {
        let begun = Instant::now();
        let mut asked = HashSet::new();
        let mut with_new = 0;
        loop {
            let mut going = self.processes();
            // One that waits in the kernel and was told to stop does so before it gets back to its
            // own instructions. It may never get there: a process that made another by vfork
            // waits for it, and that one stands still.
            going.retain(|it| it.state != 'T' && !(it.state == 'D' && asked.contains(&it.pid)));
            if going.is_empty() {
                return Ok(());
            }
            let known = asked.len();
            asked.extend(going.iter().map(|process| process.pid));
            with_new += u32::from(asked.len() > known);
            let late = begun.elapsed() >= STOP_WITHIN;
            if with_new > PASSES || late {
                tree::signal(&self.processes(), Signal::SIGCONT);
                return Err(if with_new > PASSES {
                    Error::new(Code::Busy, "the claw makes processes faster than they can be stopped")
                        .fix("try again when it is less busy")
                } else {
                    let message = format!("{} processes did not stop within {STOP_WITHIN:?}", going.len());
                    Error::new(Code::Busy, message).fix("the processor is very busy: try again")
                });
            }
            tree::signal(&going, Signal::SIGSTOP);
            lock::nap(Duration::from_millis(2));
        }
    }
}
