//! A fleet on a simulated world, in a folder of its own.

use std::sync::Arc;
use std::time::Duration;

use clawfarm_adapters::Registry;
use clawfarm_adapters::openclaw::OpenClaw;
use clawfarm_control::{Accepted, Control, NewInstance, Parts};
use clawfarm_model::name::{InstanceName, TargetName, TenantName};
use clawfarm_model::target::{RuntimeKind, Target};
use clawfarm_model::{Context, Instance, Operation, OperationState, Phase, Timestamp};
use clawfarm_runtime_sim::{ActKind, Behaviour, SimConfig, SimRuntime, World};
use clawfarm_store::{MasterKey, Store, StoreConfig};

/// Nothing here takes longer than a few hundred milliseconds; a machine that is busy with
/// other tests takes more.
const LIMIT: Duration = Duration::from_secs(30);

pub(crate) struct Fleet {
    pub(crate) control: Control,
    pub(crate) world: World,
    dir: tempfile::TempDir,
}

pub(crate) fn owner() -> Context {
    tenant("default")
}

pub(crate) fn tenant(name: &str) -> Context {
    Context::owner("test".into(), TenantName::new(name).unwrap(), "r-1".into())
}

pub(crate) fn claw(name: &str) -> NewInstance {
    NewInstance {
        claw_type: "openclaw".into(),
        name: Some(InstanceName::new(name).unwrap()),
        ..NewInstance::default()
    }
}

impl Fleet {
    pub(crate) async fn new() -> Self {
        Self::with(|_| {}).await
    }

    pub(crate) async fn with(change: impl FnOnce(&mut Behaviour)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let world = World::open(dir.path().join("world")).unwrap();
        world.change_behaviour(change).unwrap();
        let control = begin(dir.path()).await;
        Self { control, world, dir }
    }

    /// As after the server was killed and started again: nothing of it is left but the store
    /// and the world.
    pub(crate) async fn restarted(self) -> Self {
        self.control.shutdown(None, false).await.unwrap();
        let control = begin(self.dir.path()).await;
        Self { control, ..self }
    }

    /// As after the server was killed and its database was lost. `recover` gets what the next
    /// server is made of, before it begins.
    pub(crate) async fn store_lost(self, recover: impl AsyncFnOnce(&Parts)) -> Self {
        self.control.shutdown(None, false).await.unwrap();
        for file in ["clawfarm.db", "clawfarm.db-wal", "clawfarm.db-shm"] {
            let _ = std::fs::remove_file(self.dir.path().join(file));
        }
        let parts = parts(self.dir.path()).await;
        recover(&parts).await;
        let control = Control::begin(parts).await.unwrap();
        Self { control, ..self }
    }

    pub(crate) async fn ready(&self, name: &str) -> Instance {
        let accepted = self.control.create(&owner(), claw(name), None).await.unwrap();
        self.reached(accepted).await
    }

    pub(crate) fn home(&self) -> &std::path::Path {
        self.dir.path()
    }

    /// Waits for the operation and expects that it succeeded.
    pub(crate) async fn reached(&self, accepted: Accepted) -> Instance {
        let ended = self.ended(&accepted.operation).await;
        assert_eq!(ended.state, OperationState::Succeeded, "{ended:?}");
        self.control.get(&owner(), accepted.instance.id.as_str()).await.unwrap()
    }

    pub(crate) async fn ended(&self, operation: &Operation) -> Operation {
        let never = Timestamp::from_millis(i64::MAX);
        let operation = self.control.operation_changed(&owner(), &operation.id, never, LIMIT).await.unwrap();
        assert!(operation.state.ended(), "{:?} did not end within {LIMIT:?}", operation.kind);
        operation
    }

    /// Waits until the instance is as expected.
    pub(crate) async fn until(&self, id: &str, what: &str, is: impl Fn(&Instance) -> bool) -> Instance {
        let begun = std::time::Instant::now();
        loop {
            let instance = self.control.get(&owner(), id).await.unwrap();
            if is(&instance) {
                return instance;
            }
            if begun.elapsed() >= LIMIT {
                let events = self.control.events(&owner(), Some(id), None, 100).await.unwrap().0;
                panic!("waited {LIMIT:?} until {what}: {instance:#?} {:?} {events:#?}", self.acts(&instance));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(crate) async fn until_phase(&self, id: &str, phase: Phase) -> Instance {
        self.until(id, phase.as_str(), |i| i.phase == phase).await
    }

    /// What was really done to an instance.
    pub(crate) fn acts(&self, instance: &Instance) -> Vec<ActKind> {
        self.world.acts_on(&instance.id).unwrap()
    }

    pub(crate) fn count(&self, instance: &Instance, act: ActKind) -> usize {
        self.acts(instance).into_iter().filter(|a| *a == act).count()
    }
}

async fn begin(home: &std::path::Path) -> Control {
    Control::begin(parts(home).await).await.unwrap()
}

/// What a server on an empty store of its own would be made of, in the same world.
pub(crate) async fn parts_beside(home: &std::path::Path) -> Parts {
    let beside = home.join("beside");
    std::fs::create_dir_all(&beside).unwrap();
    let key = MasterKey::load_or_create(&beside.join("master.key")).unwrap();
    let store = Store::open(StoreConfig::sqlite(beside.join("clawfarm.db"), key)).await.unwrap();
    Parts { store, ..parts(home).await }
}

async fn parts(home: &std::path::Path) -> Parts {
    let key = MasterKey::load_or_create(&home.join("master.key")).unwrap();
    let store = Store::open(StoreConfig::sqlite(home.join("clawfarm.db"), key)).await.unwrap();
    let target = Target {
        name: TargetName::new("sim").unwrap(),
        runtime: RuntimeKind::Sim,
        labels: Default::default(),
        reachable_from: None,
        settings: serde_json::Value::Null,
    };
    let runtime = SimRuntime::open(SimConfig::new(home.join("world"))).unwrap();
    Parts {
        store,
        adapters: Registry::new([Arc::new(OpenClaw) as _]).with_folder(home.join("types")),
        targets: vec![(target, Arc::new(runtime))],
        opener: None,
        sharing: None,
    }
}
