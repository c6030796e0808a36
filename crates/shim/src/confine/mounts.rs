//! A mount namespace in which some folders show only what the claw may see of them.

use std::fs::{self, DirBuilder, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::{Mode, umask};

use crate::spec::{Bind, MountSpec};

const NOTHING: Option<&str> = None;

/// Moves this process into a mount namespace of its own, in which what is to be hidden is
/// covered and the binds appear again at their own places.
///
/// # Errors
/// Says what could not be done, and whether the process may go on without.
pub(crate) fn enter(spec: &MountSpec) -> Result<(), Failure> {
    unshare(CloneFlags::CLONE_NEWNS)
        .map_err(|error| Failure::Unchanged(format!("a mount namespace can't be made: {error}")))?;
    let before = umask(Mode::empty());
    let done = arrange(spec);
    umask(before);
    done
}

/// How far [`enter`] came.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The process sees what it saw before.
    Unchanged(String),
    /// The process must not run a claw.
    HalfDone(String),
}

fn arrange(spec: &MountSpec) -> Result<(), Failure> {
    mount(NOTHING, "/", NOTHING, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NOTHING)
        .map_err(|error| Failure::Unchanged(format!("mounts can't be made private: {error}")))?;
    // Held open, because their paths are about to be covered.
    let sources = spec.binds.iter().map(open).collect::<Result<Vec<_>, _>>().map_err(Failure::HalfDone)?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    for (covered, hide) in spec.hide.iter().enumerate() {
        mount(Some("clawfarm"), hide, Some("tmpfs"), flags, Some("mode=0755,size=1m")).map_err(|error| {
            let text = format!("{} can't be covered: {error}", hide.display());
            if covered == 0 { Failure::Unchanged(text) } else { Failure::HalfDone(text) }
        })?;
    }
    for (bind, source) in spec.binds.iter().zip(&sources) {
        show(bind, source).map_err(|error| half_done(&bind.path, "shown", &error))?;
    }
    let read_only = flags | MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    for hide in &spec.hide {
        mount(NOTHING, hide, NOTHING, read_only, NOTHING)
            .map_err(|error| half_done(hide, "made read-only", &error.into()))?;
    }
    Ok(())
}

fn half_done(path: &Path, what: &str, error: &std::io::Error) -> Failure {
    Failure::HalfDone(format!("{} can't be {what}: {error}", path.display()))
}

fn open(bind: &Bind) -> Result<File, String> {
    File::options()
        .read(true)
        .custom_flags(libc::O_PATH | libc::O_CLOEXEC)
        .open(&bind.path)
        .map_err(|error| format!("{} can't be opened: {error}", bind.path.display()))
}

fn show(bind: &Bind, source: &File) -> Result<(), std::io::Error> {
    if source.metadata()?.is_dir() {
        DirBuilder::new().recursive(true).mode(0o755).create(&bind.path)?;
    } else {
        let parent = bind.path.parent().unwrap_or(Path::new("/"));
        DirBuilder::new().recursive(true).mode(0o755).create(parent)?;
        fs::write(&bind.path, "")?;
    }
    let held = PathBuf::from(format!("/proc/self/fd/{}", source.as_raw_fd()));
    mount(Some(&held), &bind.path, NOTHING, MsFlags::MS_BIND, NOTHING)?;
    let mut flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    if bind.read_only {
        flags |= MsFlags::MS_RDONLY;
    }
    mount(NOTHING, &bind.path, NOTHING, flags, NOTHING)?;
    Ok(())
}

/// Shows in `/proc` only the processes of the reader's own user (`proc(5)`, `hidepid`;
/// per mount since Linux 5.8). Only in a mount namespace of one's own.
///
/// # Errors
/// Says why not; nothing is changed then.
pub(crate) fn hide_processes() -> Result<(), String> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("proc"), "/proc", Some("proc"), flags, Some("hidepid=2"))
        .map_err(|error| format!("the names of other users' processes can be seen: {error}"))
}
