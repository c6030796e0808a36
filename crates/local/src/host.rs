//! What this machine has.

use std::path::{Path, PathBuf};

use clawfarm_model::target::Capacity;
use clawfarm_model::{Error, Result};
use procfs::{Current, Meminfo};

/// A cgroup hierarchy that is mounted here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchy {
    /// 1 or 2.
    pub version: u8,
    /// Where.
    pub point: PathBuf,
    /// Those of [`CONTROLLERS`] that it has, and perhaps others.
    pub controllers: Vec<String>,
}

/// The cgroup controllers that instances can need.
pub const CONTROLLERS: [&str; 4] = ["memory", "cpu", "freezer", "pids"];

/// The cgroup hierarchies of this machine.
#[must_use]
pub fn cgroups() -> Vec<Hierarchy> {
    let mounts = procfs::process::Process::myself().and_then(|me| me.mountinfo());
    mounts
        .map(|mounts| {
            mounts
                .into_iter()
                .filter_map(|mount| {
                    let options = mount.super_options.into_keys().collect();
                    hierarchy(&mount.fs_type, mount.mount_point, options)
                })
                .collect()
        })
        .unwrap_or_default()
}

fn hierarchy(kind: &str, point: PathBuf, options: Vec<String>) -> Option<Hierarchy> {
    match kind {
        "cgroup2" => {
            let found = std::fs::read_to_string(point.join("cgroup.controllers")).unwrap_or_default();
            let mut controllers: Vec<String> = found.split_ascii_whitespace().map(str::to_owned).collect();
            // The freezer of version 2 is part of every group (kernel 5.2 and newer).
            controllers.push("freezer".to_owned());
            Some(Hierarchy { version: 2, point, controllers })
        }
        "cgroup" => {
            let controllers = options.into_iter().filter(|o| CONTROLLERS.contains(&o.as_str())).collect();
            Some(Hierarchy { version: 1, point, controllers })
        }
        _ => None,
    }
}

/// Whether a cgroup limits the memory of claws that are started here: there is such a
/// controller, and the server may make groups in it.
#[must_use]
pub fn memory_cgroup() -> bool {
    cgroups()
        .iter()
        .any(|found| found.controllers.iter().any(|name| name == "memory") && may_make_groups(found))
}

/// Root makes groups anywhere; others in version 2, in the group that was delegated to them.
#[must_use]
pub fn may_make_groups(found: &Hierarchy) -> bool {
    if rustix::process::geteuid().is_root() {
        return writable(&found.point);
    }
    if found.version != 2 {
        return false;
    }
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    own.lines()
        .find_map(|line| line.strip_prefix("0::/"))
        .is_some_and(|path| !path.contains("..") && writable(&found.point.join(path)))
}

/// Whether the kernel gives the memory of a group back on request: a file that every group has.
#[must_use]
pub fn can_reclaim(found: &Hierarchy) -> bool {
    found.point.join("memory.reclaim").exists()
}

fn writable(path: &Path) -> bool {
    rustix::fs::access(path, rustix::fs::Access::WRITE_OK).is_ok()
}

/// The version of Landlock that the kernel offers; `None` without it.
#[must_use]
pub fn landlock_abi() -> Option<u32> {
    /// `LANDLOCK_CREATE_RULESET_VERSION` of landlock_create_ruleset(2).
    const ASK_VERSION: libc::c_uint = 1;
    // SAFETY: with this flag, no attributes and size 0 the call only answers a number.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::null::<libc::c_void>(),
            0_usize,
            ASK_VERSION,
        )
    };
    u32::try_from(answer).ok().filter(|abi| *abi > 0)
}

/// Cores and memory.
///
/// # Errors
/// `Internal` when `/proc` does not say.
pub fn capacity() -> Result<Capacity> {
    let memory = Meminfo::current()
        .map_err(|e| Error::internal("the memory of this machine could not be read from /proc/meminfo", e))?;
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    const MIB: u64 = 1 << 20;
    Ok(Capacity {
        cpus: f64::from(u32::try_from(cores).unwrap_or(u32::MAX)),
        memory_mib: memory.mem_total / MIB,
        memory_available_mib: memory.mem_available.unwrap_or(memory.mem_free) / MIB,
    })
}

/// Bytes that can still be written below a folder, and the part of its inodes that is free,
/// in percent; the folder need not exist yet.
///
/// # Errors
/// When the folder can't be looked at.
pub fn free_space(path: &Path) -> std::io::Result<(u64, u64)> {
    let existing = path.ancestors().find(|folder| folder.exists()).unwrap_or(Path::new("/"));
    let stat = rustix::fs::statvfs(existing)?;
    // Some file systems count no inodes.
    let inodes = stat.f_favail.saturating_mul(100).checked_div(stat.f_files).unwrap_or(100);
    Ok((stat.f_bavail.saturating_mul(stat.f_frsize), inodes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_of_cgroups_are_understood() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("cgroup.controllers"), "cpu memory pids\n").unwrap();
        let v2 = hierarchy("cgroup2", dir.path().to_owned(), Vec::new()).unwrap();
        assert_eq!((v2.version, v2.controllers.len()), (2, 4));
        let v1 = hierarchy("cgroup", "/x".into(), vec!["rw".into(), "memory".into()]).unwrap();
        assert_eq!((v1.version, v1.controllers), (1, vec!["memory".to_owned()]));
        assert_eq!(hierarchy("tmpfs", "/x".into(), Vec::new()), None);
    }

    #[test]
    fn this_machine_has_cores_and_memory() {
        let found = capacity().unwrap();
        assert!(found.cpus >= 1.0 && found.memory_mib > found.memory_available_mib / 2);
    }
}
