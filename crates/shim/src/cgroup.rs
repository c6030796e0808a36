//! The claw's cgroups: who limits its memory, processor time and processes, and who freezes
//! and kills it as a whole.
//!
//! Cgroup v2 is taken where its controllers are to be had, v1 for the rest; what neither
//! gives is said in `missing`. The choice is made by trying, because files that exist can
//! still refuse (a parent that holds processes, a mount that is read-only).

mod control;
mod detect;
mod loopback;
mod measure;

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clawfarm_model::resources::Resources;

use crate::lock::nap;
use crate::spec::CgroupSpec;
use detect::Hierarchies;

/// What begins the reason why a claw is not kept from this machine's own addresses.
const LOOPBACK: &str = "this machine's 127.0.0.1 can be reached";

/// Which interface a controller is reached by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    V1,
    V2,
}

impl Version {
    /// As [`clawfarm_model::observed::Confinement`] says it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::V1 => "cgroup v1",
            Self::V2 => "cgroup v2",
        }
    }
}

/// One controller's folder for this claw.
#[derive(Clone, Debug)]
pub(crate) struct Controller {
    pub(crate) version: Version,
    dir: PathBuf,
}

/// The cgroups of one claw.
#[derive(Debug, Default)]
pub(crate) struct Cgroups {
    pub(crate) memory: Option<Controller>,
    pub(crate) cpu: Option<Controller>,
    pub(crate) freezer: Option<Controller>,
    pids: Option<Controller>,
    accounting: Option<Controller>,
    /// Every folder that was made; a process is put into each of them.
    pub(crate) dirs: Vec<PathBuf>,
    /// What could not be had, and why.
    pub(crate) missing: Vec<String>,
    /// The folder in the hierarchy of version 2.
    unified: Option<PathBuf>,
}

/// Whether this machine can keep a claw from its own addresses ([`CgroupSpec::loopback`]).
///
/// # Errors
/// Says why not.
pub fn can_guard_loopback() -> std::result::Result<(), String> {
    let text = |path| fs::read_to_string(path).unwrap_or_default();
    let found = Hierarchies::parse(&text("/proc/self/mountinfo"), &text("/proc/self/cgroup"));
    found.v2.ok_or("cgroup v2 is not mounted")?;
    loopback::can_guard()
}

impl Cgroups {
    /// Makes the claw's cgroups on this machine and sets its limits. What an earlier claw
    /// left in them is killed. Never fails: what can't be had is in `missing`.
    pub(crate) fn make(spec: &CgroupSpec, resources: &Resources, max_tasks: u32) -> Self {
        let text = |path| fs::read_to_string(path).unwrap_or_default();
        let found = Hierarchies::parse(&text("/proc/self/mountinfo"), &text("/proc/self/cgroup"));
        Self::make_in(&found, spec, resources, max_tasks)
    }

    fn make_in(found: &Hierarchies, spec: &CgroupSpec, resources: &Resources, max_tasks: u32) -> Self {
        let mut made = Self::default();
        let v2 = made.unified(found, spec);
        made.memory = made.pick("memory", v2.as_deref(), found, spec);
        made.cpu = made.pick("cpu", v2.as_deref(), found, spec);
        made.pids = made.pick("pids", v2.as_deref(), found, spec);
        made.freezer = match &v2 {
            Some(dir) if dir.join("cgroup.freeze").exists() => {
                Some(Controller { version: Version::V2, dir: dir.clone() })
            }
            _ => made.pick("freezer", None, found, spec),
        };
        made.accounting = match &v2 {
            Some(dir) if made.cpu.as_ref().is_some_and(|cpu| cpu.version == Version::V2) => {
                Some(Controller { version: Version::V2, dir: dir.clone() })
            }
            _ => made.v1("cpuacct", found, spec).and_then(Result::ok),
        };
        made.clear();
        made.limit(resources, max_tasks);
        made.unified = v2;
        made.guard(spec.loopback.as_deref());
        made
    }

    /// Keeps it from this machine's own addresses, where that is asked for.
    fn guard(&mut self, ports: Option<&[u16]>) {
        let Some(ports) = ports else { return };
        let guarded = match &self.unified {
            Some(dir) => loopback::guard(dir, ports),
            None => Err("there is no cgroup v2".into()),
        };
        if let Err(why) = guarded {
            self.missing.push(format!("{LOOPBACK}: {why}"));
        }
    }

    /// None at all, on request.
    pub(crate) fn none() -> Self {
        Self { missing: vec!["cgroups: not asked for".into()], ..Self::default() }
    }

    /// Those of an earlier claw, by their folders, only to end what is left in them.
    pub(crate) fn adopt(dirs: &[PathBuf]) -> Self {
        let dirs: Vec<PathBuf> =
            dirs.iter().filter(|dir| dir.join("cgroup.procs").exists()).cloned().collect();
        let freezer = dirs.iter().find_map(|dir| {
            let version = if dir.join("cgroup.freeze").exists() {
                Version::V2
            } else if dir.join("freezer.state").exists() {
                Version::V1
            } else {
                return None;
            };
            Some(Controller { version, dir: dir.clone() })
        });
        Self { freezer, dirs, ..Self::default() }
    }

    /// Makes the folder in the unified hierarchy and turns its controllers on, from the
    /// delegated folder down.
    fn unified(&mut self, found: &Hierarchies, spec: &CgroupSpec) -> Option<PathBuf> {
        let base = match (&spec.parent, &found.v2) {
            (Some(parent), _) => parent.clone(),
            (None, Some(mount)) if nix::unistd::geteuid().is_root() => mount.clone(),
            (None, Some(_)) => delegated(found.v2_own.as_deref()?)?,
            (None, None) => return None,
        };
        match make_unified(&base, &spec.name) {
            Ok(dir) => {
                self.dirs.push(dir.clone());
                Some(dir)
            }
            Err(error) => {
                self.missing.push(format!(
                    "cgroup v2: {} could not be made: {error}",
                    base.join(&spec.name).display()
                ));
                None
            }
        }
    }

    fn pick(
        &mut self,
        name: &str,
        v2: Option<&Path>,
        found: &Hierarchies,
        spec: &CgroupSpec,
    ) -> Option<Controller> {
        if let Some(dir) = v2.filter(|dir| lists(&dir.join("cgroup.controllers"), name)) {
            return Some(Controller { version: Version::V2, dir: dir.to_owned() });
        }
        match self.v1(name, found, spec) {
            Some(Ok(controller)) => Some(controller),
            Some(Err(error)) => {
                self.missing.push(format!("cgroup controller {name}: no folder can be made: {error}"));
                None
            }
            None => {
                self.missing.push(format!("cgroup controller {name}: the machine gives us none"));
                None
            }
        }
    }

    fn v1(
        &mut self,
        name: &str,
        found: &Hierarchies,
        spec: &CgroupSpec,
    ) -> Option<Result<Controller, io::Error>> {
        Some(make_dirs(found.v1(name)?, &spec.name).map(|dir| {
            if !self.dirs.contains(&dir) {
                self.dirs.push(dir.clone());
            }
            Controller { version: Version::V1, dir }
        }))
    }

    /// Puts a process into all of them; its children are born there.
    ///
    /// # Errors
    /// Names the folder that refused it.
    pub(crate) fn place(&self, pid: u32) -> Result<(), String> {
        for dir in &self.dirs {
            fs::write(dir.join("cgroup.procs"), pid.to_string())
                .map_err(|error| format!("{} does not take the process: {error}", dir.display()))?;
        }
        Ok(())
    }

    /// The processes in them; in no one's cgroups, none.
    pub(crate) fn processes(&self) -> Vec<u32> {
        let mut pids = Vec::new();
        for dir in &self.dirs {
            let text = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
            pids.extend(text.lines().filter_map(|line| line.parse::<u32>().ok()).filter(|&pid| pid != 0));
        }
        pids.sort_unstable();
        pids.dedup();
        pids
    }

    /// Kills what is in them and waits until it is gone, for at most two seconds.
    fn clear(&self) {
        let deadline = Instant::now() + Duration::from_secs(2);
        while !self.processes().is_empty() && Instant::now() < deadline {
            self.kill();
            nap(Duration::from_millis(10));
        }
    }

    /// Removes their folders, and the folders above that are empty now. What is still in use
    /// stays; the next start of the instance or [`crate::sweep()`] removes it.
    pub(crate) fn remove(&self) {
        self.clear();
        let deadline = Instant::now() + Duration::from_secs(1);
        for dir in &self.dirs {
            // A cgroup is in use until the kernel has let go of its last zombie.
            while let Err(error) = fs::remove_dir(dir) {
                if error.kind() == io::ErrorKind::NotFound || Instant::now() > deadline {
                    break;
                }
                nap(Duration::from_millis(5));
            }
            if let Some(parent) = dir.parent() {
                let _ = fs::remove_dir(parent);
                let _ = parent.parent().map(fs::remove_dir);
            }
        }
    }
}

/// Whether a file of words (`cgroup.controllers`) has this one.
fn lists(file: &Path, word: &str) -> bool {
    fs::read_to_string(file).is_ok_and(|text| text.split_whitespace().any(|w| w == word))
}

/// Makes a folder below `base`; another claw may remove an empty one in between. The claw can
/// read its own limits in there: V8 sizes its heap by them.
fn make_dirs(base: &Path, name: &Path) -> io::Result<PathBuf> {
    let dir = base.join(name);
    let mut made = fs::create_dir_all(&dir);
    for _ in 0..5 {
        if !matches!(&made, Err(error) if error.kind() == io::ErrorKind::NotFound) {
            break;
        }
        made = fs::create_dir_all(&dir);
    }
    made?;
    for dir in dir.ancestors().take_while(|dir| *dir != base) {
        // Those of someone else are as they are meant to be.
        let _ = fs::set_permissions(dir, fs::Permissions::from_mode(0o755));
    }
    Ok(dir)
}

fn make_unified(base: &Path, name: &Path) -> io::Result<PathBuf> {
    let dir = make_dirs(base, name)?;
    let mut above = base.to_owned();
    for part in name.components() {
        for controller in ["memory", "cpu", "pids"] {
            if lists(&above.join("cgroup.controllers"), controller) {
                // A refusal shows below: the controller is not listed in the claw's folder.
                let _ = fs::write(above.join("cgroup.subtree_control"), format!("+{controller}"));
            }
        }
        above.push(part);
    }
    Ok(dir)
}

/// The topmost folder above `own` that this user may move processes in: what systemd has
/// delegated to it.
fn delegated(own: &Path) -> Option<PathBuf> {
    let writable =
        |dir: &&Path| nix::unistd::access(&dir.join("cgroup.procs"), nix::unistd::AccessFlags::W_OK).is_ok();
    own.ancestors().take_while(writable).last().map(Path::to_owned)
}

#[cfg(test)]
mod tests;
