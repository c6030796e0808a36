//! `serve` in the foreground: listening, ending, refusing.

use std::process::Child;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use crate::support::{Home, eventually, finish};

fn listening(home: &Home) -> String {
    eventually("the server to listen", || {
        let version = home.run(&["version", "--json"]).json();
        version["server"]["listen"].as_str().map(str::to_owned)
    })
}

fn terminate(child: &Child) {
    kill(Pid::from_raw(i32::try_from(child.id()).expect("a pid")), Signal::SIGTERM).expect("sent");
}

#[test]
fn it_listens_on_loopback_for_who_has_the_token_and_ends_on_sigterm() {
    let home = Home::new();
    let server =
        home.command(&["serve", "--listen", "127.0.0.1:0", "--log-format", "json"]).spawn().expect("starts");
    let url = format!("http://{}", listening(&home));
    let elsewhere = Home::new();
    let token = home.farm().join("admin.token");
    let token = token.to_str().expect("text");
    let ps = elsewhere.run(&["--host", &url, "--token-file", token, "ps", "--json"]).ends(0);
    assert_eq!(ps.json(), json!({ "items": [] }));
    let wrong = elsewhere.path().join("wrong");
    std::fs::write(&wrong, "0".repeat(64)).expect("written");
    let refused =
        elsewhere.run(&["--host", &url, "--token-file", wrong.to_str().expect("text"), "ps"]).ends(1);
    assert!(refused.err.contains("error:") && refused.err.contains("fix:"), "{refused:?}");
    let refused = elsewhere.run(&["--host", &url, "--token-file", token, "serve", "--restart"]).ends(1);
    assert!(refused.err.contains("can't be started or restarted from here"), "{refused:?}");
    terminate(&server);
    let done = finish(server).ends(0);
    for line in done.err.lines() {
        serde_json::from_str::<serde_json::Value>(line).unwrap_or_else(|e| panic!("{e}: {line}"));
    }
    assert!(!home.farm().join("clawfarm.sock").exists(), "the socket is left");
}

#[test]
fn a_renewed_token_counts_for_the_server_that_runs() {
    let home = Home::new();
    home.run(&["ps"]).ends(0);
    let file = home.farm().join("admin.token");
    let old = home.path().join("old");
    std::fs::copy(&file, &old).expect("copied");
    let old = old.to_str().expect("text");
    let renewed = home.run(&["server", "renew-token", "--json"]).ends(0).json();
    assert_eq!(renewed["file"], file.to_str().expect("text"));
    assert_ne!(std::fs::read(&file).expect("there"), std::fs::read(old).expect("there"));
    eventually("the new one to be taken", || (home.run(&["ps"]).code == Some(0)).then_some(()));
    let refused = home.run(&["--token-file", old, "ps"]);
    assert!(refused.code != Some(0) && refused.err.contains("token is not this server's"), "{refused:?}");
}

#[test]
fn a_second_server_ends_the_first_when_its_lock_was_removed() {
    let home = Home::new();
    let first = home.command(&["serve"]).spawn().expect("starts");
    eventually("the server to serve", || (home.server_pid()? == i64::from(first.id())).then_some(()));
    // Within a second the first has it again, or the second has it: one of them ends.
    std::fs::remove_file(home.farm().join("server.lock")).expect("there");
    let second = home.command(&["serve"]).spawn().expect("starts");
    let mut both = [first, second];
    let which = eventually("one of them to end", || {
        both.iter_mut().position(|server| server.try_wait().expect("waited").is_some())
    });
    let [first, second] = both;
    let (ended, left) = if which == 0 { (first, second) } else { (second, first) };
    let done = finish(ended);
    assert!(done.code != Some(0) && done.err.contains("field: home"), "it says why: {done:?}");
    home.run(&["ps"]).ends(0);
    assert_eq!(home.server_pid(), Some(i64::from(left.id())), "the other one serves");
    terminate(&left);
    finish(left).ends(0);
}

#[test]
fn beyond_loopback_it_wants_tls() {
    let home = Home::new();
    let done = home.run(&["serve", "--listen", "0.0.0.0:0"]).ends(2);
    assert!(done.err.contains("field: listen") && done.err.contains("--allow-plaintext"), "{done:?}");
    let done = home.run(&["serve", "--background", "--listen", "0.0.0.0:0"]);
    assert_ne!(done.code, Some(0));
    assert!(done.err.contains("--allow-plaintext"), "the log's end is shown: {done:?}");
}

#[test]
fn a_home_with_a_long_path_is_served() {
    let home = Home::new();
    let deep = home.path().join("d".repeat(90)).join("e".repeat(90));
    let arguments = ["--home", deep.to_str().expect("text"), "ps", "--json"];
    assert_eq!(home.run(&arguments).ends(0).json(), json!({ "items": [] }));
    home.run(&["--home", deep.to_str().expect("text"), "down"]).ends(0);
}

#[test]
fn what_it_makes_only_its_owner_can_read() {
    use std::os::unix::fs::PermissionsExt;
    let home = Home::new();
    home.run(&["ps"]).ends(0);
    let mode = |name: &str| {
        let found = std::fs::metadata(home.farm().join(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
        found.permissions().mode() & 0o777
    };
    for name in ["admin.token", "master.key", "clawfarm.sock", "server.log", "clawfarm.db"] {
        assert_eq!(mode(name) & 0o077, 0, "{name}: {:o}", mode(name));
    }
    assert_eq!(mode(""), 0o700);
}

#[test]
fn it_may_open_more_files_than_the_shell_it_was_started_in() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    use std::os::unix::process::CommandExt;
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).expect("limits");
    let home = Home::new();
    let mut command = home.command(&["serve"]);
    // SAFETY: a system call that takes numbers only.
    unsafe { command.pre_exec(move || Ok(setrlimit(Resource::RLIMIT_NOFILE, 256.min(most), most)?)) };
    let server = command.spawn().expect("starts");
    let pid = eventually("the server", || home.server_pid());
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).expect("readable");
    let line = limits.lines().find(|line| line.starts_with("Max open files")).expect("a line");
    let soft: u64 = line.split_whitespace().nth(3).and_then(|n| n.parse().ok()).expect("a number");
    assert_eq!(soft, most.min(32_768), "{line}");
    terminate(&server);
    finish(server).ends(0);
}

#[test]
fn a_log_that_can_not_be_written_ends_nothing() {
    let home = Home::new();
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").expect("a full disk");
    let server = home.command(&["serve"]).stderr(full).spawn().expect("starts");
    let pid = eventually("the server", || home.server_pid());
    assert_eq!(pid, i64::from(server.id()));
    terminate(&server);
    finish(server).ends(0);
}
