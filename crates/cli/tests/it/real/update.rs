//! Another version of a real OpenClaw: one that works, one that its data can't be given to, and
//! one that does not answer in time.

use super::farm::{Farm, until};

/// The version before the tested one; `scripts/test-setup` installs both.
const OLD: &str = "2026.9.5";
const NEW: &str = "2026.9.6";

#[test]
fn real_claws_are_updated_with_their_memory_and_not_to_what_cannot_read_it() {
    let farm = Farm::new();
    let id = farm.new_claw("alice", &["--version", OLD]);
    assert_eq!(farm.status(&id)["image"], format!("openclaw:{OLD}"));
    assert!(farm.send(&id, "hello from before").contains("hello from before"));
    let done = farm.run(&["update", &id]).ends(0);
    assert_eq!(done.out, format!("{id} is ready\n"));
    let version = farm.run(&["exec", &id, "--", "openclaw", "--version"]).ends(0).out;
    assert!(version.contains(NEW), "{version}");
    assert_eq!(farm.status(&id)["image"], format!("openclaw:{NEW}"));
    let answer = farm.send(&id, "and now?");
    assert!(answer.contains("it began with: hello from before"), "it lost its memory: {answer}");
    assert!(!farm.claw_folder(&id).join("copy").exists());
    // The newer version has migrated the data; the older one could not read it.
    let pid = farm.pid(&id);
    let refused = farm.run(&["update", &id, "--version", OLD]);
    assert!(refused.code != Some(0), "{refused:?}");
    for part in ["can't read the data", "schema", NEW, OLD] {
        assert!(refused.err.contains(part), "no '{part}' in {refused:?}");
    }
    assert_eq!((farm.phase(&id).as_str(), farm.pid(&id)), ("ready", pid), "it was not touched");
}

#[test]
fn real_claws_get_their_version_and_data_back_when_the_other_does_not_answer() {
    let farm = Farm::new();
    // No OpenClaw starts that fast (7.5 s at best on two idle cores), so that its own first
    // start is late, too.
    let made = farm.run(&["new", "openclaw", "bob", "--version", OLD, "--ready-timeout-secs", "4", "--json"]);
    assert!(made.code != Some(0), "a start within 4 s: {made:?}");
    let listed = farm.run(&["ps", "-q"]).ends(0).out;
    let id = listed.trim();
    farm.until_phase(id, "ready");
    assert!(farm.send(id, "hello from before").contains("hello from before"));
    let failed = farm.run(&["update", id]);
    assert!(failed.code != Some(0), "{failed:?}");
    for part in ["was not ready within 4 s", "it is at 2026.9.5 again"] {
        assert!(failed.err.contains(part), "no '{part}' in {failed:?}");
    }
    farm.until_phase(id, "ready");
    assert_eq!(farm.status(id)["image"], format!("openclaw:{OLD}"));
    let answer = farm.send(id, "and now?");
    assert!(answer.contains("it began with: hello from before"), "it lost its memory: {answer}");
    until("the copy is removed", || !farm.claw_folder(id).join("copy").exists());
}
