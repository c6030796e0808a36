//! How much of a machine an instance may use.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::error::{Error, Result};

/// An instance's share of its machine.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Resources {
    /// Processor cores it may use; fractions are fine (`0.5`).
    #[serde(default = "Resources::default_cpus")]
    #[schema(minimum = 0.05, maximum = 1024.0)]
    pub cpus: f64,
    /// Memory it may hold, in MiB.
    #[serde(default = "Resources::default_memory_mib")]
    #[schema(minimum = 64, maximum = 16_777_216)]
    pub memory_mib: u32,
}

impl Resources {
    /// Fewest and most cores that are accepted.
    pub const CPUS: (f64, f64) = (0.05, 1024.0);
    /// Least and most memory that is accepted, in MiB.
    pub const MEMORY_MIB: (u32, u32) = (64, 16_777_216);

    const fn default_cpus() -> f64 {
        1.0
    }

    /// OpenClaw holds 0.8 GB when ready and up to 1.3 GB after its first chats (measured on
    /// 2026.9.6), so 2 GiB lets it work without being killed in the middle of a turn.
    const fn default_memory_mib() -> u32 {
        2048
    }

    /// Checks both figures.
    ///
    /// # Errors
    /// Names the field that is out of range, and the range.
    pub fn check(&self) -> Result<()> {
        let (least, most) = Self::CPUS;
        if !self.cpus.is_finite() || self.cpus < least || self.cpus > most {
            return Err(Error::invalid("resources.cpus", format!("{} cores can't be given", self.cpus))
                .fix(format!("give between {least} and {most} cores, such as 1 or 0.5")));
        }
        let (least, most) = Self::MEMORY_MIB;
        if self.memory_mib < least || self.memory_mib > most {
            return Err(Error::invalid(
                "resources.memory_mib",
                format!("{} MiB can't be given", self.memory_mib),
            )
            .fix(format!("give between {least} and {most} MiB, such as 2048")));
        }
        Ok(())
    }
}

impl Default for Resources {
    fn default() -> Self {
        Self { cpus: Self::default_cpus(), memory_mib: Self::default_memory_mib() }
    }
}

/// What an instance used, as its runtime measured it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Usage {
    /// Processor time since it was started, in milliseconds.
    pub cpu_millis: u64,
    /// Memory resident now, in bytes.
    pub memory_bytes: u64,
    /// The memory limit in force, in bytes; 0 when none is.
    pub memory_limit_bytes: u64,
    /// Bytes read from disk since it was started.
    pub read_bytes: u64,
    /// Bytes written to disk since it was started.
    pub written_bytes: u64,
    /// Its processes and threads now.
    pub tasks: u64,
}
