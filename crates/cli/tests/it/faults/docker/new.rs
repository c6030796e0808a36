//! A new instance that comes to nothing leaves nothing; one whose port is taken gets another.

use std::collections::BTreeSet;
use std::net::TcpListener;

use clawfarm_test_docker::{STAND_IN, STAND_IN_VERSION};

use super::{Farm, PATIENCE, made_of, made_of_version, until};
use crate::support::{Done, finish_within};

/// What a failed `new` says; checks that nothing was left but the record of it.
fn fails(farm: &Farm, name: &str, version: &str, more: &[&str]) -> Done {
    let mut all = made_of_version(name, version).to_vec();
    all.extend(more);
    let failed = farm.run(&all);
    assert!(failed.code.is_some_and(|code| code != 0), "{failed:?}");
    let status = farm.status(name);
    assert_eq!(status["phase"], "failed", "{status}");
    assert!(status["last_error"]["message"].as_str().is_some_and(|text| !text.is_empty()), "{status}");
    let id = status["id"].as_str().expect("an id");
    assert!(!farm.containers().contains(&id.to_owned()), "its container is still there");
    let left: Vec<_> = std::fs::read_dir(farm.claw_folder(id)).into_iter().flatten().flatten().collect();
    let left: Vec<_> = left.iter().map(|entry| entry.file_name()).collect();
    assert!(left.iter().all(|name| name == "container.json"), "{left:?}");
    failed
}

#[test]
fn what_fails_leaves_nothing_and_says_why() {
    let Some(farm) = Farm::shared() else { return };
    // A port that somebody else has, and no other may be taken.
    let stranger = TcpListener::bind("127.0.0.1:0").expect("bound");
    let port = stranger.local_addr().expect("an address").port().to_string();
    let failed = fails(&farm, "taken", STAND_IN_VERSION, &["--port", &port]);
    assert!(failed.err.contains("port"), "{failed:?}");
    assert_eq!(farm.networks(), Vec::<String>::new(), "it was the only one");
    // An image that is not there and can't be built.
    let failed = fails(&farm, "imageless", "2026.1.2-none", &[]);
    assert!(failed.err.contains("build the image clawfarm/openclaw:2026.1.2-none"), "{failed:?}");
    // Mended, a start is all it takes.
    drop(stranger);
    farm.run(&["start", "taken"]).ends(0);
    assert_eq!(farm.runs(farm.status("taken")["id"].as_str().expect("an id")), 1);
    farm.clear();
}

#[test]
fn a_port_or_an_image_that_goes_between_two_starts() {
    // On an engine of its own: the image is everybody's on the other.
    let Some(farm) = Farm::private() else { return };
    let id = farm.new_claw("alice", &[]);
    let port = farm.status(&id)["port"].as_u64().expect("a port");
    farm.run(&["stop", &id]).ends(0);
    let stranger =
        TcpListener::bind(("127.0.0.1", u16::try_from(port).expect("a port"))).expect("it is free");
    farm.run(&["start", &id]).ends(0);
    let status = farm.until_ready(&id);
    assert_ne!(status["port"].as_u64(), Some(port));
    assert!(farm.run(&["events", &id]).ends(0).out.contains("it gets"));
    drop(stranger);

    farm.run(&["stop", &id]).ends(0);
    let _ = farm.engine.docker(&["image", "rm", "-f", STAND_IN]);
    let failed = farm.run(&["start", &id]);
    assert!(failed.code != Some(0) && failed.err.contains(STAND_IN), "{failed:?}");
    assert_eq!(farm.status(&id)["phase"], "failed");
    assert_eq!(farm.runs(&id), 2, "what it had is there: it had run");
    farm.engine.with_stand_in();
    farm.run(&["start", &id]).ends(0);
    assert_eq!((farm.runs(&id), farm.containers()), (3, vec![id]));
    farm.clear();
}

#[test]
fn two_servers_on_one_engine_never_share_a_port_or_a_network() {
    let (Some(one), Some(other)) = (Farm::shared(), Farm::shared()) else { return };
    let making: Vec<_> = ["a", "b", "c"]
        .iter()
        .flat_map(|name| [one.start(&made_of(name)), other.start(&made_of(name))])
        .collect();
    for child in making {
        finish_within(child, PATIENCE).ends(0);
    }
    let of = |farm: &Farm| -> Vec<u64> {
        let listed = farm.run(&["ps", "--json"]).ends(0).json();
        let items = listed["items"].as_array().expect("a list").clone();
        items.iter().map(|item| item["port"].as_u64().expect("a port")).collect()
    };
    let ports: BTreeSet<u64> = of(&one).into_iter().chain(of(&other)).collect();
    assert_eq!(ports.len(), 6, "{ports:?}");
    let networks: BTreeSet<String> = one.networks().into_iter().chain(other.networks()).collect();
    assert_eq!(networks.len(), 2, "{networks:?}");
    // What one server removes is not the other's.
    one.clear();
    for item in other.run(&["ps", "--json"]).ends(0).json()["items"].as_array().expect("a list") {
        let id = item["id"].as_str().expect("an id");
        until(&format!("{id} goes on"), || match other.status(id) {
            status if status["phase"] == "ready" => Ok(()),
            status => Err(status),
        });
    }
    other.clear();
}
