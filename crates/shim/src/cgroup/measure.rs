//! What the cgroups count.

use std::fs;

use super::{Cgroups, Version};

impl Cgroups {
    /// How often the kernel killed something in them for want of memory.
    pub(crate) fn out_of_memory_kills(&self) -> u64 {
        let Some(memory) = &self.memory else { return 0 };
        let file = match memory.version {
            Version::V1 => "memory.oom_control",
            Version::V2 => "memory.events",
        };
        fs::read_to_string(memory.dir.join(file)).ok().and_then(|text| field(&text, "oom_kill")).unwrap_or(0)
    }

    /// Memory in use, in bytes, without files that were only read and can be dropped.
    pub(crate) fn memory_bytes(&self) -> Option<u64> {
        let memory = self.memory.as_ref()?;
        let (usage, inactive) = match memory.version {
            Version::V1 => ("memory.usage_in_bytes", "total_inactive_file"),
            Version::V2 => ("memory.current", "inactive_file"),
        };
        let all: u64 = fs::read_to_string(memory.dir.join(usage)).ok()?.trim().parse().ok()?;
        let stat = fs::read_to_string(memory.dir.join("memory.stat")).unwrap_or_default();
        Some(all.saturating_sub(field(&stat, inactive).unwrap_or(0)))
    }

    /// Processor time used, in milliseconds.
    pub(crate) fn cpu_millis(&self) -> Option<u64> {
        let cpu = self.accounting.as_ref()?;
        match cpu.version {
            Version::V1 => {
                let nanos = fs::read_to_string(cpu.dir.join("cpuacct.usage")).ok()?;
                nanos.trim().parse::<u64>().ok().map(|nanos| nanos / 1_000_000)
            }
            Version::V2 => {
                let stat = fs::read_to_string(cpu.dir.join("cpu.stat")).ok()?;
                field(&stat, "usage_usec").map(|micros| micros / 1000)
            }
        }
    }

    /// Processes and threads.
    pub(crate) fn tasks(&self) -> Option<u64> {
        let pids = self.pids.as_ref()?;
        fs::read_to_string(pids.dir.join("pids.current")).ok()?.trim().parse().ok()
    }
}

/// The number of a `name number` line.
fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}
