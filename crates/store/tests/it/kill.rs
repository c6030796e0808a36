//! The writing process is killed at any instruction: what it acknowledged is there, and
//! each change is there with all of its parts.

use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};
use std::time::Duration;

use clawfarm_model::authz::Action;
use clawfarm_model::event::NewEvent;
use clawfarm_model::{ClawId, OperationKind};
use clawfarm_store::{
    Changes, Database, EventFilter, MasterKey, NewOperation, PageRequest, Store, StoreConfig,
};
use secrecy::SecretString;

use crate::support::{Bed, On, grant, instance, on_both, owner};

on_both!(a_killed_writer_loses_nothing_that_it_acknowledged,);

const DIR: &str = "CLAWFARM_STORE_TEST_DIR";
const URL: &str = "CLAWFARM_STORE_TEST_URL";
const ID: &str = "CLAWFARM_STORE_TEST_ID";

/// The process that is killed: this test binary once more, running only this "test".
#[tokio::test]
#[ignore = "run by the test below as a process of its own"]
async fn writer() {
    let (Ok(dir), Ok(id)) = (std::env::var(DIR), std::env::var(ID)) else { return };
    let key = MasterKey::load_or_create(&std::path::Path::new(&dir).join("master.key")).unwrap();
    let database = match std::env::var(URL) {
        Ok(url) => Database::postgres(&SecretString::from(url)).unwrap(),
        Err(_) => Database::Sqlite(std::path::Path::new(&dir).join("clawfarm.db")),
    };
    let store = Store::open(StoreConfig::new(database, key)).await.unwrap();
    let id = ClawId::new(id).unwrap();
    let granted = grant(&owner("default"), Action::InstanceChange, "default", "instance", id.as_str());
    loop {
        let (after, _) = store
            .update_instance(&granted, &id, None, |i| {
                i.restarts_total += 1;
                Ok(Changes {
                    events: vec![NewEvent::info("counted", i.restarts_total.to_string())],
                    begin: Some(NewOperation::new(OperationKind::Restart)),
                    ..Changes::none()
                })
            })
            .await
            .unwrap();
        println!("acknowledged {}", after.restarts_total);
    }
}

async fn a_killed_writer_loses_nothing_that_it_acknowledged(on: On) {
    let bed = Bed::new(on).await;
    let id = bed.make(instance("default", "alice")).await.id;
    bed.store.close().await;
    let mut least = 0;
    for round in 0..6_u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "kill::writer", "--ignored", "--nocapture"])
            .env(DIR, bed.place.dir.path())
            .envs(bed.place.postgres.as_ref().map(|p| (URL, p.url())))
            .env(ID, id.as_str())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        // Until it has written something; then a while longer, another one each round.
        while !line.contains("acknowledged") {
            line.clear();
            assert_ne!(lines.read_line(&mut line).unwrap(), 0, "the writer ended by itself");
        }
        tokio::time::sleep(Duration::from_micros(7_300 * round)).await;
        child.kill().unwrap();
        child.wait().unwrap();
        lines.read_to_string(&mut line).unwrap();
        let acknowledged: u32 = line
            .lines()
            .filter_map(|l| l.rsplit_once("acknowledged ")?.1.parse().ok())
            .max()
            .expect("a whole line was read before the kill");

        let store = bed.place.open().await;
        let context = owner("default");
        let found = store.instance(&context, &id).await.unwrap();
        assert!(acknowledged > least, "the writer did nothing in round {round}");
        assert!(found.restarts_total >= acknowledged, "{acknowledged} were acknowledged: {found:?}");
        // One at most was committed and not told yet.
        assert!(found.restarts_total <= acknowledged + 1, "{acknowledged} were acknowledged: {found:?}");
        let newest = EventFilter { newest: true, ..EventFilter::default() };
        let last = store.events(&context, &newest, 1).await.unwrap();
        assert_eq!(last[0].message, found.restarts_total.to_string());
        assert_eq!(found.version, i64::from(found.restarts_total) + 1);
        let audit = store.audit(&context, &PageRequest::after(None, 1)).await.unwrap();
        assert_eq!(audit.items[0].detail, "restart");
        let running = store.running_operation(&context, &id).await.unwrap().unwrap();
        assert_eq!(running.kind, OperationKind::Restart);
        least = found.restarts_total;
        store.close().await;
    }
}
