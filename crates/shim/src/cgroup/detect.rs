//! Which cgroup hierarchies a machine has, read from its own words.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

/// The hierarchies that are mounted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Hierarchies {
    /// Where cgroup v2 is mounted.
    pub(crate) v2: Option<PathBuf>,
    /// The folder, under that mount, of the process that asked.
    pub(crate) v2_own: Option<PathBuf>,
    /// The controllers of cgroup v1, each with its mount.
    pub(crate) v1: Vec<(String, PathBuf)>,
}

impl Hierarchies {
    /// Reads the text of `/proc/self/mountinfo` and `/proc/self/cgroup` (`proc(5)`,
    /// `cgroups(7)`). Mounts that show only a part of a hierarchy (another root than `/`)
    /// are used from that part down: a container's cgroup namespace.
    pub(crate) fn parse(mountinfo: &str, own: &str) -> Self {
        let mut found = Self::default();
        for line in mountinfo.lines() {
            found.add_mount(line);
        }
        if let Some(mount) = &found.v2 {
            let path = own.lines().find_map(|line| line.strip_prefix("0::/"));
            found.v2_own = path.filter(|path| !path.contains("..")).map(|path| mount.join(path));
        }
        found
    }

    fn add_mount(&mut self, line: &str) -> Option<()> {
        let (before, after) = line.split_once(" - ")?;
        let point = unescape(before.split(' ').nth(4)?);
        // The kernel tells whole paths; another one would lead who joins to it astray.
        if point.components().any(|part| part == Component::ParentDir) {
            return None;
        }
        let mut after = after.split(' ');
        match after.next()? {
            "cgroup2" if self.v2.is_none() => self.v2 = Some(point),
            "cgroup" => {
                let options = after.nth(1)?;
                for name in options.split(',').filter(|name| CONTROLLERS.contains(name)) {
                    if self.v1(name).is_none() {
                        self.v1.push((name.to_owned(), point.clone()));
                    }
                }
            }
            _ => {}
        }
        Some(())
    }

    /// The mount of a controller of cgroup v1.
    pub(crate) fn v1(&self, controller: &str) -> Option<&Path> {
        self.v1.iter().find(|(name, _)| name == controller).map(|(_, mount)| mount.as_path())
    }
}

/// The v1 controllers that are of use here.
const CONTROLLERS: [&str; 5] = ["memory", "cpu", "cpuacct", "pids", "freezer"];

/// Paths in mountinfo have space, tab, newline and backslash as `\040` and the like.
fn unescape(text: &str) -> PathBuf {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let octal = bytes.get(at + 1..at + 4).filter(|_| byte == b'\\');
        let value =
            octal.and_then(|d| std::str::from_utf8(d).ok()).and_then(|d| u8::from_str_radix(d, 8).ok());
        out.push(value.unwrap_or(byte));
        at += if value.is_some() { 4 } else { 1 };
    }
    PathBuf::from(OsString::from_vec(out))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_2_alone() {
        let found = Hierarchies::parse(
            "22 27 0:21 / /proc rw - proc proc rw\n\
             35 25 0:30 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n",
            "0::/user.slice/user-1000.slice/session-3.scope\n",
        );
        assert_eq!(found.v2.as_deref(), Some(Path::new("/sys/fs/cgroup")));
        let own = "/sys/fs/cgroup/user.slice/user-1000.slice/session-3.scope";
        assert_eq!(found.v2_own.as_deref(), Some(Path::new(own)));
        assert!(found.v1.is_empty());
    }

    #[test]
    fn version_1_with_joined_controllers() {
        let found = Hierarchies::parse(
            "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n\
             32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct\n\
             33 31 0:30 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
             34 31 0:31 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n",
            "3:memory:/a\n2:cpu,cpuacct:/\n",
        );
        assert_eq!((found.v2.clone(), found.v2_own.clone()), (None, None));
        assert_eq!(found.v1("cpu"), Some(Path::new("/sys/fs/cgroup/cpu,cpuacct")));
        assert_eq!(found.v1("cpuacct"), found.v1("cpu"));
        assert_eq!(found.v1("memory"), Some(Path::new("/sys/fs/cgroup/memory")));
        assert_eq!(found.v1("freezer"), None);
    }

    #[test]
    fn both_versions_and_odd_paths() {
        let found = Hierarchies::parse(
            "35 31 0:32 / /my\\040cgroups/memory rw - cgroup cgroup rw,memory\n\
             41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n",
            "4:memory:/x\n0::/\n",
        );
        assert_eq!(found.v1("memory"), Some(Path::new("/my cgroups/memory")));
        assert_eq!(found.v2_own.as_deref(), Some(Path::new("/sys/fs/cgroup/unified/")));
    }

    #[test]
    fn nothing_and_nonsense() {
        for text in ["", "- - -", "1 2 3 - cgroup", "22 27 0:21 / /proc rw - proc proc rw\n"] {
            assert_eq!(Hierarchies::parse(text, "0::/x"), Hierarchies::default(), "{text}");
        }
        let outside = Hierarchies::parse("35 25 0:30 / /c rw - cgroup2 cgroup2 rw\n", "0::/../../x\n");
        assert_eq!(outside.v2_own, None);
    }

    #[test]
    fn fuzz_mountinfo_and_cgroup() {
        let seed = "35 24 0:30 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n36 24 0:31 / /sys/fs/cgroup/me\\040mory rw - cgroup cgroup rw,memory,cpu\n0::/user.slice/x";
        clawfarm_fuzz::fuzz_text(&[seed], |text| {
            let found = Hierarchies::parse(text, text);
            assert!(found.v2_own.is_none_or(|own| !own.to_string_lossy().contains("/../")));
            assert!(found.v1.len() <= CONTROLLERS.len());
        });
    }
}
