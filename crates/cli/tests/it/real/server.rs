//! The server is killed, the machine is rebooted.

use std::fs;

use nix::sys::signal::Signal;
use serde_json::Value;

use super::farm::{Farm, kill, processes_with, runs, until};

#[test]
fn claws_outlive_the_server_and_the_right_ones_outlive_the_machine() {
    let farm = Farm::new();
    let alice = farm.new_claw("alice", &[]);
    let bob = farm.new_claw("bob", &["--overcommit"]);
    farm.run(&["stop", &bob]).ends(0);
    let claw = farm.pid(&alice);

    // The server is killed: the claw goes on, and the next command's server adopts it.
    let server = farm.server_pid();
    kill(server, Signal::SIGKILL);
    until("the server is gone", || !runs(server));
    assert!(runs(claw));
    farm.until_phase(&alice, "ready");
    assert_eq!(farm.pid(&alice), claw, "adopted, not started again");
    assert_ne!(farm.server_pid(), server);
    assert!(farm.send(&alice, "still there?").contains("[clawfarm demo model]"));

    // The machine goes down, as far as a test can play it: everything dies at once, and what
    // is left on disk names another boot and a process that is now somebody else's.
    let stranger = std::process::Command::new("sleep").arg("600").spawn().unwrap();
    kill(farm.server_pid(), Signal::SIGKILL);
    for line in processes_with(&alice) {
        kill(line.split(':').next().unwrap().parse().unwrap(), Signal::SIGKILL);
    }
    kill(claw, Signal::SIGKILL);
    until("the claw is gone", || !runs(claw));
    forge(&farm, &alice, stranger.id());

    // The new server tells what was last seen until its first look.
    until("it is started again after the machine's end", || {
        let status = farm.status(&alice);
        status["phase"] == "ready" && status["pid"].as_u64().is_some_and(|pid| pid != u64::from(claw))
    });
    assert!(runs(stranger.id()), "a process that only has an old number was ended");
    assert_eq!(farm.phase(&bob), "stopped", "what was stopped stays so");
    let answer = farm.send(&alice, "and now?");
    assert!(answer.contains("it began with: still there?"), "{answer}");
    let status = farm.status(&alice);
    assert_eq!(status["restarts_total"], 0, "a reboot is no crash");

    let mut stranger = stranger;
    stranger.kill().unwrap();
    stranger.wait().unwrap();

    // A crash is one, and is mended.
    let pid = farm.pid(&alice);
    kill(pid, Signal::SIGKILL);
    until("it is started again", || {
        let status = farm.status(&alice);
        status["phase"] == "ready" && status["pid"].as_u64() != Some(u64::from(pid))
    });
    assert_eq!(farm.status(&alice)["restarts_total"], 1);
}

/// Makes `state.json` look as after a reboot: still active, of another boot, its pid reused.
fn forge(farm: &Farm, id: &str, stranger: u32) {
    let path = farm.claw_folder(id).join("state.json");
    let mut state: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    state["active"] = true.into();
    state["pid"] = stranger.into();
    state["boot_id"] = "00000000-0000-0000-0000-000000000000".into();
    state.as_object_mut().unwrap().remove("exit");
    fs::write(&path, serde_json::to_vec(&state).unwrap()).unwrap();
}
