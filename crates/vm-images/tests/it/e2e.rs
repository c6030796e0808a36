//! An image that is built from packages, and a virtual machine that it boots.
//!
//! The image is kept for the next run, and for other tests, in the folder that
//! `scripts/test-setup` fills; so is what it is made by, so that another recipe makes another.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use clawfarm_model::Code;
use clawfarm_runtime::NoProgress;
use clawfarm_vm::{HostKey, Seed, SeedFile};
use clawfarm_vm_images::{Disk, Format, How, Images, ImagesConfig, Origin, Record, recipe_digest};
use tempfile::tempdir;
use tokio::process::Command;

use crate::support::named;

/// How long a boot may take. Emulated, it wants 50 s of a processor's time; forty times that,
/// on a machine that does much else, is as good as never.
const BOOT: Duration = Duration::from_mins(33);

/// The folder of what tests keep.
fn kept() -> PathBuf {
    if let Some(install) = std::env::var_os("CLAWFARM_TEST_OPENCLAW") {
        // <kept>/installs/<name>
        if let Some(kept) = Path::new(&install).ancestors().nth(2) {
            return kept.to_owned();
        }
    }
    let cache = std::env::var_os("XDG_CACHE_HOME").map_or_else(
        || PathBuf::from(std::env::var_os("HOME").expect("there is a home")).join(".cache"),
        PathBuf::from,
    );
    cache.join("clawfarm-test")
}

/// The image of Debian 12 that tests boot, built when it is not there.
async fn debian() -> (Images, Record) {
    let config = ImagesConfig { kept: true, ..ImagesConfig::new(kept().join("images")) };
    let images = Images::open(config).expect("the cache can be used");
    let debian = named("debian:12");
    for name in images.pins(&debian).expect("the pins can be read") {
        // Of a test that was ended on the way.
        let gone = name.strip_prefix("e2e-").is_some_and(|pid| !Path::new("/proc").join(pid).exists());
        if gone {
            images.unpin(&debian, &name).await.expect("a pin is removed");
        }
    }
    let made = match images.build(&debian, &Loud).await {
        // Of a recipe before.
        Err(error) if error.code() == Code::Conflict => {
            images.remove(&debian).await.expect("the old one is removed");
            images.build(&debian, &Loud).await
        }
        made => made,
    };
    (images, made.expect("the image is built"))
}

/// Says in the test's output how far a build is.
struct Loud;

impl clawfarm_runtime::Progress for Loud {
    fn step(&self, name: &str, message: &str, _total: Option<u64>, _unit: &str) {
        eprintln!("{name}: {message}");
    }
    fn advance(&self, _done: u64) {}
    fn say(&self, line: &str) {
        eprintln!("  {line}");
    }
}

#[tokio::test]
async fn e2e_an_image_is_built_and_boots_and_finds_its_seed() {
    if !rustix::process::geteuid().is_root() || std::env::consts::ARCH != "x86_64" {
        eprintln!("skipped: scripts/test-setup installs what a build needs for root on x86_64 alone");
        return;
    }
    let (images, record) = debian().await;
    assert_eq!(record.format, Format::Qcow2);
    assert_eq!(record.origin, Origin::Built { recipe: recipe_digest() });
    // It is not built again.
    assert_eq!(images.build(&named("debian:12"), &NoProgress).await.unwrap(), record);

    let folder = tempdir().unwrap();
    let owner = format!("e2e-{}", std::process::id());
    let disk = Disk {
        path: folder.path().join("disk"),
        size_bytes: Some(6 << 30),
        owner: owner.clone(),
        how: Some(How::Overlay),
    };
    images.make_disk(&named("debian:12"), &disk, &NoProgress).await.unwrap();
    let (seed, key) = seed(folder.path());
    std::fs::write(folder.path().join("seed.iso"), seed).unwrap();
    let seen = boot(folder.path(), &disk.path).await;
    images.unpin(&named("debian:12"), &owner).await.unwrap();

    for (what, sign) in [
        ("cloud-init found the seed", "Datasource DataSourceNoCloud"),
        ("there is somebody to log in", "seeded login:"),
        ("nothing failed", "TEST failed=0"),
        ("the disk grew", "TEST disk=grown"),
        ("the network is there", "TEST network=routable"),
        ("it can be logged in to", "TEST ssh=active"),
        ("it has one host key", "TEST keys=1"),
        ("which it was given", format!("TEST host={key}").as_str()),
        ("its owner can log in", "TEST login=1"),
        ("files are written", "TEST file=600:root it's \"written\""),
    ] {
        assert!(seen.contains(sign), "{what}; serial port:\n{seen}");
    }
}

/// What the first boot tells of itself.
const TELL: &str = r#"{
  echo "TEST failed=$(systemctl --failed --no-legend | wc -l)"
  [ "$(df --output=size -BG / | tail -n 1 | tr -dc 0-9)" -ge 5 ] && echo TEST disk=grown
  echo "TEST network=$(networkctl --no-legend list | awk '$3 == "ether" { print $4 }')"
  echo "TEST ssh=$(systemctl is-active ssh)"
  echo "TEST keys=$(ls /etc/ssh/ssh_host_*_key | wc -l)"
  echo "TEST host=$(cut -d ' ' -f 2 /etc/ssh/ssh_host_ed25519_key.pub)"
  echo "TEST login=$(grep -c AAAAtest /root/.ssh/authorized_keys)"
  echo "TEST file=$(stat -c %a:%U /etc/written) $(cat /etc/written)"
} >/dev/ttyS0"#;

/// A first boot's seed, with a key of the machine's own: its disk, and the public half.
fn seed(folder: &Path) -> (Vec<u8>, String) {
    let key = folder.join("key");
    let made = std::process::Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-C", "seeded", "-f"])
        .arg(&key)
        .status()
        .expect("ssh-keygen is installed");
    assert!(made.success());
    let read = |path: &Path| std::fs::read_to_string(path).unwrap();
    let public = read(&key.with_extension("pub"));
    let told = Seed {
        instance_id: "e2e".into(),
        hostname: "seeded".into(),
        authorized_key: "ssh-ed25519 AAAAtest of nobody".into(),
        host_key: Some(HostKey { private: read(&key).into(), public: public.trim().into() }),
        files: vec![SeedFile {
            path: "/etc/written".into(),
            mode: 0o600,
            contents: "it's \"written\"".into(),
        }],
        boot_commands: Vec::new(),
        commands: vec![vec!["sh".into(), "-c".into(), TELL.into()]],
        packages: Vec::new(),
    };
    let key = public.split(' ').nth(1).expect("a key's second word").to_owned();
    (told.iso().unwrap().to_bytes(), key)
}

/// Boots it until its first boot is over; what it said on its serial port.
async fn boot(folder: &Path, disk: &Path) -> String {
    let serial = folder.join("serial.log");
    let mut qemu = Command::new("qemu-system-x86_64")
        .args(["-nodefaults", "-no-user-config", "-display", "none"])
        .args(["-machine", "q35,accel=tcg", "-smp", "2", "-m", "1024"])
        .args(["-serial", &format!("file:{}", serial.display())])
        .args(["-drive", &format!("file={},if=none,id=disk,format=qcow2,cache=unsafe", disk.display())])
        .args(["-device", "virtio-blk-pci,drive=disk,bootindex=0"])
        .args([
            "-drive",
            &format!("file={},if=none,id=seed,format=raw,readonly=on", folder.join("seed.iso").display()),
        ])
        .args(["-device", "virtio-blk-pci,drive=seed"])
        .args(["-netdev", "user,id=net", "-device", "virtio-net-pci,netdev=net"])
        .args(["-device", "virtio-rng-pci"])
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("QEMU is installed");
    let said = || String::from_utf8_lossy(&std::fs::read(&serial).unwrap_or_default()).into_owned();
    let over = async {
        loop {
            let said = said();
            if said.contains("finished at") && said.contains("login:") {
                return said;
            }
            if let Ok(Some(ended)) = qemu.try_wait() {
                panic!("QEMU ended ({ended}); serial port:\n{said}");
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    };
    let seen = tokio::time::timeout(BOOT, over).await;
    qemu.kill().await.unwrap();
    seen.unwrap_or_else(|_| panic!("the first boot is not over after {BOOT:?}; serial port:\n{}", said()))
}
