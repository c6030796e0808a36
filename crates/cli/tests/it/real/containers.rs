//! Targets and images by the command line, with claws of busybox: what needs no real OpenClaw.

use clawfarm_test_docker::{Engine, TINY, TINY_CLAW, TINY_CLAW_VERSION};
use serde_json::Value;

use crate::support::Home;

/// What a claw of busybox is given.
const SMALL: [&str; 3] = ["--memory-mib", "64", "--overcommit"];

fn ids(list: &Value, target: &str) -> usize {
    let items = list["items"].as_array().expect("a list");
    items.iter().filter(|item| item["target"] == target).count()
}

#[test]
fn e2e_two_engines_are_two_targets_and_an_image_is_chosen() {
    if !Engine::possible() {
        return;
    }
    let engine = Engine::shared();
    engine.with_tiny_claw();
    engine.enter();
    let other = engine.beside();
    other.with_tiny_claw();
    // The first has kept its network: images that others make on it are built there.
    engine.with_tiny();
    assert_eq!(
        engine.docker(&["run", "--rm", "--network", "bridge", TINY, "busybox", "echo", "there"]),
        "there"
    );
    let home = Home::new();
    for (name, engine) in [("one", &engine), ("two", &other)] {
        let socket = engine.socket().to_str().expect("UTF-8").to_owned();
        home.run(&["target", "add", name, "--socket", &socket, "--label", "kind=test"]).ends(0);
    }
    let make = |name: &str, more: &[&str]| {
        let mut arguments = vec!["new", "openclaw", name, "--json"];
        arguments.extend(SMALL);
        arguments.extend(more);
        home.run(&arguments)
    };
    // By its name a target is found, and by an image a runtime that runs one.
    let mut made = Vec::new();
    for (name, more) in [
        ("a", ["--target", "one", "--version", TINY_CLAW_VERSION]),
        ("b", ["--target", "two", "--version", TINY_CLAW_VERSION]),
        ("c", ["--target", "two", "--image", TINY_CLAW]),
    ] {
        let instance = make(name, &more).ends(0).json()["instance"].clone();
        assert_eq!((&instance["phase"], &instance["target"]), (&"ready".into(), &more[1].into()));
        made.push(instance);
    }
    let names = |engine: &Engine| engine.docker(&["ps", "--format", "{{.Names}}"]);
    let container = |n: usize| format!("clawfarm-{}", made[n]["id"].as_str().expect("an id"));
    let (first, second) = (names(&engine), names(&other));
    assert!(first.contains(&container(0)) && !first.contains(&container(1)), "{first}");
    assert!(second.contains(&container(1)) && second.contains(&container(2)), "{second}");
    assert!(!second.contains(&container(0)), "{second}");
    // What was chosen and what runs is told, and counted.
    let id = made[2]["id"].as_str().expect("an id");
    let digest = other.docker(&["inspect", "-f", "{{.Image}}", &container(2)]);
    let status = home.run(&["status", id]).ends(0).out;
    assert!(status.contains(TINY_CLAW) && status.contains(&digest), "{status}");
    let images = home.run(&["image", "ls", "--json"]).ends(0).json();
    let of = images["items"]
        .as_array()
        .expect("a list")
        .iter()
        .find(|image| image["target"] == "two" && image["reference"] == TINY_CLAW);
    let of = of.unwrap_or_else(|| panic!("it is not listed: {images}"));
    assert_eq!((&of["kind"], &of["used_by"]), (&"container".into(), &2.into()));
    assert!(home.run(&["image", "ls"]).ends(0).out.contains("USED BY"));
    assert!(ids(&images, "two") >= 1);
    let used = home.run(&["image", "rm", TINY_CLAW, "--target", "two"]).ends(4);
    assert!(used.err.contains("2 instances"), "{used:?}");
    // What can't be: each says what, and nothing is made.
    let refused = make("x", &["--image", TINY_CLAW, "--runtime", "process"]).ends(2);
    assert!(refused.err.contains("runs no images"), "{refused:?}");
    let refused = make("x", &["--image", "a/../b"]).ends(2);
    assert!(refused.err.contains("a/../b"), "{refused:?}");
    let refused = home.run(&["update", id, "--version", "2026.9.6"]);
    assert!(refused.code != Some(0) && refused.err.contains(TINY_CLAW), "{refused:?}");
    let missing = home.run(&["image", "logs", "clawfarm/openclaw:none"]).ends(3);
    assert!(missing.err.contains("image ls"), "{missing:?}");
    let folder = home.path().join("no-repository");
    std::fs::create_dir(&folder).expect("a folder");
    let source = folder.to_str().expect("UTF-8");
    let refused = home.run(&["image", "build", "openclaw", "--source", source, "--target", "one"]).ends(2);
    assert!(refused.err.contains("no-repository"), "{refused:?}");
    assert_eq!(home.run(&["ps", "-q"]).ends(0).out.lines().count(), 3);
    for instance in &made {
        home.run(&["rm", instance["id"].as_str().expect("an id"), "--purge", "--force"]).ends(0);
    }
    for name in ["one", "two"] {
        home.run(&["target", "rm", name]).ends(0);
    }
}
