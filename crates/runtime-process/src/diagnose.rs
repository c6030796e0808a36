//! What `clawfarm doctor` says of this machine as a place for local processes.

use std::path::Path;

use clawfarm_model::target::{Check, CheckLevel, Diagnosis, RuntimeKind};

use crate::host::{self, CONTROLLERS, Hierarchy};
use crate::inner::Inner;
use clawfarm_install::{node_package, npm_version, python_version};

/// Free disk space below which an installation fails, and below which it gets tight, in
/// bytes. OpenClaw with its Node takes 0.8 GB, and npm's cache about as much again.
const DISK: (u64, u64) = (2 << 30, 5 << 30);
/// Memory below which one OpenClaw does not start, in MiB: it holds 0.8 GB when ready.
const MEMORY_MIB: u64 = 1024;

/// Looks at everything.
pub(crate) async fn diagnose(inner: &Inner) -> Diagnosis {
    let mut checks = vec![npm(inner).await, python().await, landlock(), users(inner)];
    checks.extend([cgroups(&host::cgroups()), mounts(), memory(), warm(&host::cgroups())]);
    checks.push(disk("disk space (home)", &inner.paths.home));
    checks.push(disk("disk space (cache)", &inner.paths.cache));
    let usable = checks.iter().all(|check| check.level != CheckLevel::Error);
    Diagnosis { runtime: RuntimeKind::Process, usable, checks }
}

fn check(name: &str, level: CheckLevel, detail: impl Into<String>, fix: Option<&str>) -> Check {
    Check { name: name.to_owned(), level, detail: detail.into(), fix: fix.map(str::to_owned) }
}

async fn npm(inner: &Inner) -> Check {
    if let Err(error) = node_package() {
        return check("processor", CheckLevel::Error, error.message(), error.fix_text());
    }
    match npm_version(&inner.config.npm).await {
        Ok(version) => check("npm", CheckLevel::Ok, format!("npm {version}"), None),
        Err(error) => check("npm", CheckLevel::Error, error.message(), error.fix_text()),
    }
}

/// The oldest Python that a claw type asks for.
const PYTHON: &str = "3.11";

async fn python() -> Check {
    match python_version(PYTHON).await {
        Ok(version) => check("python", CheckLevel::Ok, version, None),
        // Not all types want one.
        Err(error) => check(
            "python",
            CheckLevel::Warning,
            format!("{}: claws of types that are Python packages (nanobot) can't be made", error.message()),
            error.fix_text(),
        ),
    }
}

fn landlock() -> Check {
    match host::landlock_abi() {
        Some(abi) => check(
            "Landlock",
            CheckLevel::Ok,
            format!("version {abi} confines what claws read and write"),
            None,
        ),
        None => check(
            "Landlock",
            CheckLevel::Warning,
            "the kernel does not confine what claws read and write",
            Some(
                "use Linux 5.13 or newer with `landlock` in its `lsm=` list (`cat /sys/kernel/security/lsm`)",
            ),
        ),
    }
}

fn users(inner: &Inner) -> Check {
    let name = "own users";
    if inner.config.own_users {
        return check(name, CheckLevel::Ok, "each claw runs under a user id of its own", None);
    }
    check(
        name,
        CheckLevel::Warning,
        "claws run under the server's user id: only Landlock keeps them apart",
        Some("run the server as root (`sudo clawfarm serve`) for a user id a claw"),
    )
}

fn cgroups(found: &[Hierarchy]) -> Check {
    let name = "limits (cgroups)";
    let mut had = Vec::new();
    let mut missing = Vec::new();
    for controller in CONTROLLERS {
        let place = found
            .iter()
            .filter(|h| h.controllers.iter().any(|c| c == controller) && host::may_make_groups(h))
            .max_by_key(|h| h.version);
        match place {
            Some(h) => had.push(format!("{controller} by v{}", h.version)),
            None => missing.push(controller),
        }
    }
    if missing.is_empty() {
        return check(name, CheckLevel::Ok, had.join(", "), None);
    }
    let detail = format!(
        "without {}: memory is then limited by the claw's own settings and a watchdog, freezing by SIGSTOP{}",
        missing.join(", "),
        if had.is_empty() { String::new() } else { format!("; {}", had.join(", ")) }
    );
    check(
        name,
        CheckLevel::Warning,
        detail,
        Some(
            "start the server in a group of its own: `systemd-run --user --scope -p Delegate=yes clawfarm serve`",
        ),
    )
}

fn mounts() -> Check {
    let name = "private mounts";
    // CAP_SYS_ADMIN is bit 21 (capability.h).
    let may = procfs::process::Process::myself()
        .and_then(|me| me.status())
        .is_ok_and(|s| s.capeff & (1 << 21) != 0);
    if may {
        return check(name, CheckLevel::Ok, "each claw sees only its own part of the server's home", None);
    }
    check(
        name,
        CheckLevel::Warning,
        "the server may not make mount namespaces, so claws see names outside of their folders",
        Some("run the server as root (`sudo clawfarm serve`)"),
    )
}

fn memory() -> Check {
    match host::capacity() {
        Ok(found) => {
            let enough = found.memory_available_mib >= MEMORY_MIB;
            let level = if enough { CheckLevel::Ok } else { CheckLevel::Warning };
            let detail = format!("{} of {} MiB available", found.memory_available_mib, found.memory_mib);
            let fix = "end what is not needed, or `clawfarm suspend` idle instances";
            check("memory", level, detail, (!enough).then_some(fix))
        }
        Err(error) => check("memory", CheckLevel::Warning, error.message(), error.fix_text()),
    }
}

/// What becomes of the memory of a claw that is frozen.
fn warm(found: &[Hierarchy]) -> Check {
    let name = "memory of warm claws";
    let by_v2 = found
        .iter()
        .any(|h| h.version == 2 && h.controllers.iter().any(|c| c == "memory") && host::may_make_groups(h));
    let kernel = by_v2 && found.iter().any(|h| h.version == 2 && host::can_reclaim(h));
    if kernel {
        return check(
            name,
            CheckLevel::Ok,
            "given back to the machine where there is swap (memory.reclaim)",
            None,
        );
    }
    check(
        name,
        CheckLevel::Ok,
        "stays taken while they are frozen: the kernel has no memory.reclaim for them (cgroup v2, Linux 5.19). Suspended claws hold none",
        None,
    )
}

fn disk(name: &str, path: &Path) -> Check {
    let fix = format!("free some space on the disk of '{}', or choose another folder", path.display());
    match host::free_space(path) {
        Ok((bytes, inodes)) => {
            let level = match bytes {
                _ if bytes < DISK.0 || inodes == 0 => CheckLevel::Error,
                _ if bytes < DISK.1 || inodes < 5 => CheckLevel::Warning,
                _ => CheckLevel::Ok,
            };
            let detail =
                format!("{} MiB free in '{}', {inodes} % of its inodes", bytes >> 20, path.display());
            check(name, level, detail, (level != CheckLevel::Ok).then_some(fix.as_str()))
        }
        Err(error) => check(
            name,
            CheckLevel::Error,
            format!("'{}' can't be looked at: {error}", path.display()),
            Some(&fix),
        ),
    }
}
