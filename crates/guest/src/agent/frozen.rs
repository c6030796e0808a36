//! Disks that hold still for a while, so that a copy of them taken meanwhile is whole.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use std::{fs, io};

use nix::errno::Errno;
use tokio::process::Command;
use tokio::sync::Mutex;
use tokio::time::timeout;

/// Where programs are that are told before and after, in the order of their names, with `freeze`
/// or `thaw`: of databases, for example.
const HOOKS: &str = "/etc/clawfarm/hooks.d";
/// How long one of them may take.
const HOOK_LIMIT: Duration = Duration::from_secs(10);
/// The longest that disks may hold still: whatever writes waits, the agent's host included.
const LONGEST: Duration = Duration::from_secs(600);
/// `FIFREEZE` and `FITHAW` of linux/fs.h.
const FIFREEZE: libc::c_ulong = 0xC004_5877;
const FITHAW: libc::c_ulong = 0xC004_5878;

/// The file systems that can hold still.
pub trait Disks: Send + Sync + 'static {
    /// All of them do from now on.
    ///
    /// # Errors
    /// What it failed with; some may hold still already.
    fn freeze(&self) -> io::Result<()>;
    /// All of them go on. Done twice, it is done once.
    ///
    /// # Errors
    /// What the first that does not go on failed with.
    fn thaw(&self) -> io::Result<()>;
}

/// Whether they hold still, and who is told.
pub struct Frozen {
    disks: Arc<dyn Disks>,
    hooks: PathBuf,
    /// The number of the freezing that is in force, and whether one is.
    now: Mutex<(u64, bool)>,
}

impl std::fmt::Debug for Frozen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Frozen").field("hooks", &self.hooks).finish_non_exhaustive()
    }
}

impl Frozen {
    /// For this machine.
    #[must_use]
    pub fn of_this_machine() -> Arc<Self> {
        Self::new(Arc::new(Mounted), HOOKS.into())
    }

    /// For other disks and another folder of hooks.
    #[must_use]
    pub fn new(disks: Arc<dyn Disks>, hooks: PathBuf) -> Arc<Self> {
        Arc::new(Self { disks, hooks, now: Mutex::new((0, false)) })
    }

    pub(super) async fn sync(&self) -> io::Result<()> {
        tokio::task::spawn_blocking(nix::unistd::sync).await.map_err(io::Error::other)
    }

    /// They hold still, for `limit` at most. Asked again while they do, the time begins anew.
    pub(super) async fn freeze(self: Arc<Self>, limit: Duration) -> io::Result<()> {
        let mut now = self.now.lock().await;
        now.0 += 1;
        let number = now.0;
        if !now.1 {
            if let Err(error) = self.hold().await {
                let _ = self.go_on().await;
                return Err(error);
            }
            now.1 = true;
        }
        drop(now);
        let limit = limit.clamp(Duration::from_secs(1), LONGEST);
        tokio::spawn(async move {
            tokio::time::sleep(limit).await;
            let mut now = self.now.lock().await;
            if *now == (number, true) {
                let _ = self.go_on().await;
                now.1 = false;
            }
        });
        Ok(())
    }

    pub(super) async fn thaw(&self) -> io::Result<()> {
        let mut now = self.now.lock().await;
        if now.1 {
            self.go_on().await?;
            now.1 = false;
        }
        Ok(())
    }

    async fn hold(&self) -> io::Result<()> {
        for hook in hooks(&self.hooks)? {
            run(&hook, "freeze").await?;
        }
        self.sync().await?;
        let disks = Arc::clone(&self.disks);
        tokio::task::spawn_blocking(move || disks.freeze()).await.map_err(io::Error::other)?
    }

    /// Disks first: a hook may write.
    async fn go_on(&self) -> io::Result<()> {
        let disks = Arc::clone(&self.disks);
        let thawed = tokio::task::spawn_blocking(move || disks.thaw()).await.map_err(io::Error::other)?;
        let mut told = Ok(());
        for hook in hooks(&self.hooks)?.into_iter().rev() {
            told = run(&hook, "thaw").await.and(told);
        }
        thawed.and(told)
    }
}

/// What is to be told, in the order of the names; none where there is no such folder.
fn hooks(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut hooks = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.is_file() {
            hooks.push(path);
        }
    }
    hooks.sort();
    Ok(hooks)
}

async fn run(hook: &Path, word: &str) -> io::Result<()> {
    let name = hook.display();
    let mut command = Command::new(hook);
    command.arg(word).stdin(std::process::Stdio::null()).kill_on_drop(true);
    let output = timeout(HOOK_LIMIT, command.output()).await.map_err(|_| {
        io::Error::other(format!("{name} {word} took longer than {} s", HOOK_LIMIT.as_secs()))
    })?;
    let output = output.map_err(|error| io::Error::other(format!("{name} can't be run: {error}")))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!("{name} {word}: {}: {}", output.status, said.trim())))
}

/// What is mounted from a disk here.
struct Mounted;

impl Disks for Mounted {
    fn freeze(&self) -> io::Result<()> {
        // The last mounted first: it may lie in another one.
        for folder in on_disks(&fs::read_to_string("/proc/self/mountinfo")?).iter().rev() {
            ask(folder, FIFREEZE).or_else(|errno| match errno {
                // It does already, or can't.
                Errno::EBUSY | Errno::EOPNOTSUPP => Ok(()),
                errno => Err(told(folder, "can't hold still", errno)),
            })?;
        }
        Ok(())
    }

    fn thaw(&self) -> io::Result<()> {
        let mut done = Ok(());
        for folder in on_disks(&fs::read_to_string("/proc/self/mountinfo")?) {
            let thawed = ask(&folder, FITHAW).or_else(|errno| match errno {
                Errno::EINVAL | Errno::EOPNOTSUPP => Ok(()),
                errno => Err(told(&folder, "does not go on", errno)),
            });
            done = done.and(thawed);
        }
        done
    }
}

fn told(folder: &str, what: &str, errno: Errno) -> io::Error {
    io::Error::other(format!("the file system at {folder} {what}: {errno}"))
}

fn ask(folder: &str, what: libc::c_ulong) -> Result<(), Errno> {
    use std::os::fd::AsRawFd as _;
    let folder =
        fs::File::open(folder).map_err(|e| Errno::from_raw(e.raw_os_error().unwrap_or(libc::EIO)))?;
    // SAFETY: the descriptor is open, and these two take no memory (their argument is passed over).
    Errno::result(unsafe { libc::ioctl(folder.as_raw_fd(), what, 0) }).map(drop)
}

/// Where file systems of block devices are mounted, each device once, in the order of their
/// mounts.
fn on_disks(mountinfo: &str) -> Vec<String> {
    let mut devices = Vec::new();
    let mut folders = Vec::new();
    for line in mountinfo.lines() {
        // 36 35 98:0 / /mnt rw,noatime master:1 - ext4 /dev/root rw,errors=continue
        let Some((mount, file_system)) = line.split_once(" - ") else { continue };
        let mut mount = mount.split(' ');
        let (Some(device), Some(folder)) = (mount.nth(2), mount.nth(1)) else { continue };
        let from_disk = file_system.split(' ').nth(1).is_some_and(|source| source.starts_with("/dev/"));
        if from_disk && !devices.contains(&device) {
            devices.push(device);
            folders.push(unescaped(folder));
        }
    }
    folders
}

/// The kernel writes blanks and the like as `\040`.
fn unescaped(folder: &str) -> String {
    let mut bytes = Vec::with_capacity(folder.len());
    let mut rest = folder.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let octal =
            after.get(..3).filter(|digits| byte == b'\\' && digits.iter().all(|d| (b'0'..=b'7').contains(d)));
        if let Some(digits) = octal {
            bytes.push(digits.iter().fold(0_u8, |sum, digit| sum.wrapping_mul(8).wrapping_add(digit - b'0')));
            rest = after.get(3..).unwrap_or_default();
        } else {
            bytes.push(byte);
            rest = after;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::sync::Mutex as SyncMutex;

    use super::*;

    #[test]
    fn each_disk_is_found_once() {
        let text = "22 1 254:1 / / rw - ext4 /dev/vda1 rw\n\
            23 22 0:21 / /proc rw shared:5 - proc proc rw\n\
            24 22 254:1 /srv /bind rw - ext4 /dev/vda1 rw\n\
            25 22 254:2 / /a\\040b rw shared:1 master:2 - xfs /dev/vdb rw\n\
            26 22 0:40 / /vol rw - virtiofs data rw\n";
        assert_eq!(on_disks(text), ["/", "/a b"]);
        assert_eq!(unescaped(r"\\x\04"), r"\\x\04");
    }

    #[derive(Default)]
    struct Told(SyncMutex<Vec<&'static str>>, SyncMutex<bool>);

    impl Disks for Told {
        fn freeze(&self) -> io::Result<()> {
            self.0.lock().unwrap().push("freeze");
            if *self.1.lock().unwrap() { Err(io::Error::other("no")) } else { Ok(()) }
        }
        fn thaw(&self) -> io::Result<()> {
            self.0.lock().unwrap().push("thaw");
            Ok(())
        }
    }

    fn hook(folder: &Path, name: &str, text: &str) {
        let path = folder.join(name);
        fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
    }

    #[tokio::test]
    async fn hooks_are_told_around_it_and_time_thaws() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let hooks = folder.path().join("hooks.d");
        fs::create_dir(&hooks).unwrap();
        for name in ["20-b", "10-a"] {
            hook(&hooks, name, &format!("echo {name} $1 >>{}", log.display()));
        }
        let disks = Arc::new(Told::default());
        let frozen = Frozen::new(Arc::clone(&disks) as Arc<dyn Disks>, hooks);
        Arc::clone(&frozen).freeze(Duration::from_secs(3600)).await.unwrap();
        Arc::clone(&frozen).freeze(Duration::from_secs(3600)).await.unwrap();
        assert_eq!(fs::read_to_string(&log).unwrap(), "10-a freeze\n20-b freeze\n");
        frozen.thaw().await.unwrap();
        frozen.thaw().await.unwrap();
        let said = fs::read_to_string(&log).unwrap();
        assert_eq!(said, "10-a freeze\n20-b freeze\n20-b thaw\n10-a thaw\n");
        assert_eq!(*disks.0.lock().unwrap(), ["freeze", "thaw"]);
        // And by itself.
        Arc::clone(&frozen).freeze(Duration::ZERO).await.unwrap();
        let by_itself = async {
            while frozen.now.lock().await.1 {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        timeout(Duration::from_secs(60), by_itself).await.expect("thawed by itself");
        assert_eq!(*disks.0.lock().unwrap(), ["freeze", "thaw", "freeze", "thaw"]);
    }

    #[tokio::test]
    async fn what_can_t_hold_still_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let disks = Arc::new(Told::default());
        *disks.1.lock().unwrap() = true;
        let frozen = Frozen::new(Arc::clone(&disks) as Arc<dyn Disks>, folder.path().join("none"));
        Arc::clone(&frozen).freeze(Duration::from_secs(9)).await.unwrap_err();
        assert_eq!(*disks.0.lock().unwrap(), ["freeze", "thaw"]);
        hook(folder.path(), "bad", "echo is full >&2; exit 3");
        let frozen = Frozen::new(disks, folder.path().to_path_buf());
        let error = Arc::clone(&frozen).freeze(Duration::from_secs(9)).await.unwrap_err();
        assert!(error.to_string().contains("is full"), "{error}");
    }
}
