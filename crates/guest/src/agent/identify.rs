//! Becoming a machine of its own: what was copied from a machine that waited has that one's name,
//! keys and random numbers until the host says who it is.
//!
//! Random numbers come first, because all that follows may need some. What is on the disk is written
//! before services are told, so that whoever begins reads the new.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::mount::MsFlags;
use tokio::process::Command;

use super::power;
use crate::message::{Identity, Mount};

/// `RNDADDENTROPY` and `RNDRESEEDCRNG` of linux/random.h.
const RNDADDENTROPY: libc::c_ulong = 0x4008_5203;
const RNDRESEEDCRNG: libc::c_ulong = 0x5207;
/// Fresh random bytes that are taken at a time: the kernel's whole state is 32.
const ENTROPY: usize = 64;
/// How long a folder's device may take to be seen after it was plugged in.
const PLUGGED: Duration = Duration::from_secs(60);
/// How often is looked for it.
const LOOK: Duration = Duration::from_millis(20);
/// The units that were stopped while the machine waited, one in a line. In memory, so that the next
/// boot knows nothing of it.
const UNITS: &str = "run/clawfarm-base-units";
/// Where cloud-init keeps what it did.
const CLOUD: &str = "var/lib/cloud";

/// Becomes it. Done twice, it is done once.
pub(super) async fn become_one(identity: Identity) -> io::Result<()> {
    check(&identity)?;
    reseed(&identity.entropy.0)?;
    power::set_time(identity.unix_nanos)?;
    nix::unistd::sethostname(&identity.hostname)?;
    let mounts = identity.mounts.clone();
    let units = tokio::task::spawn_blocking(move || -> io::Result<Vec<String>> {
        let root = Path::new("/");
        on_disk(root, &identity)?;
        nix::unistd::sync();
        Ok(units(root))
    });
    let units = units.await.map_err(io::Error::other)??;
    for mount in &mounts {
        mounted(mount).await?;
    }
    // Nobody waits for a service to be up: whoever wants it asks for it. The journal takes up its
    // new name, and the mounts become units.
    tokio::spawn(async move {
        for words in [
            [&["--no-block", "start"].map(str::to_owned), units.as_slice()].concat(),
            ["--no-block", "restart", "systemd-journald.service"].map(str::to_owned).to_vec(),
            ["daemon-reload"].map(str::to_owned).to_vec(),
        ] {
            match Command::new("systemctl").args(&words).status().await {
                Ok(status) if status.success() => {}
                other => eprintln!("systemctl {words:?}: {other:?}"),
            }
        }
    });
    Ok(())
}

fn check(identity: &Identity) -> io::Result<()> {
    let refuse = |what: &str| Err(io::Error::new(io::ErrorKind::InvalidInput, what.to_owned()));
    let label = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if identity.hostname.is_empty() || identity.hostname.len() > 63 || !identity.hostname.chars().all(label) {
        return refuse("the name is no host's");
    }
    if identity.instance_id.is_empty() || !identity.instance_id.chars().all(label) {
        return refuse("the id is none");
    }
    if identity.machine_id.len() != 32 || !identity.machine_id.bytes().all(|b| b.is_ascii_hexdigit()) {
        return refuse("the machine's id has not 32 hexadecimal digits");
    }
    if identity.entropy.0.len() < ENTROPY {
        return refuse("there are too few random bytes");
    }
    if !identity.mounts.iter().all(|mount| mount.path.starts_with('/') && !mount.path.contains("/../")) {
        return refuse("a folder's path is not absolute");
    }
    Ok(())
}

/// Mixes fresh bytes into the kernel's random numbers, and begins anew with them.
fn reseed(bytes: &[u8]) -> io::Result<()> {
    /// `struct rand_pool_info`.
    #[repr(C)]
    struct Pool {
        bits: libc::c_int,
        size: libc::c_int,
        bytes: [u8; ENTROPY],
    }
    let mut pool =
        Pool { bits: 8 * ENTROPY as libc::c_int, size: ENTROPY as libc::c_int, bytes: [0; ENTROPY] };
    for (to, from) in pool.bytes.iter_mut().zip(bytes) {
        *to = *from;
    }
    let random = OpenOptions::new().write(true).open("/dev/urandom")?;
    // SAFETY: the kernel reads a `rand_pool_info` with as many bytes behind it as `size` says.
    Errno::result(unsafe { libc::ioctl(random.as_raw_fd(), RNDADDENTROPY as _, &raw const pool) })?;
    // SAFETY: it takes no argument.
    Errno::result(unsafe { libc::ioctl(random.as_raw_fd(), RNDRESEEDCRNG as _) })?;
    Ok(())
}

/// What of it is in files, below `root`.
fn on_disk(root: &Path, identity: &Identity) -> io::Result<()> {
    let line = |text: &str| format!("{}\n", text.trim_end());
    let old = fs::read_to_string(root.join("etc/hostname")).unwrap_or_default();
    replace(root, "etc/hostname", &line(&identity.hostname), 0o644)?;
    rename_in(root, "etc/hosts", old.trim(), &identity.hostname)?;
    replace(root, "etc/machine-id", &line(&identity.machine_id), 0o444)?;
    // A link to it, as a rule.
    if fs::symlink_metadata(root.join("var/lib/dbus/machine-id")).is_ok_and(|it| it.is_file()) {
        replace(root, "var/lib/dbus/machine-id", &line(&identity.machine_id), 0o444)?;
    }
    // What the next boot begins its random numbers with.
    let mut seed = vec![0_u8; 512];
    getrandom::fill(&mut seed).map_err(io::Error::other)?;
    if root.join("var/lib/systemd").is_dir() {
        write(&root.join("var/lib/systemd/random-seed"), &seed, 0o600)?;
    }
    let ssh = root.join("etc/ssh");
    for entry in fs::read_dir(&ssh).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with("ssh_host_") {
            fs::remove_file(entry.path())?;
        }
    }
    replace(root, "etc/ssh/ssh_host_ed25519_key", &line(&identity.host_key.0), 0o600)?;
    replace(root, "etc/ssh/ssh_host_ed25519_key.pub", &line(&identity.host_key_public), 0o644)?;
    let keys = root.join("root/.ssh");
    fs::create_dir_all(&keys)?;
    fs::set_permissions(&keys, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
    replace(root, "root/.ssh/authorized_keys", &line(&identity.authorized_key), 0o600)?;
    first_boot_is_over(root, identity)?;
    let table = fs::read_to_string(root.join("etc/fstab")).unwrap_or_default();
    let missing: Vec<&str> = identity.mounts.iter().map(|mount| mount.fstab.as_str()).collect();
    let missing = missing.into_iter().filter(|wanted| !table.lines().any(|line| line == *wanted));
    let added: String = missing.map(|wanted| format!("{wanted}\n")).collect();
    if added.is_empty() {
        return Ok(());
    }
    let gap = if table.is_empty() || table.ends_with('\n') { "" } else { "\n" };
    replace(root, "etc/fstab", &format!("{table}{gap}{added}"), 0o644)
}

/// What cloud-init did to the machine that was copied counts for this one: its next boot, with a seed
/// of its own, does none of it again.
fn first_boot_is_over(root: &Path, identity: &Identity) -> io::Result<()> {
    let cloud = root.join(CLOUD);
    let Ok(old) = fs::read_link(cloud.join("instance")) else { return Ok(()) };
    let Some(old) = old.file_name().and_then(|name| name.to_str()).map(str::to_owned) else { return Ok(()) };
    let new = &identity.instance_id;
    if old != *new {
        match fs::rename(cloud.join("instances").join(&old), cloud.join("instances").join(new)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let link = cloud.join("instance.new");
        let _ = fs::remove_file(&link);
        // As cloud-init makes it.
        std::os::unix::fs::symlink(Path::new("/").join(CLOUD).join("instances").join(new), &link)?;
        fs::rename(link, cloud.join("instance"))?;
    }
    let hostname = &identity.hostname;
    for (name, text) in [
        ("instance-id", format!("{new}\n")),
        ("previous-instance-id", format!("{new}\n")),
        ("previous-hostname", format!("{hostname}\n")),
        ("set-hostname", format!("{{\"hostname\": \"{hostname}\", \"fqdn\": \"{hostname}\"}}\n")),
    ] {
        if cloud.join("data").join(name).exists() {
            replace(root, &format!("{CLOUD}/data/{name}"), &text, 0o644)?;
        }
    }
    for name in [".instance-id", "instance-data.json", "instance-data-sensitive.json"] {
        rename_in(root, &format!("run/cloud-init/{name}"), &old, new)?;
    }
    Ok(())
}

/// Replaces a word in a file, where there is one.
fn rename_in(root: &Path, name: &str, old: &str, new: &str) -> io::Result<()> {
    let path = root.join(name);
    let (false, Ok(text), Ok(meta)) = (old.is_empty(), fs::read_to_string(&path), fs::metadata(&path)) else {
        return Ok(());
    };
    if !text.contains(old) {
        return Ok(());
    }
    let mode = std::os::unix::fs::PermissionsExt::mode(&meta.permissions()) & 0o7777;
    replace(root, name, &text.replace(old, new), mode)
}

fn replace(root: &Path, name: &str, text: &str, mode: u32) -> io::Result<()> {
    write(&root.join(name), text.as_bytes(), mode)
}

/// Writes a file in one step; a link in its place is replaced.
fn write(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".clawfarm");
    let temporary = PathBuf::from(temporary);
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    file.write_all(bytes)?;
    file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(mode))?;
    drop(file);
    fs::rename(&temporary, path)
}

fn units(root: &Path) -> Vec<String> {
    let text = fs::read_to_string(root.join(UNITS)).unwrap_or_default();
    text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

/// Mounts a folder of the host, which may have been plugged in a moment ago.
async fn mounted(mount: &Mount) -> io::Result<()> {
    fs::create_dir_all(&mount.path)?;
    let begun = Instant::now();
    loop {
        if is_mounted(mount) {
            return Ok(());
        }
        let (tag, path) = (mount.tag.as_str(), mount.path.as_str());
        match nix::mount::mount(Some(tag), path, Some("virtiofs"), MsFlags::empty(), None::<&str>) {
            Ok(()) => return Ok(()),
            // Its device is not there yet, or the file system's module.
            Err(Errno::EINVAL | Errno::ENOENT | Errno::ENODEV) if begun.elapsed() < PLUGGED => {
                tokio::time::sleep(LOOK).await;
            }
            Err(error) => {
                let why = format!("'{}' can't be mounted at {}: {error}", mount.tag, mount.path);
                return Err(io::Error::other(why));
            }
        }
    }
}

fn is_mounted(mount: &Mount) -> bool {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let wanted = format!("{} {} virtiofs ", mount.tag, mount.path);
    mounts.lines().any(|line| line.starts_with(&wanted))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::message::Hidden;

    fn identity() -> Identity {
        Identity {
            instance_id: "alice-x7k2b".into(),
            hostname: "alice-x7k2b".into(),
            machine_id: "0123456789abcdef0123456789abcdef".into(),
            entropy: Hidden(vec![7; ENTROPY]),
            unix_nanos: 1,
            host_key: Hidden("PRIVATE\n".into()),
            host_key_public: "ssh-ed25519 BBBB".into(),
            authorized_key: "ssh-ed25519 AAAA".into(),
            mounts: vec![Mount {
                tag: "volume0".into(),
                path: "/srv/a".into(),
                fstab: "volume0 /srv/a virtiofs rw,nofail 0 0".into(),
            }],
        }
    }

    fn put(root: &Path, name: &str, text: &str) {
        let path = root.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// A machine that waits.
    fn base() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        for (name, text) in [
            ("etc/hostname", "base-1\n"),
            ("etc/hosts", "127.0.0.1 localhost\n127.0.1.1 base-1 base-1\n"),
            ("etc/machine-id", "ffffffffffffffffffffffffffffffff\n"),
            ("etc/fstab", "LABEL=cloudimg-rootfs / ext4 defaults 0 1"),
            ("etc/ssh/sshd_config", "x"),
            ("etc/ssh/ssh_host_rsa_key", "old"),
            ("etc/ssh/ssh_host_ed25519_key", "old"),
            ("var/lib/systemd/random-seed", "old"),
            ("var/lib/cloud/instances/base-1/sem/config_ssh", "done"),
            ("var/lib/cloud/data/instance-id", "base-1\n"),
            ("var/lib/cloud/data/previous-instance-id", "base-1\n"),
            ("run/cloud-init/instance-data.json", "{\"v1\": {\"instance_id\": \"base-1\"}}"),
            ("run/clawfarm-base-units", "ssh.service\n\n"),
        ] {
            put(root, name, text);
        }
        std::os::unix::fs::symlink("/var/lib/cloud/instances/base-1", root.join("var/lib/cloud/instance"))
            .unwrap();
        dir
    }

    fn read(root: &Path, name: &str) -> String {
        fs::read_to_string(root.join(name)).unwrap()
    }

    #[test]
    fn nothing_of_the_one_that_waited_is_left() {
        let dir = base();
        let root = dir.path();
        // A second time changes nothing.
        for _ in 0..2 {
            on_disk(root, &identity()).unwrap();
            assert_eq!(read(root, "etc/hostname"), "alice-x7k2b\n");
            assert_eq!(read(root, "etc/hosts"), "127.0.0.1 localhost\n127.0.1.1 alice-x7k2b alice-x7k2b\n");
            assert_eq!(read(root, "etc/machine-id"), "0123456789abcdef0123456789abcdef\n");
            assert!(!root.join("etc/ssh/ssh_host_rsa_key").exists());
            assert_eq!(read(root, "etc/ssh/ssh_host_ed25519_key"), "PRIVATE\n");
            let mode = |name: &str| fs::metadata(root.join(name)).unwrap().permissions().mode() & 0o777;
            assert_eq!(mode("etc/ssh/ssh_host_ed25519_key"), 0o600);
            assert_eq!((mode("root/.ssh"), mode("root/.ssh/authorized_keys")), (0o700, 0o600));
            assert_eq!(read(root, "root/.ssh/authorized_keys"), "ssh-ed25519 AAAA\n");
            assert_eq!(
                read(root, "etc/fstab"),
                "LABEL=cloudimg-rootfs / ext4 defaults 0 1\nvolume0 /srv/a virtiofs rw,nofail 0 0\n"
            );
            assert_eq!(fs::read(root.join("var/lib/systemd/random-seed")).unwrap().len(), 512);
            assert_eq!(
                fs::read_link(root.join("var/lib/cloud/instance")).unwrap(),
                Path::new("/var/lib/cloud/instances/alice-x7k2b")
            );
            assert_eq!(read(root, "var/lib/cloud/instances/alice-x7k2b/sem/config_ssh"), "done");
            assert_eq!(read(root, "var/lib/cloud/data/previous-instance-id"), "alice-x7k2b\n");
            assert!(read(root, "run/cloud-init/instance-data.json").contains("\"alice-x7k2b\""));
            assert_eq!(units(root), ["ssh.service"]);
        }
    }

    #[test]
    fn a_system_without_cloud_init_and_ssh_is_one_too() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("etc/ssh")).unwrap();
        on_disk(dir.path(), &Identity { mounts: Vec::new(), ..identity() }).unwrap();
        assert!(units(dir.path()).is_empty() && !dir.path().join("var").exists());
    }

    #[test]
    fn what_can_be_no_machine_is_refused_and_secrets_are_not_shown() {
        check(&identity()).unwrap();
        for wrong in [
            Identity { hostname: "a b".into(), ..identity() },
            Identity { hostname: String::new(), ..identity() },
            Identity { instance_id: "../x".into(), ..identity() },
            Identity { machine_id: "x".repeat(32), ..identity() },
            Identity { machine_id: "0".repeat(31), ..identity() },
            Identity { entropy: Hidden(vec![1; ENTROPY - 1]), ..identity() },
            Identity {
                mounts: vec![Mount { tag: "a".into(), path: "a".into(), fstab: String::new() }],
                ..identity()
            },
        ] {
            assert_eq!(check(&wrong).unwrap_err().kind(), io::ErrorKind::InvalidInput, "{wrong:?}");
        }
        assert!(!format!("{:?}", identity()).contains("PRIVATE"));
    }
}
