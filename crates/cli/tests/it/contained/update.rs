//! Another version of what is in a container.

use std::collections::BTreeSet;

use clawfarm_test_docker::Engine;

use super::{BROKEN, Farm, NEW, OLD};

#[test]
fn a_version_that_works_is_kept_and_one_that_does_not_is_undone_with_its_log_told() {
    if !Engine::possible() {
        return;
    }
    let farm = Farm::on(Engine::shared());
    let id = farm.new_claw("alice");
    let failed = farm.run(&["update", &id, "--version", BROKEN.version]);
    assert!(failed.code != Some(0), "{failed:?}");
    let again = format!("it is at {} again", OLD.version);
    for part in ["exited with code 3", &again, "this version has lost its footing"] {
        assert!(failed.err.contains(part), "no '{part}' in {failed:?}");
    }
    farm.until_ready(&id);
    assert_eq!((farm.version(&id).as_str(), farm.versions(&id)), (OLD.version, vec![OLD.version.to_owned()]));

    assert_eq!(farm.run(&["update", &id, "--version", NEW.version]).ends(0).out, format!("{id} is ready\n"));
    assert_eq!(farm.version(&id), NEW.version);
    assert_eq!(farm.versions(&id), [OLD.version, NEW.version], "on the same data");
    assert!(!farm.claw_folder(&id).join("copy").exists());
    let name = format!("clawfarm-{id}");
    let runs = farm.engine.docker(&["inspect", "-f", "{{.Image}}", &name]);
    let image = format!("clawfarm/openclaw:{}", NEW.version);
    assert_eq!(runs, farm.engine.docker(&["image", "inspect", "-f", "{{.Id}}", &image]));
    assert_eq!(farm.containers(), [name.as_str()], "and none that was only looked into");

    let before = farm.engine.docker(&["inspect", "-f", "{{.State.StartedAt}}", &name]);
    let refused = farm.run(&["update", &id, "--version", OLD.version]);
    assert!(refused.code != Some(0), "{refused:?}");
    for part in ["can't read the data", "schema", OLD.version, NEW.version] {
        assert!(refused.err.contains(part), "no '{part}' in {refused:?}");
    }
    assert_eq!(farm.engine.docker(&["inspect", "-f", "{{.State.StartedAt}}", &name]), before, "not touched");
    // A version that nobody has, and no recipe can make here, touches nothing either.
    let missing = farm.run(&["update", &id, "--version", "1.2"]).ends(2);
    assert!(missing.err.contains("no exact version"), "{missing:?}");
}

#[test]
fn all_are_updated_and_no_more_are_down_at_a_time_than_may_be() {
    if !Engine::possible() {
        return;
    }
    let farm = Farm::on(Engine::shared());
    let names = ["ann", "ben", "cy"];
    let ids = names.map(|name| farm.new_claw(name));
    let now = || clawfarm_model::Timestamp::now().as_millis() / 1000;
    let since = now().to_string();
    let done = farm.run(&["update", "--all", "--max-unavailable", "2", "--version", NEW.version]).ends(0);
    for id in &ids {
        assert!(
            done.out.lines().any(|line| line.starts_with(id.as_str()) && line.ends_with("is ready")),
            "{done:?}"
        );
        assert_eq!((farm.version(id).as_str(), farm.versions(id).len()), (NEW.version, 2));
    }
    // What the engine saw of it.
    let label = format!("label=io.clawfarm.server={}", farm.label());
    let until = (now() + 1).to_string();
    let told = farm.engine.docker(&[
        "events",
        "--since",
        &since,
        "--until",
        &until,
        "--filter",
        &label,
        "--filter",
        "event=die",
        "--filter",
        "event=start",
        "--format",
        "{{.Action}} {{.Actor.Attributes.name}}",
    ]);
    let (mut down, mut most, mut fell) = (BTreeSet::new(), 0, BTreeSet::new());
    for (action, name) in told.lines().filter_map(|line| line.split_once(' ')) {
        if action == "die" {
            fell.insert(name);
            down.insert(name);
        } else {
            down.remove(name);
        }
        most = most.max(down.len());
    }
    assert_eq!((fell.len(), down.len()), (3, 0), "{told}");
    assert!((1..=2).contains(&most), "{most} were down at a time: {told}");
}
