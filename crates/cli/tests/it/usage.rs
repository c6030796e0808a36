//! What is typed wrongly is refused with the field and what to do, and starts no server.

use crate::support::Home;

#[test]
fn what_is_typed_wrongly_is_refused_and_starts_no_server() {
    let home = Home::new();
    let table: &[(&[&str], i32, &[&str])] = &[
        (&[], 2, &["Usage: clawfarm"]),
        (&["nonsense"], 2, &["no command 'nonsense'", "fix: 'clawfarm --help'"]),
        (&["suspennd"], 2, &["no command 'suspennd'", "fix: did you mean 'suspend'?"]),
        (&["ps", "--filter", "colour=red"], 2, &["'colour' can't be filtered by", "fix: use phase, type"]),
        (&["ps", "--filter", "phase=happy"], 2, &["'happy' is no phase", "ready"]),
        (&["ps", "--filter", "phase"], 2, &["key=value"]),
        (&["status"], 2, &["<INSTANCE>"]),
        (&["stop"], 2, &["<INSTANCE>"]),
        (&["new"], 2, &["<CLAW TYPE OR IMAGE>"]),
        (&["new", "debian:12", "--volume", "a:b"], 2, &["field: --volume", "fix: give an absolute path"]),
        (&["new", "debian:12", "--publish", "0:80"], 2, &["field: --publish", "from 1 to 65535"]),
        (&["new", "openclaw", "--run", "true"], 2, &["field: --run", "fix: name an image"]),
        (&["new", "openclaw", "--runtime", "vm"], 2, &["field: --image", "clawfarm image ls"]),
        (&["run", "openclaw"], 2, &["'openclaw' has no tag", "ubuntu:24.04"]),
        (&["run", "debian:12", "--runtime", "docker"], 2, &["field: --runtime", "fix: leave it out"]),
        (&["new", "openclaw", "Alice"], 2, &["'Alice' contains 'A'"]),
        (&["new", "openclaw", "alice", "--name", "bob"], 2, &["two names", "--name", "fix: give one"]),
        (&["new", "openclaw", "--model", "m"], 2, &["--provider"]),
        (&["new", "openclaw", "--provider", "nobody"], 2, &["'nobody' is no provider", "anthropic"]),
        (
            &["new", "openclaw", "--set", "modle.name=x"],
            2,
            &["field: config.modle.name", "fix: the keys are"],
        ),
        (&["new", "openclaw", "--set", "x"], 2, &["key=value"]),
        (
            &["new", "openclaw", "--provider", "openai", "--api-key-env", "UNSET_KEY"],
            2,
            &["UNSET_KEY is not set"],
        ),
        (
            &["new", "openclaw", "--provider", "openai", "--api-key-file", "/nowhere"],
            2,
            &["/nowhere can't be read"],
        ),
        (&["new", "openclaw", "--memory-mib", "-1"], 2, &["-1"]),
        (&["new", "openclaw", "--port", "70000"], 2, &["70000"]),
        (&["new", "openclaw", "--runtime", "wasm"], 2, &["'wasm' is no runtime"]),
        (&["logs", "alice", "--since", "yesterday"], 2, &["neither a span such as 10m"]),
        (&["logs", "alice", "--tail", "many"], 2, &["many"]),
        (&["exec", "alice"], 2, &["<COMMAND>"]),
        (&["shell", "alice"], 2, &["needs a terminal", "clawfarm exec -i alice -- sh"]),
        (&["send", "alice", " "], 2, &["it is empty"]),
        (&["secret", "set", "a b"], 2, &["can't be a secret's name"]),
        (&["secret", "set", "key", "the-value"], 2, &["unexpected argument"]),
        (
            &["secret", "set", "key", "--from-env", "UNSET_KEY"],
            2,
            &["UNSET_KEY is not set", "export UNSET_KEY"],
        ),
        (&["secret", "set", "key"], 2, &["standard input is empty"]),
        (&["dataset", "rm"], 2, &["<DATASET>"]),
        (&["completion", "tcsh"], 2, &["tcsh"]),
        (&["serve", "--tls-cert", "x"], 2, &["--listen"]),
        (&["serve", "--listen", "here"], 2, &["here"]),
        (&["--host", "ftp://x", "ps"], 2, &["field: --host", "fix: give https://"]),
        (&["--host", "http://127.0.0.1:1", "ps"], 2, &["field: --token-file", "admin.token"]),
        (
            &["--token-file", "/nowhere", "--host", "http://127.0.0.1:1", "ps"],
            2,
            &["can't be read from /nowhere"],
        ),
        (&["shim"], 2, &["started by the server"]),
    ];
    for (arguments, code, said) in table {
        let done = home.run(arguments);
        assert_eq!(done.code, Some(*code), "{arguments:?}: {done:?}");
        assert_eq!(done.out, "", "{arguments:?}: a refusal is told on standard error");
        for words in *said {
            assert!(done.err.contains(words), "{arguments:?}: {words:?} is missing in:\n{}", done.err);
        }
    }
    assert!(!home.farm().join("clawfarm.sock").exists(), "a server was started");
}

#[test]
fn refusals_are_documents_with_json() {
    let home = Home::new();
    for (arguments, code, field) in [
        (&["--json", "new", "open claw"][..], "invalid_input", "claw_type"),
        (&["ps", "--json", "--nonsense"], "invalid_input", "--nonsense"),
        (&["new", "openclaw", "--json", "--set", "modle.x=1"], "invalid_input", "config.modle.x"),
    ] {
        let done = home.run(arguments);
        let problem: serde_json::Value = serde_json::from_str(&done.err).expect("a document");
        assert_eq!((&problem["code"], &problem["field"]), (&code.into(), &field.into()), "{problem}");
        assert!(problem["reason"].is_string() && problem["fix"].is_string(), "{problem}");
    }
}

#[test]
fn what_needs_no_server_starts_none() {
    let home = Home::new();
    let version = home.run(&["version", "--json"]).ends(0).json();
    assert_eq!(version["version"], env!("CARGO_PKG_VERSION"));
    assert!(version["server"].is_null());
    assert!(home.run(&["version"]).ends(0).out.contains("not running"));
    assert_eq!(home.run(&["down", "--json"]).ends(0).json()["was_running"], false);
    assert!(home.run(&["down"]).ends(0).err.contains("No server is running"));
    assert!(home.run(&["help", "ps"]).ends(0).out.contains("Examples:"));
    assert!(home.run(&["--help"]).ends(0).out.contains("Exit codes:"));
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        assert!(home.run(&["completion", shell]).ends(0).out.contains("clawfarm"), "{shell}");
    }
    assert!(!home.farm().exists(), "something was made");
}

#[test]
fn a_home_that_can_not_be_written_is_named() {
    let home = Home::new();
    std::fs::write(home.path().join("file"), "").expect("written");
    let done = home.run(&["--home", home.path().join("file/farm").to_str().expect("text"), "ps"]);
    assert_ne!(done.code, Some(0));
    assert!(done.err.contains("file/farm") && done.err.contains("--home"), "{done:?}");
}
