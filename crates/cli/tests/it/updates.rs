//! `clawfarm update`: several at a time, and what is left alone after a failure.

use std::collections::BTreeSet;

use clawfarm_runtime_sim::{ActKind, ClawBehaviour, Override, World};

use crate::support::Home;

const NEW: &str = "2026.9.7";
const BROKEN: &str = "2026.9.8";

fn make(home: &Home, names: &[&str]) {
    for name in names {
        home.run(&["new", "openclaw", name, "--runtime", "sim", "--ready-timeout-secs", "60"]).ends(0);
    }
}

fn world(home: &Home) -> World {
    World::open(home.path().join("world")).expect("a world")
}

fn image(home: &Home, id: &str) -> String {
    home.run(&["status", id, "--json"]).ends(0).json()["instance"]["image"]
        .as_str()
        .expect("an image")
        .to_owned()
}

#[test]
fn all_are_updated_and_no_more_are_down_at_a_time_than_may_be() {
    let home = Home::new();
    let names = ["alice", "bob", "carol", "dave", "erin"];
    make(&home, &names);
    home.run(&["stop", "erin"]).ends(0);
    let before = world(&home).journal().expect("a journal").len();
    let done = home.run(&["update", "--all", "--max-unavailable", "2", "--version", NEW]).ends(0);
    for name in &names[..4] {
        assert!(done.out.lines().any(|l| l.starts_with(name) && l.ends_with("is ready")), "{name}: {done:?}");
        assert_eq!(image(&home, name), format!("openclaw:{NEW}"));
    }
    let waits = format!("is stopped, and tries {NEW} at its next start");
    assert!(done.out.lines().any(|l| l.starts_with("erin") && l.ends_with(&waits)), "{done:?}");
    assert!(home.run(&["status", "erin"]).ends(0).out.contains(&format!("{NEW} is tried at its next start")));
    let (mut down, mut most) = (BTreeSet::new(), 0);
    for act in world(&home).journal().expect("a journal").into_iter().skip(before) {
        match act.act {
            ActKind::Stop => _ = down.insert(act.id),
            ActKind::Start => _ = down.remove(&act.id),
            _ => {}
        }
        most = most.max(down.len());
    }
    assert!((1..=2).contains(&most), "{most} were down at a time");
}

#[test]
fn after_one_that_fails_the_others_are_left_alone() {
    let home = Home::new();
    make(&home, &["alice", "bob", "carol"]);
    let crash = ClawBehaviour { crash_after_ms: Some((1, 1)), ..ClawBehaviour::default() };
    let broken = Override::of_version(BROKEN, crash);
    world(&home).change_behaviour(|behaviour| behaviour.overrides.push(broken)).expect("written");
    let done = home.run(&["update", "--all", "--version", BROKEN]);
    assert!(done.code != Some(0), "{done:?}");
    for part in ["alice", BROKEN, "it is at 2026.9.6 again", "its last lines:", "2 further ones were left"] {
        assert!(done.err.contains(part), "no '{part}' in {done:?}");
    }
    for name in ["alice", "bob", "carol"] {
        assert_eq!(image(&home, name), "openclaw:2026.9.6");
    }
    let stops = world(&home).journal().expect("a journal");
    let stopped: BTreeSet<_> =
        stops.iter().filter(|a| a.act == ActKind::Stop).map(|a| a.id.clone()).collect();
    assert_eq!(stopped.len(), 1, "{stopped:?}");
    // Detached, both are begun at once.
    let both = home.run(&["update", "bob", "carol", "--version", NEW, "--detach"]).ends(0);
    assert_eq!(both.out.lines().filter(|l| l.contains("update has begun")).count(), 2, "{both:?}");
}
