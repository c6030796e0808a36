//! Freezing in memory, by whoever can do it here.

use clawfarm_model::{Code, Error, Result};
use nix::sys::signal::Signal;

use super::Keeper;
use crate::tree;

/// How often the processes are looked at again for ones that were made meanwhile.
const PASSES: u32 = 20;
/// How long a tree may take to stand still, whatever the passes.
const STOP_WITHIN: std::time::Duration = std::time::Duration::from_secs(1);

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
        self.frozen = false;
        self.announce();
        Ok(())
    }

    fn stop_processes(&self) -> Result<()> {
        let begun = std::time::Instant::now();
        let mut passes = 0;
        // A busy machine takes its time to stop even one that makes no further ones.
        while passes < PASSES || begun.elapsed() < STOP_WITHIN {
            passes += 1;
            let mut going = self.processes();
            going.retain(|process| process.state != 'T');
            if going.is_empty() {
                return Ok(());
            }
            tree::signal(&going, Signal::SIGSTOP);
            crate::lock::nap(std::time::Duration::from_millis(2));
        }
        tree::signal(&self.processes(), Signal::SIGCONT);
        Err(Error::new(Code::Busy, "the claw makes processes faster than they can be stopped")
            .fix("try again when it is less busy"))
    }
}
