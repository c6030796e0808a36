//! A home of its own for each test, with a guest that counts.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clawfarm_model::launch::Software;
use clawfarm_model::name::{ClawType, TenantName};
use clawfarm_model::resources::Resources;
use clawfarm_model::vm::VmSpec;
use clawfarm_model::{ClawId, Launch, Observation, Placement};
use clawfarm_qemu::Accelerator;
use clawfarm_runtime::{NoProgress, Runtime, Suspend};
use clawfarm_runtime_vm::{VmConfig, VmRuntime};
use clawfarm_shim::ShimState;
use clawfarm_shim::client::Client;
use clawfarm_shim::logline::{LogRecord, Source};
use clawfarm_shim::protocol::Request;
use clawfarm_vm_images::{Images, ImagesConfig};

use crate::guest;

/// Longer than anything takes on a machine that does ten things at once.
pub(crate) const LIMIT: Duration = Duration::from_secs(90);
/// The shim and a virtiofsd, as one program.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_clawfarm-vm-for-tests");
/// The image of the guest that counts.
pub(crate) const TINY: &str = "tiny:1";

pub(crate) struct Farm {
    /// Removed at the end, where it is this test's own.
    own: Option<tempfile::TempDir>,
    pub(crate) config: VmConfig,
    pub(crate) rt: VmRuntime,
}

impl Farm {
    pub(crate) async fn new() -> Self {
        Self::of(Path::new("/tmp"), &guest::disk()).await
    }

    /// In a folder of this one, with another guest.
    pub(crate) async fn of(folder: &Path, guest: &[u8]) -> Self {
        // Short, because a socket's path has an end.
        let own = tempfile::Builder::new().prefix("cfv").tempdir_in(folder).unwrap();
        let config = config(own.path());
        let images = Images::open(config.images.clone()).unwrap();
        let disk = own.path().join("disk");
        std::fs::write(&disk, guest).unwrap();
        images.import(&disk, &TINY.parse().unwrap(), &NoProgress).await.unwrap();
        let mut farm = Self::at(own.path()).await;
        farm.own = Some(own);
        farm
    }

    /// The farm of another process of this test.
    pub(crate) async fn at(folder: &Path) -> Self {
        Self::with(config(folder)).await
    }

    pub(crate) async fn with(config: VmConfig) -> Self {
        let rt = VmRuntime::open(config.clone()).await.unwrap();
        Self { own: None, config, rt }
    }

    /// Ends the server's part and begins it anew, as after a restart of the server.
    pub(crate) async fn reopen(&mut self) {
        self.rt = VmRuntime::open(self.config.clone()).await.unwrap();
    }

    pub(crate) fn root(&self) -> &Path {
        self.config.home.parent().unwrap()
    }

    pub(crate) fn claw(&self, id: &ClawId) -> PathBuf {
        self.config.home.join("claws").join(id.as_str())
    }

    pub(crate) fn images(&self) -> Images {
        Images::open(self.config.images.clone()).unwrap()
    }

    pub(crate) fn record(&self, id: &ClawId) -> serde_json::Value {
        serde_json::from_slice(&std::fs::read(self.claw(id).join("instance.json")).unwrap()).unwrap()
    }

    pub(crate) fn shim_state(&self, id: &ClawId) -> ShimState {
        ShimState::read(&self.claw(id)).unwrap().expect("it was started")
    }

    /// A machine that was prepared and started, of what `change` makes of a small one.
    pub(crate) async fn up(&self, id: &ClawId, change: impl FnOnce(&mut Placement)) -> Observation {
        self.rt.ensure(&placement(id, change), &NoProgress).await.unwrap();
        let seen = self.rt.start(&launch(id, 1)).await.unwrap();
        self.counts_beyond(id, 0).await;
        seen
    }

    pub(crate) async fn suspended(&self, id: &ClawId) -> Observation {
        Suspend::suspend(&self.rt, id).await.unwrap()
    }

    /// All that the guest told on its serial port, in order. A number in whose middle it was stopped
    /// is there in parts.
    pub(crate) fn counted(&self, id: &ClawId) -> Vec<u16> {
        let text = std::fs::read_to_string(self.claw(id).join("serial.log")).unwrap_or_default();
        let mut numbers = Vec::new();
        let mut begun = String::new();
        for record in text.lines().filter_map(LogRecord::parse).filter(|it| it.source == Source::Stdout) {
            let part = record.text.trim();
            if begun.len() + part.len() > 4 || !part.bytes().all(|b| b.is_ascii_hexdigit()) {
                begun.clear();
            }
            begun.push_str(part);
            if begun.len() == 4 {
                numbers.extend(u16::from_str_radix(&begun, 16));
                begun.clear();
            }
        }
        numbers
    }

    /// Waits until the guest counted beyond a number, whatever came before.
    pub(crate) async fn counts_beyond(&self, id: &ClawId, number: u16) -> u16 {
        wait_for(&format!("{id} to count beyond {number:X}"), || async {
            let last = self.counted(id).last().copied();
            let last = last.filter(|last| *last > number);
            last.ok_or_else(|| std::fs::read_to_string(self.claw(id).join("serial.log")).unwrap_or_default())
        })
        .await
    }

    /// Every number that was told is larger by one than the one before: it is one machine, which
    /// never began anew.
    pub(crate) fn counted_without_a_gap(&self, id: &ClawId) {
        let counted = self.counted(id);
        assert!(counted.windows(2).all(|two| two[1] == two[0] + 1), "{counted:X?}");
    }

    /// How often it began anew.
    pub(crate) fn beginnings(&self, id: &ClawId) -> usize {
        self.counted(id).iter().filter(|number| **number == 1).count()
    }

    /// The names in an instance's folder that are left of a half-done thing.
    pub(crate) fn halves(&self, id: &ClawId) -> Vec<String> {
        let names = std::fs::read_dir(self.claw(id)).into_iter().flatten().flatten();
        let names = names.map(|entry| entry.file_name().to_string_lossy().into_owned());
        names.filter(|name| name.contains(".part") || name == "suspended").collect()
    }
}

impl Drop for Farm {
    fn drop(&mut self) {
        if self.own.is_none() {
            return;
        }
        for entry in std::fs::read_dir(self.config.home.join("claws")).into_iter().flatten().flatten() {
            if let Ok(mut client) = Client::connect(&entry.path(), LIMIT) {
                let _ = client.ask(&Request::Kill);
            }
        }
    }
}

fn config(folder: &Path) -> VmConfig {
    let mut config = VmConfig::new(folder.join("home"), None);
    config.shim_command = vec![PROGRAM.into()];
    config.virtiofsd = Some(vec![PROGRAM.into(), "virtiofsd".into()]);
    config.accelerator = Some(Accelerator::Tcg);
    config.claw_port = 7;
    config.images = ImagesConfig::of(&config.home, None);
    // Nobody is asked for an image.
    config.images.debian_site = "http://127.0.0.1:9/".into();
    config
}

pub(crate) fn id(text: &str) -> ClawId {
    ClawId::new(text).unwrap()
}

pub(crate) fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A small machine, changed.
pub(crate) fn placement(id: &ClawId, change: impl FnOnce(&mut Placement)) -> Placement {
    let mut placement = Placement {
        id: id.clone(),
        tenant: TenantName::default_tenant(),
        software: Software {
            claw_type: ClawType::new("machine").unwrap(),
            version: "1".into(),
            npm: None,
            pip: None,
            own: None,
            image: None,
        },
        image: None,
        mark: None,
        vm: Some(VmSpec::new(TINY.parse().unwrap())),
        resources: Resources { cpus: 1.0, memory_mib: 64 },
        port: free_port(),
        dataset: None,
        record: serde_json::json!({"name": "test"}),
    };
    change(&mut placement);
    placement
}

/// With a volume of this name, and what it is called in the guest.
pub(crate) fn volume(placement: &mut Placement, text: &str) {
    placement.vm.as_mut().unwrap().volumes.push(text.parse().unwrap());
}

pub(crate) fn launch(id: &ClawId, run: i64) -> Launch {
    Launch {
        id: id.clone(),
        run,
        argv: Vec::new(),
        env: Vec::new(),
        cwd: "/".into(),
        files: Vec::new(),
        resources: Resources { cpus: 1.0, memory_mib: 64 },
    }
}

/// Waits until `look` finds something; what it says instead is told when the limit is over.
pub(crate) async fn wait_for<T, E: std::fmt::Debug, F: Future<Output = Result<T, E>>>(
    what: &str,
    look: impl FnMut() -> F,
) -> T {
    wait_within(LIMIT, what, look).await
}

/// The same with a limit of its own.
pub(crate) async fn wait_within<T, E: std::fmt::Debug, F: Future<Output = Result<T, E>>>(
    limit: Duration,
    what: &str,
    mut look: impl FnMut() -> F,
) -> T {
    let begun = Instant::now();
    loop {
        match look().await {
            Ok(found) => return found,
            Err(why) => assert!(begun.elapsed() < limit, "waited {limit:?} for {what}: {why:?}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Whether a process lives; a zombie does not.
pub(crate) fn lives(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z') && !rest.starts_with('X'))
}

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}
