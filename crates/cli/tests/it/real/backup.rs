//! What a real OpenClaw remembers survives its removal, in a file.

use super::farm::{Farm, files_with};

#[test]
fn a_real_claw_remembers_after_its_last_trace_was_removed_and_its_backup_restored() {
    let farm = Farm::new();
    let id = farm.new_claw("alice", &[]);
    assert!(farm.send(&id, "the cat is called Mo").contains("the cat is called Mo"));
    let (pid, token) = (farm.pid(&id), farm.run(&["token", "reveal", &id]).ends(0).out);
    let file = farm.folder().parent().expect("a folder").join("alice.tar.zst");
    let path = file.to_str().expect("UTF-8");
    // While it is up: it goes on as the same process.
    farm.run(&["backup", &id, "-o", path]).ends(0);
    assert_eq!((farm.phase(&id).as_str(), farm.pid(&id)), ("ready", pid));
    assert!(farm.send(&id, "still there?").contains("it began with: the cat is called Mo"));
    farm.run(&["rm", &id, "--purge"]).ends(0);
    assert!(!farm.claw_folder(&id).exists());

    let made = farm.run(&["restore", path, "--json"]).ends(0).json();
    let again = made["instance"]["id"].as_str().expect("an id").to_owned();
    assert_ne!(again, id);
    assert_eq!(farm.phase(&again), "ready");
    let answer = farm.send(&again, "and now?");
    assert!(answer.contains("it began with: the cat is called Mo"), "it lost its memory: {answer}");
    assert_ne!(farm.run(&["token", "reveal", &again]).ends(0).out, token);
    assert!(files_with(&farm.claw_folder(&again), token.trim()).is_empty(), "the old token is in it");
    let left = farm.folder().join("backups");
    assert!(std::fs::read_dir(left).expect("it was made").next().is_none(), "nothing is left of it");
}
