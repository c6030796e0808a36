//! A store on either database, and instances to put into it.

use clawfarm_model::authz::{Action, Context, Granted, Resource, authorize};
use clawfarm_model::name::{InstanceName, ProjectName, TargetName, TenantName};
use clawfarm_model::target::{RuntimeKind, Target};
use clawfarm_model::{ClawId, Health, Instance, InstanceSpec, Phase, Timestamp};
use clawfarm_store::{Created, Database, MasterKey, NewInstance, Store, StoreConfig};
use sea_orm::{ConnectOptions, DatabaseConnection};
use secrecy::SecretString;
use tempfile::TempDir;

/// Which database a test runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum On {
    Sqlite,
    Postgres,
}

/// Makes two tests of each function: on SQLite and on PostgreSQL.
macro_rules! on_both {
    ($($name:ident),* $(,)?) => {
        mod on_sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name($crate::support::On::Sqlite).await;
            })*
        }
        mod on_postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name($crate::support::On::Postgres).await;
            })*
        }
    };
}
pub(crate) use on_both;

/// An empty database and a folder for the key.
pub(crate) struct Place {
    pub(crate) dir: TempDir,
    pub(crate) postgres: Option<clawfarm_test_postgres::Database>,
}

impl Place {
    pub(crate) fn new(on: On) -> Self {
        let postgres = (on == On::Postgres).then(clawfarm_test_postgres::Database::new);
        Self { dir: tempfile::tempdir().unwrap(), postgres }
    }

    pub(crate) fn database(&self) -> Database {
        match &self.postgres {
            Some(postgres) => Database::postgres(&SecretString::from(postgres.url())).unwrap(),
            None => Database::Sqlite(self.dir.path().join("clawfarm.db")),
        }
    }

    pub(crate) fn config(&self) -> StoreConfig {
        let key = MasterKey::load_or_create(&self.dir.path().join("master.key")).unwrap();
        StoreConfig::new(self.database(), key)
    }

    /// Another server's store, or this one's again.
    pub(crate) async fn open(&self) -> Store {
        Store::open(self.config()).await.unwrap()
    }

    /// All that the database holds, to be compared or searched.
    pub(crate) fn contents(&self) -> Vec<u8> {
        match &self.postgres {
            Some(postgres) => postgres.dump().into_bytes(),
            None => ["clawfarm.db", "clawfarm.db-wal"]
                .iter()
                .flat_map(|name| std::fs::read(self.dir.path().join(name)).unwrap_or_default())
                .collect(),
        }
    }

    /// A connection beside the store's.
    pub(crate) async fn raw(&self) -> DatabaseConnection {
        let url = match &self.postgres {
            Some(postgres) => postgres.url(),
            None => format!("sqlite://{}", self.dir.path().join("clawfarm.db").display()),
        };
        let mut options = ConnectOptions::new(url);
        options.max_connections(1);
        sea_orm::Database::connect(options).await.unwrap()
    }
}

pub(crate) struct Bed {
    // Before its place: the store's connections end before the database goes.
    pub(crate) store: Store,
    pub(crate) place: Place,
}

pub(crate) const TARGET: &str = "local";

impl Bed {
    /// A fresh store with the tenants `default` and `other`, and the target `local`.
    pub(crate) async fn new(on: On) -> Self {
        Self::furnished(Place::new(on)).await
    }

    pub(crate) async fn furnished(place: Place) -> Self {
        let bed = Self { store: place.open().await, place };
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
        layers: clawfarm_model::Layered::default(),
        in_force: 0,
        update: None,
        setup: None,
        version: 0,
        created_at: now,
        updated_at: now,
    }
}
