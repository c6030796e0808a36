//! Limits, freezing and killing.

use std::fs;
use std::io;
use std::time::{Duration, Instant};

use clawfarm_model::resources::Resources;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Cgroups, Controller, Version};
use crate::lock::nap;

/// The period over which processor time is counted, in microseconds: the kernel's default
/// (`cpu.max` in `admin-guide/cgroup-v2`).
const CPU_PERIOD_US: f64 = 100_000.0;

impl Controller {
    fn write(&self, file: &str, value: &str) -> Result<(), String> {
        let path = self.dir.join(file);
        fs::write(&path, value).map_err(|error| format!("{} refuses {value}: {error}", path.display()))
    }

    /// Sets what not every kernel has, where it has it.
    fn write_if_there(&self, file: &str, value: &str) {
        let _ = self.write(file, value);
    }

    fn read(&self, file: &str) -> io::Result<String> {
        fs::read_to_string(self.dir.join(file))
    }
}

impl Cgroups {
    /// Sets the limits; a controller that refuses its limit is given up, with the reason.
    pub(super) fn limit(&mut self, resources: &Resources, max_tasks: u32) {
        let bytes = u64::from(resources.memory_mib) << 20;
        keep(&mut self.memory, &mut self.missing, |memory| limit_memory(memory, bytes));
        keep(&mut self.cpu, &mut self.missing, |cpu| limit_cpu(cpu, resources.cpus));
        keep(&mut self.pids, &mut self.missing, |pids| pids.write("pids.max", &max_tasks.to_string()));
    }

    /// Stops everything in them where it stands.
    ///
    /// # Errors
    /// When the kernel did not do it in time.
    pub(crate) fn freeze(&self, freezer: &Controller) -> Result<(), String> {
        let (file, word) = match freezer.version {
            Version::V1 => ("freezer.state", "FROZEN"),
            Version::V2 => ("cgroup.freeze", "1"),
        };
        freezer.write(file, word)?;
        let deadline = Instant::now() + Duration::from_secs(2);
        while !freezer.is_frozen() {
            if Instant::now() > deadline {
                self.thaw(freezer)?;
                return Err("the kernel did not freeze every process within 2 s".into());
            }
            nap(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Lets everything in them go on.
    ///
    /// # Errors
    /// When the kernel refuses it.
    pub(crate) fn thaw(&self, freezer: &Controller) -> Result<(), String> {
        match freezer.version {
            Version::V1 => freezer.write("freezer.state", "THAWED"),
            Version::V2 => freezer.write("cgroup.freeze", "0"),
        }
    }

    /// Gives the memory of what is frozen back to the machine, as far as the kernel can write it
    /// elsewhere: what came from files at once, the rest where there is swap. In the background,
    /// for that may take seconds; a thaw meanwhile reads back what it needs. Nothing where the
    /// kernel has no `memory.reclaim` (cgroup v2, Linux 5.19).
    pub(crate) fn give_memory_back(&self) -> Option<std::thread::JoinHandle<()>> {
        let memory = self.memory.clone().filter(Controller::can_reclaim)?;
        let reclaim = move || {
            // While it runs it must not swap: it would only look as if its limit held.
            memory.write_if_there("memory.swap.max", "max");
            if let Ok(current) = memory.read("memory.current") {
                // It is refused when not all of it could be given back: that is as it should be.
                memory.write_if_there("memory.reclaim", current.trim());
            }
        };
        std::thread::Builder::new().name("reclaim".into()).spawn(reclaim).ok()
    }

    /// It goes on: from now on it is to stay in memory.
    pub(crate) fn keep_memory(&self) {
        if let Some(memory) = self.memory.as_ref().filter(|memory| memory.can_reclaim()) {
            memory.write_if_there("memory.swap.max", "0");
        }
    }

    /// Sends SIGKILL to everything in them. Where the kernel can't do that at once, they are
    /// frozen meanwhile, so that nothing runs away from it.
    pub(crate) fn kill(&self) {
        for dir in &self.dirs {
            if fs::write(dir.join("cgroup.kill"), "1").is_ok() {
                break;
            }
        }
        let frozen = self.freezer.as_ref().filter(|_| !self.processes().is_empty());
        let frozen = frozen.filter(|freezer| self.freeze(freezer).is_ok());
        for pid in self.processes() {
            let _ = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL);
        }
        // Also what was frozen before: v1 lets nothing die that is frozen.
        if let Some(freezer) = frozen.or(self.freezer.as_ref()) {
            let _ = self.thaw(freezer);
        }
    }
}

impl Controller {
    fn can_reclaim(&self) -> bool {
        self.version == Version::V2 && self.dir.join("memory.reclaim").exists()
    }

    fn is_frozen(&self) -> bool {
        match self.version {
            Version::V1 => self.read("freezer.state").is_ok_and(|state| state.trim() == "FROZEN"),
            Version::V2 => {
                self.read("cgroup.events").is_ok_and(|events| events.lines().any(|line| line == "frozen 1"))
            }
        }
    }
}

/// Gives a controller up when its limit can't be set.
fn keep(
    slot: &mut Option<Controller>,
    missing: &mut Vec<String>,
    set: impl FnOnce(&Controller) -> Result<(), String>,
) {
    if let Some(Err(reason)) = slot.as_ref().map(set) {
        missing.push(reason);
        *slot = None;
    }
}

fn limit_memory(memory: &Controller, bytes: u64) -> Result<(), String> {
    let bytes = bytes.to_string();
    match memory.version {
        Version::V2 => {
            memory.write("memory.max", &bytes)?;
            memory.write_if_there("memory.swap.max", "0");
            // One process killed out of many leaves a claw that half works.
            memory.write_if_there("memory.oom.group", "1");
        }
        Version::V1 => {
            memory.write("memory.limit_in_bytes", &bytes)?;
            memory.write_if_there("memory.memsw.limit_in_bytes", &bytes);
        }
    }
    Ok(())
}

fn limit_cpu(cpu: &Controller, cpus: f64) -> Result<(), String> {
    // At least a millisecond, which is what the kernel accepts.
    let quota = (cpus * CPU_PERIOD_US).round().max(1000.0);
    match cpu.version {
        Version::V2 => cpu.write("cpu.max", &format!("{quota:.0} {CPU_PERIOD_US:.0}")),
        Version::V1 => {
            cpu.write("cpu.cfs_period_us", &format!("{CPU_PERIOD_US:.0}"))?;
            cpu.write("cpu.cfs_quota_us", &format!("{quota:.0}"))
        }
    }
}
