use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use clawfarm_model::resources::Resources;

use super::detect::Hierarchies;
use super::{Cgroups, Version};
use crate::spec::CgroupSpec;

/// Where a real hierarchy can be written to; a reason to skip else.
fn machine() -> Option<Hierarchies> {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: making cgroups needs root");
        return None;
    }
    let text = |path| std::fs::read_to_string(path).unwrap();
    Some(Hierarchies::parse(&text("/proc/self/mountinfo"), &text("/proc/self/cgroup")))
}

fn spec(name: &str) -> CgroupSpec {
    CgroupSpec {
        name: format!("clawfarm-test/{}-{name}", std::process::id()).into(),
        parent: None,
        loopback: None,
    }
}

/// A process that would run for a minute.
struct Sleeper(Child);

impl Sleeper {
    fn new() -> Self {
        Self(Command::new("sleep").arg("60").spawn().unwrap())
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn freezes_kills_and_removes(found: &Hierarchies, name: &str) {
    let cgroups = Cgroups::make_in(found, &spec(name), &Resources::default(), 64);
    if cgroups.dirs.is_empty() {
        println!("skipped: no cgroup could be made: {:?}", cgroups.missing);
        return;
    }
    let mut sleeper = Sleeper::new();
    cgroups.place(sleeper.0.id()).unwrap();
    assert_eq!(cgroups.processes(), [sleeper.0.id()]);
    if let Some(freezer) = &cgroups.freezer {
        cgroups.freeze(freezer).unwrap();
        cgroups.freeze(freezer).unwrap();
        cgroups.thaw(freezer).unwrap();
        cgroups.freeze(freezer).unwrap();
    }
    cgroups.kill();
    sleeper.0.wait().unwrap();
    cgroups.remove();
    for dir in &cgroups.dirs {
        assert!(!dir.exists(), "{} is left", dir.display());
    }
}

#[test]
fn works_with_what_the_machine_has() {
    if let Some(found) = machine() {
        freezes_kills_and_removes(&found, "all");
    }
}

#[test]
fn works_with_version_1_alone() {
    if let Some(found) = machine() {
        let v1 = Hierarchies { v2: None, v2_own: None, v1: found.v1 };
        freezes_kills_and_removes(&v1, "v1");
    }
}

#[test]
fn works_with_version_2_alone() {
    if let Some(found) = machine() {
        freezes_kills_and_removes(&Hierarchies { v1: Vec::new(), ..found }, "v2");
    }
}

#[test]
fn without_any_everything_is_said_to_be_missing() {
    let cgroups = Cgroups::make_in(&Hierarchies::default(), &spec("none"), &Resources::default(), 64);
    assert!(cgroups.dirs.is_empty() && cgroups.memory.is_none());
    for controller in ["memory", "cpu", "pids", "freezer"] {
        assert!(cgroups.missing.iter().any(|m| m.contains(controller)), "{:?}", cgroups.missing);
    }
    cgroups.kill();
    cgroups.remove();
}

#[test]
fn a_parent_that_can_not_be_written_is_said() {
    let parent = Some(PathBuf::from("/proc/self/no-such-place"));
    let spec = CgroupSpec { parent, ..spec("refused") };
    let cgroups = Cgroups::make_in(&Hierarchies::default(), &spec, &Resources::default(), 64);
    assert!(cgroups.missing[0].contains("/proc/self/no-such-place"), "{:?}", cgroups.missing);
}

/// A folder that looks like cgroup v2, to see the words that are written.
#[test]
fn the_limits_of_version_2_are_written_as_the_kernel_reads_them() {
    let dir = tempfile::tempdir().unwrap();
    let parent = dir.path().to_owned();
    let leaf = parent.join("clawfarm/x");
    std::fs::create_dir_all(&leaf).unwrap();
    for (dir, file, text) in [
        (&parent, "cgroup.controllers", "cpu memory pids"),
        (&leaf, "cgroup.controllers", "cpu memory pids"),
        (&leaf, "cgroup.procs", ""),
        (&leaf, "cgroup.freeze", "0"),
        (&leaf, "memory.events", "low 0\noom 3\noom_kill 2\noom_group_kill 1\n"),
        (&leaf, "memory.current", "5000\n"),
        (&leaf, "memory.stat", "anon 1\ninactive_file 1000\n"),
        (&leaf, "cpu.stat", "usage_usec 2500000\nuser_usec 1\n"),
        (&leaf, "pids.current", "7\n"),
    ] {
        std::fs::write(dir.join(file), text).unwrap();
    }
    let spec = CgroupSpec { name: "clawfarm/x".into(), parent: Some(parent), loopback: None };
    let resources = Resources { cpus: 0.5, memory_mib: 64 };
    let cgroups = Cgroups::make_in(&Hierarchies::default(), &spec, &resources, 99);
    let read = |file: &str| std::fs::read_to_string(leaf.join(file)).unwrap();
    assert_eq!(cgroups.memory.as_ref().unwrap().version, Version::V2);
    assert_eq!(read("memory.max"), (64 << 20).to_string());
    assert_eq!(read("memory.oom.group"), "1");
    assert_eq!(read("cpu.max"), "50000 100000");
    assert_eq!(read("pids.max"), "99");
    assert_eq!(cgroups.out_of_memory_kills(), 2);
    assert_eq!(cgroups.memory_bytes(), Some(4000));
    assert_eq!(cgroups.cpu_millis(), Some(2500));
    assert_eq!(cgroups.tasks(), Some(7));
    assert!(cgroups.missing.is_empty(), "{:?}", cgroups.missing);
    assert_eq!(cgroups.dirs, [Path::new(&leaf)]);
    assert!(cgroups.give_memory_back().is_none(), "a kernel without memory.reclaim");
    std::fs::write(leaf.join("memory.reclaim"), "").unwrap();
    cgroups.give_memory_back().unwrap().join().unwrap();
    assert_eq!((read("memory.reclaim"), read("memory.swap.max")), ("5000".to_owned(), "max".to_owned()));
    cgroups.keep_memory();
    assert_eq!(read("memory.swap.max"), "0", "awake, it does not swap");
}
