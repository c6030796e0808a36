//! Waiting for operations: steps, failures, Ctrl-C.

use std::sync::atomic::{AtomicUsize, Ordering};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::fake::{Answer, Fake, instance, operation, problem};
use crate::support::{Home, eventually, finish};

fn step(name: &str, message: &str, ended: bool) -> Value {
    json!({
        "name": name, "message": message, "done": 1, "total": 1, "unit": "bytes",
        "started_at": "2026-11-21T07:00:00Z",
        "ended_at": if ended { json!("2026-11-21T07:00:02.500Z") } else { Value::Null },
    })
}

fn accepted(kind: &str, state: &str) -> Value {
    json!({
        "instance": instance("alice-x7k2m", "creating"),
        "operation": operation(kind, "alice-x7k2m", state, &json!([])),
        "warnings": [{ "field": "config.native.x", "message": "is not known" }],
    })
}

fn end(home: &Home) {
    std::fs::remove_file(home.farm().join("clawfarm.sock")).expect("removed");
}

#[test]
fn new_shows_each_step_and_a_card_with_what_to_type_next() {
    let home = Home::new();
    let asked = AtomicUsize::new(0);
    let fake = Fake::serve(&home, env!("CARGO_PKG_VERSION"), move |method, path| match (method, path) {
        ("POST", "/api/v1/instances") => Answer::Json(202, accepted("create", "running")),
        ("GET", p) if p.starts_with("/api/v1/operations/op-1") => {
            let ended = asked.fetch_add(1, Ordering::SeqCst) > 0;
            let steps =
                json!([step("download", "Downloading openclaw", true), step("start", "Starting", ended)]);
            let state = if ended { "succeeded" } else { "running" };
            Answer::Json(200, operation("create", "alice-x7k2m", state, &steps))
        }
        ("GET", "/api/v1/instances/alice-x7k2m") => Answer::Json(200, instance("alice-x7k2m", "ready")),
        _ => problem(404, "not_found", path, ""),
    });
    let mut command = home.command(&[
        "new",
        "openclaw",
        "alice",
        "--provider",
        "openai",
        "--api-key-env",
        "THE_KEY",
        "--cpus",
        "0.5",
        "--label",
        "team=support",
        "--restart",
        "on-failure",
        "--set",
        "env.RETRIES=3",
    ]);
    let done = finish(command.env("THE_KEY", "sk-very-secret").spawn().expect("starts")).ends(0);
    for words in [
        "alice-x7k2m is ready (after 10.0 s)",
        "gateway    http://127.0.0.1:18790",
        "clawfarm open alice-x7k2m",
        "clawfarm send alice-x7k2m \"hello\"",
        "clawfarm rm alice-x7k2m",
    ] {
        assert!(done.out.contains(words), "{words:?} is missing in:\n{}", done.out);
    }
    assert!(done.err.contains("Downloading openclaw: took 2.5 s"), "{}", done.err);
    assert!(done.err.contains("Starting ...") && done.err.contains("Starting: took 2.5 s"), "{}", done.err);
    assert!(done.err.contains("warning: config.native.x: is not known"), "{}", done.err);
    assert!(!done.out.contains("sk-very-secret") && !done.err.contains("sk-very-secret"));
    let body: Value = serde_json::from_str(&fake.asked()[0].2).expect("a document");
    assert_eq!(body["name"], "alice");
    assert_eq!(body["secrets"]["model-api-key"], "sk-very-secret");
    assert_eq!(body["config"]["model"]["api_key"]["secret"], "model-api-key");
    assert_eq!(body["config"]["env"]["RETRIES"], "3");
    assert_eq!(body["resources"]["cpus"], 0.5);
    assert_eq!(body["labels"]["team"], "support");
    assert_eq!(body["restart"]["mode"], "on_failure");
    end(&home);
}

#[test]
fn a_failed_operation_is_told_with_its_fix_and_its_exit_code() {
    let home = Home::new();
    let _fake = Fake::serve(&home, env!("CARGO_PKG_VERSION"), |method, path| match (method, path) {
        ("POST", "/api/v1/instances/alice/suspend") => Answer::Json(202, accepted("suspend", "running")),
        ("POST", "/api/v1/instances/bob/suspend") => {
            problem(404, "not_found", "no instance named 'bob'", "see 'clawfarm ps'")
        }
        _ => {
            let mut failed =
                operation("suspend", "alice-x7k2m", "failed", &json!([step("drain", "Draining", false)]));
            failed["error"] =
                json!({ "code": "busy", "message": "it is in a turn", "fix": "wait, or use --force" });
            Answer::Json(200, failed)
        }
    });
    let done = home.run(&["suspend", "alice"]).ends(4);
    assert!(done.err.contains("Draining: failed after"), "{done:?}");
    assert!(
        done.err.contains("error: alice-x7k2m: it is in a turn\n  fix: wait, or use --force"),
        "{done:?}"
    );
    let both = home.run(&["suspend", "bob", "alice", "--json"]);
    assert_eq!(both.json(), json!([]));
    assert!(both.code == Some(4) || both.code == Some(3), "{both:?}");
    assert!(both.err.contains("\"busy\"") && both.err.contains("\"not_found\""), "{both:?}");
    end(&home);
}

#[test]
fn ctrl_c_leaves_the_operation_running_and_says_how_to_look_at_it() {
    let home = Home::new();
    let fake = Fake::serve(&home, env!("CARGO_PKG_VERSION"), |method, path| match (method, path) {
        ("POST", "/api/v1/instances") => Answer::Json(202, accepted("create", "running")),
        _ => Answer::Never,
    });
    let child = home.command(&["new", "openclaw", "alice"]).spawn().expect("starts");
    eventually("the wait to begin", || (fake.asked().len() >= 2).then_some(()));
    kill(Pid::from_raw(i32::try_from(child.id()).expect("a pid")), Signal::SIGINT).expect("sent");
    let done = finish(child).ends(130);
    assert!(done.err.contains("create of alice-x7k2m goes on"), "{done:?}");
    assert!(done.err.contains("clawfarm status alice-x7k2m"), "{done:?}");
    let asked = fake.asked();
    assert!(
        asked.iter().all(|(method, path, _)| method == "GET" || path == "/api/v1/instances"),
        "{asked:?}"
    );
    end(&home);
}

#[test]
fn detach_returns_at_once_with_the_operation() {
    let home = Home::new();
    let _fake = Fake::serve(&home, env!("CARGO_PKG_VERSION"), |method, path| match (method, path) {
        ("POST", p) if p.starts_with("/api/v1/instances") => Answer::Json(202, accepted("create", "running")),
        _ => Answer::Never,
    });
    let done = home.run(&["new", "openclaw", "--detach"]).ends(0);
    assert_eq!(done.out, "alice-x7k2m\n");
    assert!(done.err.contains("op-1") && done.err.contains("clawfarm status alice-x7k2m"), "{done:?}");
    assert_eq!(home.run(&["start", "alice", "-d", "--json"]).ends(0).json()[0]["operation"]["id"], "op-1");
    end(&home);
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    let home = Home::new();
    let many: Vec<Value> = (0..3000).map(|_| instance("alice-x7k2m", "ready")).collect();
    let _fake = Fake::serve(&home, env!("CARGO_PKG_VERSION"), move |_, _| {
        Answer::Json(200, json!({ "items": many }))
    });
    let mut child = home.command(&["ps"]).spawn().expect("starts");
    drop(child.stdout.take());
    let done = finish(child).ends(0);
    assert_eq!(done.err, "");
    end(&home);
}

#[test]
fn a_server_without_room_is_asked_again_and_not_for_ever() {
    let home = Home::new();
    let full = AtomicUsize::new(2);
    let fake = Fake::serve(&home, env!("CARGO_PKG_VERSION"), move |method, path| {
        let busy = full.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok();
        match (method, path) {
            (_, p) if p.starts_with("/api/v1/events") || busy => Answer::Later(1),
            ("POST", "/api/v1/instances/alice/stop") => Answer::Json(202, accepted("stop", "succeeded")),
            _ => problem(404, "not_found", path, ""),
        }
    });
    // What was refused for want of room was not begun: a wish, too, is sent again.
    let done = home.run(&["stop", "alice", "--detach", "--json"]).ends(0);
    assert_eq!(done.err.matches("full; asking again in 1.").count(), 2, "{done:?}");
    assert_eq!(fake.asked().len(), 3, "{:?}", fake.asked());
    done.json();
    let done = home.run(&["events"]).ends(5);
    assert_eq!((done.err.matches("asking again").count(), fake.asked().len()), (4, 8), "{done:?}");
    assert!(done.err.contains("fix:"), "{done:?}");
    end(&home);
}
