//! Which accelerator runs machines here: found out by running a guest with it.
//!
//! That `/dev/kvm` is there says little. In a virtual machine without nested virtualisation it
//! may be there and never get a guest into long mode, or run it slower than the emulator. So a
//! guest of some hundred bytes walks the way a kernel does (real mode, page tables, long mode,
//! memory, arithmetic with a known result, ports) under the emulator and under KVM, and is timed
//! against itself. What was found holds until the machine is booted anew or QEMU is replaced.

mod kept;
mod rom;
mod trial;

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use clawfarm_model::target::{Check, CheckLevel};
use clawfarm_model::{Code, Error, Result};
use serde::{Deserialize, Serialize};

use crate::found::Qemu;
use trial::{Trial, Tried};

/// How long the emulator may take: a fifth of a second as a rule. Without it there is nothing.
const TCG_LIMIT: Duration = Duration::from_secs(60);

/// How long KVM may take: a good one needs a tenth of a second. One that was too slow or not at
/// its end is tried once more with twice the time: what holds until the next boot must not come
/// from a moment in which the machine was busy.
const KVM_LIMIT: Duration = Duration::from_secs(4);

/// What runs a machine's processors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accelerator {
    /// The processor itself.
    Kvm,
    /// QEMU's emulator.
    Tcg,
}

/// The kernel's device.
const KVM: &str = "/dev/kvm";

/// The user that machines run as, who may not be let at `/dev/kvm`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunAs {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// The one group that it has beside that: [`kvm_group`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<u32>,
}

/// The group that lets its members use `/dev/kvm`, where a user of its own needs it for that:
/// `kvm` on Debian and its like, where the device is 0660.
#[must_use]
pub fn kvm_group() -> Option<u32> {
    group_of(Path::new(KVM))
}

fn group_of(device: &Path) -> Option<u32> {
    let about = std::fs::metadata(device).ok()?;
    let group_may = about.mode() & 0o060 == 0o060;
    let all_may = about.mode() & 0o006 == 0o006;
    // Root's group is for more than a device.
    (group_may && !all_may && about.gid() != 0).then_some(about.gid())
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probed {
    /// What to use.
    pub accelerator: Accelerator,
    /// Why it is not KVM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What would make it KVM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
    /// How long the guest ran under the emulator, in milliseconds.
    pub tcg_ms: u64,
    /// The same under KVM, when it came to its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kvm_ms: Option<u64>,
}

impl Probed {
    /// What is remembered in `file`, or else found out now and remembered there.
    ///
    /// # Errors
    /// `Unavailable` when not even the emulator runs the guest. That it can't be remembered is
    /// only logged: the next one finds it out again.
    pub async fn known(qemu: &Qemu, run_as: Option<RunAs>, file: &Path) -> Result<Self> {
        let key = kept::Key::now(qemu, run_as).await?;
        if let Some(probed) = kept::read(file, &key).await {
            return Ok(probed);
        }
        let probed = Self::now(qemu, run_as).await?;
        if let Err(error) = kept::write(file, &key, &probed).await {
            tracing::warn!(%error, file = %file.display(), "what runs virtual machines here is not remembered");
        }
        Ok(probed)
    }

    /// Finds it out. Seconds at most where KVM hangs, less than one where it works.
    ///
    /// # Errors
    /// `Unavailable` when not even the emulator runs the guest.
    pub async fn now(qemu: &Qemu, run_as: Option<RunAs>) -> Result<Self> {
        Self::with(qemu, run_as, Path::new(KVM), KVM_LIMIT).await
    }

    async fn with(qemu: &Qemu, run_as: Option<RunAs>, device: &Path, limit: Duration) -> Result<Self> {
        let tcg = match (Trial { qemu, accelerator: Accelerator::Tcg, run_as }).run(TCG_LIMIT).await? {
            Tried::Ended(time) => time,
            Tried::Broke(why) | Tried::Hung(why) => {
                return Err(Error::new(
                    Code::Unavailable,
                    format!("QEMU can't run a virtual machine here, not even with its emulator: {why}"),
                )
                .fix("reinstall QEMU with its firmware (Debian, Ubuntu: qemu-system-x86, seabios)"));
            }
        };
        if let Err(error) = OpenOptions::new().read(true).write(true).open(device) {
            let reason = format!("{} can't be opened: {error}", device.display());
            return Ok(Self::emulated(tcg, None, reason, mend(error.kind(), run_as.is_some())));
        }
        let kvm = Trial { qemu, accelerator: Accelerator::Kvm, run_as };
        let first = Self::judged(tcg, kvm.run(limit).await?, device, run_as.is_some());
        match first {
            Judged::Sure(probed) => Ok(probed),
            Judged::OfTime(_) => {
                let second = kvm.run(limit.saturating_mul(2)).await?;
                let (Judged::Sure(probed) | Judged::OfTime(probed)) =
                    Self::judged(tcg, second, device, run_as.is_some());
                Ok(probed)
            }
        }
    }

    /// What follows from a trial of KVM, given how long the emulator took; `own_users` where machines
    /// have users of their own.
    fn judged(tcg: Duration, kvm: Tried, device: &Path, own_users: bool) -> Judged {
        let unusable = |why: &str| format!("{} is there, and can't be used: {why}", device.display());
        match kvm {
            Tried::Ended(time) if time <= tcg => Judged::Sure(Self {
                accelerator: Accelerator::Kvm,
                reason: None,
                fix: None,
                tcg_ms: millis(tcg),
                kvm_ms: Some(millis(time)),
            }),
            Tried::Ended(time) => {
                let reason = format!(
                    "KVM is slower than the emulator: {} ms against {} ms",
                    millis(time),
                    millis(tcg)
                );
                Judged::OfTime(Self::emulated(tcg, Some(time), reason, NESTED))
            }
            Tried::Hung(why) => Judged::OfTime(Self::emulated(tcg, None, unusable(&why), NESTED)),
            Tried::Broke(why) => {
                // As another user than ours, who could open it.
                let denied = why.contains("Permission denied");
                let fix = if denied { mend(io::ErrorKind::PermissionDenied, own_users) } else { NESTED };
                Judged::Sure(Self::emulated(tcg, None, unusable(&why), fix))
            }
        }
    }

    fn emulated(tcg: Duration, kvm: Option<Duration>, reason: String, fix: &str) -> Self {
        Self {
            accelerator: Accelerator::Tcg,
            reason: Some(reason),
            fix: Some(fix.to_owned()),
            tcg_ms: millis(tcg),
            kvm_ms: kvm.map(millis),
        }
    }

    /// What `clawfarm doctor` says of it.
    #[must_use]
    pub fn check(&self) -> Check {
        let name = "accelerator".to_owned();
        match self.accelerator {
            Accelerator::Kvm => {
                let time = self.kvm_ms.unwrap_or_default();
                let detail = format!("KVM runs a guest in {time} ms, the emulator in {} ms", self.tcg_ms);
                Check { name, level: CheckLevel::Ok, detail, fix: None }
            }
            Accelerator::Tcg => {
                let reason = self.reason.as_deref().unwrap_or("KVM was not tried");
                let detail = format!("virtual machines are emulated, several times slower: {reason}");
                Check { name, level: CheckLevel::Warning, detail, fix: self.fix.clone() }
            }
        }
    }
}

/// What a trial says, and whether another moment could have said otherwise.
#[derive(Debug)]
enum Judged {
    Sure(Probed),
    OfTime(Probed),
}

const NESTED: &str = "where this machine is virtual itself, give it nested virtualisation that works; the \
                      emulator is used until then";

/// `own_users` where the server is root, and each machine has a user that nobody can put into a group.
fn mend(error: io::ErrorKind, own_users: bool) -> &'static str {
    match error {
        io::ErrorKind::NotFound => {
            "switch virtualisation on in the firmware and load the module (sudo modprobe kvm_intel or \
             kvm_amd); a machine that is virtual itself needs nested virtualisation"
        }
        io::ErrorKind::PermissionDenied if own_users => {
            "let a group use the device, which machines then get: as root, groupadd -rf kvm; chgrp kvm /dev/kvm; \
             chmod g+rw /dev/kvm; and so that it stays after the next boot, the line KERNEL==\"kvm\", \
             GROUP=\"kvm\", MODE=\"0660\" in /etc/udev/rules.d/65-kvm.rules. In a container, hand the device in"
        }
        io::ErrorKind::PermissionDenied => {
            "put the user into the group that owns it (sudo usermod -aG kvm USER), and log in again"
        }
        _ => "see whether the kernel's module works (dmesg)",
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;

    /// A QEMU that does with each accelerator what a line of shell says.
    async fn found_with(tcg: &str, kvm: &str, limit: u64) -> Result<Probed> {
        found_as(None, tcg, kvm, limit).await
    }

    async fn found_as(run_as: Option<RunAs>, tcg: &str, kvm: &str, limit: u64) -> Result<Probed> {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let path = folder.path().join("qemu");
        let text = format!("#!/bin/sh\ncase \"$*\" in *kvm*) {kvm} ;; *) {tcg} ;; esac\n");
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        let qemu = Qemu {
            path,
            data: vec![],
            version: crate::Version::new(10, 0, 0),
            machine: "pc-q35-10.0".into(),
            devices: std::collections::BTreeSet::new(),
        };
        // A device that anybody can open, so that it is tried.
        Probed::with(&qemu, run_as, Path::new("/dev/null"), Duration::from_secs(limit)).await
    }

    const ENDS: &str = "printf rlmwpt; exit 85";

    #[test]
    fn kvm_is_used_when_it_is_faster_than_the_emulator() {
        let judged = |kvm: u64| {
            Probed::judged(
                Duration::from_millis(200),
                Tried::Ended(Duration::from_millis(kvm)),
                Path::new("/kvm"),
                false,
            )
        };
        let Judged::Sure(probed) = judged(20) else { panic!("sure") };
        assert_eq!((probed.accelerator, probed.reason.clone()), (Accelerator::Kvm, None));
        assert_eq!(probed.check().level, CheckLevel::Ok);
        let Judged::OfTime(probed) = judged(700) else { panic!("not sure") };
        assert_eq!((probed.accelerator, probed.kvm_ms), (Accelerator::Tcg, Some(700)));
        assert!(probed.check().detail.contains("700 ms against 200 ms"), "{probed:?}");
    }

    #[tokio::test]
    async fn kvm_that_hangs_is_given_up_within_seconds() {
        let probed = found_with(ENDS, "printf r; exec sleep 600", 1).await.unwrap();
        assert_eq!(probed.accelerator, Accelerator::Tcg);
        assert!(probed.reason.unwrap().contains("not at its end"));
    }

    #[tokio::test]
    async fn kvm_that_breaks_off_is_told_in_qemus_words() {
        let abort = "printf rl; echo 'KVM internal error. Suberror: 1' >&2; exit 1";
        let probed = found_with(ENDS, abort, 60).await.unwrap();
        let reason = probed.reason.unwrap();
        assert!(reason.contains("Suberror: 1") && reason.contains("as far as long mode"), "{reason}");
        // A guest that calculates wrong says the right letters, and one of them not.
        let wrong = found_with(ENDS, "printf rlm; exit 85", 60).await.unwrap();
        assert_eq!(wrong.accelerator, Accelerator::Tcg);
        let denied = "echo 'Could not access KVM kernel module: Permission denied' >&2; exit 1";
        let probed = found_with(ENDS, denied, 60).await.unwrap();
        assert!(probed.fix.unwrap().contains("usermod"));
        let flood = found_with(ENDS, "exec cat /dev/zero", 1).await.unwrap();
        assert_eq!(flood.accelerator, Accelerator::Tcg);
    }

    #[test]
    fn the_group_of_a_device_is_for_who_needs_it() {
        use std::os::unix::fs::{PermissionsExt, chown};
        let folder = tempfile::tempdir().unwrap();
        let device = folder.path().join("kvm");
        std::fs::write(&device, "").unwrap();
        let with = |mode: u32| {
            std::fs::set_permissions(&device, std::fs::Permissions::from_mode(mode)).unwrap();
            group_of(&device)
        };
        let own = std::fs::metadata(&device).unwrap().gid();
        // Never root's.
        assert_eq!(with(0o660), Some(own).filter(|gid| *gid != 0));
        if chown(&device, None, Some(873_041)).is_err() {
            println!("skipped: this needs root");
            return;
        }
        assert_eq!(with(0o660), Some(873_041));
        for mode in [0o600, 0o640, 0o620, 0o666] {
            assert_eq!(with(mode), None, "{mode:o}");
        }
        assert_eq!(group_of(Path::new("/nowhere/kvm")), None);
    }

    #[tokio::test]
    async fn it_is_tried_as_who_runs_machines_with_the_group_of_the_device() {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: this needs root");
            return;
        }
        let run_as = |group| Some(RunAs { uid: 873_042, gid: 873_042, group });
        let tried = async |run_as: Option<RunAs>, kvm: &str| found_as(run_as, ENDS, kvm, 60).await.unwrap();
        let has = format!("[ \"$(id -u) $(id -G)\" = '873042 873042 873041' ] || exit 1; {ENDS}");
        let probed = tried(run_as(Some(873_041)), &has).await;
        // It is as fast as what it is compared to, so what is seen is that it was at its end.
        assert!(probed.kvm_ms.is_some(), "{probed:?}");
        let none = format!("[ \"$(id -G)\" = 873042 ] || exit 1; {ENDS}");
        assert!(tried(run_as(None), &none).await.kvm_ms.is_some());
        // Nobody can put a machine's own user into a group.
        let denied = "echo 'Could not access KVM kernel module: Permission denied' >&2; exit 1";
        let fix = tried(run_as(None), denied).await.fix.unwrap();
        assert!(fix.contains("chmod g+rw") && !fix.contains("usermod"), "{fix}");
    }

    #[tokio::test]
    async fn without_the_emulator_there_is_nothing() {
        let error = found_with("echo no firmware >&2; exit 1", ENDS, 60).await.unwrap_err();
        assert_eq!(error.code(), Code::Unavailable);
        assert!(error.message().contains("no firmware"), "{error}");
    }

    #[tokio::test]
    async fn without_a_device_the_reason_is_told() {
        let qemu = Qemu::find().await.unwrap();
        let probed = Probed::with(&qemu, None, Path::new("/nowhere/kvm"), KVM_LIMIT).await.unwrap();
        assert_eq!((probed.accelerator, probed.kvm_ms), (Accelerator::Tcg, None));
        let check = probed.check();
        assert_eq!(check.level, CheckLevel::Warning);
        assert!(check.detail.contains("/nowhere/kvm"), "{check:?}");
        assert!(check.fix.unwrap().contains("modprobe"));
    }
}
