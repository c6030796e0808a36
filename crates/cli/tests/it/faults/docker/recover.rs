//! The database is lost, and the claws in their containers are not.

use std::fs;

use super::{Farm, made_of, until};
use crate::support::{eventually, finish_within};

#[test]
fn a_lost_database_is_rebuilt_from_the_containers_and_their_records() {
    let Some(farm) = Farm::shared() else { return };
    let up = farm.new_claw("up", &["--label", "team=blue"]);
    let down = farm.new_claw("down", &[]);
    let gone = farm.new_claw("gone", &[]);
    farm.run(&["stop", &down]).ends(0);
    farm.run(&["rm", &gone]).ends(0);
    let damaged = farm.new_claw("damaged", &[]);
    let known = |id: &str| {
        let status = farm.status(id);
        ["id", "name", "port", "created_at", "spec", "resources", "labels", "phase", "version"]
            .map(|field| status[field].clone())
    };
    let (before_up, before_down) = (known(&up), known(&down));
    let token = farm.run(&["token", "reveal", &up]).ends(0).out;
    let life = farm.life(&up).expect("it runs");

    assert!(farm.kill_server());
    fs::write(farm.claw_folder(&damaged).join("container.json"), "{ not JSON").expect("written");
    // The kernel lets go of the home's lock with the last thread of the server.
    eventually("the home to be free", || (farm.run(&["recover"]).code != Some(4)).then_some(()));
    for file in ["clawfarm.db", "clawfarm.db-wal", "clawfarm.db-shm"] {
        let _ = fs::remove_file(farm.home.farm().join(file));
    }
    let listed = farm.run(&["recover"]).ends(0);
    let said = |id: &str, words: &str| listed.out.lines().any(|l| l.contains(id) && l.contains(words));
    assert!(said(&up, "it runs, and goes on") && said(&down, "stopped"), "{listed:?}");
    assert!(said(&gone, "data; lost") && said(&damaged, "can't be put back"), "{listed:?}");
    assert!(listed.err.contains("container.json' is damaged"), "{listed:?}");
    // Three of four, which it does not hide.
    let done = farm.run(&["recover", "--yes"]).ends(1);
    assert!(done.out.contains("Put back: 2 instances, 1 datasets"), "{done:?}");
    let again = farm.run(&["recover", "--yes", "--json"]).ends(1).json();
    let verdicts: Vec<_> = again["instances"].as_array().expect("a list").iter().collect();
    assert_eq!(verdicts.len(), 3, "{again}");

    // The next server has its target again, and takes over what runs as it is.
    farm.until_ready(&up);
    assert_eq!(known(&up), before_up);
    assert_eq!(known(&down), before_down);
    assert_eq!(farm.run(&["token", "reveal", &up]).ends(0).out, token);
    assert_eq!((farm.life(&up), farm.runs(&up)), (Some(life), 1), "the same container, in the same run");
    assert!(farm.run(&["target", "ls"]).ends(0).out.contains("docker"));
    let mut containers = [up.clone(), down.clone(), damaged.clone()];
    containers.sort();
    assert_eq!(farm.containers(), containers, "nothing double");
    farm.run(&["start", &down]).ends(0);
    assert_eq!(farm.runs(&down), 2);
    // The data that was kept is of use again.
    let mut arguments = made_of("again").to_vec();
    arguments.extend(["--dataset", &gone, "--json"]);
    let made = finish_within(farm.start(&arguments), super::PATIENCE).ends(0).json();
    assert_eq!(farm.runs(made["instance"]["id"].as_str().expect("an id")), 2);
    // What could not be put back is still there for whoever mends it.
    until("it goes on", || match farm.life(&damaged) {
        Some(life) if life.contains(" running ") => Ok(()),
        other => Err(other),
    });
    let _ = farm.engine.docker(&["rm", "-f", &format!("clawfarm-{damaged}")]);
    fs::remove_dir_all(farm.claw_folder(&damaged)).expect("removed");
    farm.clear();
}
