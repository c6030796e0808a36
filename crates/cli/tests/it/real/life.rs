//! From `new` to `rm --purge`.

use std::net::TcpListener;
use std::time::Instant;

use super::farm::{Farm, finish, processes_with, runs, until};

#[test]
fn a_life_from_new_to_its_last_trace() {
    let farm = Farm::new();
    let id = farm.new_claw("alice", &[]);
    assert_eq!(farm.phase(&id), "ready");
    let port = u16::try_from(farm.status(&id)["port"].as_u64().unwrap()).unwrap();

    crate::pages::is_as_documented(
        &farm.folder(),
        "home",
        &["authority", "backups", "cache", "datasets", "images", "targets", "types", "vm-accelerator.json"],
    );
    crate::pages::is_as_documented(&farm.claw_folder(&id), "claw", &[]);
    answers(&farm, &id);
    runs_commands(&farm, &id);
    is_not_put_to_sleep_while_it_works(&farm, &id);
    sleeps_and_remembers(&farm, &id);
    sleeps_warm_and_wakes_at_once(&farm, &id);

    let before = farm.pid(&id);
    farm.run(&["restart", &id]).ends(0);
    assert_ne!(farm.pid(&id), before);
    assert!(!runs(before));

    let pid = farm.pid(&id);
    farm.run(&["rm", &id, "--purge", "--force"]).ends(0);
    assert!(!runs(pid), "the claw still runs");
    until("its shim is gone", || processes_with(&id).is_empty());
    assert!(!farm.claw_folder(&id).exists(), "its folder is still there");
    assert!(!farm.folder().join("datasets").join(&id).exists());
    assert!(TcpListener::bind(("127.0.0.1", port)).is_ok(), "its port is still held");
    assert_eq!(farm.run(&["dataset", "ls", "--json"]).ends(0).json()["items"].as_array().unwrap().len(), 0);
}

fn answers(farm: &Farm, id: &str) {
    let answer = farm.send(id, "hello from the test");
    assert!(answer.contains("[clawfarm demo model]"), "{answer}");
    assert!(answer.contains("hello from the test"), "{answer}");
    let logs = farm.run(&["logs", id]).ends(0).out;
    assert!(logs.contains("gateway ready") || logs.contains("http server listening"), "{logs}");
    let events = farm.run(&["events", id, "--json"]).ends(0).out;
    assert!(events.contains("running -> ready"), "{events}");
}

fn runs_commands(farm: &Farm, id: &str) {
    let done = farm.run(&["exec", id, "--", "sh", "-c", "echo out; echo err >&2; exit 7"]).ends(7);
    assert_eq!((done.out.as_str(), done.err.as_str()), ("out\n", "err\n"));
    let piped = farm.run_with_input(&["exec", "-i", id, "--", "tr", "a-z", "A-Z"], "piped through").ends(0);
    assert_eq!(piped.out, "PIPED THROUGH");
    let version = farm.run(&["exec", id, "--", "openclaw", "--version"]).ends(0).out;
    assert!(version.contains("2026.9.6"), "its own command line works inside: {version}");
}

fn is_not_put_to_sleep_while_it_works(farm: &Farm, id: &str) {
    let working = farm.start(&["send", id, "please take 25 seconds"]);
    for arguments in [&["suspend", id] as &[&str], &["suspend", "--warm", id]] {
        // It may take a moment until the claw says so itself.
        until("it says that it works", || {
            let refused = farm.run(arguments);
            if refused.code == Some(0) {
                farm.run(&["resume", id]).ends(0);
                return false;
            }
            assert_eq!(refused.code, Some(4), "{refused:?}");
            assert!(refused.err.contains("is working") && refused.err.contains("--force"), "{refused:?}");
            true
        });
    }
    assert_eq!(farm.phase(id), "ready");
    let done = finish(working).ends(0);
    assert!(done.out.contains("[clawfarm demo model]"), "what it worked on is answered: {done:?}");
}

fn sleeps_and_remembers(farm: &Farm, id: &str) {
    let pid = farm.pid(id);
    until("it is idle", || farm.run(&["suspend", id]).code == Some(0));
    assert_eq!(farm.phase(id), "suspended");
    assert!(!runs(pid), "it holds no memory");
    let table = farm.run(&["ps"]).ends(0).out;
    assert!(table.contains("suspended"), "{table}");
    // The message itself wakes it.
    let answer = farm.send(id, "are you awake?");
    assert!(answer.contains("it began with: hello from the test"), "it lost its memory: {answer}");
    assert_eq!(farm.phase(id), "ready");
}

fn sleeps_warm_and_wakes_at_once(farm: &Farm, id: &str) {
    let pid = farm.pid(id);
    until("it is idle", || farm.run(&["suspend", "--warm", id]).code == Some(0));
    assert_eq!(farm.phase(id), "warm");
    assert!(runs(pid), "it stays in memory");
    let before = processor_time(pid);
    std::thread::park_timeout(std::time::Duration::from_secs(2));
    assert_eq!(processor_time(pid), before, "it is frozen");
    let begun = Instant::now();
    farm.run(&["resume", id]).ends(0);
    eprintln!("resumed from warm in {:?}", begun.elapsed());
    assert_eq!((farm.phase(id).as_str(), farm.pid(id)), ("ready", pid));
    assert!(farm.send(id, "and now?").contains("[clawfarm demo model]"));
}

/// Of a process, in clock ticks.
fn processor_time(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}
