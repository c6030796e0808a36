//! Databases of every earlier schema, with rows in them, brought up to date.

use clawfarm_model::{ClawId, Context, Phase};
use sea_orm::{ConnectOptions, ConnectionTrait, DatabaseConnection};
use sea_orm_migration::MigratorTrait;
use secrecy::SecretString;

use super::Migrator;
use crate::key::MasterKey;
use crate::store::{Schema, Store, StoreConfig};
use crate::{Database, EventFilter, PageRequest, crypto};

fn key() -> MasterKey {
    MasterKey::from_bytes([7; 32])
}

/// What was there when the first schema was the last: written out, for it does not change.
fn rows_of_the_first() -> Vec<String> {
    let proof = crypto::proof(&key()).unwrap();
    let spec = r#"{"claw_type":"openclaw","version":"2026.9.6","runtime":"process","target":"local"}"#;
    let intent = r#"{"desired":"running","generation":3,"run":2}"#;
    vec![
        format!("INSERT INTO meta VALUES ('store.master_key_proof', '{proof}', 1), ('node', 'n1', 1)"),
        "INSERT INTO tenants VALUES ('default', 1)".into(),
        "INSERT INTO projects VALUES ('default', 'default', 1)".into(),
        "INSERT INTO targets VALUES ('local', 'process', '{}', NULL, 'null', 1, 1)".into(),
        format!(
            "INSERT INTO instances (id, tenant, project, name, claw_type, runtime, target, phase, desired, generation, \
             run, port, version, spec, intent, observed, observed_at, unknown_since, health, restarts, memory_mib, \
             restarts_total, attempts, not_before, phase_since, last_error, labels, created_at, updated_at) VALUES \
             ('alice-x7k2m', 'default', 'default', 'alice', 'openclaw', 'process', 'local', 'ready', 'running', 3, 2, \
             21000, 9, '{spec}', '{intent}', NULL, NULL, NULL, 'passing', 1, 1024, 4, 0, NULL, 1, NULL, '{{}}', 1, 2)"
        ),
        "INSERT INTO instance_labels VALUES ('alice-x7k2m', 'team', 'blue')".into(),
        "INSERT INTO events (at, tenant, instance, level, reason, message) VALUES \
         (5, 'default', 'alice-x7k2m', 'info', 'created', 'it was made')"
            .into(),
        "INSERT INTO audit (at, tenant, actor, action, kind, object, request_id, outcome, detail) VALUES \
         (5, 'default', 'owner:me', 'instance.create', 'instance', 'alice-x7k2m', 'r1', 'done', 'created')"
            .into(),
        "INSERT INTO operations VALUES ('op-1', 'default', 'alice-x7k2m', 'create', 3, 'running', '[]', NULL, 1, 1, NULL)".into(),
        "INSERT INTO datasets VALUES ('bob-22222', 'default', 'default', 'openclaw', '1', 'local', 5, 1, NULL)".into(),
        "INSERT INTO idempotency_keys VALUES ('default', 'k1', 'h1', 'alice-x7k2m', 'op-1', 1)".into(),
    ]
}

/// What each later schema added, by the number of migrations.
fn rows_of(schema: usize) -> Vec<&'static str> {
    match schema {
        2 => vec![
            "INSERT INTO servers VALUES ('n1', 's1', 'one', '0.1.0', NULL, '[\"local\"]', 1, 1, 1)",
            "INSERT INTO leases VALUES ('local', 0, 'n1', 7, 1)",
        ],
        3 => vec!["INSERT INTO event_marks VALUES ('default', 'alice-x7k2m', 0)"],
        4 => vec![
            "UPDATE instances SET software_update = '{\"from\":\"1\",\"to\":\"2\",\"stage\":\"trying\",\"copy\":3}'",
        ],
        5 => vec!["INSERT INTO edge_tickets VALUES ('t-1', 5)"],
        6 => vec![
            "INSERT INTO policies VALUES ('default', '', '{\"idle_seconds\":900}', 1)",
            "INSERT INTO rests (instance, tenant, active_at, facts) VALUES ('alice-x7k2m', 'default', 5, '{}')",
        ],
        7 => vec![
            "INSERT INTO inbox (id, tenant, instance, lane, path, state, wrapped_key, content, size, received_at, \
             attempts, next_at, last_error) VALUES ('in-1', 'default', 'alice-x7k2m', 'l', '/hooks', 'dead', 'k', 'c', \
             3, 1, 2, 0, 'refused')",
        ],
        8 => vec!["UPDATE rests SET sockets_at = 7"],
        9 => vec!["UPDATE inbox SET replayed_at = 7"],
        10 => vec![
            "INSERT INTO configs VALUES ('default', 'support', 1, NULL, 1, 1, 1, NULL)",
            "INSERT INTO config_revisions VALUES ('default', 'support', 1, 'me', '', '{}', 1, NULL, NULL, 0)",
            "UPDATE instances SET template = 'support', layers = '{\"template\":\"support\",\"revision\":3}', in_force = 2",
        ],
        12 => vec!["UPDATE instances SET setup = '{\"attended\":true,\"steps\":[{\"state\":\"done\"}]}'"],
        13 => vec![
            "INSERT INTO rollouts VALUES ('ro-1', 'default', 'instances.own', NULL, NULL, 1, '{}', '{}', 'done', 0, 1, \
             NULL, 0, 'me', '', NULL, 2, 1, 5)",
            "INSERT INTO rollout_members VALUES ('ro-1', 'alice-x7k2m', 0, 'proven', 1, NULL, '{\"impact\":\"none\"}', 0, \
             1, 1, 1, NULL, '[{\"path\":\"env.A\",\"after\":\"1\"}]')",
        ],
        _ => Vec::new(),
    }
}

async fn raw(url: String) -> DatabaseConnection {
    let mut options = ConnectOptions::new(url);
    options.max_connections(1);
    sea_orm::Database::connect(options).await.unwrap()
}

async fn brought_up_to_date(postgres: bool) {
    let all = Migrator::migrations().len();
    for schema in 1..=all {
        let dir = tempfile::tempdir().unwrap();
        let server = postgres.then(clawfarm_test_postgres::Database::new);
        let file = dir.path().join("clawfarm.db");
        let (url, database) = match &server {
            Some(server) => (server.url(), Database::postgres(&SecretString::from(server.url())).unwrap()),
            None => (format!("sqlite://{}?mode=rwc", file.display()), Database::Sqlite(file)),
        };
        let old = raw(url).await;
        Migrator::up(&old, Some(u32::try_from(schema).unwrap())).await.unwrap();
        for sql in rows_of_the_first() {
            old.execute_unprepared(&sql).await.unwrap();
        }
        for sql in (2..=schema).flat_map(rows_of) {
            old.execute_unprepared(sql).await.unwrap();
        }
        old.close().await.unwrap();

        let store = Store::open(StoreConfig::new(database.clone(), key())).await.unwrap();
        let context = Context::system("test");
        let id = ClawId::new("alice-x7k2m").unwrap();
        let alice = store.instance(&context, &id).await.unwrap();
        assert_eq!(
            (alice.phase, alice.port, alice.version),
            (Phase::Ready, Some(21_000), 9),
            "schema {schema}"
        );
        assert_eq!((alice.intent.generation, alice.restarts_total), (3, 4));
        assert_eq!(store.meta_get(&context, "node").await.unwrap().as_deref(), Some("n1"));
        let events = store.events(&context, &EventFilter::default(), 10).await.unwrap();
        assert_eq!((events.len(), events[0].message.as_str()), (1, "it was made"));
        assert_eq!(store.audit(&context, &PageRequest::first()).await.unwrap().items.len(), 1);
        assert_eq!(store.running_operation(&context, &id).await.unwrap().unwrap().id, "op-1");
        assert_eq!(store.datasets(&context, &PageRequest::first()).await.unwrap().items.len(), 1);
        assert_eq!(store.targets(&context).await.unwrap().len(), 1);
        // It can be written: numbers go on where they were.
        store.meta_set(&context, "node", "n2").await.unwrap();
        let resource = clawfarm_model::Resource::new("default".parse().unwrap(), "instance", id.as_str());
        let granted =
            clawfarm_model::authorize(&context, clawfarm_model::Action::Observe, &resource).unwrap();
        let event = clawfarm_model::event::NewEvent::info("noted", "later");
        store.record_event(&granted, &event).await.unwrap();
        let events = store.events(&context, &EventFilter::default(), 10).await.unwrap();
        assert!(events[1].seq > events[0].seq);
        store.close().await;
        // Twice is once.
        Store::open(StoreConfig::new(database, key())).await.unwrap().close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_earlier_schema_is_brought_up_to_date_on_sqlite() {
    brought_up_to_date(false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_earlier_schema_is_brought_up_to_date_on_postgres() {
    brought_up_to_date(true).await;
}

#[test]
fn the_names_are_in_order_and_the_oldest_companion_is_among_them() {
    let names: Vec<String> = Migrator::migrations().iter().map(|m| m.name().to_owned()).collect();
    assert!(names.is_sorted(), "{names:?}");
    for (n, name) in names.iter().enumerate() {
        assert!(name.starts_with(&format!("m{:04}_", n + 1)), "{name}");
    }
    assert!((1..=names.len()).contains(&Migrator::COMPATIBLE_FROM));
}
