//! One run of the guest.

use std::process::Stdio;
use std::time::{Duration, Instant};

use clawfarm_model::{Error, Result};
use rustix::process::{Gid, Uid};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};
use tokio::io::AsyncReadExt;

use super::{Accelerator, RunAs, rom};
use crate::found::Qemu;
use crate::machine::SANDBOX;
use crate::run::command;
use crate::text::tame;

/// The letters of a guest that came to its end: see `guest.s`.
const STEPS: &[u8] = b"rlmwpt";
/// What QEMU ends with when the guest says so.
const CODE: i32 = 2 * 0x2a + 1;
/// How much of QEMU's complaints is read, in bytes.
const COMPLAINT: u64 = 8 * 1024;

pub(super) struct Trial<'a> {
    pub(super) qemu: &'a Qemu,
    pub(super) accelerator: Accelerator,
    pub(super) run_as: Option<RunAs>,
}

/// What became of it.
#[derive(Debug)]
pub(super) enum Tried {
    /// It came to its end: how long from its first instruction on.
    Ended(Duration),
    /// QEMU ended before, or said something else.
    Broke(String),
    /// It was not at its end when the time was over.
    Hung(String),
}

impl Trial<'_> {
    pub(super) async fn run(&self, limit: Duration) -> Result<Tried> {
        let broken = |e| Error::internal("a guest could not be tried", e);
        let (accelerator, cpu) = match self.accelerator {
            Accelerator::Kvm => ("kvm", "host"),
            Accelerator::Tcg => ("tcg", "max"),
        };
        let mut command = command(&self.qemu.path);
        for folder in &self.qemu.data {
            command.arg("-L").arg(folder);
        }
        command
            .args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-m", "32M"])
            .args(["-machine", &self.qemu.machine, "-accel", accelerator, "-cpu", cpu])
            // The user that QEMU runs as may have no right to any file of ours: the ROM has no name.
            .args(["-bios", "/proc/self/fd/0", "-sandbox", SANDBOX])
            .args(["-chardev", "stdio,id=steps,signal=off"])
            .args(["-device", "isa-debugcon,iobase=0x402,chardev=steps"])
            .args(["-device", "isa-debug-exit,iobase=0xf4,iosize=4"])
            .stdin(Stdio::from(rom::file().map_err(broken)?))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if let Some(user) = self.run_as {
            // SAFETY: between fork and execution it makes three system calls with numbers, and takes no
            // lock and no memory.
            unsafe { command.pre_exec(move || become_user(user)) };
        }
        // Killed when it is dropped, however this ends.
        let mut child = command.spawn().map_err(broken)?;
        let (Some(mut out), Some(mut err)) = (child.stdout.take(), child.stderr.take()) else {
            return Err(broken(std::io::Error::other("no pipes")));
        };
        let mut steps = Vec::new();
        let mut first = None;
        let ended = tokio::time::timeout(limit, async {
            let mut complaint = Vec::new();
            let reads = async {
                let mut byte = [0];
                while matches!(out.read(&mut byte).await, Ok(1)) && steps.len() < 2 * STEPS.len() {
                    first.get_or_insert_with(Instant::now);
                    steps.extend(byte);
                }
                // Taken when the guest is at its end, and not QEMU.
                Instant::now()
            };
            let complains = async {
                let _ = (&mut err).take(COMPLAINT).read_to_end(&mut complaint).await;
            };
            let (last, ()) = tokio::join!(reads, complains);
            (child.wait().await, last, complaint)
        })
        .await;
        let far = far(&steps);
        Ok(match ended {
            Err(_) => Tried::Hung(format!("after {limit:?} its guest was not at its end; {far}")),
            Ok((Ok(status), last, _)) if status.code() == Some(CODE) && steps == STEPS => {
                Tried::Ended(first.map_or(Duration::ZERO, |first| last.duration_since(first)))
            }
            Ok((status, _, complaint)) => {
                let said = tame(&String::from_utf8_lossy(&complaint));
                let how = status.map_or_else(|e| e.to_string(), |status| status.to_string());
                let said = if said.is_empty() { String::new() } else { format!(": {said}") };
                Tried::Broke(format!("QEMU ended too early ({how}); {far}{said}"))
            }
        })
    }
}

/// Becomes the user that machines run as. `Command` itself would leave no group but the user's.
fn become_user(user: RunAs) -> std::io::Result<()> {
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    match user.group {
        Some(group) => set_thread_groups(&[Gid::from_raw(group)])?,
        None => set_thread_groups(&[])?,
    }
    set_thread_res_gid(gid, gid, gid)?;
    Ok(set_thread_res_uid(uid, uid, uid)?)
}

/// How far the guest came, in words.
fn far(steps: &[u8]) -> String {
    let reached = match steps.last() {
        None => return "it did not begin".into(),
        Some(b'r') => "real mode",
        Some(b'l') => "long mode",
        Some(b'm') => "the end of its memory",
        Some(b'w') => "the end of its arithmetic",
        Some(b'p') => "the end of its ports",
        Some(b't') => "its last step",
        Some(_) => return "it did something else".into(),
    };
    format!("it came as far as {reached}")
}
