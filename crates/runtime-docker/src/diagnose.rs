//! Whether the engine can be used, for `clawfarm doctor`.

use clawfarm_model::Result;
use clawfarm_model::target::{Capacity, Check, CheckLevel, Diagnosis, RuntimeKind};
use procfs::{Current, Meminfo};

use crate::fault::failed;
use crate::inner::Inner;

const MIB: u64 = 1 << 20;

/// [`clawfarm_runtime::Runtime::diagnose`].
pub(crate) async fn diagnose(inner: &Inner) -> Diagnosis {
    let mut checks = Vec::new();
    let info = async {
        let client = inner.engine.docker().await?;
        client.info().await.map_err(|e| failed("ask the container engine about itself", e))
    };
    match info.await {
        Err(error) => checks.push(Check {
            name: "engine".to_owned(),
            level: CheckLevel::Error,
            detail: error.message().to_owned(),
            fix: error.fix_text().map(str::to_owned),
        }),
        Ok(info) => {
            let version = info.server_version.unwrap_or_else(|| "of an unknown version".to_owned());
            checks.push(Check {
                name: "engine".to_owned(),
                level: CheckLevel::Ok,
                detail: format!("{version} answers at {}", inner.engine.socket().display()),
                fix: None,
            });
            for (name, in_force) in [
                ("memory limit", info.memory_limit),
                ("cpu limit", info.cpu_cfs_quota),
                ("process limit", info.pids_limit),
            ] {
                let in_force = in_force.unwrap_or(false);
                checks.push(Check {
                    name: name.to_owned(),
                    level: if in_force { CheckLevel::Ok } else { CheckLevel::Warning },
                    detail: if in_force { "in force" } else { "the kernel does not enforce it" }.to_owned(),
                    fix: (!in_force)
                        .then(|| "enable the cgroup controllers of the engine's machine".to_owned()),
                });
            }
        }
    }
    let usable = checks.iter().all(|check| check.level != CheckLevel::Error);
    Diagnosis { runtime: RuntimeKind::Docker, usable, checks }
}

/// [`clawfarm_runtime::Runtime::capacity`].
pub(crate) async fn capacity(inner: &Inner) -> Result<Capacity> {
    let client = inner.engine.docker().await?;
    let info = client.info().await.map_err(|e| failed("ask the container engine about itself", e))?;
    let total = info.mem_total.and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or(0);
    // The engine does not say what is free. It runs on this machine as a rule, which does.
    let here = Meminfo::current().ok().filter(|memory| memory.mem_total == total);
    let available = here.map_or(total, |memory| memory.mem_available.unwrap_or(memory.mem_free));
    Ok(Capacity {
        cpus: f64::from(info.ncpu.and_then(|cpus| u32::try_from(cpus).ok()).unwrap_or(1)),
        memory_mib: total / MIB,
        memory_available_mib: available / MIB,
    })
}
