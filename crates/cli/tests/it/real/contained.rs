//! Another version of a real OpenClaw that is in a container.

use clawfarm_test_docker::{DEBIAN, Engine};

use super::farm::Farm;

/// The version before the tested one; `scripts/test-setup` installs both.
const OLD: &str = "2026.9.5";
const NEW: &str = "2026.9.6";

#[test]
fn real_claws_in_containers_are_updated_with_their_memory_and_configuration() {
    if !Engine::possible() {
        return;
    }
    let engine = Engine::shared();
    engine.with_debian();
    let tested = std::env::var("CLAWFARM_TEST_OPENCLAW").expect("`make test` sets it");
    for version in [OLD, NEW] {
        // Beside the tested one, under the name that its version gives it.
        engine.with_openclaw(version, tested.replace(NEW, version).as_ref());
    }
    engine.enter();
    let farm = Farm::new();
    let socket = engine.socket();
    let socket = socket.to_str().expect("UTF-8");
    farm.run(&["target", "add", "docker", "--socket", socket, "--base-image", DEBIAN]).ends(0);
    let id = farm.new_claw("newer", &["--runtime", "docker", "--version", OLD, "--memory-mib", "2048"]);
    assert!(farm.send(&id, "hello from before").contains("hello from before"));
    // What its owner has set beside what clawfarm sets.
    farm.run(&["exec", &id, "--", "sh", "-c", "echo 'MINE=kept' >> ../.env; echo kept > notes"]).ends(0);
    let done = farm.run(&["update", &id]).ends(0);
    assert_eq!(done.out, format!("{id} is ready\n"));
    let version = farm.run(&["exec", &id, "--", "openclaw", "--version"]).ends(0).out;
    assert!(version.contains(NEW), "{version}");
    assert_eq!(farm.status(&id)["image"], format!("openclaw:{NEW}"));
    let answer = farm.send(&id, "and now?");
    assert!(answer.contains("it began with: hello from before"), "it lost its memory: {answer}");
    let kept = farm.run(&["exec", &id, "--", "sh", "-c", "cat notes; grep MINE ../.env"]).ends(0).out;
    assert_eq!(kept, "kept\nMINE=kept\n");
    assert!(!farm.claw_folder(&id).join("copy").exists());
    // The newer version has migrated the data; the older one could not read it.
    let pid = farm.pid(&id);
    let refused = farm.run(&["update", &id, "--version", OLD]);
    assert!(refused.code != Some(0), "{refused:?}");
    for part in ["can't read the data", "schema", NEW, OLD] {
        assert!(refused.err.contains(part), "no '{part}' in {refused:?}");
    }
    assert_eq!((farm.phase(&id).as_str(), farm.pid(&id)), ("ready", pid), "it was not touched");
    farm.run(&["rm", &id, "--purge", "--force"]).ends(0);
}
