//! What somebody does to a container behind the server's back is noticed and mended.

use super::{Farm, until};

#[test]
fn what_is_done_by_hand_is_noticed_and_mended() {
    let Some(farm) = Farm::shared() else { return };
    let id = farm.new_claw("alice", &[]);
    let name = format!("clawfarm-{id}");
    let network = farm.networks().pop().expect("its tenant's");
    let marker = farm.claw_folder(&id).join("workspace/marker");
    std::fs::write(&marker, "kept").expect("written");
    let meddle = |what: &str, arguments: &[&[&str]]| {
        let before = farm.life(&id).expect("it is there");
        for arguments in arguments {
            let _ = farm.engine.docker(arguments);
        }
        eprintln!("{what}");
        before
    };
    let is_well = |what: &str| {
        until(&format!("it is well again after: {what}"), || {
            let status = farm.status(&id);
            let running = farm.life(&id).is_some_and(|life| life.contains(" running "));
            // It is asked at the port that it is published on.
            if status["phase"] == "ready" && status["health"] == "passing" && running && farm.answers(&status)
            {
                Ok(())
            } else {
                Err(status)
            }
        });
        assert_eq!(farm.containers(), [id.as_str()], "{what}: one and no second one");
        assert!(marker.exists(), "{what}");
    };
    let changed = |before: &str| {
        until("it was begun anew", || match farm.life(&id) {
            Some(now) if now.contains(" running ") && now != before => Ok(()),
            other => Err(other),
        });
    };

    // Each of these ends it.
    for arguments in [
        &["rm", "-f", name.as_str()][..],
        &["stop", "-t", "1", &name],
        &["kill", &name],
        &["restart", "-t", "1", &name],
    ] {
        let what = arguments.join(" ");
        let before = meddle(&what, &[arguments]);
        changed(&before);
        is_well(&what);
    }
    // Each of these leaves it as it runs.
    let runs = farm.runs(&id);
    let _ = meddle("rename", &[&["rename", &name, &format!("{name}-mine")]]);
    is_well("rename");
    assert_eq!(farm.inspect(&id, ".Name"), format!("/{name}"));
    let _ = meddle("pause", &[&["pause", &name]]);
    until("it goes on", || match farm.inspect(&id, ".State.Status") {
        state if state == "running" => Ok(()),
        state => Err(state),
    });
    is_well("pause");
    let _ = meddle("update", &[&["update", "--memory", "99m", "--memory-swap", "99m", &name]]);
    until("its limit is put back", || match farm.inspect(&id, ".HostConfig.Memory") {
        limit if limit == (64 << 20).to_string() => Ok(()),
        limit => Err(limit),
    });
    let _ = meddle("disconnect", &[&["network", "disconnect", "-f", &network, &name]]);
    until("it has its network back", || match farm.inspect(&id, "json .NetworkSettings.Networks") {
        networks if networks.contains(&network) => Ok(()),
        networks => Err(networks),
    });
    is_well("disconnect");
    assert_eq!(farm.runs(&id), runs, "none of these is a reason to begin it anew");

    // While no server looks, and the network goes altogether: found by the next.
    farm.run(&["down"]).ends(0);
    let _ = meddle(
        "a network that goes",
        &[&["network", "disconnect", "-f", &network, &name], &["network", "rm", &network]],
    );
    is_well("a network that goes");
    // And between two runs.
    farm.run(&["stop", &id]).ends(0);
    let _ = farm.engine.docker(&["network", "rm", &network]);
    farm.run(&["start", &id]).ends(0);
    is_well("a network that goes between two runs");
    // A stopped one that somebody removes, or starts, stays stopped.
    farm.run(&["stop", &id]).ends(0);
    let _ = farm.engine.docker(&["start", &name]);
    until("it is stopped again", || match farm.inspect(&id, ".State.Running") {
        state if state == "false" => Ok(()),
        state => Err(state),
    });
    let _ = farm.engine.docker(&["rm", "-f", &name]);
    assert_eq!(farm.status(&id)["phase"], "stopped");
    farm.run(&["start", &id]).ends(0);
    is_well("removed while it was stopped");
    farm.clear();
}
