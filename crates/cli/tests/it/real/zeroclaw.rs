//! The real ZeroClaw, where `scripts/test-setup` could build it, with the demo model.

use super::farm::{Farm, processes_with, runs, until};

#[test]
fn zeroclaw_answers_sleeps_wakes_and_takes_its_configuration_by_a_start() {
    let farm = Farm::new();
    if !farm.installs().join("zeroclaw-0.8.7/bin/zeroclaw").is_file() {
        // One machine in many has a compiler that is too old for it.
        eprintln!("LEFT OUT: there is no ZeroClaw here; scripts/test-setup says why it could not build one");
        return;
    }
    let refused = farm.run(&["new", "zeroclaw", "--set", "tools.exec.mode=allowlist"]).ends(2);
    assert!(refused.err.contains("config.tools.exec.mode"), "{refused:?}");
    let id = farm.new_of("zeroclaw", "zoe", &["--set", "tools.exec.mode=deny"]);
    assert_eq!(farm.phase(&id), "ready");
    let answer = farm.send(&id, "hello from the test");
    assert!(answer.contains("[clawfarm demo model]") && answer.contains("hello from the test"), "{answer}");

    let pid = farm.pid(&id);
    until("it is idle", || farm.run(&["suspend", &id]).code == Some(0));
    assert_eq!(farm.phase(&id), "suspended");
    assert!(!runs(pid), "it holds no memory");
    let answer = farm.send(&id, "are you awake?");
    assert!(answer.contains("are you awake?"), "{answer}");

    let pid = farm.pid(&id);
    farm.run(&["config", "set", &id, "memory.limit=20000"]).ends(0);
    until("it was started again", || farm.phase(&id) == "ready" && farm.pid(&id) != pid);
    assert!(farm.send(&id, "still there?").contains("still there?"));

    let pid = farm.pid(&id);
    farm.run(&["rm", &id, "--purge", "--force"]).ends(0);
    assert!(!runs(pid), "the claw still runs");
    until("its shim is gone", || processes_with(&id).is_empty());
    assert!(!farm.claw_folder(&id).exists(), "its folder is still there");
}
