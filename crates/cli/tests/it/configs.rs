//! The configuration centre on the command line, with simulated claws.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::pages::{page, typed};
use crate::support::{Done, Home, eventually, finish};

impl Home {
    fn file(&self, name: &str, text: &str) -> String {
        let path = self.path().join(name);
        fs::write(&path, text).expect("written");
        path.to_str().expect("a path").to_owned()
    }

    fn bound(&self, name: &str, more: &[&str]) -> String {
        let mut words = vec!["new", "openclaw", name, "--runtime", "sim", "--json"];
        words.extend(more);
        let made = self.run(&words).ends(0).json();
        made["instance"]["id"].as_str().expect("an id").to_owned()
    }

    fn explained(&self, id: &str) -> Value {
        self.run(&["config", "explain", id, "--json"]).ends(0).json()
    }

    fn greeting(&self, id: &str) -> Value {
        self.explained(id)["config"]["env"]["GREETING"].clone()
    }
}

fn body(greeting: &str) -> String {
    format!(
        "variables:\n- name: who\n  type: string\n  default: world\nbody:\n  env:\n    GREETING: {greeting}, ${{who}}\n"
    )
}

#[test]
fn a_template_goes_out_and_back() {
    let home = Home::new();
    let file = home.file("support.yaml", &body("hello"));
    let saved = home.run(&["config", "save", "support", "-f", &file, "-m", "first"]).ends(0);
    assert!(saved.out.ends_with("support has revision 1\n"), "{saved:?}");
    assert!(saved.err.contains("clawfarm config publish support"), "{saved:?}");
    let again = home.run(&["config", "save", "support", "-f", &file]).ends(0);
    assert_eq!(again.out, "support is unchanged: revision 1 says the same\n");
    // What is printed is what can be saved again.
    let printed = home.run(&["config", "get", "support"]).ends(0).out;
    let again = home.run_with_input(&["config", "save", "support", "-f", "-"], &printed).ends(0);
    assert!(again.out.contains("unchanged"), "{printed}");
    home.run(&["new", "openclaw", "early", "--template", "support", "--runtime", "sim"]).ends(4);
    let published = home.run(&["config", "publish", "support"]).ends(0);
    assert!(published.out.starts_with("support@1: done (ro-"), "{published:?}");
    assert!(published.out.contains("no instance goes by it"), "{published:?}");

    let template = ["--template", "support", "--label", "team=support"];
    let alice = home.bound("alice", &[template.as_slice(), &["--var", "who=Alice"]].concat());
    let bob = home.bound("bob", &[template.as_slice(), &["--set", "env.PORT=80"]].concat());
    assert_eq!((home.greeting(&alice), home.greeting(&bob)), (json!("hello, Alice"), json!("hello, world")));
    let table = home.run(&["config", "explain", "bob", "env"]).ends(0).out;
    let rows: Vec<Vec<&str>> = table
        .lines()
        .map(|line| line.split("  ").map(str::trim).filter(|it| !it.is_empty()).collect())
        .collect();
    assert_eq!(rows[1], ["env.GREETING", "\"hello, world\"", "template support@1"], "{table}");
    assert_eq!(rows[2], ["env.PORT", "\"80\"", "instance"], "{table}");

    let file = home.file("support.yaml", &body("good day"));
    let saved = home.run(&["config", "save", "support", "-f", &file, "-m", "politer"]).ends(0);
    assert_eq!(
        saved.out.lines().next(),
        Some("~ body.env.GREETING: \"hello, ${who}\" -> \"good day, ${who}\"")
    );
    let diff = home.run(&["config", "diff", "support"]).ends(0);
    assert_eq!(diff.out, "~ body.env.GREETING: \"hello, ${who}\" -> \"good day, ${who}\"\n");
    let plan = home.run(&["config", "plan", "support"]).ends(0).out;
    assert!(plan.starts_with("INSTANCE") && plan.contains(&alice) && plan.contains(&bob), "{plan}");
    assert!(plan.lines().last().is_some_and(|it| it.starts_with("support@2: 2 ")), "{plan}");
    let one = ["config", "plan", "support", "--selector", "team=sales", "--json"];
    assert_eq!(home.run(&one).ends(0).json()["instances"], json!([]));

    // One first; it waits for a word, and then all have it.
    let waiting = home.run(&["config", "publish", "support", "--step", "1:manual", "-m", "politer"]).ends(0);
    assert!(waiting.out.contains("waiting") && waiting.out.contains("1 have it, 1 to come"), "{waiting:?}");
    assert!(waiting.err.contains("clawfarm rollout promote ro-"), "{waiting:?}");
    let have = [&alice, &bob]
        .iter()
        .filter(|id| home.greeting(id).as_str().is_some_and(|it| it.starts_with("good day")))
        .count();
    assert_eq!(have, 1);
    home.run(&["config", "publish", "support"]).ends(4);
    home.run(&["rollout", "promote", "support"]).ends(0);
    let done = home.run(&["rollout", "status", "support", "--watch"]).ends(0).out;
    assert!(
        done.starts_with("support@2: done, from revision 1 (ro-") && done.contains("2 have it"),
        "{done}"
    );
    assert_eq!(
        (home.greeting(&alice), home.greeting(&bob)),
        (json!("good day, Alice"), json!("good day, world"))
    );
    let listed = home.run(&["rollout", "ls", "--config", "support", "--json"]).ends(0).json();
    assert_eq!(listed["items"].as_array().map(Vec::len), Some(2));
    let revisions = home.run(&["config", "revisions", "support"]).ends(0).out;
    let newest = revisions.lines().nth(1).expect("a row");
    assert!(
        newest.starts_with('2') && newest.contains("published") && newest.ends_with("politer"),
        "{revisions}"
    );

    let back = home.run(&["config", "rollback", "support"]).ends(0);
    assert!(back.out.starts_with("support@1: done, from revision 2"), "{back:?}");
    assert_eq!(home.greeting(&bob), "hello, world");
    let begun = home.run(&["config", "publish", "support", "--detach"]).ends(0).out;
    let done = home.run(&["rollout", "status", begun.trim(), "--watch"]).ends(0).out;
    assert!(done.contains("support@2: done"), "{done}");
    home.run(&["config", "rm", "support"]).ends(4);
    home.run(&["config", "get", "other"]).ends(3);
    home.run(&["rollout", "status", "other"]).ends(3);
}

#[test]
fn a_companys_word_is_locked_and_many_are_changed_at_once() {
    let home = Home::new();
    home.bound("alice", &["--label", "team=support"]);
    home.bound("bob", &[]);
    let file = home.file("company.json", r#"{"body": {"env": {"REGION": "eu"}}, "locks": ["env.REGION"]}"#);
    home.run(&["config", "save", "tenant", "-f", &file]).ends(0);
    home.run(&["config", "publish", "tenant"]).ends(0);
    let refused = home.run(&["config", "set", "alice", "env.REGION=us"]).ends(2);
    assert!(
        refused.err.contains("'env.REGION' is locked by tenant")
            && refused.err.contains("field: config.env.REGION"),
        "{refused:?}"
    );
    let tried =
        home.run(&["config", "set", "env.A=1", "--selector", "team=support", "--dry-run"]).ends(0).out;
    assert!(tried.contains("would be changed: 1 ") && !tried.contains("bob"), "{tried}");
    assert_eq!(home.explained("alice")["config"]["env"], json!({"REGION": "eu"}));
    let none = home.run(&["config", "set", "env.REGION=us", "--all", "--dry-run"]).ends(1).out;
    assert_eq!(none.matches("can't have it: config.env.REGION").count(), 2, "{none}");
    home.run(&["config", "set", "env.A=1"]).ends(2);
    home.run(&["config", "set", "alice", "env.A=1", "--all"]).ends(2);
    home.run(&["config", "set", "env.A=1", "--all"]).ends(0);
    home.run(&["config", "set", "alice", "env.A=null", "memory.limit=1000"]).ends(0);
    assert_eq!(home.explained("alice")["config"]["env"], json!({"REGION": "eu"}));
    assert_eq!(home.explained("alice")["config"]["memory"]["limit"], 1000);
    assert_eq!(home.explained("bob")["config"]["env"], json!({"A": "1", "REGION": "eu"}));
    let table = home.run(&["config", "explain", "bob", "env.REGION"]).ends(0).out;
    assert!(
        table
            .lines()
            .nth(1)
            .is_some_and(|row| row.contains("eu") && row.trim_end().ends_with("tenant default")),
        "{table}"
    );
    let list = home.run(&["config", "ls"]).ends(0).out;
    assert!(list.contains("the tenant"), "{list}");

    // What is no longer said is as the layers below say.
    home.run(&["config", "unset", "alice"]).ends(2);
    home.run(&["config", "unset", "env.A", "--all", "--dry-run"]).ends(0);
    assert_eq!(home.explained("bob")["config"]["env"]["A"], "1");
    home.run(&["config", "unset", "env.A", "--all"]).ends(0);
    home.run(&["config", "unset", "alice", "memory.limit"]).ends(0);
    assert_eq!(home.explained("bob")["config"]["env"], json!({"REGION": "eu"}));
    assert_eq!(home.explained("alice")["config"].get("memory"), None);

    // A lock that comes later silences what was said, and the plan tells.
    home.run(&["config", "set", "bob", "env.ZONE=west"]).ends(0);
    let file = home.file("company.json", r#"{"body": {"env": {"ZONE": "east"}}, "locks": ["env.ZONE"]}"#);
    home.run(&["config", "save", "tenant", "-f", &file]).ends(0);
    let plan = home.run(&["config", "plan", "tenant"]).ends(0);
    assert!(plan.err.contains("env.ZONE") && plan.err.contains("(1 instance)"), "{plan:?}");
}

#[test]
fn many_are_changed_in_steps_and_taken_back() {
    let home = Home::new();
    for name in ["alice", "bob", "carol"] {
        home.bound(name, &["--label", "team=support"]);
    }
    let env = |name: &str| home.explained(name)["config"]["env"]["SHIFT"].clone();
    let having = || ["alice", "bob", "carol"].iter().filter(|name| env(name) == "late").count();
    // Those that are named have no steps.
    let refused = home.run(&["config", "set", "alice", "env.SHIFT=late", "--step", "1"]).ends(2);
    assert!(refused.err.contains("--selector"), "{refused:?}");
    let begun = home.run(&[
        "config",
        "set",
        "env.SHIFT=late",
        "--selector",
        "team=support",
        "--step",
        "1:manual",
        "-m",
        "nights",
        "--detach",
    ]);
    let id = begun.ends(0).out.trim().to_owned();
    assert!(id.starts_with("ro-"), "{id}");
    let second = home.run(&["config", "set", "env.SHIFT=early", "--all"]).ends(4);
    assert!(second.err.contains(&id) && second.err.contains("under way"), "{second:?}");
    let waiting = home.run(&["rollout", "status", "instances.own", "--watch"]).ends(0).out;
    assert!(waiting.contains("instances.own@1: waiting") && waiting.contains("1 have it"), "{waiting}");
    assert_eq!(having(), 1);
    let listed = home.run(&["rollout", "ls"]).ends(0).out;
    assert!(listed.contains("instances.own") && listed.contains("nights"), "{listed}");
    home.run(&["rollout", "rollback", &id]).ends(0);
    let back = home.run(&["rollout", "status", &id, "--watch"]);
    assert!(back.out.contains("rolled back"), "{back:?}");
    assert_eq!(having(), 0);
    let done = home.run(&["config", "set", "env.SHIFT=late", "--all", "--step", "1"]).ends(0).out;
    assert!(done.contains("instances.own@2: done") && done.contains("3 have it"), "{done}");
    assert_eq!(having(), 3);
    let nothing = home.run(&["config", "set", "env.SHIFT=late", "--all"]).ends(0);
    assert!(nothing.err.contains("They say so already"), "{nothing:?}");
    // No configuration has that name.
    let file = home.file("own.json", r#"{"body": {}}"#);
    let named = home.run(&["config", "save", "instances.own", "-f", &file]).ends(2);
    assert!(named.err.contains("instances say themselves"), "{named:?}");
}

#[test]
fn a_claw_is_bound_and_its_variables_are_of_their_types() {
    let home = Home::new();
    let file = home.file("support.yaml", "variables:\n- {name: port, type: string, default: '80'}\n- {name: limit, type: integer, default: 1000}\nbody:\n  env: {PORT: '${port}'}\n  memory: {limit: '${limit}'}\n");
    home.run(&["config", "save", "support", "-f", &file]).ends(0);
    home.run(&["config", "publish", "support"]).ends(0);
    let config = |id: &str| {
        let explained = home.explained(id);
        (explained["config"]["env"]["PORT"].clone(), explained["config"]["memory"]["limit"].clone())
    };
    // "8080" is a text here, and a number there.
    home.bound("alice", &["--template", "support", "--var", "port=8080", "--var", "limit=7"]);
    assert_eq!(config("alice"), (json!("8080"), json!(7)));
    home.bound("bob", &[]);
    let nothing = home.run(&["config", "bind", "bob", "--var", "port=1"]).ends(2);
    assert!(nothing.err.contains("bound to no template"), "{nothing:?}");
    home.run(&["config", "bind", "bob"]).ends(2);
    let tried = home.run(&["config", "bind", "bob", "support", "--dry-run"]).ends(0);
    assert!(tried.out.contains("would be bound to support"), "{tried:?}");
    assert_eq!(config("bob").0, json!(null));
    let wrong = home.run(&["config", "bind", "bob", "support", "--var", "limit=many"]).ends(2);
    assert!(wrong.err.contains("field: variables.limit"), "{wrong:?}");
    home.run(&["config", "bind", "bob", "support", "--var", "limit=9"]).ends(0);
    assert_eq!(config("bob"), (json!("80"), json!(9)));
    // What was said before stays.
    home.run(&["config", "bind", "bob", "--var", "port=443"]).ends(0);
    assert_eq!(config("bob"), (json!("443"), json!(9)));
    home.run(&["config", "bind", "bob", "--unvar", "limit"]).ends(0);
    assert_eq!(config("bob"), (json!("443"), json!(1000)));
    home.run(&["config", "bind", "bob", "--unvar", "limit"]).ends(2);
    home.run(&["config", "bind", "bob", "nowhere"]).ends(3);
    let freed = home.run(&["config", "bind", "bob", "--none"]).ends(0);
    assert!(freed.out.contains("is bound to no template"), "{freed:?}");
    assert_eq!(config("bob").0, json!(null));
    let held = home.run(&["config", "rm", "support"]).ends(4);
    assert!(held.err.contains("1 instances"), "{held:?}");
    home.run(&["config", "bind", "alice", "--none"]).ends(0);
    home.run(&["config", "rm", "support"]).ends(0);
}

#[test]
fn instances_are_selected_by_what_they_have_in_common() {
    let home = Home::new();
    home.run_with_input(&["config", "save", "tenant", "-f", "-"], r#"{"body": {"env": {"A": "1"}}}"#).ends(0);
    let alice = home.bound("alice", &["--label", "team=support"]);
    let planned = |more: &[&str]| {
        let plan =
            home.run(&[["config", "plan", "tenant", "--json"].as_slice(), more].concat()).ends(0).json();
        plan["instances"].as_array().expect("a list").len()
    };
    for (more, count) in [
        (["--type", "openclaw"].as_slice(), 1),
        (&["--type", "zeroclaw"], 0),
        (&["--project", "default"], 1),
        (&["--project", "web"], 0),
        (&["--selector", "team=support", "--selector", "team=support", "--type", "openclaw"], 1),
        (&["--selector", "team=sales"], 0),
    ] {
        assert_eq!(planned(more), count, "{more:?}");
    }
    // Nobody has both.
    let both = ["--selector", "team=support", "--selector", "team=sales"];
    for command in [
        ["config", "plan", "tenant"].as_slice(),
        &["config", "publish", "tenant"],
        &["config", "set", "env.B=1"],
    ] {
        let refused = home.run(&[command, &both].concat()).ends(2);
        assert!(refused.err.contains("field: --selector"), "{refused:?}");
    }
    let table = home.run(&["config", "plan", "tenant"]).ends(0).out;
    assert!(table.lines().next().is_some_and(|head| head.contains("BECAUSE OF")), "{table}");
    let row = table.lines().find(|line| line.starts_with(&alice)).expect("its row");
    assert!(row.contains("restart") && row.contains("env"), "{table}");
}

#[test]
fn a_rollout_is_steered() {
    let home = Home::new();
    let file = home.file("support.yaml", &body("hello"));
    home.run(&["config", "save", "support", "-f", &file]).ends(0);
    home.run(&["config", "publish", "support"]).ends(0);
    let ids = ["alice", "bob"].map(|name| home.bound(name, &["--template", "support"]));
    let file = home.file("support.yaml", &body("good day"));
    home.run(&["config", "save", "support", "-f", &file]).ends(0);
    let polite = || ids.iter().filter(|id| home.greeting(id) == "good day, world").count();
    let begin = || {
        let begun = home.run(&["config", "publish", "support", "--step", "1:manual"]).ends(0);
        assert!(begun.out.contains("1 have it, 1 to come"), "{begun:?}");
        assert_eq!(polite(), 1);
    };
    let steered = |what: &str| home.run(&["rollout", what, "support"]).ends(0).out;
    begin();
    assert!(steered("pause").contains("is paused"));
    let paused = home.run(&["rollout", "status", "support"]).ends(0);
    assert!(paused.out.contains("paused") && paused.err.contains("rollout resume"), "{paused:?}");
    assert!(steered("resume").contains("is waiting"));
    home.run(&["rollout", "resume", "support"]).ends(4);
    assert!(steered("rollback").contains("rolling back"));
    let back = home.run(&["rollout", "status", "support", "--watch"]);
    assert!(back.out.contains("rolled back"), "{back:?}");
    assert_eq!(polite(), 0);
    begin();
    assert!(steered("abort").contains("is aborted"));
    home.run(&["rollout", "promote", "support"]).ends(4);
    // Who had it keeps it.
    assert_eq!(polite(), 1);
    let all = home.run(&["config", "publish", "support"]).ends(0);
    assert!(all.out.contains("support@2: done"), "{all:?}");
    assert_eq!(polite(), 2);
}

#[test]
fn an_editor_makes_a_revision() {
    let home = Home::new();
    let file = home.file("support.yaml", &body("hello"));
    home.run(&["config", "save", "support", "-f", &file]).ends(0);
    let edit = |editor: &str| {
        let mut command = home.command(&["config", "edit", "support", "-m", "edited"]);
        command.env("EDITOR", editor).env_remove("VISUAL");
        finish(command.spawn().expect("the program starts"))
    };
    let done = edit("sed -i s/hello/servus/").ends(0);
    assert!(done.out.ends_with("support has revision 2\n"), "{done:?}");
    assert!(edit("true").ends(0).out.contains("unchanged"));
    let broken = edit("sed -i s/string/text/").ends(2);
    let kept =
        broken.err.lines().find_map(|line| line.strip_prefix("What was edited is kept in ")).expect("told");
    assert!(fs::read_to_string(kept).expect("kept").contains("type: text"), "{broken:?}");
    fs::remove_file(kept).expect("removed");
    assert!(edit("false").ends(2).err.contains("nothing was saved"));
    assert!(edit("no-such-editor").ends(2).err.contains("can't be started"));
}

#[test]
fn a_file_is_applied_and_written_back() {
    let home = Home::new();
    // As it was asked for; the version is one that can be had here.
    let text = r#"
apiVersion: clusterclaw.io/v1
kind: ConfigTemplate
metadata:
  name: default-config
spec:
  variables:
    - name: model.name
      type: string
      default: "claude-3-haiku"
      required: true
    - name: memory.limit
      type: number
      default: 100000
      required: false
---
apiVersion: clusterclaw.io/v1
kind: ClawInstance
metadata:
  name: claw-instance-01
  namespace: default
  labels:
    team: support
spec:
  type: OpenClaw
  replicas: 1
  runtime: sim
  resources:
    cpu: "2"
    memory: "1Gi"
  config:
    template: default-config
    overrides:
      - key: model.name
        value: claude-3-opus
  storage:
    configDir: /home/claw/.config
    dataDir: /data
status:
  phase: Running
  readyReplicas: 1
"#;
    let apply = |text: &str, more: &[&str]| -> Done {
        let mut words = vec!["apply", "-f", "-"];
        words.extend(more);
        home.run_with_input(&words, text)
    };
    // The document names models of somebody who answers at no place yet.
    let model = r#"{"body": {"model": {"provider": "openai-compatible", "name": "m", "base_url": "http://127.0.0.1:9/v1"}}}"#;
    home.run_with_input(&["config", "save", "tenant", "-f", "-"], model).ends(0);
    home.run(&["config", "publish", "tenant"]).ends(0);
    let tried = apply(text, &["--dry-run"]).ends(0);
    assert!(tried.out.contains("ConfigTemplate default-config: would be created"), "{tried:?}");
    assert!(tried.out.contains("ClawInstance claw-instance-01: would be created"), "{tried:?}");
    home.run(&["config", "get", "default-config"]).ends(3);
    let made = apply(text, &[]).ends(0);
    assert!(made.out.contains("revision 1 is published") && made.err.contains("spec.storage"), "{made:?}");
    let explained = home.explained("claw-instance-01");
    assert_eq!(explained["config"]["model"]["provider"], "openai-compatible");
    assert_eq!(explained["config"]["model"]["name"], "claude-3-opus");
    assert_eq!(explained["config"]["memory"], json!({"limit": 100_000}));
    assert_eq!(
        apply(text, &[]).ends(0).out,
        "ConfigTemplate default-config: unchanged\nClawInstance claw-instance-01: unchanged\n"
    );

    // What is written out changes nothing, in either form.
    let written = home.run(&["export"]).ends(0).out;
    assert!(written.contains("kind: ConfigTemplate") && written.contains("key: model.name"), "{written}");
    assert_eq!(apply(&written, &[]).ends(0).out.matches(": unchanged").count(), 3);
    let json = home.run(&["export", "claw-instance-01", "--json"]).ends(0).json();
    assert_eq!(apply(&json[0].to_string(), &[]).ends(0).out, "ClawInstance claw-instance-01: unchanged\n");

    // Another value, another share, a template that goes on.
    let next = text
        .replace("claude-3-opus", "claude-4")
        .replace("cpu: \"2\"", "cpu: 1500m")
        .replace("100000", "200000");
    let tried = apply(&next, &["--dry-run", "--json"]).ends(0).json();
    assert_eq!(
        tried[0]["changes"],
        json!([{"path": "variables", "before": tried[0]["changes"][0]["before"], "after": tried[0]["changes"][0]["after"]}])
    );
    assert_eq!(
        (&tried[1]["action"], tried[1]["changes"].as_array().map(Vec::len)),
        (&json!("changed"), Some(2)),
        "{tried}"
    );
    let done = apply(&next, &[]).ends(0);
    assert!(done.out.contains("revision 2 is not published: 1 "), "{done:?}");
    assert!(done.out.contains("~ config.overrides.model.name: claude-3-opus -> claude-4"), "{done:?}");
    assert!(done.out.contains("~ cpu: 2.0 -> 1.5"), "{done:?}");
    let explained = home.explained("claw-instance-01");
    assert_eq!(
        (&explained["config"]["model"]["name"], &explained["config"]["memory"]["limit"]),
        (&json!("claude-4"), &json!(100_000))
    );
    assert!(apply(&next, &["--publish"]).ends(0).out.contains("revision 2 is published"));
    assert_eq!(home.explained("claw-instance-01")["config"]["memory"]["limit"], 200_000);

    // What can't be so is told at its place, and changes nothing.
    let refused = apply(&next.replace("type: OpenClaw", "type: ZeroClaw"), &[]).ends(4);
    assert!(refused.err.contains("field: documents[1].spec.type"), "{refused:?}");
    let refused = apply(&next.replace("kind: ClawInstance", "kind: Claw"), &[]).ends(2);
    assert!(refused.err.contains("field: documents[1].kind"), "{refused:?}");
    let refused = apply("a: [", &[]).ends(2);
    assert!(refused.err.contains("line "), "{refused:?}");
    let missing = next.replace("default-config\n    overrides", "other\n    overrides");
    let refused = apply(&missing, &["--dry-run"]).ends(3);
    assert!(refused.err.contains("other"), "{refused:?}");
    assert_eq!(apply(&next, &[]).ends(0).out.matches(": unchanged").count(), 2);
}

#[test]
fn drift_is_found_and_mended() {
    let home = Home::new();
    let alice = home.bound("alice", &[]);
    let whole = home.run(&["config", "drift", "--all"]).ends(0).out;
    assert!(whole.starts_with(&format!("{alice} is as it should be")), "{whole}");
    hurt(&home);
    let found = home.run(&["config", "drift", "alice"]).ends(1);
    assert!(found.out.contains("openclaw.json differs") && found.err.contains("--mend"), "{found:?}");
    let mended = home.run(&["config", "drift", "alice", "--mend"]).ends(0);
    assert!(mended.out.contains("is being put right"), "{mended:?}");
    eventually("it is as it should be", || {
        (home.run(&["config", "drift", "alice"]).code == Some(0)).then_some(())
    });
    home.run(&["config", "drift", "nobody"]).ends(3);
    hurt(&home);
    let mended = home.run(&["config", "drift", "--all", "--mend"]).ends(0);
    assert!(mended.out.contains("is being put right"), "{mended:?}");
    eventually("it is as it should be again", || {
        (home.run(&["config", "drift", "--all"]).code == Some(0)).then_some(())
    });
}

#[test]
fn drift_of_all_tells_of_those_that_it_did_not_see() {
    let home = Home::new();
    let alice = home.bound("alice", &[]);
    let sim = home.path().join("world/sim.json");
    fs::write(&sim, r#"{"failures": [{"verb": "ensure", "claws": "bob-*", "code": "invalid_input"}]}"#)
        .expect("written");
    // It can't be made, so it is never started.
    home.run(&["new", "openclaw", "bob", "--runtime", "sim"]);
    let looked = home.run(&["config", "drift", "--all", "--json"]).ends(0);
    assert!(looked.err.contains("was never started"), "{looked:?}");
    let all = looked.json();
    let of = |name: &str| {
        let mut all = all.as_array().expect("a list").iter();
        all.find(|it| it["id"].as_str().is_some_and(|id| id.starts_with(name))).cloned().unwrap_or_default()
    };
    assert_eq!(
        (&of("alice")["drifted"], &of("bob")["never_started"]),
        (&json!(false), &json!(true)),
        "{all}"
    );
    // By its name it is a mistake.
    let named = home.run(&["config", "drift", "bob"]).ends(4);
    assert!(named.err.contains("field: started"), "{named:?}");
    // One that can't be looked at is a failure, whatever the others are.
    fs::write(&sim, r#"{"failures": [{"verb": "read", "code": "unavailable"}]}"#).expect("written");
    let blind = home.run(&["config", "drift", "--all", "--json"]).ends(5);
    let told = blind.json();
    let failed = told.as_array().expect("a list").iter().find(|it| it["id"] == alice.as_str()).cloned();
    assert_eq!(failed.unwrap_or_default()["error"]["code"], "unavailable", "{told}");
}

/// Changes the one claw's configuration by hand.
fn hurt(home: &Home) {
    let file = written(&home.path().join("world")).expect("its configuration");
    let mut document: Value = serde_json::from_slice(&fs::read(&file).expect("read")).expect("JSON");
    document["by"] = json!("hand");
    // It may be read-only for its own user.
    fs::remove_file(&file).expect("removed");
    fs::write(&file, document.to_string()).expect("written");
}

/// Where the one claw's configuration is.
fn written(folder: &Path) -> Option<PathBuf> {
    let mut entries = fs::read_dir(folder).ok()?.flatten().map(|it| it.path());
    entries.find_map(|path| match path.is_dir() {
        true => written(&path),
        false => path.ends_with("openclaw.json").then_some(path),
    })
}

/// The page's files, by the names in their first lines.
fn files(page: &str) -> Vec<(String, String)> {
    let blocks =
        page.split("```yaml\n").skip(1).filter_map(|rest| rest.split_once("```").map(|(block, _)| block));
    blocks
        .filter_map(|block| Some((block.lines().next()?.strip_prefix("# ")?.to_owned(), block.to_owned())))
        .collect()
}

#[test]
fn the_guide_can_be_typed_as_it_is_shown() {
    let home = Home::new();
    let text = page("configs.md");
    let (files, commands) = (files(&text), typed(&text));
    assert!(files.len() >= 3 && commands.len() >= 15, "{} files, {} commands", files.len(), commands.len());
    for (name, contents) in files {
        home.file(&name, &contents);
    }
    for words in commands {
        let mut words: Vec<&str> = words.iter().map(String::as_str).collect();
        if words[0] == "new" {
            words.extend(["--runtime", "sim"]);
        }
        let run = || {
            let mut command = home.command(&words);
            command.current_dir(home.path());
            finish(command.spawn().expect("the program starts"))
        };
        // Whoever types is slower than a claw that is started with what was just changed.
        let done = match words[..] {
            ["config", "drift", ..] => eventually("no change is on its way any more", || {
                let done = run();
                (!done.err.contains("A change is on its way")).then_some(done)
            }),
            _ => run(),
        };
        assert_eq!(done.code, Some(0), "clawfarm {}: {done:?}", words.join(" "));
    }
}
