//! The processes of a claw, found by descent: the shim is the subreaper of all of them, so
//! whoever leaves its parent becomes a child of the shim.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;

use clawfarm_model::{Error, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// What `/proc/<pid>/stat` says of a process (`proc_pid_stat(5)`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    pub(crate) parent: u32,
    /// `Z` is a zombie, `T` is stopped.
    pub(crate) state: char,
    /// Processor time of it and of the children it has waited for, in clock ticks.
    pub(crate) ticks: u64,
    pub(crate) threads: u64,
    /// When it was made, in clock ticks since boot.
    pub(crate) start_ticks: u64,
    /// Resident memory, in pages.
    pub(crate) resident_pages: u64,
}

impl Process {
    fn parse(text: &str) -> Option<Self> {
        let (pid, rest) = text.split_once(" (")?;
        // The name may hold anything, parentheses too.
        let (_, rest) = rest.rsplit_once(") ")?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        let number = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        Some(Self {
            pid: pid.parse().ok()?,
            parent: u32::try_from(number(4)?).ok()?,
            state: fields.first()?.chars().next()?,
            ticks: (14..=17).filter_map(number).fold(0, u64::saturating_add),
            threads: number(20)?,
            start_ticks: number(22)?,
            resident_pages: number(24)?,
        })
    }

    /// Looks at one process; `None` when there is none by this number.
    pub(crate) fn look(pid: u32) -> Option<Self> {
        Self::parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }
}

/// The effective user of a process, as `/proc` shows it.
pub(crate) fn owner(pid: u32) -> Option<u32> {
    fs::metadata(format!("/proc/{pid}")).ok().map(|meta| meta.uid())
}

/// All processes of this machine that can be seen.
pub(crate) fn all() -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(Process::look)
        .collect()
}

/// The living descendants of a process, without those of `except` and zombies.
pub(crate) fn descendants(root: u32, except: &[u32]) -> Vec<Process> {
    let all = all();
    let mut found: Vec<u32> = vec![root];
    let mut next = 0;
    while let Some(&parent) = found.get(next) {
        let children = all.iter().filter(|p| p.parent == parent && !except.contains(&p.pid));
        found.extend(children.map(|p| p.pid).filter(|pid| *pid != root).collect::<Vec<_>>());
        next += 1;
    }
    all.into_iter().filter(|p| p.pid != root && p.state != 'Z' && found.contains(&p.pid)).collect()
}

/// Whether a process is no descendant of `root`. One that has gone is none to be trusted.
pub(crate) fn is_outside(pid: u32, root: u32) -> bool {
    let mut at = pid;
    while at > 1 {
        match Process::look(at) {
            Some(process) if process.parent != root && at != root => at = process.parent,
            _ => return false,
        }
    }
    pid > 0
}

/// Sends a signal to each of them; those that ended meanwhile are passed over.
pub(crate) fn signal(processes: &[Process], signal: Signal) {
    for process in processes {
        let _ = kill(Pid::from_raw(process.pid.cast_signed()), signal);
    }
}

/// Bytes a process (and the children it has waited for) read from and wrote to disks.
pub(crate) fn disk_bytes(pid: u32) -> (u64, u64) {
    let text = fs::read_to_string(format!("/proc/{pid}/io")).unwrap_or_default();
    let field = |name: &str| {
        text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok()).unwrap_or(0)
    };
    (field("read_bytes:"), field("write_bytes:"))
}

/// Which boot of the machine this is.
///
/// # Errors
/// `Internal` when `/proc` does not say.
pub fn boot_id() -> Result<String> {
    read_boot_id().map_err(|error| {
        Error::internal("/proc/sys/kernel/random/boot_id could not be read", error).fix("mount /proc")
    })
}

fn read_boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// Whether the process of this number is still the one that was made at `start_ticks`.
#[must_use]
pub fn is_same_process(pid: u32, start_ticks: u64) -> bool {
    Process::look(pid).is_some_and(|p| p.start_ticks == start_ticks && p.state != 'Z')
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn names_can_not_confuse_it() {
        let line = "42 (a) R 1 (b) S 7 42 42 0 -1 4194560 1 2 3 4 10 20 30 40 20 0 5 0 999 111 222 18446744073709551615 1";
        let process = Process::parse(line).unwrap();
        assert_eq!((process.pid, process.parent, process.state), (42, 7, 'S'));
        assert_eq!((process.ticks, process.threads), (100, 5));
        assert_eq!((process.start_ticks, process.resident_pages), (999, 222));
        assert_eq!(Process::parse("42 (a"), None);
    }

    #[test]
    fn finds_children_but_not_exceptions() {
        let mut child = Command::new("sleep").arg("30").spawn().unwrap();
        let own = std::process::id();
        let pids = |except: &[u32]| descendants(own, except).iter().map(|p| p.pid).collect::<Vec<_>>();
        assert!(pids(&[]).contains(&child.id()));
        assert!(!pids(&[child.id()]).contains(&child.id()));
        assert!(!is_outside(child.id(), own) && is_outside(own, child.id()) && is_outside(1, own));
        let started = Process::look(child.id()).unwrap().start_ticks;
        assert!(is_same_process(child.id(), started));
        assert!(!is_same_process(child.id(), started + 1));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!is_same_process(child.id(), started));
        assert!(!is_outside(child.id(), own) && !is_outside(0, own));
    }

    #[test]
    fn fuzz_proc_stat() {
        let seed = "4242 (no de) R) S 1 4242 4242 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 11 0 12345 67890 100 18446744073709551615 1 1";
        clawfarm_fuzz::fuzz_text(&[seed], |text| {
            let _ = Process::parse(text);
        });
    }
}
