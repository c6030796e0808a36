//! A server that stands still, and goes on when others have taken its work.

use std::time::Duration;

use clawfarm_api::{CreateInstance, StopRequest};
use clawfarm_model::target::RuntimeKind;
use clawfarm_model::{OperationState, Phase, Timestamp};
use clawfarm_runtime_sim::ActKind;
use nix::sys::signal::Signal;

use crate::support::Home;

use super::servers::{Farm, Node, Options, shares, until_servers};

/// Instances: about half are each server's.
const COUNT: usize = 24;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e2e_a_server_that_was_frozen_and_thawed_can_neither_write_nor_act() {
    let farm = Farm::new();
    // An act takes its time: the server is frozen with many of them begun.
    farm.world()
        .change_behaviour(|b| {
            b.delays = serde_json::from_str(r#"{"start":[3000,3000]}"#).expect("delays");
        })
        .expect("a behaviour");
    let frozen = Node::start(&farm, "frozen", Options::default()).await;
    let other = Node::start(&farm, "other", Options::default()).await;
    until_servers(&other, "the work is shared", |s| shares(s) == [32, 32]).await;
    let mut made = Vec::new();
    for n in 0..COUNT {
        let new = CreateInstance {
            claw_type: "openclaw".into(),
            name: Some(format!("c{n}").parse().expect("a name")),
            runtime: Some(RuntimeKind::Sim),
            ..CreateInstance::default()
        };
        made.push(other.client().create(&new, None).await.expect("accepted"));
    }
    let world = farm.world();
    let acts = |kind| world.journal().expect("a journal").iter().filter(|a| a.act == kind).count();
    // All are prepared, none has begun: each start is under way in one of the two.
    let begun = std::time::Instant::now();
    while acts(ActKind::Ensure) < COUNT {
        assert!(begun.elapsed() < Duration::from_secs(20), "they are not prepared");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    frozen.signal(Signal::SIGSTOP);
    let starts = acts(ActKind::Start);
    assert!(starts < COUNT, "it was frozen too late to prove anything");
    until_servers(&other, "the other has all of the work", |s| shares(s) == [64]).await;
    for accepted in &made {
        let never = Timestamp::from_millis(i64::MAX);
        let limit = Duration::from_secs(40);
        let ended =
            other.client().operation_changed(&accepted.operation.id, never, limit).await.expect("ended");
        assert_eq!(ended.state, OperationState::Succeeded, "{ended:?}");
    }
    let dump = || farm.database.sql("SELECT id, version, phase, run, observed FROM instances ORDER BY id");
    let (before, journal) = (dump(), world.journal().expect("a journal").len());
    frozen.signal(Signal::SIGCONT);
    until_servers(&other, "it has its share again", |s| shares(s) == [32, 32]).await;
    // What it was doing when it was frozen has come to its end by now: it serves, and its
    // dropped turns were counted.
    assert!(frozen.measured("clawfarm_fenced_total").await >= 1.0, "nothing was refused: {}", frozen.said());
    assert_eq!(world.journal().expect("a journal").len(), journal, "it acted");
    assert_eq!(dump(), before, "it wrote");
    for kind in [ActKind::Ensure, ActKind::Start] {
        assert_eq!(acts(kind), COUNT, "{kind:?} was done twice");
    }
    // With its new leases it works as before.
    world.change_behaviour(|b| b.delays.clear()).expect("a behaviour");
    for accepted in &made {
        let id = accepted.instance.id.as_str();
        let stopping = frozen.client().stop(id, StopRequest::default()).await.expect("accepted");
        let never = Timestamp::from_millis(i64::MAX);
        let ended =
            frozen.client().operation_changed(&stopping.operation.id, never, Duration::from_secs(30)).await;
        assert_eq!(ended.expect("ended").state, OperationState::Succeeded);
        assert_eq!(other.client().instance(id).await.expect("there").phase, Phase::Stopped);
    }
    assert_eq!(acts(ActKind::Stop), COUNT);
    println!(
        "{COUNT} instances, {starts} started before the freeze; refused: {}",
        frozen.measured("clawfarm_fenced_total").await
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e2e_a_server_that_was_away_while_a_backup_was_restored_ends_and_its_claws_go_on() {
    let farm = Farm::new();
    let mut server = Node::start(&farm, "one", Options::default()).await;
    let new = CreateInstance {
        claw_type: "openclaw".into(),
        name: Some("alice".parse().expect("a name")),
        runtime: Some(RuntimeKind::Sim),
        ..CreateInstance::default()
    };
    let made = server.client().create(&new, None).await.expect("accepted");
    let id = made.instance.id.to_string();
    let done = async |server: &Node, operation: &str| {
        let never = Timestamp::from_millis(i64::MAX);
        let ended = server.client().operation_changed(operation, never, Duration::from_secs(40)).await;
        assert_eq!(ended.expect("ended").state, OperationState::Succeeded);
    };
    done(&server, &made.operation.id).await;
    let file = server.home().path().join("old.backup");
    let file = file.to_str().expect("UTF-8");
    let url = farm.database.url();
    server.home().run(&["db", "backup", file, "--database", &url]).ends(0);
    for _ in 0..3 {
        let restarting = server.client().restart(&id).await.expect("accepted");
        done(&server, &restarting.operation.id).await;
    }
    let starts = || {
        farm.world()
            .acts_on(&made.instance.id)
            .expect("a journal")
            .iter()
            .filter(|a| **a == ActKind::Start)
            .count()
    };
    assert_eq!(starts(), 4);

    server.signal(Signal::SIGSTOP);
    let keeper = Home::new();
    farm.share_key(&keeper.farm());
    let begun = std::time::Instant::now();
    loop {
        // Its time in the list has to run out first.
        let restored = keeper.run(&["db", "restore", file, "--force", "--database", &url]);
        if restored.code == Some(0) {
            break;
        }
        assert!(restored.err.contains("runs on this database"), "{restored:?}");
        assert!(begun.elapsed() < Duration::from_secs(60), "it is not forgotten: {restored:?}");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    // By itself: it is thawed and nothing else.
    server.end(Signal::SIGCONT).await;
    assert!(server.said().contains("a backup was restored into the database"), "{}", server.said());

    // The state says that it was started once; the claw that runs was started four times. A
    // restart that is asked for before anybody has looked is done all the same.
    server.run(&farm).await;
    let restarting = server.client().restart(&id).await.expect("accepted");
    done(&server, &restarting.operation.id).await;
    assert_eq!(starts(), 5, "the restart was taken for done");
    let stopping = server.client().stop(&id, StopRequest::default()).await.expect("accepted");
    done(&server, &stopping.operation.id).await;
    let starting = server.client().start(&id).await.expect("accepted");
    done(&server, &starting.operation.id).await;
    assert_eq!(starts(), 6);
}
