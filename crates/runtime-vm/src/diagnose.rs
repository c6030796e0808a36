//! What `clawfarm doctor` says of this machine as a place for virtual ones.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use clawfarm_local::host;
use clawfarm_model::target::{Check, CheckLevel, Diagnosis, RuntimeKind};
use clawfarm_model::{Error, Result};
use clawfarm_qemu::ssh::Ssh;
use clawfarm_qemu::{Probed, Qemu};

use crate::config::HostPorts;
use crate::inner::Inner;
use crate::suspend::binds_to_host;

/// How long is waited for the trial of KVM, which takes longer once a boot where KVM hangs: it
/// goes on, and its result is there for the next who asks.
const TRIAL: Duration = Duration::from_secs(6);

/// Free disk space below which a machine can't be made, and below which it gets tight, in bytes:
/// a distribution's image has half a gigabyte, and a machine that works writes some.
const DISK: (u64, u64) = (1 << 30, 5 << 30);

/// Looks at everything.
pub(crate) async fn diagnose(inner: &Arc<Inner>) -> Diagnosis {
    let qemu = inner.qemu().await;
    let mut checks = vec![found(&qemu)];
    if let Ok(qemu) = &qemu {
        checks.extend(qemu.lacks().iter().map(|lack| of_error("QEMU's features", CheckLevel::Warning, lack)));
        checks.push(accelerator(inner, qemu).await);
    }
    checks.push(virtiofsd(inner).await);
    checks.push(ssh());
    checks.push(agent(inner));
    checks.push(user(inner));
    checks.push(network(inner));
    checks.push(disk("disk space (machines)", &inner.paths.home));
    checks.push(disk("disk space (images)", &inner.config.images.folder));
    // Who wants no virtual machines lacks nothing: what is missing is told, and is no fault.
    let there = qemu.is_ok() && Ssh::find().is_ok();
    let usable = there && checks.iter().all(|check| check.level != CheckLevel::Error);
    Diagnosis { runtime: RuntimeKind::Vm, usable, checks }
}

fn check(name: &str, level: CheckLevel, detail: impl Into<String>, fix: Option<&str>) -> Check {
    Check { name: name.to_owned(), level, detail: detail.into(), fix: fix.map(str::to_owned) }
}

fn of_error(name: &str, level: CheckLevel, error: &Error) -> Check {
    check(name, level, error.message(), error.fix_text())
}

fn found(qemu: &Result<Qemu>) -> Check {
    match qemu {
        Ok(qemu) => {
            check("QEMU", CheckLevel::Ok, format!("{} ({})", qemu.version, qemu.path.display()), None)
        }
        Err(error) => of_error("QEMU", CheckLevel::Warning, error),
    }
}

async fn accelerator(inner: &Arc<Inner>, qemu: &Qemu) -> Check {
    let name = "accelerator";
    if let Some(chosen) = inner.config.accelerator {
        let what = if binds_to_host(chosen) { "KVM" } else { "the emulator" };
        return check(name, CheckLevel::Ok, format!("{what}, as was chosen"), None);
    }
    let (this, qemu) = (Arc::clone(inner), qemu.clone());
    let trial = tokio::spawn(async move { this.probed(&qemu).await });
    match tokio::time::timeout(TRIAL, trial).await {
        Ok(Ok(Ok(probed))) => Probed::check(&probed),
        Ok(Ok(Err(error))) => of_error(name, CheckLevel::Error, &error),
        Ok(Err(error)) => check(name, CheckLevel::Warning, error.to_string(), None),
        Err(_) => check(
            name,
            CheckLevel::Warning,
            "KVM is being tried, which takes long here",
            Some("ask again in a moment"),
        ),
    }
}

async fn virtiofsd(inner: &Inner) -> Check {
    match inner.virtiofsd().await {
        Ok(program) => {
            let detail = program.command.join(" ");
            let level = if program.saves { CheckLevel::Ok } else { CheckLevel::Warning };
            let fix =
                "install virtiofsd 1.13 or newer: machines with volumes can't be suspended with this one";
            check("virtiofsd", level, detail, (!program.saves).then_some(fix))
        }
        // Machines without volumes do without.
        Err(error) => of_error("virtiofsd", CheckLevel::Warning, &error),
    }
}

fn ssh() -> Check {
    match Ssh::find() {
        Ok(path) => check("ssh", CheckLevel::Ok, path.display().to_string(), None),
        Err(error) => of_error("ssh", CheckLevel::Warning, &error),
    }
}

fn agent(inner: &Inner) -> Check {
    match &inner.config.agent {
        Some(_) => check("agent", CheckLevel::Ok, "machines that are made now get clawfarm's agent", None),
        None => check(
            "agent",
            CheckLevel::Warning,
            "this program was built without the agent for virtual machines: commands in them go by SSH",
            Some("nothing has to be done; a released program has it"),
        ),
    }
}

fn network(inner: &Inner) -> Check {
    let guarded = match &inner.config.host_ports {
        HostPorts::All => Err("as was chosen".into()),
        HostPorts::Only(_) if !inner.config.own_users => Err("the server does not run as root".into()),
        HostPorts::Only(_) => clawfarm_shim::can_guard_loopback(),
    };
    match guarded {
        Ok(()) => check(
            "network",
            CheckLevel::Ok,
            "of this machine's 127.0.0.1 a virtual machine reaches the server's listener for claws, the DNS, and what was chosen",
            None,
        ),
        Err(why) => check(
            "network",
            CheckLevel::Warning,
            format!("a virtual machine reaches what listens on this machine's 127.0.0.1, at 10.0.2.2: {why}"),
            Some("give what listens there a password or token; see the page on virtual machines"),
        ),
    }
}

fn user(inner: &Inner) -> Check {
    if inner.config.own_users {
        return check("own users", CheckLevel::Ok, "QEMU runs under a user id of the instance's own", None);
    }
    check(
        "own users",
        CheckLevel::Warning,
        "QEMU runs under the server's user id: only seccomp and Landlock keep a broken-out guest back",
        Some("run the server as root (`sudo clawfarm serve`) for a user id a machine"),
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
            let detail = format!("{} MiB free in '{}'", bytes >> 20, path.display());
            check(name, level, detail, (level != CheckLevel::Ok).then_some(fix.as_str()))
        }
        Err(error) => {
            let detail = format!("'{}' can't be looked at: {error}", path.display());
            check(name, CheckLevel::Error, detail, Some(&fix))
        }
    }
}
