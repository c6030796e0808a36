//! Every verb: doing it twice is doing it once, and two servers on one world agree.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use clawfarm_model::launch::DataFate;
use clawfarm_model::name::TargetName;
use clawfarm_model::{Code, Fence, ObservedState};
use clawfarm_runtime::{ExecInput, ExecOutput, ExecRequest, LogQuery, NoProgress, Runtime, TermSize};
use clawfarm_runtime_sim::{ActKind, ClawBehaviour};
use futures::{StreamExt, TryStreamExt};

use crate::common::{GRACE, PORT, id, launch, open, placement, until, up, world};

#[tokio::test]
async fn twice_is_once() {
    let (_folder, sim) = world();
    let a = id("a-12345");
    assert_eq!(sim.observe(&a).await.unwrap().state, ObservedState::Absent);
    for _ in 0..2 {
        sim.ensure(&placement(&a, PORT), &NoProgress).await.unwrap();
        assert_eq!(sim.observe(&a).await.unwrap().state, ObservedState::Prepared);
    }
    for _ in 0..2 {
        let seen = sim.start(&launch(&a, 3)).await.unwrap();
        assert_eq!((seen.state, seen.run, seen.port), (ObservedState::Running, 3, Some(PORT)));
    }
    let freeze = sim.freeze().unwrap();
    for _ in 0..2 {
        assert_eq!(freeze.freeze(&a).await.unwrap().state, ObservedState::Frozen);
    }
    for _ in 0..2 {
        assert_eq!(freeze.thaw(&a).await.unwrap().state, ObservedState::Running);
    }
    let suspend = sim.suspend().unwrap();
    for _ in 0..2 {
        assert_eq!(suspend.suspend(&a).await.unwrap().state, ObservedState::Exited);
    }
    for _ in 0..2 {
        assert_eq!(suspend.resume(&a).await.unwrap().state, ObservedState::Running);
    }
    for _ in 0..2 {
        let seen = sim.stop(&a, GRACE).await.unwrap();
        assert_eq!(seen.state, ObservedState::Exited);
        assert!(seen.exit.unwrap().requested);
    }
    sim.start(&launch(&a, 4)).await.unwrap();
    for _ in 0..2 {
        assert_eq!(sim.kill(&a).await.unwrap().exit.unwrap().signal, Some(9));
    }
    let mut sizes = BTreeSet::new();
    for _ in 0..2 {
        sizes.insert(sim.destroy(&a, DataFate::Keep).await.unwrap());
        assert_eq!(sim.observe(&a).await.unwrap().state, ObservedState::Absent);
    }
    assert_eq!(sizes.len(), 1, "the size of what was set aside is told again: {sizes:?}");
    assert_eq!(sim.world().datasets().unwrap(), std::slice::from_ref(&a));
    for _ in 0..2 {
        sim.remove_dataset(&a).await.unwrap();
    }
    assert!(sim.world().datasets().unwrap().is_empty());
    use ActKind as K;
    assert_eq!(
        sim.world().acts_on(&a).unwrap(),
        [
            K::Ensure,
            K::Start,
            K::Freeze,
            K::Thaw,
            K::Suspend,
            K::Resume,
            K::Stop,
            K::Start,
            K::Kill,
            K::Destroy
        ]
    );
}

#[tokio::test]
async fn verbs_on_nothing_say_so() {
    let (_folder, sim) = world();
    let a = id("a-12345");
    assert_eq!(sim.stop(&a, GRACE).await.unwrap().state, ObservedState::Absent);
    assert_eq!(sim.kill(&a).await.unwrap().state, ObservedState::Absent);
    assert_eq!(sim.destroy(&a, DataFate::Purge).await.unwrap(), 0);
    assert!(sim.start(&launch(&a, 1)).await.is_err());
    sim.ensure(&placement(&a, PORT), &NoProgress).await.unwrap();
    assert_eq!(sim.freeze().unwrap().freeze(&a).await.unwrap_err().code(), Code::Gone);
    assert_eq!(sim.suspend().unwrap().resume(&a).await.unwrap_err().code(), Code::Gone);
    assert_eq!(sim.stats().unwrap().usage(&a).await.unwrap_err().code(), Code::Gone);
}

#[tokio::test]
async fn old_news_start_nothing() {
    let (_folder, sim) = world();
    let a = id("a-12345");
    up(&sim, &a, PORT, 5).await;
    assert_eq!(sim.start(&launch(&a, 4)).await.unwrap_err().code(), Code::Conflict);
    assert_eq!(sim.start(&launch(&a, 6)).await.unwrap_err().code(), Code::Conflict);
    sim.stop(&a, GRACE).await.unwrap();
    assert_eq!(sim.start(&launch(&a, 4)).await.unwrap_err().code(), Code::Conflict);
    assert_eq!(sim.start(&launch(&a, 6)).await.unwrap().run, 6);
}

#[tokio::test]
async fn one_port_has_one_claw() {
    let (_folder, sim) = world();
    let (a, b) = (id("a-12345"), id("b-12345"));
    up(&sim, &a, PORT, 1).await;
    sim.ensure(&placement(&b, PORT), &NoProgress).await.unwrap();
    let error = sim.start(&launch(&b, 1)).await.unwrap_err();
    assert_eq!((error.code(), error.field_name()), (Code::Conflict, Some("port")));
    sim.ensure(&placement(&b, PORT + 1), &NoProgress).await.unwrap();
    sim.start(&launch(&b, 1)).await.unwrap();
    sim.stop(&a, GRACE).await.unwrap();
    sim.world().change_behaviour(|behaviour| behaviour.taken_ports = vec![PORT]).unwrap();
    let error = sim.start(&launch(&a, 2)).await.unwrap_err();
    assert_eq!((error.code(), error.field_name()), (Code::Conflict, Some("port")));
}

#[tokio::test]
async fn two_servers_on_one_world_agree() {
    let (folder, one) = world();
    let two = open(&folder);
    let a = id("a-12345");
    let mut told = two.watch();
    up(&one, &a, PORT, 1).await;
    assert_eq!(two.list().await.unwrap(), one.list().await.unwrap());
    assert_eq!(two.start(&launch(&a, 1)).await.unwrap().state, ObservedState::Running);
    two.freeze().unwrap().freeze(&a).await.unwrap();
    assert_eq!(one.observe(&a).await.unwrap().state, ObservedState::Frozen);
    assert_eq!(one.list().await.unwrap()[0].state, ObservedState::Frozen);
    two.destroy(&a, DataFate::Purge).await.unwrap();
    assert!(one.list().await.unwrap().is_empty());
    assert_eq!(tokio::time::timeout(crate::common::GRACE.grace, told.recv()).await.unwrap().unwrap(), a);
    // Both at once, many times: still one start.
    one.ensure(&placement(&a, PORT), &NoProgress).await.unwrap();
    let launch = launch(&a, 1);
    let (left, right) = tokio::join!(
        futures::future::join_all((0..20).map(|_| one.start(&launch))),
        futures::future::join_all((0..20).map(|_| two.start(&launch))),
    );
    assert!(left.iter().chain(&right).all(Result::is_ok));
    let acts = one.world().acts_on(&a).unwrap();
    assert_eq!(acts.iter().filter(|act| **act == ActKind::Start).count(), 2, "{acts:?}");
    assert_eq!(acts, two.world().acts_on(&a).unwrap());
}

#[tokio::test]
async fn a_listing_is_never_older_than_the_change_before_it() {
    let (folder, one) = world();
    let two = open(&folder);
    let a = id("a-12345");
    up(&one, &a, PORT, 0).await;
    // Faster than the times of files tell apart.
    for run in 1..200 {
        one.kill(&a).await.unwrap();
        assert_eq!(two.list().await.unwrap()[0].state, ObservedState::Exited, "run {run}");
        one.start(&launch(&a, run)).await.unwrap();
        assert_eq!(two.list().await.unwrap()[0].run, run);
    }
}

#[tokio::test]
async fn an_end_of_its_own_is_told() {
    let (_folder, sim) = world();
    let claw = ClawBehaviour {
        crash_after_ms: Some((300, 300)),
        crash_times: Some(1),
        exit_code: Some(78),
        ..ClawBehaviour::default()
    };
    sim.world().change_behaviour(|behaviour| behaviour.claw = claw).unwrap();
    let a = id("a-12345");
    let mut told = sim.watch();
    up(&sim, &a, PORT, 1).await;
    until("the end is told", || {
        let heard = told.try_recv();
        let sim = &sim;
        let a = &a;
        async move { heard.is_ok() && sim.observe(a).await.unwrap().state == ObservedState::Exited }
    })
    .await;
    let exit = sim.observe(&a).await.unwrap().exit.unwrap();
    assert_eq!((exit.code, exit.requested), (Some(78), false));
    let seen = sim.start(&launch(&a, 1)).await.unwrap();
    assert_eq!(seen.state, ObservedState::Running);
    tokio::time::sleep(std::time::Duration::from_millis(350)).await;
    assert_eq!(sim.observe(&a).await.unwrap().state, ObservedState::Running, "it crashes once only");
}

#[tokio::test]
async fn data_outlives_its_claw() {
    let (folder, sim) = world();
    let (a, b) = (id("a-12345"), id("b-12345"));
    let home = folder.path().join("home");
    std::fs::create_dir_all(home.join("deep")).unwrap();
    std::fs::write(home.join("deep/note"), "kept").unwrap();
    std::os::unix::fs::symlink("/etc/passwd", home.join("link")).unwrap();
    let files = sim.files().unwrap();
    assert_eq!(files.import(&a, &home, &NoProgress).await.unwrap(), 4);
    assert_eq!(files.import(&a, &home, &NoProgress).await.unwrap_err().code(), Code::Conflict);
    up(&sim, &a, PORT, 1).await;
    files.write(&a, Path::new("more/x"), b"y", false).await.unwrap();
    let place = sim.ensure(&placement(&a, PORT), &NoProgress).await.unwrap();
    for (file, mode) in [("openclaw.json", 0o600), ("deep/locked.json", 0o400)] {
        let meta = std::fs::metadata(place.state_dir.join(file)).unwrap();
        assert_eq!(meta.permissions().mode() & 0o777, mode, "{file}");
    }
    assert!(sim.destroy(&a, DataFate::Keep).await.unwrap() > 4);
    let mut from_a = placement(&b, PORT);
    from_a.dataset = Some(a.clone());
    for _ in 0..2 {
        sim.ensure(&from_a, &NoProgress).await.unwrap();
    }
    assert_eq!(files.read(&b, Path::new("deep/note"), 10).await.unwrap().unwrap(), b"kept");
    assert_eq!(files.read(&b, Path::new("more/x"), 10).await.unwrap().unwrap(), b"y");
    assert_eq!(files.read(&b, Path::new("link"), 10_000).await.unwrap(), None);
    assert_eq!(files.read(&b, Path::new("deep/note"), 3).await.unwrap_err().code(), Code::Insufficient);
    for path in ["../x", "/etc/passwd", "a/../../x", ""] {
        let error = files.read(&b, Path::new(path), 10).await.unwrap_err();
        assert_eq!(error.code(), Code::InvalidInput, "{path}");
    }
    assert!(sim.world().datasets().unwrap().is_empty());
    sim.destroy(&b, DataFate::Purge).await.unwrap();
    assert!(sim.world().datasets().unwrap().is_empty());
}

#[tokio::test]
async fn logs_exec_and_use() {
    let (_folder, sim) = world();
    let a = id("a-12345");
    let logs = sim.logs().unwrap();
    assert!(logs.logs(&a, LogQuery::default()).await.is_err());
    up(&sim, &a, PORT, 1).await;
    let lines: Vec<_> = logs.logs(&a, LogQuery::default()).await.unwrap().try_collect().await.unwrap();
    assert!(lines[0].text.contains("started, run 1"), "{lines:?}");
    let query = LogQuery { tail: Some(0), follow: true, ..LogQuery::default() };
    let mut following = logs.logs(&a, query).await.unwrap();
    sim.kill(&a).await.unwrap();
    let next = tokio::time::timeout(GRACE.grace, following.next()).await.expect("a line follows");
    assert_eq!(next.unwrap().unwrap().text, "killed");

    sim.start(&launch(&a, 2)).await.unwrap();
    let usage = sim.stats().unwrap().usage(&a).await.unwrap();
    assert!(usage.memory_bytes > 0 && usage.memory_limit_bytes >= usage.memory_bytes);
    let exec = sim.exec().unwrap();
    let run = |argv: &[&str]| ExecRequest {
        argv: argv.iter().map(ToString::to_string).collect(),
        tty: None,
        term: None,
    };
    assert_eq!(exec.exec(&a, run(&["rm"])).await.unwrap_err().code(), Code::NotFound);
    let mut echo = exec.exec(&a, run(&["echo", "hello", "there"])).await.unwrap();
    assert_eq!(echo.output.recv().await, Some(ExecOutput::Stdout("hello there\n".into())));
    assert_eq!(echo.output.recv().await, Some(ExecOutput::Exit(0)));
    for (document, valid) in [(r#"{"gateway":{}}"#, true), (r#"{"sim":{"invalid":1}}"#, false)] {
        let mut judge = exec.exec(&a, run(&["/opt/bin/node", "-e", "..."])).await.unwrap();
        let asked = format!("{}\n", serde_json::json!({ "document": document }));
        judge.input.send(ExecInput::Stdin(asked.into())).await.unwrap();
        let Some(ExecOutput::Stdout(said)) = judge.output.recv().await else { panic!("it says something") };
        let said: serde_json::Value = serde_json::from_slice(&said).unwrap();
        assert_eq!(said["valid"], valid, "{said}");
    }
    let tty = Some(TermSize { cols: 80, rows: 24 });
    let mut shell = exec.exec(&a, ExecRequest { argv: vec![], tty, term: None }).await.unwrap();
    shell.input.send(ExecInput::Resize(TermSize { cols: 100, rows: 30 })).await.unwrap();
    shell.input.send(ExecInput::Stdin("size\rexit 7\r".into())).await.unwrap();
    let mut shown = String::new();
    loop {
        match shell.output.recv().await.expect("it ends with its code") {
            ExecOutput::Stdout(bytes) => shown.push_str(std::str::from_utf8(&bytes).unwrap()),
            ExecOutput::Stderr(_) => {}
            ExecOutput::Exit(code) => break assert_eq!(code, 7),
        }
    }
    assert!(shown.contains("30 100\r\n"), "{shown}");
}

#[tokio::test]
async fn what_is_done_under_a_lease_that_another_server_had_since_is_refused() {
    let (_folder, sim) = world();
    let a = id("a-12345");
    let fence = |epoch| Fence { target: TargetName::new("sim").unwrap(), shard: 7, epoch };
    let old = sim.under(&fence(4)).unwrap();
    old.ensure(&placement(&a, PORT), &NoProgress).await.unwrap();
    old.start(&launch(&a, 1)).await.unwrap();
    // The next holder's first act is enough, whatever it is.
    let new = sim.under(&fence(9)).unwrap();
    new.keep_record(&a, &serde_json::json!({ "x": 1 })).await.unwrap();
    let before = (sim.world().acts_on(&a).unwrap(), sim.observe(&a).await.unwrap());
    let refused = |what: &str, error: Option<clawfarm_model::Error>| {
        let error = error.unwrap_or_else(|| panic!("{what} was done"));
        assert!(clawfarm_model::is_fenced(&error), "{what}: {error:?}");
    };
    refused("ensure", old.ensure(&placement(&a, PORT + 1), &NoProgress).await.err());
    refused("ensure of another", old.ensure(&placement(&id("b-12345"), PORT + 1), &NoProgress).await.err());
    refused("start", old.start(&launch(&a, 2)).await.err());
    refused("stop", old.stop(&a, GRACE).await.err());
    refused("kill", old.kill(&a).await.err());
    refused("destroy", old.destroy(&a, DataFate::Purge).await.err());
    refused("keep_record", old.keep_record(&a, &serde_json::json!({})).await.err());
    refused("freeze", old.freeze().unwrap().freeze(&a).await.err());
    refused("suspend", old.suspend().unwrap().suspend(&a).await.err());
    refused("write", old.files().unwrap().write(&a, Path::new("x"), b"y", false).await.err());
    assert_eq!((sim.world().acts_on(&a).unwrap(), sim.observe(&a).await.unwrap()), before);
    assert_eq!(sim.observe(&id("b-12345")).await.unwrap().state, ObservedState::Absent);
    // Whoever holds it goes on; so does a server that is alone, whose lock is its lease.
    new.stop(&a, GRACE).await.unwrap();
    sim.start(&launch(&a, 2)).await.unwrap();
}
