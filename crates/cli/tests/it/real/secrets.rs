//! A secret reaches its claw, and nothing else.

use std::fs;

use super::farm::{Farm, files_with, runs};

#[test]
fn a_secret_is_found_in_nothing_but_its_own_claw() {
    let farm = Farm::new();
    // Unlike anything else on this machine, and in two parts here, so that this program
    // does not hold it in one piece.
    let value = format!("sk-hidden-{}-{}", std::process::id(), "q7w8e9");
    farm.run_with_input(&["secret", "set", "search-key"], &value).ends(0);
    let id = farm.new_claw("alice", &["--set", "env.SEARCH_KEY.secret=search-key"]);
    let seen = farm.run(&["exec", &id, "--", "sh", "-c", "printf %s \"$SEARCH_KEY\""]).ends(0).out;
    assert_eq!(seen, value, "the claw has it");
    farm.send(&id, "hello");

    let own = farm.claw_folder(&id).join("state");
    let found = files_with(&farm.folder(), &value);
    let elsewhere: Vec<_> = found.iter().filter(|p| !p.starts_with(&own)).collect();
    assert!(elsewhere.is_empty(), "{elsewhere:?}");
    for arguments in [
        &["logs", &id] as &[&str],
        &["events", &id, "--json"],
        &["status", &id, "--json"],
        &["ps", "--json"],
        &["secret", "ls", "--json"],
        &["doctor", "--json"],
    ] {
        let done = farm.run(arguments).ends(0);
        assert!(!done.out.contains(&value) && !done.err.contains(&value), "{arguments:?}");
    }
    let server_log = fs::read_to_string(farm.folder().join("server.log")).unwrap();
    assert!(!server_log.contains(&value));
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        assert!(!String::from_utf8_lossy(&line).contains(&value), "{:?}", entry.path());
    }
    let reveal = farm.run(&["token", "reveal", &id, "--json"]).ends(0).json();
    let token = reveal["token"].as_str().unwrap();
    let found = files_with(&farm.folder(), token);
    assert!(found.iter().all(|p| p.starts_with(&own)), "{found:?}");
    assert!(runs(farm.pid(&id)));

    // A new value reaches it, and the one before is nowhere any more.
    let another = format!("sk-another-{}-{}", std::process::id(), "z1x2c3");
    let rotated = farm.run_with_input(&["secret", "rotate", "search-key"], &another).ends(0);
    assert!(rotated.out.contains("version 2 everywhere"), "{rotated:?}");
    let has = |value: &str| {
        let seen = farm.run(&["exec", &id, "--", "sh", "-c", "printf %s \"$SEARCH_KEY\""]).ends(0).out;
        assert_eq!(seen, value);
        assert!(files_with(&farm.folder(), value).iter().all(|p| p.starts_with(&own)));
    };
    has(&another);
    let left = files_with(&farm.folder(), &value);
    assert!(left.is_empty(), "{left:?}");
    // It finds it again after its own end, which the next server sees to.
    let (server, claw) = (farm.server_pid(), farm.pid(&id));
    farm.run(&["down"]).ends(0);
    super::farm::kill(claw, nix::sys::signal::Signal::SIGKILL);
    super::farm::until("its process has ended", || !runs(claw));
    // It is `ready` in the store until the next server has looked.
    super::farm::until("it was started again", || {
        let status = farm.status(&id);
        let pid = status["pid"].as_u64();
        status["phase"] == "ready" && pid.is_some_and(|pid| pid != u64::from(claw))
    });
    assert_ne!(farm.server_pid(), server);
    has(&another);

    // One that is in use is not removed.
    let refused = farm.run(&["secret", "rm", "search-key"]).ends(4);
    assert!(refused.err.contains(&id), "{refused:?}");
}
