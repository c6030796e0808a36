//! PostgreSQL stands still: it neither answers nor hangs up.

use std::time::Duration;

use clawfarm_api::{CreateInstance, StopRequest};
use clawfarm_model::target::RuntimeKind;
use clawfarm_model::{OperationState, Phase, Timestamp};
use clawfarm_runtime_sim::ActKind;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::servers::{Farm, Node, Options};
use crate::faults::asked;
use crate::support::eventually;

/// All processes of a PostgreSQL, stopped until this is dropped.
struct Frozen(Vec<i32>);

impl Frozen {
    fn new(postmaster: i32) -> Self {
        let mut frozen = Self(vec![postmaster]);
        // First the one that makes the others.
        signal(postmaster, Signal::SIGSTOP);
        for entry in std::fs::read_dir("/proc").expect("processes").flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
                continue;
            };
            let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
            let parent =
                stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1)?.parse::<i32>().ok());
            if parent == Some(postmaster) {
                signal(pid, Signal::SIGSTOP);
                frozen.0.push(pid);
            }
        }
        assert!(frozen.0.len() > 1, "it has no processes");
        frozen
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        for pid in &self.0 {
            signal(*pid, Signal::SIGCONT);
        }
    }
}

fn signal(pid: i32, what: Signal) {
    // One that ended meanwhile is as good.
    let _ = kill(Pid::from_raw(pid), what);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn e2e_a_postgresql_that_stands_still_is_told_in_time_and_gone_on_with() {
    let farm = Farm::with_postgres();
    let node = Node::start(&farm, "one", Options::default()).await;
    let new = CreateInstance {
        claw_type: "openclaw".into(),
        name: Some("alice".parse().expect("a name")),
        runtime: Some(RuntimeKind::Sim),
        ..CreateInstance::default()
    };
    let never = Timestamp::from_millis(i64::MAX);
    let ended = async |id: &str| {
        node.client().operation_changed(id, never, Duration::from_secs(60)).await.expect("an operation")
    };
    let made = node.client().create(&new, None).await.expect("accepted");
    assert_eq!(ended(&made.operation.id).await.state, OperationState::Succeeded);
    let id = made.instance.id.to_string();

    let frozen = Frozen::new(farm.postgres.as_ref().and_then(|p| p.pid()).expect("it runs"));
    // Each has its limit: none waits for the database for ever, and some wait together.
    let paths = [
        ("GET", "/readyz".to_owned()),
        ("GET", "/api/v1/instances".to_owned()),
        ("GET", format!("/api/v1/instances/{id}")),
        ("POST", format!("/api/v1/instances/{id}/stop")),
    ];
    let answers = std::thread::scope(|scope| {
        let home = node.home();
        let asks = paths.each_ref().map(|(method, path)| scope.spawn(move || asked(home, method, path)));
        // What needs no database is answered meanwhile.
        let healthy = asked(node.home(), "GET", "/healthz");
        assert!(healthy.starts_with("http/1.1 200 "), "{healthy}");
        asks.map(|ask| ask.join().expect("an answer"))
    });
    for answer in answers {
        assert!(answer.starts_with("http/1.1 503 ") && answer.contains("retry-after:"), "{answer}");
    }
    drop(frozen);

    // It goes on by itself: its leases are of the database's clock, which went on.
    let begun = std::time::Instant::now();
    let stopping = loop {
        match node.client().stop(&id, StopRequest::default()).await {
            Ok(accepted) => break accepted,
            Err(error) => assert!(begun.elapsed() < crate::support::LIMIT, "it does not go on: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    assert_eq!(ended(&stopping.operation.id).await.state, OperationState::Succeeded);
    assert_eq!(node.client().instance(&id).await.expect("there").phase, Phase::Stopped);
    let world = farm.world();
    let acts = |kind| world.journal().expect("a journal").iter().filter(|act| act.act == kind).count();
    assert_eq!((acts(ActKind::Start), acts(ActKind::Stop)), (1, 1), "each was done once");
    eventually("it to be ready", || {
        asked(node.home(), "GET", "/readyz").starts_with("http/1.1 200 ").then_some(())
    });
}
