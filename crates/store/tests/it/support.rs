//! A store in a temporary folder, and instances to put into it.

use std::path::Path;

use clawfarm_model::authz::{Action, Context, Granted, Resource, authorize};
use clawfarm_model::name::{InstanceName, ProjectName, TargetName, TenantName};
use clawfarm_model::target::{RuntimeKind, Target};
use clawfarm_model::{ClawId, Health, Instance, InstanceSpec, Phase, Timestamp};
use clawfarm_store::{Created, MasterKey, NewInstance, Store, StoreConfig};
use tempfile::TempDir;

pub(crate) struct Bed {
    pub(crate) store: Store,
    pub(crate) dir: TempDir,
}

pub(crate) const TARGET: &str = "local";

impl Bed {
    /// A fresh store with the tenants `default` and `other`, and the target `local`.
    pub(crate) async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = open(&dir).await;
        let bed = Self { store, dir };
        let granted = grant(&system(), Action::TargetWrite, "default", "target", TARGET);
        bed.store.put_target(&granted, &target(TARGET)).await.unwrap();
        let granted = grant(&system(), Action::ServerAdmin, "other", "tenant", "other");
        bed.store.add_project(&granted, &ProjectName::default_project()).await.unwrap();
        bed
    }

    pub(crate) async fn make(&self, instance: Instance) -> Instance {
        let granted = grant(
            &owner(instance.tenant.as_str()),
            Action::InstanceCreate,
            instance.tenant.as_str(),
            "instance",
            instance.id.as_str(),
        );
        match self.store.create_instance(&granted, NewInstance::new(instance)).await.unwrap() {
            Created::New { instance, .. } => *instance,
            Created::Replayed { .. } => panic!("nothing to replay"),
        }
    }
}

pub(crate) async fn open(dir: &TempDir) -> Store {
    open_at(dir.path()).await
}

pub(crate) async fn open_at(dir: &Path) -> Store {
    let key = MasterKey::load_or_create(&dir.join("master.key")).unwrap();
    Store::open(StoreConfig::sqlite(dir.join("clawfarm.db"), key)).await.unwrap()
}

pub(crate) fn tenant(name: &str) -> TenantName {
    TenantName::new(name).unwrap()
}

pub(crate) fn owner(name: &str) -> Context {
    Context::owner("tester".into(), tenant(name), "req-1".into())
}

pub(crate) fn system() -> Context {
    Context::system("test")
}

pub(crate) fn grant(context: &Context, action: Action, owner: &str, kind: &'static str, id: &str) -> Granted {
    authorize(context, action, &Resource::new(tenant(owner), kind, id)).unwrap()
}

/// Leave to do something to this instance, as its owner; to observe it, as the server.
pub(crate) fn leave(action: Action, instance: &Instance) -> Granted {
    let context = if action == Action::Observe { system() } else { owner(instance.tenant.as_str()) };
    grant(&context, action, instance.tenant.as_str(), "instance", instance.id.as_str())
}

pub(crate) fn target(name: &str) -> Target {
    Target {
        name: TargetName::new(name).unwrap(),
        runtime: RuntimeKind::Process,
        labels: std::collections::BTreeMap::default(),
        reachable_from: None,
        settings: serde_json::json!({}),
    }
}

/// An instance of this tenant, with a fresh id, without a port.
pub(crate) fn instance(owner: &str, name: &str) -> Instance {
    let name = InstanceName::new(name).unwrap();
    let spec: InstanceSpec = serde_json::from_value(serde_json::json!({
        "claw_type": "openclaw", "version": "2026.9.6", "runtime": "process", "target": TARGET,
    }))
    .unwrap();
    let now = Timestamp::now();
    Instance {
        id: ClawId::generate(&name),
        tenant: tenant(owner),
        project: ProjectName::default_project(),
        name,
        spec,
        intent: serde_json::from_value(
            serde_json::json!({ "desired": "running", "generation": 1, "run": 1 }),
        )
        .unwrap(),
        phase: Phase::Creating,
        observed: None,
        observed_at: None,
        unknown_since: None,
        health: Health::Unknown,
        port: None,
        restarts: 0,
        restarts_total: 0,
        attempts: 0,
        not_before: None,
        phase_since: now,
        last_error: None,
        version: 0,
        created_at: now,
        updated_at: now,
    }
}
