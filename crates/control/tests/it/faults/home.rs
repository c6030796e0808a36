//! A home with its store and its simulated world, that servers come and go on.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clawfarm_adapters::Registry;
use clawfarm_adapters::openclaw::OpenClaw;
use clawfarm_control::{Control, InstanceFilter, Parts};
use clawfarm_model::name::TargetName;
use clawfarm_model::target::{RuntimeKind, Target};
use clawfarm_model::{Instance, Phase};
use clawfarm_runtime_sim::{SimConfig, SimRuntime, World};
use clawfarm_store::{MasterKey, Store, StoreConfig};
use tempfile::TempDir;

use super::audit;
use crate::fleet::owner;

/// Nothing here takes longer than a second; a machine that is busy with other tests takes more.
pub(crate) const LIMIT: Duration = Duration::from_secs(25);

/// A folder in memory, where the machine has such: what is proved here is no power cut.
pub(crate) fn folder() -> TempDir {
    let memory = Path::new("/dev/shm");
    let mut builder = tempfile::Builder::new();
    builder.prefix("cf");
    if memory.is_dir() { builder.tempdir_in(memory) } else { builder.tempdir() }.unwrap()
}

/// A server on a home, within this process.
pub(crate) struct Server {
    pub(crate) control: Control,
    pub(crate) world: World,
    pub(crate) home: PathBuf,
    store: Store,
}

impl Server {
    pub(crate) async fn begin(home: &Path) -> Self {
        Self::try_begin(home).await.unwrap()
    }

    pub(crate) async fn try_begin(home: &Path) -> clawfarm_model::Result<Self> {
        let key = MasterKey::load_or_create(&home.join("master.key"))?;
        let store = Store::open(StoreConfig::sqlite(home.join("clawfarm.db"), key)).await?;
        let target = Target {
            name: TargetName::new("sim").unwrap(),
            runtime: RuntimeKind::Sim,
            labels: Default::default(),
            reachable_from: None,
            settings: serde_json::Value::Null,
        };
        let runtime = SimRuntime::open(SimConfig::new(home.join("world")))?;
        let control = Control::begin(Parts {
            store: store.clone(),
            adapters: Registry::new([Arc::new(OpenClaw) as _]),
            targets: vec![(target, Arc::new(runtime))],
            opener: None,
            sharing: None,
        })
        .await?;
        let world = World::open(home.join("world"))?;
        Ok(Self { control, world, home: home.to_owned(), store })
    }

    /// Ends it, so that the folder can be copied.
    pub(crate) async fn end(self) {
        self.control.shutdown(None, false).await.unwrap();
        self.store.close().await;
    }

    pub(crate) async fn instances(&self, with_destroyed: bool) -> Vec<Instance> {
        let filter = InstanceFilter { include_destroyed: with_destroyed, ..InstanceFilter::default() };
        let mut all = Vec::new();
        let mut cursor: Option<String> = None;
        loop {
            let page = self.control.list(&owner(), &filter, cursor.as_deref(), 500).await.unwrap();
            all.extend(page.items);
            match page.next {
                Some(next) => cursor = Some(next),
                None => return all,
            }
        }
    }

    /// Waits until nothing is wanted any more that is not so, and looks that all is well.
    pub(crate) async fn settles(&self, what: &str) {
        let begun = Instant::now();
        loop {
            let problems = audit::problems(self).await;
            if problems.is_empty() {
                return;
            }
            assert!(
                begun.elapsed() < LIMIT,
                "{what}: after {LIMIT:?} still\n  {}\n{:#?}\n{:?}",
                problems.join("\n  "),
                self.instances(false).await,
                self.world.journal().unwrap()
            );
            tokio::time::sleep(Duration::from_millis(15)).await;
        }
    }

    pub(crate) async fn by_name(&self, name: &str) -> Option<Instance> {
        self.instances(false)
            .await
            .into_iter()
            .find(|i| i.name.as_str() == name && i.phase != Phase::Destroyed)
    }
}

/// A copy of a home.
pub(crate) fn copy(from: &Path) -> TempDir {
    let to = folder();
    copy_tree(from, to.path());
    to
}

fn copy_tree(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_tree(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}
