//! What the claw uses.

use clawfarm_model::resources::Usage;
use nix::sys::signal::Signal;
use nix::unistd::{SysconfVar, sysconf};

use super::Keeper;
use crate::tree::{self, Process};

impl Keeper {
    /// Cgroups where there are any, else the sum over its processes.
    pub(super) fn usage(&self) -> Usage {
        let processes = self.processes();
        let disk = processes.iter().map(|process| tree::disk_bytes(process.pid));
        let (read_bytes, written_bytes) =
            disk.fold((0, 0), |(r, w), (read, written)| (r + read, w + written));
        Usage {
            cpu_millis: self.cgroups.cpu_millis().unwrap_or_else(|| cpu_millis(&processes)),
            memory_bytes: self.cgroups.memory_bytes().unwrap_or_else(|| resident_bytes(&processes)),
            memory_limit_bytes: self.memory_limit,
            read_bytes,
            written_bytes,
            tasks: self.cgroups.tasks().unwrap_or_else(|| processes.iter().map(|p| p.threads).sum()),
        }
    }

    /// Ends the claw when it holds more memory than it may.
    pub(super) fn watch_memory(&mut self) {
        let processes = self.processes();
        let held = resident_bytes(&processes);
        if held <= self.memory_limit || self.over_memory {
            return;
        }
        self.over_memory = true;
        let (held, limit) = (held >> 20, self.memory_limit >> 20);
        self.output.note(&format!("ended: its processes held {held} MiB, {limit} MiB are allowed"));
        tree::signal(&processes, Signal::SIGKILL);
        self.kill_all();
    }
}

fn cpu_millis(processes: &[Process]) -> u64 {
    let ticks: u64 = processes.iter().map(|process| process.ticks).sum();
    ticks * 1000 / configured(SysconfVar::CLK_TCK, 100)
}

fn resident_bytes(processes: &[Process]) -> u64 {
    let pages: u64 = processes.iter().map(|process| process.resident_pages).sum();
    pages * configured(SysconfVar::PAGE_SIZE, 4096)
}

/// A value of the system's configuration, or what it nearly always is.
fn configured(what: SysconfVar, usual: u64) -> u64 {
    sysconf(what).ok().flatten().and_then(|value| u64::try_from(value).ok()).unwrap_or(usual)
}
