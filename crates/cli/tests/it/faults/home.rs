//! The home's mount turns read-only. It is made so in a mount namespace of the server alone;
//! that takes root, as continuous integration has.

use std::path::Path;
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;

use super::{asked, serve, signal};
use crate::support::{Home, finish};

/// Whether a mount namespace can be made here; says so when not.
pub(crate) fn may_mount() -> bool {
    let may = Command::new("unshare").args(["-m", "true"]).stderr(Stdio::null()).status();
    let may = may.is_ok_and(|status| status.success());
    if !may {
        println!("skipped: no mount namespace can be made here (it takes root)");
    }
    may
}

/// A shell's command around the server, in a mount namespace of its own. `$1` is the home.
pub(super) fn unshared(home: &Home, before: &str) -> Command {
    let inner = home.command(&["serve"]);
    let mut command = Command::new("unshare");
    command.args(["-m", "--propagation", "private", "sh", "-ec", &format!("{before}\nshift\nexec \"$@\"")]);
    command.arg("sh").arg(home.farm()).arg(inner.get_program()).args(inner.get_args());
    for (name, value) in inner.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

/// Runs a script in the mount namespace of a process. `$1` is the folder.
fn within(pid: u32, script: &str, folder: &Path) {
    let done = Command::new("nsenter")
        .args(["-m", "-t", &pid.to_string(), "sh", "-ec", script, "sh"])
        .arg(folder)
        .output()
        .expect("runs");
    assert!(done.status.success(), "{script}: {done:?}");
}

const READ_ONLY: &str = "mount --bind \"$1\" \"$1\"; mount -o remount,bind,ro \"$1\"";

#[test]
fn a_server_on_a_read_only_home_says_so_and_ends() {
    if !may_mount() {
        return;
    }
    let home = Home::new();
    std::fs::create_dir(home.farm()).expect("a folder");
    let done = finish(unshared(&home, READ_ONLY).spawn().expect("starts")).ends(5);
    for words in ["mounted read-only", &home.farm().display().to_string(), "field: home", "mount it writable"]
    {
        assert!(done.err.contains(words), "{words}: {done:?}");
    }
    assert_eq!(std::fs::read_dir(home.farm()).expect("readable").count(), 0, "something was left");
}

#[test]
fn a_home_that_turns_read_only_is_read_and_its_changes_are_refused_until_it_is_writable() {
    if !may_mount() {
        return;
    }
    let home = Home::new();
    std::fs::create_dir(home.farm()).expect("a folder");
    let server = serve(&home, unshared(&home, "true"));
    home.run(&["new", "openclaw", "alice", "--runtime", "sim"]).ends(0);
    within(server.id(), READ_ONLY, &home.farm());
    let before = home.run(&["events", "--json"]).ends(0).out;
    let status = home.run(&["status", "alice", "--json"]).ends(0).json();
    assert_eq!(status["instance"]["phase"], "ready");
    for arguments in [
        &["stop", "alice"][..],
        &["rm", "alice", "--purge"],
        &["new", "openclaw", "bob", "--runtime", "sim"],
        &["token", "rotate", "alice"],
    ] {
        let done = home.run(arguments).ends(5);
        assert!(done.err.contains("read-only") && done.err.contains("nothing was changed"), "{done:?}");
    }
    let answer = asked(&home, "POST", "/api/v1/instances/alice/stop");
    assert!(answer.starts_with("http/1.1 503 ") && answer.contains("retry-after:"), "{answer}");
    assert!(answer.contains("mounted read-only"), "{answer}");
    assert_eq!(home.run(&["events", "--json"]).ends(0).out, before, "nothing has happened");

    within(server.id(), "umount \"$1\"", &home.farm());
    assert_eq!(home.run(&["ps", "-q"]).ends(0).out.lines().count(), 1, "nothing was made");
    assert!(home.run(&["stop", "alice"]).ends(0).out.contains("is stopped"));
    home.run(&["rm", "alice", "--purge"]).ends(0);
    signal(&server, Signal::SIGTERM);
    finish(server).ends(0);
}
