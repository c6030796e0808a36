//! The table of the command line.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use serde_json::Value;

use super::server::Server;

/// What was typed; the exit code, the field, a part of the reason, and one of the fix.
type Case = (&'static [&'static str], i32, &'static str, &'static str, &'static str);

/// `{id}` stands for a claw's id. `{home}` for the folder of the test.
#[rustfmt::skip]
const TABLE: &[Case] = &[
    // Commands and options.
    (&["nonsense"], 2, "<COMMAND>", "no command 'nonsense'", "--help"),
    (&["stpo"], 2, "<COMMAND>", "no command 'stpo'", "'stop'"),
    (&["secret", "lst"], 2, "<COMMAND>", "no command 'lst'", "'ls'"),
    (&["token", "--color", "never"], 2, "<COMMAND>", "missing", "reveal"),
    (&["ps", "--nonsense"], 2, "--nonsense", "unexpected", "clawfarm ps"),
    (&["ps", "--flter", "x=y"], 2, "--flter", "unexpected", "--filter"),
    (&["ps", "-Z"], 2, "-Z", "unexpected", "clawfarm ps"),
    (&["ps", "surplus"], 2, "arguments", "'surplus'", "clawfarm ps"),
    (&["ps", "\u{1b}]0;owned\u{7}"], 2, "arguments", "\\u{1b}", "clawfarm ps"),
    (&["ps", "--color", "pink"], 2, "--color", "'pink'", "never"),
    (&["ps", "--filter"], 2, "--filter", "needs a value", "clawfarm ps"),
    (&["ps", "--filter", "colour=red"], 2, "--filter", "'colour'", "phase"),
    (&["ps", "--filter", "phase=happy"], 2, "--filter", "'happy' is no phase", "ready"),
    (&["ps", "--filter", "phase"], 2, "--filter", "key=value", "clawfarm ps"),
    (&["ps", "--all=yes"], 2, "--all", "'yes'", "clawfarm ps"),
    (&["--host", "ftp://x", "ps"], 2, "--host", "ftp", "https://"),
    (&["--host", "http://user:pw@h", "ps"], 2, "--host", "", "https://"),
    (&["--host", "http://127.0.0.1:1", "--token-file", "/nowhere", "ps"], 2, "--token-file", "/nowhere", "admin.token"),
    (&["--host", "http://127.0.0.1:1", "ps"], 2, "--token-file", "wants a token", "admin.token"),
    (&["--home", "", "ps"], 2, "--home", "needs a value", "clawfarm"),
    // new
    (&["new"], 2, "<CLAW TYPE OR IMAGE>", "must be given", "clawfarm new"),
    (&["new", "Ubuntu:24.04"], 2, "image", "has no name", "ubuntu:24.04"),
    (&["new", "openclaw", "--volume", "a:/x"], 2, "--volume", "only a virtual machine", "image"),
    (&["new", "nobody"], 2, "claw_type", "nobody", "openclaw"),
    (&["new", ""], 2, "claw_type", "is empty", "a-z"),
    (&["new", "../etc"], 2, "claw_type", "contains '.'", "a-z"),
    (&["new", "openclaw", "Alice"], 2, "[NAME]", "contains 'A'", "a-z"),
    (&["new", "openclaw", "--name", "a b"], 2, "--name", "contains ' '", "a-z"),
    (&["new", "openclaw", "--name", "ålice"], 2, "--name", "contains '\\u{e5}'", "a-z"),
    (&["new", "openclaw", "--name", "a\u{1b}[2J"], 2, "--name", "contains '\\u{1b}'", "a-z"),
    (&["new", "openclaw", "--name", "-"], 2, "--name", "begin with a letter", "a-z"),
    (&["new", "openclaw", "--name", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"], 2, "--name", "longer than 32", "1 to 32"),
    (&["new", "openclaw", "a", "b"], 2, "arguments", "'b'", "clawfarm new"),
    (&["new", "openclaw", "a", "--name", "b"], 2, "--name", "two names", "one of them"),
    (&["new", "openclaw", "--port", "0", "--target", "sim"], 2, "port", "privileged", "1024"),
    (&["new", "openclaw", "--port", "65536"], 2, "--port", "65536", "clawfarm new"),
    (&["new", "openclaw", "--port", "-5"], 2, "--port", "-5", "clawfarm new"),
    (&["new", "openclaw", "--port", "8080/tcp"], 2, "--port", "8080/tcp", "clawfarm new"),
    (&["new", "openclaw", "--port", "{port}", "--target", "sim"], 4, "port", "", "port"),
    (&["new", "openclaw", "--memory-mib", "2G"], 2, "--memory-mib", "2G", "clawfarm new"),
    (&["new", "openclaw", "--memory-mib", "1", "--target", "sim"], 2, "resources.memory_mib", "1 MiB", "64"),
    (&["new", "openclaw", "--memory-mib", "99999999999"], 2, "--memory-mib", "99999999999", "clawfarm new"),
    (&["new", "openclaw", "--memory-mib", "16777216", "--target", "local"], 4, "resources.memory_mib", "", ""),
    (&["new", "openclaw", "--cpus", "many"], 2, "--cpus", "many", "clawfarm new"),
    (&["new", "openclaw", "--cpus", "NaN", "--target", "sim"], 2, "--cpus", "'NaN' is no number", "clawfarm new"),
    (&["new", "openclaw", "--cpus", "inf", "--target", "sim"], 2, "--cpus", "inf", "clawfarm new"),
    (&["new", "openclaw", "--cpus", "0", "--target", "sim"], 2, "resources.cpus", "0 cores", "0.05"),
    (&["new", "openclaw", "--ready-timeout-secs", "0", "--target", "sim"], 2, "ready_timeout_secs", "0 s", "86400"),
    (&["new", "openclaw", "--runtime", "wasm"], 2, "--runtime", "wasm", "process"),
    (&["new", "openclaw", "--runtime", "docker"], 2, "runtime", "docker", ""),
    (&["new", "openclaw", "--target", "nowhere"], 3, "target", "nowhere", "local, vm, sim"),
    (&["new", "openclaw", "--version", "latest", "--target", "sim"], 2, "version", "no exact version", "such as"),
    (&["new", "openclaw", "--set", "x"], 2, "--set", "key=value", "clawfarm new"),
    (&["new", "openclaw", "--set", "modle.name=x"], 2, "config.modle.name", "unknown field", "the keys are"),
    (&["new", "openclaw", "--set", "env..A=x"], 2, "config.env..A", "empty part", "the keys are"),
    (&["new", "openclaw", "--set", "model.provider.x=y"], 2, "config.model.provider.x", "", "the keys are"),
    (&["new", "openclaw", "--set", "env.A=x\u{1}y", "--set", "env.B-C=1", "--target", "sim"], 2, "config.env", "variable's name", "letters"),
    (&["new", "openclaw", "--set", "env.HOME=/", "--target", "sim"], 2, "config.env.HOME", "set by clawfarm", "remove it"),
    (&["new", "openclaw", "--set", "native.gateway.port=1", "--target", "sim"], 2, "config.native.gateway.port", "set by clawfarm", "remove it"),
    (&["new", "openclaw", "--provider", "nobody"], 2, "--provider", "nobody", "anthropic"),
    (&["new", "openclaw", "--model", "m"], 2, "--provider", "must be given", "clawfarm new"),
    (&["new", "openclaw", "--provider", "openai", "--target", "sim"], 2, "config.model.api_key", "needs a key", "--api-key-env"),
    (&["new", "openclaw", "--provider", "openai", "--api-key-env", "UNSET_KEY"], 2, "--api-key-env", "not set", "export UNSET_KEY"),
    (&["new", "openclaw", "--provider", "openai", "--api-key-env", "A", "--api-key-file", "b"], 2, "--api-key-env", "together", "leave one"),
    (&["new", "openclaw", "--provider", "openai", "--api-key-file", "/nowhere"], 2, "--api-key-file", "/nowhere", "file"),
    (&["new", "openclaw", "--provider", "openai", "--api-key-file", "{home}"], 2, "--api-key-file", "can't be read", "file"),
    (&["new", "openclaw", "--label", "x"], 2, "--label", "key=value", "clawfarm new"),
    (&["new", "openclaw", "--label", "a b=c", "--target", "sim"], 2, "labels", "can't be used", "letters"),
    (&["new", "openclaw", "--dataset", "none-x7k2b", "--target", "sim"], 3, "id", "none-x7k2b", "dataset ls"),
    (&["new", "openclaw", "--dataset", "../x"], 2, "--dataset", "contains '.'", "a-z"),
    (&["new", "openclaw", "--dataset", "a-b", "--import", "/x"], 2, "--dataset", "together", "leave one"),
    (&["new", "openclaw", "--import", "/nowhere", "--target", "sim"], 2, "import", "/nowhere", "existing home"),
    (&["new", "openclaw", "--import", "/dev/null", "--target", "sim"], 2, "import", "no folder", "existing home"),
    (&["new", "openclaw", "--restart", "sometimes"], 2, "--restart", "'sometimes'", "never"),
    (&["new", "openclaw", "--config-mode", "loose"], 2, "--config-mode", "'loose'", "managed"),
    // Instances.
    (&["status"], 2, "<INSTANCE>", "must be given", "clawfarm status"),
    (&["status", "nobody"], 3, "id", "no instance named 'nobody'", "clawfarm ps"),
    (&["status", "../../etc"], 2, "id", "can't be an id", "letters"),
    (&["status", "a b"], 2, "id", "can't be an id", "letters"),
    (&["status", ""], 2, "id", "it is empty", "clawfarm ps"),
    (&["restart", ""], 2, "id", "it is empty", "clawfarm ps"),
    (&["status", "?limit=1"], 2, "id", "can't be an id", "letters"),
    (&["status", "claw"], 2, "id", "can be", "whole id"),
    (&["start", "nobody"], 3, "id", "nobody", "clawfarm ps"),
    (&["stop"], 2, "<INSTANCE>...", "must be given", "clawfarm stop"),
    (&["suspend", "nobody", "--warm"], 3, "id", "nobody", "clawfarm ps"),
    (&["update"], 2, "<INSTANCE>...", "must be given", "clawfarm update"),
    (&["update", "nobody"], 3, "id", "nobody", "clawfarm ps"),
    (&["update", "{id}", "--version", "latest"], 2, "version", "no exact version", "2026.9.6"),
    (&["update", "--all", "--max-unavailable", "0"], 2, "--max-unavailable", "0", "clawfarm update"),
    (&["rm", "nobody", "--purge"], 3, "id", "nobody", "clawfarm ps"),
    (&["kill", "{id}x"], 3, "id", "no instance", "clawfarm ps"),
    (&["send", "{id}", " "], 2, "message", "empty", "say something"),
    (&["logs", "{id}", "--since", "yesterday"], 2, "--since", "neither a span", "clawfarm logs"),
    (&["logs", "{id}", "--since", "99999999999999999999d"], 2, "--since", "neither a span", "clawfarm logs"),
    (&["logs", "{id}", "--tail", "many"], 2, "--tail", "many", "clawfarm logs"),
    (&["logs", "{id}", "--tail", "10001"], 2, "--tail", "10001", "clawfarm logs"),
    (&["events", "--tail", "0"], 2, "--tail", "0", "clawfarm events"),
    (&["exec", "{id}"], 2, "<COMMAND>...", "must be given", "clawfarm exec"),
    (&["exec", "{id}", "--", ""], 2, "argv[0]", "no program", "shell"),
    (&["exec", "-it", "{id}", "sh"], 2, "--tty", "", "leave out --tty"),
    (&["shell", "nobody"], 2, "shell", "needs a terminal", "clawfarm exec"),
    (&["open", "nobody"], 3, "id", "nobody", "clawfarm ps"),
    (&["token", "reveal", "nobody"], 3, "id", "nobody", "clawfarm ps"),
    // Secrets, data, the server.
    (&["secret", "set"], 2, "<NAME>", "must be given", "clawfarm secret set"),
    (&["secret", "set", "a b"], 2, "<NAME>", "secret's name", "letters"),
    (&["secret", "set", "key", "the-value"], 2, "arguments", "unexpected", "clawfarm secret set"),
    (&["secret", "set", "key"], 2, "value", "empty", "one character"),
    (&["secret", "set", "key", "--from-env", "UNSET_KEY"], 2, "--from-env", "not set", "export"),
    (&["secret", "set", "key", "--from-file", "/dev/zero"], 2, "--from-file", "65536", "64 KiB"),
    (&["secret", "set", "key", "--from-env", "A", "--from-file", "b"], 2, "--from-env", "together", "leave one"),
    (&["secret", "set", "clawfarm.x", "--from-env", "HOME"], 2, "secret", "clawfarm's own", "another name"),
    (&["secret", "rm", "none"], 3, "name", "none", "secret ls"),
    (&["secret", "rm", "kept", "--instance", "nobody"], 3, "id", "nobody", "clawfarm ps"),
    (&["dataset", "rm", "NO"], 2, "<DATASET>...", "contains 'N'", "a-z"),
    (&["dataset", "rm", "none-x7k2b"], 3, "id", "none-x7k2b", "dataset ls"),
    (&["completion", "tcsh"], 2, "<SHELL>", "'tcsh'", "bash"),
    (&["serve", "--listen", "here"], 2, "--listen", "socket address", "clawfarm serve"),
    (&["serve", "--listen", "127.0.0.1:99999"], 2, "--listen", "socket address", "clawfarm serve"),
    (&["serve", "--tls-cert", "x"], 2, "--listen", "must be given", "clawfarm serve"),
    (&["serve", "--background"], 4, "--background", "runs on", "--restart"),
    (&["serve"], 4, "home", "already works on", "stop it first"),
    (&["--host", "http://127.0.0.1:1", "serve"], 2, "--host", "not run elsewhere", "--listen"),
    (&["down", "now"], 2, "arguments", "'now'", "clawfarm down"),
];

#[test]
fn every_case_names_field_reason_and_fix_and_changes_nothing() {
    let mut server = Server::start(2);
    let before = server.state();
    assert!(TABLE.len() >= 60, "{}", TABLE.len());
    let port = server.get(&format!("/api/v1/instances/{}", server.claws[0]))["port"].to_string();
    let home = server.home.path().to_str().expect("text").to_owned();
    let mut wrong = Vec::new();
    for (arguments, exit, field, reason, fix) in TABLE {
        let arguments: Vec<String> = arguments
            .iter()
            .map(|a| a.replace("{id}", &server.claws[0]).replace("{home}", &home).replace("{port}", &port))
            .collect();
        let done = server.home.run(&arguments);
        let said = |start: &str| done.err.lines().any(|line| line.trim_start().starts_with(start));
        let text = done.code == Some(*exit)
            && done.out.is_empty()
            && done.err.contains("error: ")
            && done.err.contains(reason)
            && said(&format!("field: {field}"))
            && said("fix: ")
            && done.err.split("fix: ").nth(1).is_some_and(|rest| rest.contains(fix))
            && !done.err.contains('\u{1b}')
            && !done.err.contains("panicked");
        if !text {
            wrong.push(format!("{arguments:?} wanted {exit} {field:?} {reason:?} {fix:?}: {done:?}"));
        }
        let mut with_json = vec!["--json".to_owned()];
        with_json.extend(arguments.iter().cloned());
        let done = server.home.run(&with_json);
        let problem: Value = serde_json::from_str(&json_part(&done.err)).unwrap_or_default();
        let part = |name: &str| problem[name].as_str().unwrap_or_default();
        let json = done.code == Some(*exit)
            && part("field").starts_with(field)
            && part("reason").contains(reason)
            && part("fix").contains(fix)
            && !part("fix").is_empty();
        if !json && !arguments.contains(&"-it".to_owned()) {
            wrong.push(format!("{with_json:?} wanted {exit} {field:?} {reason:?} {fix:?}: {done:?}"));
        }
    }
    assert!(wrong.is_empty(), "{} cases:\n{}", wrong.len(), wrong.join("\n"));
    server.is_as_before(&before);
}

/// The document; a server's log in the foreground, and a warning, stand before it.
fn json_part(text: &str) -> String {
    text.find("{\n").map_or(text, |begin| &text[begin..]).to_owned()
}

#[test]
fn what_is_no_text_is_refused_where_text_is_wanted() {
    let server = Server::start(0);
    for (arguments, place) in [
        (&[&b"status"[..], b"\xff\xfe"][..], "no UTF-8"),
        (&[b"new", b"openclaw", b"--name", b"\xc3\x28"], "no UTF-8"),
        (&[b"secret", b"set", b"\xf0\x9f"], "no UTF-8"),
    ] {
        let arguments: Vec<&OsStr> = arguments.iter().map(|a| OsStr::from_bytes(a)).collect();
        let done = server.home.run(&arguments).ends(2);
        assert!(done.err.contains(place) && done.err.contains("fix: "), "{done:?}");
    }
    server.is_whole();
}
