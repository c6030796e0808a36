//! A claw type that a user adds with a file: a real server, from its file to its last trace.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::support::{Home, LIMIT, pause};

const SERVER: &str = include_str!("../fixtures/echo.py");

/// A type's file, with its software in `folder`.
fn type_file(home: &Home, folder: &Path) -> PathBuf {
    let text = format!(
        r#"
about = "repeats what its model says"
version = "1.0"
command = ["python3", "${{folder}}/echo.py", "${{id}}", "${{config.native.mood}}"]
folder = "{}"
health = "/health"
reload = "itself"
memory_mib = 128

[chat]
path = "/v1/chat/completions"

[env]
ECHO_LEVEL = "${{config.logging.level}}"

[[file]]
path = "conf/echo.json"
format = "json"
template = '''
{{
  "bind": "${{bind}}", "port": "${{port}}", "token": "${{gateway_token}}",
  "model": {{ "url": "${{model.base_url}}", "name": "${{model.name}}", "key": "${{model.api_key}}" }},
  "greeting": "${{config.native.greeting}}"
}}
'''
"#,
        folder.display()
    );
    let path = home.path().join("echo.toml");
    fs::write(&path, text).expect("written");
    path
}

fn until(what: &str, is: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is() {
        assert!(begun.elapsed() < LIMIT, "waited {LIMIT:?} until {what}");
        pause();
    }
}

#[test]
fn a_type_of_ones_own_lives_from_its_file_to_its_last_trace() {
    let home = Home::new();
    let software = home.path().join("software");
    fs::create_dir(&software).expect("made");
    fs::write(software.join("echo.py"), SERVER).expect("written");
    let file = type_file(&home, &software);
    let file = file.to_str().expect("text");

    // A server that runs already learns of it.
    let unknown = home.run(&["new", "echo", "alice"]).ends(2);
    assert!(unknown.err.contains("clawfarm type add echo.toml"), "{unknown:?}");
    home.run(&["type", "add", file]).ends(0);
    let listed = home.run(&["type", "ls", "--json"]).ends(0).json();
    let names: Vec<_> = listed["items"].as_array().unwrap().iter().map(|it| it["name"].clone()).collect();
    assert!(names.contains(&"echo".into()) && names.contains(&"openclaw".into()), "{listed}");

    let refused = home.run(&["new", "echo", "--set", "native.greting=hi"]).ends(2);
    assert!(refused.err.contains("config.native.greting"), "{refused:?}");
    let refused = home.run(&["new", "echo", "--set", "tools.deny=[\"exec\"]"]).ends(2);
    assert!(refused.err.contains("config.tools.deny"), "{refused:?}");

    let made = home
        .run(&[
            "new",
            "echo",
            "alice",
            "--set",
            "native.greeting=a \"quoted\" hello:",
            "--set",
            "memory.limit=9",
            "--json",
        ])
        .ends(0);
    assert!(made.err.contains("memory.limit"), "what it has no words for is told: {made:?}");
    let id = made.json()["instance"]["id"].as_str().expect("an id").to_owned();
    let status = || home.run(&["status", &id, "--json"]).ends(0).json()["instance"].clone();
    assert_eq!(status()["phase"], "ready");
    let answer = home.run(&["send", "alice", "are you there?"]).ends(0).out;
    assert!(
        answer.starts_with("a \"quoted\" hello: [clawfarm demo model] You said: are you there?"),
        "{answer}"
    );
    let logs = home.run(&["logs", "alice"]).ends(0).out;
    assert!(
        logs.contains(&format!("echo begins ['{id}']")),
        "an argument that nothing is said for is none: {logs}"
    );

    // What is in its file goes out while it runs, what is in its arguments by a start.
    let pid = || status()["pid"].as_u64().expect("a pid");
    let before = pid();
    home.run(&["config", "set", "alice", "native.greeting=good evening:"]).ends(0);
    until("it goes by that", || {
        home.run(&["config", "explain", "alice", "--json"]).ends(0).json()["in_force"] == true
    });
    let answer = home.run(&["send", "alice", "which?"]).ends(0).out;
    assert!(answer.starts_with("good evening: "), "{answer}");
    assert_eq!(pid(), before, "it was started again");
    let planned = home.run(&["config", "set", "alice", "native.mood=glad", "--dry-run", "--json"]).ends(0);
    assert!(planned.out.contains("config.native.mood"), "{planned:?}");
    home.run(&["config", "set", "alice", "native.mood=glad"]).ends(0);
    until("it was started again", || {
        let now = status();
        now["phase"] == "ready" && now["pid"].as_u64().is_some_and(|pid| pid != before)
    });
    let logs = home.run(&["logs", "alice"]).ends(0).out;
    assert!(logs.contains(&format!("echo begins ['{id}', 'glad']")), "{logs}");

    // Its user changes the file; what is clawfarm's own is set anew all the same.
    let config = home.farm().join("claws").join(&id).join("state/conf/echo.json");
    let text = fs::read_to_string(&config).expect("its file");
    let mut theirs: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    theirs["greeting"] = "mine:".into();
    theirs["port"] = 1.into();
    fs::write(&config, theirs.to_string()).expect("written");
    home.run(&["suspend", "alice"]).ends(0);
    assert_eq!(status()["phase"], "suspended");
    let answer = home.run(&["send", "alice", "awake?"]).ends(0).out;
    assert!(answer.starts_with("mine: [clawfarm demo model] You said: awake?"), "{answer}");
    assert!(answer.contains("it began with: are you there?"), "it remembers: {answer}");

    let kept = home.run(&["type", "rm", "echo"]).ends(4);
    assert!(kept.err.contains(&id), "{kept:?}");
    let pid = pid();
    home.run(&["rm", "alice", "--purge", "--force"]).ends(0);
    until("its process is gone", || !Path::new(&format!("/proc/{pid}")).exists());
    assert!(!home.farm().join("claws").join(&id).exists());
    home.run(&["type", "rm", "echo"]).ends(0);
    home.run(&["new", "echo"]).ends(2);
}

#[test]
fn the_file_of_a_type_is_checked_before_it_is_taken() {
    let home = Home::new();
    let file = home.path().join("mine.toml");
    for (text, code, says) in [
        ("version = \"1\"\ncommand = [\"x\", \"${model.api_key}\"]\n", 2, "command[1]"),
        ("version = \"1\"\ncommand = [\"x\"]\nfolder = \"relative\"\n", 2, "folder"),
        ("version = \"1\"\ncommand = [\"x\"]\nhelth = \"/\"\n", 2, "helth"),
        ("version = \"1\"\n", 2, "command"),
        (
            "version = \"1\"\ncommand = [\"x\"]\n[[file]]\npath = \"a\"\nformat = \"json\"\ntemplate = \"{\"\n",
            2,
            "file[0].template",
        ),
        ("version = \"1\"\ncommand = [\"x\"]\n", 0, "in order"),
    ] {
        fs::write(&file, text).expect("written");
        let done = home.run(&["type", "add", file.to_str().unwrap(), "--dry-run"]).ends(code);
        assert!(done.err.contains(says), "{text}: {done:?}");
    }
    let taken = home.run(&["type", "add", file.to_str().unwrap(), "--name", "openclaw"]).ends(2);
    assert!(taken.err.contains("has already"), "{taken:?}");
    assert!(!home.farm().join("types").exists(), "nothing was written");
    // One that was put there by hand, and broken, is told by `ls` and hides no other.
    home.run(&["type", "add", file.to_str().unwrap()]).ends(0);
    fs::write(home.farm().join("types/broken.toml"), "version = 1").expect("written");
    let listed = home.run(&["type", "ls"]).ends(1);
    assert!(listed.out.contains("mine") && listed.err.contains("broken.toml"), "{listed:?}");
}

/// The page's example is one that is taken as it stands.
#[test]
fn the_example_of_the_page_is_a_type() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/claw-types.md");
    let page = fs::read_to_string(page).expect("the page");
    let (_, rest) = page.split_once("```toml\n").expect("an example");
    let (example, _) = rest.split_once("```").expect("its end");
    let home = Home::new();
    let file = home.path().join("mine.toml");
    fs::write(&file, example).expect("written");
    home.run(&["type", "add", file.to_str().unwrap(), "--dry-run"]).ends(0);
}
