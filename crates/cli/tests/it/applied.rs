//! `apply` and `export`, with simulated claws.

use std::io::Read;
use std::process::Stdio;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::support::{Done, Home, finish};

impl Home {
    fn apply(&self, text: &str, more: &[&str]) -> Done {
        self.run_with_input(&[["apply", "-f", "-"].as_slice(), more].concat(), text)
    }

    fn config(&self, id: &str) -> Value {
        self.run(&["config", "explain", id, "--json"]).ends(0).json()["config"].clone()
    }
}

fn template(name: &str, greeting: &str) -> String {
    format!(
        "apiVersion: clusterclaw.io/v1\nkind: ConfigTemplate\nmetadata: {{name: {name}}}\nspec: {{body: {{env: {{GREETING: {greeting}}}}}}}\n---\n"
    )
}

fn instance(name: &str, rest: &str) -> String {
    format!(
        "apiVersion: clusterclaw.io/v1\nkind: ClawInstance\nmetadata: {{name: {name}}}\nspec:\n  type: openclaw\n  runtime: sim\n{rest}---\n"
    )
}

#[test]
fn what_is_said_for_all_and_the_drafts_of_others_are_published_only_when_asked() {
    let home = Home::new();
    home.apply(&instance("alice", ""), &[]).ends(0);
    let company = template("tenant", "hello");
    let tried = home.apply(&company, &["--dry-run"]).ends(0).out;
    assert!(
        tried.contains("would not be published without --publish") && tried.contains("go by it: 1"),
        "{tried}"
    );
    let made = home.apply(&company, &[]).ends(0).out;
    assert!(made.contains("revision 1 is not published") && made.contains("config publish tenant"), "{made}");
    assert_eq!(home.config("alice")["env"], json!(null));
    let again = home.apply(&company, &[]).ends(0).out;
    assert!(again.contains("tenant: unchanged") && again.contains("revision 1 is not published"), "{again}");
    let tried = home.apply(&company, &["--publish", "--dry-run"]).ends(0).out;
    assert!(tried.contains("revision 1 would be published; instances that go by it: 1"), "{tried}");
    assert_eq!(home.config("alice")["env"], json!(null));
    assert!(home.apply(&company, &["--publish"]).ends(0).out.contains("revision 1 is published"));
    assert_eq!(home.config("alice")["env"]["GREETING"], "hello");

    // A template is published by itself only when this makes it.
    assert!(home.apply(&template("support", "one"), &[]).ends(0).out.contains("revision 1 is published"));
    let draft = r#"{"body": {"env": {"GREETING": "two"}}}"#;
    home.run_with_input(&["config", "save", "support", "-f", "-", "-m", "not ready"], draft).ends(0);
    let same = home.apply(&template("support", "two"), &[]).ends(0).out;
    assert!(same.contains("support: unchanged") && same.contains("revision 2 is not published"), "{same}");
    // Whoever says what is published is not told to publish the draft, and makes no revision.
    let held = home.apply(&template("support", "one"), &["--publish"]).ends(0).out;
    assert!(held.contains("support: unchanged") && held.contains("revision 2 says something else"), "{held}");
    let config = home.run(&["config", "ls", "--json"]).ends(0).json();
    let support =
        config["items"].as_array().and_then(|all| all.iter().find(|it| it["name"] == "support").cloned());
    let support = support.expect("it is there");
    assert_eq!((&support["head"], &support["published"]), (&json!(2), &json!(1)));
    // A never published one is somebody else's draft, too.
    home.run_with_input(&["config", "save", "sales", "-f", "-"], draft).ends(0);
    let same = home.apply(&template("sales", "two"), &[]).ends(0).out;
    assert!(same.contains("sales: unchanged") && same.contains("revision 1 is not published"), "{same}");
}

#[test]
fn nothing_is_written_before_all_was_tried() {
    let home = Home::new();
    home.apply(&instance("bob", ""), &[]).ends(0);
    let good = [template("support", "hello"), instance("alice", "  config: {template: support}\n")].concat();
    for (bad, place) in [
        (instance("carol", "  resources: {memory: 1Mi}\n"), "spec.resources.memory_mib"),
        (instance("carol", "  config: {overrides: [{key: modle.name, value: a}]}\n"), "config.modle"),
        (instance("carol", "  project: web\n"), "spec.project"),
        (instance("bob", "  resources: {memory: 1Mi}\n"), "spec.resources.memory_mib"),
        (instance("bob", "  config: {overrides: [{key: modle.name, value: a}]}\n"), "config.modle"),
        (instance("bob", "  version: 0.0.1\n"), "spec.version"),
    ] {
        let refused = home.apply(&format!("{good}{bad}"), &["-d"]);
        assert!(refused.code != Some(0) && refused.err.contains("documents[2]."), "{bad}: {refused:?}");
        assert!(refused.err.contains(place), "{bad}: {refused:?}");
        let dry = home.apply(&format!("{good}{bad}"), &["--dry-run"]);
        assert_eq!((dry.code, &dry.err), (refused.code, &refused.err), "a dry run says the same");
        home.run(&["config", "get", "support"]).ends(3);
        home.run(&["status", "alice"]).ends(3);
    }
    let body = template("tenant", "hi").replace("env: {GREETING", "modle: {GREETING");
    let refused = home.apply(&format!("{good}{body}"), &[]).ends(2);
    assert!(refused.err.contains("field: documents[2].config.modle"), "{refused:?}");
    home.run(&["config", "get", "support"]).ends(3);

    // What can't be tried, because its template comes with it, may fail late; then it is told what was done.
    let late = instance("alice", "  config: {template: support, overrides: [{key: modle.name, value: a}]}\n");
    let file = format!("{}{late}", template("support", "hello"));
    let failed = home.apply(&file, &["--json"]).ends(2);
    assert_eq!(
        (&failed.json()[0]["name"], &failed.json()[0]["action"]),
        (&json!("support"), &json!("created"))
    );
    assert!(failed.err.contains("1 of 2 documents were applied"), "{failed:?}");
}

#[test]
fn what_a_document_leaves_out_stays() {
    let home = Home::new();
    home.apply(&template("support", "hello"), &[]).ends(0);
    let whole = "  config: {template: support, overrides: [{key: env.GREETING, value: hello}, {key: env.OWN, value: '1'}]}\n";
    home.apply(&instance("alice", whole), &[]).ends(0);
    let layers = || home.run(&["config", "explain", "alice", "--json"]).ends(0).json()["layers"].clone();
    assert_eq!(layers()["own"], json!({"env": {"GREETING": "hello", "OWN": "1"}}));
    // A change of the rest leaves what it says itself, also what its template says as well.
    let other = instance("alice", "  readyTimeoutSecs: 77\n")
        .replace("{name: alice}", "{name: alice, labels: {team: support}}");
    let changed = home.apply(&other, &[]).ends(0);
    assert!(
        changed.out.contains("readyTimeoutSecs: 300 -> 77") || changed.out.contains("-> 77"),
        "{changed:?}"
    );
    assert_eq!(layers()["own"], json!({"env": {"GREETING": "hello", "OWN": "1"}}));
    assert_eq!(layers()["template"], "support");
    assert!(home.apply(&other, &[]).ends(0).out.contains("alice: unchanged"));
    let own = instance("alice", "  config: {overrides: [{key: env.OWN, value: '2'}]}\n");
    home.apply(&own, &[]).ends(0);
    assert_eq!((&layers()["own"], &layers()["template"]), (&json!({"env": {"OWN": "2"}}), &json!("support")));
    assert_eq!(home.config("alice")["env"], json!({"GREETING": "hello", "OWN": "2"}));
    home.apply(&instance("alice", "  config: {template: null}\n"), &[]).ends(0);
    assert_eq!((&layers()["own"], &layers()["template"]), (&json!({"env": {"OWN": "2"}}), &Value::Null));
    // A whole number may have a point.
    let number = instance("alice", "  config: {overrides: [{key: memory.limit, value: 1000.0}]}\n");
    home.apply(&number, &[]).ends(0);
    assert!(home.apply(&number, &[]).ends(0).out.contains("alice: unchanged"));
}

#[test]
fn what_is_written_out_makes_the_same_again() {
    let home = Home::new();
    home.apply(&template("support", "one"), &[]).ends(0);
    let rest = "  port: 21234\n  configMode: managed\n  readyTimeoutSecs: 77\n  resources: {cpu: 500m, memory: 1Gi}\n  restart: {mode: on_failure, max_restarts: 3, window_secs: 9}\n  sleep: {idle_seconds: 5000}\n  config: {template: support, overrides: [{key: env.OWN, value: '1'}]}\n";
    home.apply(
        &instance("alice", rest).replace("{name: alice}", "{name: alice, labels: {team: support}}"),
        &[],
    )
    .ends(0);
    home.run_with_input(
        &["config", "save", "support", "-f", "-"],
        r#"{"body": {"env": {"GREETING": "two"}}}"#,
    )
    .ends(0);
    home.run_with_input(
        &["config", "save", "sales", "-f", "-"],
        r#"{"body": {"env": {"GREETING": "three"}}}"#,
    )
    .ends(0);
    let written = home.run(&["export"]).ends(0);
    assert!(written.err.contains("support: revision 2 is newer than 1"), "{written:?}");
    assert!(
        written.err.contains("sales: revision 1") && written.err.contains("never published"),
        "{written:?}"
    );
    assert!(written.out.contains("GREETING: one") && !written.out.contains("GREETING: two"), "{written:?}");
    let same = home.apply(&written.out, &[]).ends(0).out;
    assert_eq!(same.matches(": unchanged").count(), 3, "{same}");
    assert_eq!(same.matches(": changed").count() + same.matches(": created").count(), 0, "{same}");

    let other = Home::new();
    other.apply(&written.out, &[]).ends(0);
    let view = |home: &Home| {
        let view = home.run(&["status", "alice", "--json"]).ends(0).json();
        let instance = if view["instance"].is_object() { view["instance"].clone() } else { view };
        [
            "labels",
            "wanted_port",
            "config_mode",
            "ready_timeout_secs",
            "resources",
            "restart",
            "policy",
            "config",
            "template",
            "version",
        ]
        .map(|field| (field, instance[field].clone()))
    };
    assert_eq!(view(&other), view(&home));
    assert_eq!(view(&home)[1].1, json!(21_234));
    let back = other.run(&["export", "alice"]).ends(0).out;
    assert_eq!(back, home.run(&["export", "alice"]).ends(0).out);

    // Two of one name can't be told apart by it.
    other.run(&["new", "openclaw", "alice", "--runtime", "sim"]).ends(0);
    other.run(&["new", "openclaw", "bob", "--runtime", "sim"]).ends(0);
    let both = other.run(&["export"]).ends(1);
    assert!(both.err.contains("are all named alice"), "{both:?}");
    assert!(both.out.contains("name: bob") && !both.out.contains("name: alice"), "{both:?}");
    let refused = other.apply(&written.out, &["--dry-run"]).ends(4);
    assert!(refused.err.contains("are both named 'alice'"), "{refused:?}");
}

#[test]
fn ctrl_c_stops_between_two_documents() {
    let home = Home::new();
    home.run(&["ps"]).ends(0);
    // More than a pipe holds: it can't go on to the next document before somebody has read of the first.
    let long = "x".repeat(200_000);
    let documents: String = (1..=8)
        .map(|n| format!("apiVersion: clusterclaw.io/v1\nkind: ConfigTemplate\nmetadata: {{name: t{n}}}\nspec: {{body: {{native: {{a: {long}}}}}}}\n---\n"))
        .collect();
    let file = home.path().join("all.yaml");
    std::fs::write(&file, documents).expect("written");
    let mut command = home.command(&["apply", "-f", file.to_str().expect("a path")]);
    let mut child = command.stdout(Stdio::piped()).spawn().expect("the program starts");
    let mut out = child.stdout.take().expect("a pipe");
    let mut first = [0; 14];
    out.read_exact(&mut first).expect("the first document is told");
    assert_eq!(&first, b"ConfigTemplate");
    kill(Pid::from_raw(i32::try_from(child.id()).expect("a pid")), Signal::SIGINT).expect("sent");
    let reader = std::thread::spawn(move || {
        let mut rest = String::new();
        out.read_to_string(&mut rest).expect("read");
        rest
    });
    let done = finish(child).ends(130);
    let told = reader.join().expect("read");
    assert!(
        done.err.contains("of 8 documents are applied") || done.err.contains("the rollout goes on"),
        "{:?}",
        done.err
    );
    assert!(!told.contains("t8"), "it went on to the end");
    home.run(&["config", "get", "t1"]).ends(0);
    home.run(&["config", "get", "t8"]).ends(3);
}
