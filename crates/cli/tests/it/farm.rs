//! A whole farm with simulated claws: what people type in the order they type it.

use std::path::Path;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::support::{Done, Home, eventually, finish};

/// Makes a simulated instance and returns its id.
fn make(home: &Home, name: &str) -> String {
    let made = home.run(&["new", "openclaw", name, "--runtime", "sim", "--json"]).ends(0).json();
    made["instance"]["id"].as_str().expect("an id").to_owned()
}

fn phase(home: &Home, id: &str) -> String {
    home.run(&["status", id, "--json"]).ends(0).json()["instance"]["phase"]
        .as_str()
        .expect("a phase")
        .to_owned()
}

#[test]
fn a_life_from_new_to_its_last_trace() {
    let home = Home::new();
    let made = home.run(&["new", "openclaw", "alice", "--runtime", "sim", "--label", "team=a"]).ends(0);
    let id = made.out.split_whitespace().next().expect("an id").to_owned();
    assert!(id.starts_with("alice-") && made.out.contains("is ready"), "{made:?}");
    assert!(made.out.contains(&format!("clawfarm send {id}")), "{made:?}");

    let ps = home.run(&["ps"]).ends(0).out;
    let heading: Vec<&str> = ps.lines().next().expect("a heading").split_whitespace().collect();
    assert_eq!(heading, ["CLAWID", "IMAGE", "STATUS", "GATEWAY", "PID", "UPDATED(UTC)", "LAST_ERROR"]);
    assert!(ps.lines().nth(1).is_some_and(|l| l.starts_with(&id) && l.contains("ready")), "{ps}");
    assert_eq!(home.run(&["ps", "-q", "--filter", "label=team=a"]).ends(0).out, format!("{id}\n"));
    assert_eq!(home.run(&["ps", "-q", "--filter", "label=team=b"]).ends(0).out, "");

    // Each verb by a prefix, and the state it leads to.
    for (verb, state) in [
        (&["stop", "alice"][..], "stopped"),
        (&["start", "ali"], "ready"),
        (&["suspend", "alice"], "suspended"),
        (&["resume", "a"], "ready"),
        (&["suspend", "alice", "--warm"], "warm"),
        (&["resume", "alice"], "ready"),
        (&["restart", "alice"], "ready"),
        (&["kill", "alice"], "stopped"),
        (&["start", "alice"], "ready"),
    ] {
        let done = home.run(verb).ends(0);
        assert_eq!(done.out, format!("{id} is {state}\n"), "{verb:?}: {done:?}");
        assert_eq!(phase(&home, "alice"), state, "{verb:?}");
    }

    let answer = home.run(&["send", "alice", "hello"]).ends(0);
    assert!(!answer.out.trim().is_empty(), "{answer:?}");
    let answer = home.run_with_input(&["send", "alice", "-", "--json"], "hello again").ends(0);
    assert!(answer.out.lines().last().is_some_and(|l| l.contains("\"done\"")), "{answer:?}");

    assert_eq!(home.run(&["exec", "alice", "--", "echo", "-n", "a  b"]).ends(0).out, "-n a  b\n");
    home.run(&["exec", "alice", "--", "exit", "7"]).ends(7);
    assert_eq!(
        home.run_with_input(&["exec", "-i", "alice", "--", "cat"], "over the pipe").ends(0).out,
        "over the pipe"
    );
    assert_eq!(home.run_with_input(&["exec", "alice", "--", "cat"], "not passed on").ends(0).out, "");
    let pieces = home.run(&["exec", "alice", "--json", "--", "echo", "x"]).ends(0).out;
    assert!(pieces.ends_with("{\"exit\":0}\n") && pieces.contains("\"text\":\"x\\n\""), "{pieces}");

    let events = home.run(&["events", "alice", "--json"]).ends(0).out;
    assert!(events.lines().count() > 5, "{events}");
    home.run(&["logs", "alice", "--tail", "5"]).ends(0);
    let open = home.run(&["open", "alice"]).ends(0).out;
    let token = home.run(&["token", "reveal", "alice"]).ends(0).out;
    assert!(open.starts_with(&format!("http://{id}.localhost:")) && open.contains("?ticket="), "{open}");
    assert!(!open.contains(token.trim()), "an address signs in once; the token is for good");
    home.run(&["token", "rotate", "alice"]).ends(0);
    assert_ne!(home.run(&["token", "reveal", "alice"]).ends(0).out, token);

    assert!(home.run(&["rm", "alice"]).ends(0).out.contains(&format!("{id} is removed")));
    assert!(home.run(&["ps", "-q"]).ends(0).out.is_empty());
    assert!(home.run(&["dataset", "ls"]).ends(0).out.contains(&id));
    let again =
        home.run(&["new", "openclaw", "bob", "--runtime", "sim", "--dataset", &id, "--json"]).ends(0).json();
    assert_eq!(again["operation"]["state"], "succeeded");
    home.run(&["rm", "bob", "--purge", "--force"]).ends(0);
}

#[test]
fn names_are_taken_by_a_prefix_that_only_one_has() {
    let home = Home::new();
    make(&home, "alice");
    make(&home, "albert");
    let done = home.run(&["status", "al"]);
    assert!(done.code != Some(0) && done.err.contains("alice") && done.err.contains("albert"), "{done:?}");
    home.run(&["status", "alb"]).ends(0);
    let done = home.run(&["status", "carol"]).ends(3);
    assert!(done.err.contains("'carol'"), "{done:?}");
    let some = home.run(&["stop", "carol", "alice", "--json"]).ends(3);
    assert_eq!(some.json().as_array().map(Vec::len), Some(1), "{some:?}");
    home.run(&["rm", "--purge", "alice", "albert"]).ends(0);
}

#[test]
fn a_secret_is_set_without_being_seen_anywhere() {
    let home = Home::new();
    let value = "sk-never-to-be-seen-4711";
    let set = home.run_with_input(&["secret", "set", "anthropic-key"], &format!("{value}\n")).ends(0);
    let listed = home.run(&["secret", "ls"]).ends(0);
    assert!(listed.out.contains("anthropic-key"), "{listed:?}");
    let document = home.run(&["secret", "ls", "--json"]).ends(0);
    let events = home.run(&["events", "--json"]).ends(0);
    for done in [&set, &listed, &document, &events] {
        assert!(!done.out.contains(value) && !done.err.contains(value), "{done:?}");
    }
    assert_eq!(files_with(home.path(), value), Vec::<String>::new());
    home.run(&["secret", "rm", "anthropic-key", "nobody"]).ends(3);
    assert_eq!(home.run(&["secret", "ls", "--json"]).ends(0).json(), json!({ "items": [] }));
}

/// The files below a folder that hold a text.
fn files_with(folder: &Path, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
        let path = entry.path();
        let kind = entry.file_type().expect("a kind");
        if kind.is_dir() {
            found.extend(files_with(&path, text));
        } else if kind.is_file() {
            let bytes = std::fs::read(&path).unwrap_or_default();
            if bytes.windows(text.len()).any(|w| w == text.as_bytes()) {
                found.push(path.display().to_string());
            }
        }
    }
    found
}

#[test]
fn the_server_goes_and_the_claws_go_on() {
    let home = Home::new();
    let id = make(&home, "alice");
    let started = home.run(&["status", &id, "--json"]).ends(0).json()["instance"]["started_at"].clone();
    let first = home.server_pid().expect("a server");
    home.run(&["down"]).ends(0);
    assert_eq!(home.server_pid(), None);
    let status = home.run(&["status", &id, "--json"]).ends(0).json();
    assert_eq!(
        (&status["instance"]["phase"], &status["instance"]["started_at"]),
        (&json!("ready"), &started)
    );
    let second = home.server_pid().expect("a server");
    assert_ne!(first, second);

    let restarted = home.run(&["serve", "--restart", "--json"]).ends(0).json();
    assert_eq!(restarted["replaced"]["pid"], second);
    let third = home.server_pid().expect("a server");
    assert_ne!(second, third);
    assert_eq!(home.run(&["status", &id, "--json"]).ends(0).json()["instance"]["started_at"], started);
    let refused = home.run(&["serve", "--background"]).ends(4);
    assert!(refused.err.contains("already") && refused.err.contains("--restart"), "{refused:?}");
    let refused = home.run(&["serve"]).ends(4);
    assert!(refused.err.contains(&third.to_string()), "{refused:?}");

    home.run(&["down", "--all"]).ends(0);
    assert_eq!(phase(&home, &id), "stopped");
}

#[test]
fn a_server_killed_during_a_wait_is_started_again_and_the_wait_goes_on() {
    let home = Home::new();
    let world = home.path().join("world");
    std::fs::create_dir_all(&world).expect("a folder");
    std::fs::write(
        world.join("sim.json"),
        r#"{"delays":{"ensure":[1000,1000]},"claw":{"boot_ms":[2000,2000]}}"#,
    )
    .expect("written");
    let wait = home.command(&["new", "openclaw", "alice", "--runtime", "sim"]).spawn().expect("starts");
    let pid = eventually("the instance to be there", || {
        let there = !home.run(&["ps", "-q"]).ends(0).out.is_empty();
        there.then(|| home.server_pid().expect("a server"))
    });
    kill(Pid::from_raw(i32::try_from(pid).expect("a pid")), Signal::SIGKILL).expect("sent");
    let done = finish(wait).ends(0);
    assert!(done.out.contains("is ready"), "{done:?}");
    assert_ne!(home.server_pid().expect("a server"), pid);
    assert_eq!(home.run(&["ps", "-q"]).ends(0).out.lines().count(), 1, "made once");
}

#[test]
fn commands_at_the_same_moment_start_one_server() {
    let home = Home::new();
    let children: Vec<_> = (0..4).map(|_| home.command(&["ps", "--json"]).spawn().expect("starts")).collect();
    for child in children {
        assert_eq!(finish(child).ends(0).json(), json!({ "items": [] }));
    }
    let log = std::fs::read_to_string(home.farm().join("server.log")).expect("a log");
    assert_eq!(log.matches("the server begins").count(), 1, "{log}");
}

#[test]
fn what_json_prints_has_the_documented_shape() {
    let home = Home::new();
    let new = home.run(&["new", "openclaw", "alice", "--runtime", "sim", "--json"]).ends(0);
    shape("new", &new);
    shape("ps", &home.run(&["ps", "--json"]));
    shape("status", &home.run(&["status", "alice", "--json"]));
    shape("stop", &home.run(&["stop", "alice", "--json"]));
    shape("start-detach", &home.run(&["start", "alice", "--detach", "--json"]));
    shape("secret-set", &home.run_with_input(&["secret", "set", "k", "--json"], "v"));
    shape("secret-ls", &home.run(&["secret", "ls", "--json"]));
    shape("target-ls", &home.run(&["target", "ls", "--json"]));
    shape("open", &home.run(&["open", "alice", "--json"]));
    shape("token-reveal", &home.run(&["token", "reveal", "alice", "--json"]));
    shape("rm", &home.run(&["rm", "alice", "--force", "--json"]));
    shape("dataset-ls", &home.run(&["dataset", "ls", "--json"]));
    // What is found depends on the machine; that each finding can be read by a program does not.
    let doctor = home.run(&["doctor", "--json"]).json();
    for check in
        doctor["runtimes"].as_array().into_iter().flatten().flat_map(|r| r["checks"].as_array()).flatten()
    {
        assert!(check["name"].is_string() && check["level"].is_string(), "{check}");
        assert!(check["level"] == "ok" || check["fix"].is_string(), "no way to mend it: {check}");
    }
}

/// Holds the fields and the kinds of their values against what was agreed: values differ from
/// run to run, names and kinds may only be added to.
#[track_caller]
fn shape(name: &str, done: &Done) {
    assert_eq!(done.code, Some(0), "{name}: {done:?}");
    insta::assert_json_snapshot!(name, kinds(&done.json()));
}

fn kinds(value: &Value) -> Value {
    match value {
        Value::Null => json!("null"),
        Value::Bool(_) => json!("bool"),
        Value::Number(_) => json!("number"),
        Value::String(_) => json!("string"),
        // What any of a list can have.
        Value::Array(items) => Value::Array(items.iter().map(kinds).reduce(merge).into_iter().collect()),
        Value::Object(fields) => fields.iter().map(|(k, v)| (k.clone(), kinds(v))).collect(),
    }
}

fn merge(a: Value, b: Value) -> Value {
    match (a, b) {
        (Value::Object(mut a), Value::Object(b)) => {
            for (key, kind) in b {
                let merged = match a.remove(&key) {
                    Some(known) => merge(known, kind),
                    None => kind,
                };
                a.insert(key, merged);
            }
            Value::Object(a)
        }
        (Value::Array(a), Value::Array(b)) => {
            Value::Array(a.into_iter().chain(b).reduce(merge).into_iter().collect())
        }
        (a, _) => a,
    }
}
