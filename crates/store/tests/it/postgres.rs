//! What only a database that many servers share can do to them.

use std::time::Duration;

use clawfarm_model::authz::Action;
use clawfarm_model::event::NewEvent;
use clawfarm_model::operation::Step;
use clawfarm_model::{Code, Instance, OperationKind, Timestamp};
use clawfarm_store::{
    Changes, Created, Database, EventFilter, Idempotency, NewInstance, NewOperation, Store, StoreConfig,
};
use clawfarm_test_postgres::Server;
use sea_orm::{ConnectionTrait, TransactionTrait};
use secrecy::SecretString;
use tokio::time::{sleep, timeout};

use crate::support::{Bed, On, Place, instance, leave, owner, system};

const LIMIT: Duration = Duration::from_secs(30);

fn count_up(i: &mut Instance) -> clawfarm_model::Result<Changes> {
    i.restarts_total += 1;
    Ok(Changes::event(NewEvent::info("counted", format!("{}", i.restarts_total))))
}

/// Reads events as a watcher does, until it has seen `until`.
async fn watch(store: Store, mut after: i64, until: usize) -> Vec<i64> {
    let mut signal = store.subscribe();
    let mut seen = Vec::new();
    let begun = std::time::Instant::now();
    while seen.len() < until {
        let filter = EventFilter { after_seq: Some(after), ..EventFilter::default() };
        let events = match store.events(&system(), &filter, 7).await {
            Ok(events) => events,
            // Its connection was ended under it: a watcher asks again.
            Err(error) if error.code() == Code::Unavailable && begun.elapsed() < LIMIT => {
                sleep(Duration::from_millis(10)).await;
                continue;
            }
            Err(error) => panic!("{error}"),
        };
        if events.is_empty() {
            let heard = timeout(LIMIT, signal.changed()).await;
            heard
                .unwrap_or_else(|_| panic!("heard of no more than {} of {until} events", seen.len()))
                .unwrap();
        }
        after = events.last().map_or(after, |e| e.seq);
        seen.extend(events.iter().map(|e| e.seq));
    }
    seen
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watchers_on_every_server_see_every_event_once_and_in_one_order() {
    let bed = Bed::new(On::Postgres).await;
    let other = bed.place.open().await;
    let mut claws = Vec::new();
    for n in 0..6 {
        claws.push(bed.make(instance("default", &format!("claw{n}"))).await);
    }
    let begin = *bed.store.subscribe().borrow();
    let watchers: Vec<_> = [&bed.store, &other, &bed.store, &other]
        .map(|store| tokio::spawn(watch(store.clone(), begin, 300)))
        .into();
    let writers: Vec<_> = claws
        .into_iter()
        .enumerate()
        .map(|(n, claw)| {
            let store = if n % 2 == 0 { bed.store.clone() } else { other.clone() };
            tokio::spawn(async move {
                for _ in 0..50 {
                    store
                        .update_instance(&leave(Action::Observe, &claw), &claw.id, None, count_up)
                        .await
                        .unwrap();
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    let newer = EventFilter { after_seq: Some(begin), ..EventFilter::default() };
    let all = bed.store.events(&system(), &newer, 500).await.unwrap();
    let all: Vec<_> = all.iter().map(|e| e.seq).collect();
    assert_eq!(all.len(), 300);
    for watcher in watchers {
        assert_eq!(watcher.await.unwrap(), all);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_committer_is_never_passed_by() {
    let bed = Bed::new(On::Postgres).await;
    let alice = bed.make(instance("default", "alice")).await;
    let before = *bed.store.subscribe().borrow();
    // Another server, which has numbered its event and not committed yet.
    let raw = bed.place.raw().await;
    let slow = raw.begin().await.unwrap();
    slow.execute_unprepared(
        "SELECT pg_advisory_xact_lock(1668047223, 1); \
         INSERT INTO events (at, tenant, level, reason, message) VALUES (1, 'default', 'info', 'slow', 'slow')",
    )
    .await
    .unwrap();
    let (store, claw) = (bed.store.clone(), alice.clone());
    let fast = tokio::spawn(async move {
        store.update_instance(&leave(Action::Observe, &claw), &claw.id, None, count_up).await.unwrap();
    });
    // The fast one waits behind it with all else done; nothing of it is to be seen.
    let raw_eyes = bed.place.raw().await;
    let waits = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted";
    timeout(LIMIT, async {
        while raw_eyes
            .query_one_raw(sea_orm::Statement::from_string(sea_orm::DbBackend::Postgres, waits))
            .await
            .unwrap()
            .is_none()
        {
            sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("the fast one waits for the numbers");
    let newer = EventFilter { after_seq: Some(before), ..EventFilter::default() };
    assert_eq!(bed.store.events(&system(), &newer, 10).await.unwrap(), []);
    slow.commit().await.unwrap();
    fast.await.unwrap();
    let seen = bed.store.events(&system(), &newer, 10).await.unwrap();
    let told: Vec<_> = seen.iter().map(|e| e.reason.as_str()).collect();
    assert_eq!(told, ["slow", "counted"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn progress_and_ends_of_operations_are_heard_on_another_server() {
    let bed = Bed::new(On::Postgres).await;
    let other = bed.place.open().await;
    let alice = bed.make(instance("default", "alice")).await;
    let operation = bed.store.running_operation(&system(), &alice.id).await.unwrap().unwrap();
    for watcher in [&bed.store, &other] {
        let mut signal = watcher.watch_operation(&operation.id);
        signal.mark_unchanged();
        let step = Step {
            name: "install".into(),
            message: "installing".into(),
            done: 1,
            total: None,
            unit: String::new(),
            started_at: Timestamp::now(),
            ended_at: None,
        };
        bed.store.set_operation_steps(&system(), &operation.id, &[step], None).await.unwrap();
        timeout(LIMIT, signal.changed()).await.expect("the step is heard of").unwrap();
    }
    // Superseded by another one.
    let mut signal = other.watch_operation(&operation.id);
    signal.mark_unchanged();
    let next = |_: &mut Instance| {
        Ok(Changes { begin: Some(NewOperation::new(OperationKind::Restart)), ..Changes::none() })
    };
    bed.store.update_instance(&leave(Action::InstanceChange, &alice), &alice.id, None, next).await.unwrap();
    timeout(LIMIT, signal.changed()).await.expect("the end is heard of").unwrap();
    assert!(other.operation(&system(), &operation.id).await.unwrap().state.ended());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_told_while_nobody_could_listen_is_caught_up() {
    let bed = Bed::new(On::Postgres).await;
    let other = bed.place.open().await;
    let alice = bed.make(instance("default", "alice")).await;
    let begin = *bed.store.subscribe().borrow();
    let watcher = tokio::spawn(watch(other.clone(), begin, 12));
    let raw = bed.place.raw().await;
    for round in 0..4 {
        for _ in 0..3 {
            bed.store
                .update_instance(&leave(Action::Observe, &alice), &alice.id, None, count_up)
                .await
                .unwrap();
        }
        if round < 3 {
            // All connections of both servers but this one.
            raw.execute_unprepared(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                 WHERE datname = current_database() AND pid <> pg_backend_pid() AND state = 'idle'",
            )
            .await
            .unwrap();
        }
    }
    let seen = watcher.await.unwrap();
    assert_eq!(seen.len(), 12);
    // By a server that died before it told.
    let begin = *seen.last().unwrap();
    let late = tokio::spawn(watch(other.clone(), begin, 1));
    raw.execute_unprepared(
        "INSERT INTO events (at, tenant, level, reason, message) VALUES (1, 'default', 'info', 'quiet', 'quiet')",
    )
    .await
    .unwrap();
    assert_eq!(late.await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_creation_at_once_on_two_servers_is_one() {
    let bed = Bed::new(On::Postgres).await;
    let other = bed.place.open().await;
    let tasks: Vec<_> = (0..10)
        .map(|n| {
            let store = if n % 2 == 0 { bed.store.clone() } else { other.clone() };
            tokio::spawn(async move {
                let alice = instance("default", "alice");
                let idempotency = Some(Idempotency { key: "k".into(), request_hash: "h".into() });
                let new = NewInstance { idempotency, ..NewInstance::new(alice.clone()) };
                store.create_instance(&leave(Action::InstanceCreate, &alice), new).await.unwrap()
            })
        })
        .collect();
    let mut made = 0;
    for task in tasks {
        made += u32::from(matches!(task.await.unwrap(), Created::New { .. }));
    }
    assert_eq!(made, 1);
    assert_eq!(bed.store.instance_ids_to_reconcile(&system()).await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_first_starts_at_once_make_one_schema() {
    let place = Place::new(On::Postgres);
    let _ = place.config(); // the key
    let opens: Vec<_> = (0..4).map(|_| tokio::spawn(Store::open(place.config()))).collect();
    for open in opens {
        open.await.unwrap().unwrap().ping().await.unwrap();
    }
    let mixed = place.postgres.as_ref().unwrap().sql(
        "SELECT table_name || '.' || column_name FROM information_schema.columns WHERE table_schema = 'public' \
         AND data_type = 'text' AND collation_name IS DISTINCT FROM 'C'",
    );
    assert_eq!(mixed, "", "these are not compared by their bytes: use migration::columns");
}

/// Makes the database answer the next `times` writes of instances with this SQLSTATE.
async fn trouble(place: &Place, code: &str, times: u32) {
    let raw = place.raw().await;
    raw.execute_unprepared(&format!(
        "DROP SEQUENCE IF EXISTS boom CASCADE; CREATE SEQUENCE boom; \
         CREATE OR REPLACE FUNCTION boom() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
         IF nextval('boom') <= {times} THEN RAISE EXCEPTION 'boom' USING ERRCODE = '{code}'; END IF; \
         RETURN NEW; END $$; \
         CREATE OR REPLACE TRIGGER boom BEFORE INSERT OR UPDATE ON instances FOR EACH ROW EXECUTE FUNCTION boom()"
    ))
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_that_collided_is_made_again_and_asked_for_once() {
    let bed = Bed::new(On::Postgres).await;
    for code in ["40P01", "40001"] {
        trouble(&bed.place, code, 2).await;
        let alice = bed.make(instance("default", "alice")).await;
        trouble(&bed.place, code, 3).await;
        let mut asked = 0;
        let change = |i: &mut Instance| {
            asked += 1;
            count_up(i)
        };
        let (after, _) = bed
            .store
            .update_instance(&leave(Action::Observe, &alice), &alice.id, None, change)
            .await
            .unwrap();
        assert_eq!((after.restarts_total, asked), (1, 1));
        // Again and again, it is told.
        trouble(&bed.place, code, 1_000).await;
        let error = bed
            .store
            .update_instance(&leave(Action::Observe, &alice), &alice.id, None, count_up)
            .await
            .unwrap_err();
        assert_eq!(error.code(), Code::Unavailable, "{error}");
        assert!(error.message().contains("collided") && error.fix_text().is_some(), "{error}");
        assert_eq!(bed.store.instance(&owner("default"), &alice.id).await.unwrap(), after);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_trouble_of_the_database_is_told_with_what_to_do() {
    let bed = Bed::new(On::Postgres).await;
    let alice = bed.make(instance("default", "alice")).await;
    for (sqlstate, code, words) in [
        ("53100", Code::Unavailable, "disk of the database server is full"),
        ("53200", Code::Unavailable, "out of memory"),
        ("57P01", Code::Unavailable, "stopped or started"),
        ("25006", Code::Unavailable, "read-only"),
        ("55P03", Code::Unavailable, "waited too long"),
        ("57014", Code::Unavailable, "too long"),
        ("42501", Code::Internal, "may not do"),
        ("42P01", Code::Internal, "missing"),
        ("58030", Code::Internal, "its files"),
        ("XX001", Code::Internal, "damaged"),
        ("22012", Code::Internal, "refused a query"),
    ] {
        trouble(&bed.place, sqlstate, 1).await;
        let change =
            bed.store.update_instance(&leave(Action::Observe, &alice), &alice.id, None, count_up).await;
        let error = change.unwrap_err();
        assert_eq!(error.code(), code, "{sqlstate}: {error}");
        assert!(error.message().contains(words), "{sqlstate}: {error}");
        assert!(error.fix_text().is_some() || sqlstate == "22012", "{sqlstate}: {error}");
    }
    assert_eq!(bed.store.instance(&owner("default"), &alice.id).await.unwrap(), alice);
    bed.store.update_instance(&leave(Action::Observe, &alice), &alice.id, None, count_up).await.unwrap();
}

async fn refused(url: &str) -> clawfarm_model::Error {
    let key = clawfarm_store::MasterKey::from_bytes([1; 32]);
    let database = Database::postgres(&SecretString::from(url)).unwrap();
    let error = Store::open(StoreConfig::new(database, key)).await.unwrap_err();
    let all = format!("{error:?} {:?}", error.inner());
    assert!(!all.contains("s3cret") && error.fix_text().is_some(), "{all}");
    error
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_can_not_be_opened_is_told_without_the_password() {
    let place = Place::new(On::Postgres);
    let database = place.postgres.as_ref().unwrap();
    let _ = database.sql(
        "DO $$ BEGIN CREATE ROLE secured LOGIN PASSWORD 'right'; EXCEPTION WHEN duplicate_object THEN END $$",
    );
    let url = database.url_as("secured:s3cret");
    let error = refused(&url).await;
    assert!(error.message().contains("password") && error.code() == Code::Internal, "{error}");
    let error = refused(&database.url().replace(database.name(), "nowhere")).await;
    assert!(error.message().contains("no such database"), "{error}");
    let error = refused("postgres://u:s3cret@%2Fnowhere/d").await;
    assert!(error.message().contains("does not answer") && error.code() == Code::Unavailable, "{error}");
    // Nobody listens on the port that was just given back.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let error = refused(&format!("postgres://u:s3cret@127.0.0.1:{port}/d")).await;
    assert_eq!(error.code(), Code::Unavailable, "{error}");
    // Who may connect but make no table.
    let _ = database.sql("DO $$ BEGIN CREATE ROLE guest LOGIN; EXCEPTION WHEN duplicate_object THEN END $$");
    let error = refused(&database.url_as("guest")).await;
    assert!(error.message().contains("may not do"), "{error}");
    let latin = format!("latin_{}", database.name());
    let _ = database.sql(&format!("CREATE DATABASE {latin} TEMPLATE template0 ENCODING 'LATIN1'"));
    let error = refused(&database.url().replace(database.name(), &latin)).await;
    assert!(error.message().contains("LATIN1") && error.code() == Code::Unsupported, "{error}");
    let _ = database.sql(&format!("DROP DATABASE {latin}"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_is_started_again_is_found_again_and_nothing_is_lost() {
    let server = Server::private();
    let place = Place { dir: tempfile::tempdir().unwrap(), postgres: Some(server.database()) };
    let bed = Bed::furnished(place).await;
    let alice = bed.make(instance("default", "alice")).await;
    let store = bed.store.clone();
    let begin = *store.subscribe().borrow();
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let writer = tokio::spawn(async move {
        let (mut acknowledged, mut failed) = (0, 0);
        while !*stopped.borrow() {
            match store.update_instance(&leave(Action::Observe, &alice), &alice.id, None, count_up).await {
                Ok((after, _)) => {
                    acknowledged += 1;
                    assert_eq!(
                        after.restarts_total, acknowledged,
                        "one was made that was told to have failed"
                    );
                }
                Err(error) => {
                    assert_eq!(error.code(), Code::Unavailable, "{error}");
                    failed += 1;
                    sleep(Duration::from_millis(20)).await;
                }
            }
        }
        (acknowledged, failed)
    });
    let mut signal = bed.store.subscribe();
    for round in 0..3 {
        for _ in 0..3 {
            timeout(LIMIT, signal.changed()).await.expect("changes go on").unwrap();
        }
        if round < 2 {
            tokio::task::block_in_place(|| if round == 0 { server.crash() } else { server.stop() });
            tokio::task::block_in_place(|| server.start());
        }
    }
    stop.send(true).unwrap();
    let (acknowledged, failed) = writer.await.unwrap();
    assert!(failed > 0, "the database was never gone: the test proves nothing");
    let seen = watch(bed.store.clone(), begin, acknowledged as usize).await;
    assert_eq!(seen.len(), acknowledged as usize);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_heartbeat_does_not_wait_behind_what_clients_change() {
    let bed = Bed::new(On::Postgres).await;
    let member = clawfarm_model::server::Member {
        node: "n1".into(),
        session: "s".into(),
        name: "one".into(),
        version: "0.1.0".into(),
        address: None,
        targets: Vec::new(),
    };
    let long = Duration::from_secs(600);
    bed.store.join(&system(), &member, long).await.unwrap();
    // Every change of a client writes to the audit log, and none gets on.
    let raw = bed.place.raw().await;
    let held = raw.begin().await.unwrap();
    held.execute_unprepared("LOCK TABLE audit IN EXCLUSIVE MODE").await.unwrap();
    let mut clients = tokio::task::JoinSet::new();
    for n in 0..30 {
        let (store, new) = (bed.store.clone(), instance("default", &format!("claw{n}")));
        clients.spawn(async move {
            let grant = leave(Action::InstanceCreate, &new);
            store.create_instance(&grant, NewInstance::new(new)).await.map(drop)
        });
    }
    // As many as there are connections for changes.
    let looking = bed.place.raw().await;
    let waiting = "SELECT count(*) AS n FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()";
    let begun = std::time::Instant::now();
    loop {
        let look = sea_orm::Statement::from_string(sea_orm::DbBackend::Postgres, waiting);
        let row = looking.query_one_raw(look);
        let count: i64 = row.await.unwrap().unwrap().try_get("", "n").unwrap();
        if count >= 8 {
            break;
        }
        assert!(begun.elapsed() < LIMIT, "only {count} changes wait");
        sleep(Duration::from_millis(20)).await;
    }
    // Well before the changes give up (10 s), whatever the machine does meanwhile.
    bed.store.beat(&system(), &member, long).await.unwrap();
    assert_eq!(clients.try_join_next().map(|c| c.unwrap().is_ok()), None, "the changes still waited");
    held.rollback().await.unwrap();
    clients.join_all().await;
}
