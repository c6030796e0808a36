//! The engine's daemon is killed in the middle of what it was asked to do, and comes back.

use super::{Farm, PATIENCE, made_of, until};
use crate::support::{eventually, finish_within, pause};

/// Ends the daemon when this is so, or when the command that brings it about has ended; and
/// brings it back once the server has noticed.
fn crash_when(farm: &Farm, arguments: &[&str], server_too: bool, now: impl Fn() -> bool) {
    let mut child = farm.start(arguments);
    while !now() && child.try_wait().expect("waited").is_none() {
        pause();
    }
    farm.engine.crash();
    if server_too {
        farm.kill_server();
    }
    // What was asked for is neither refused nor lost meanwhile: it waits. A server that was just
    // killed may still take a connection before it is gone.
    eventually("a server that answers", || (farm.run(&["ps"]).code == Some(0)).then_some(()));
    farm.engine.revive();
    finish_within(child, PATIENCE).ends(0);
}

#[test]
fn a_daemon_killed_in_the_middle_of_anything_loses_and_doubles_nothing() {
    let Some(farm) = Farm::private() else { return };
    for server_too in [false, true] {
        let name = if server_too { "ben" } else { "ann" };
        let create = made_of(name);
        crash_when(&farm, &create, server_too, || !farm.folders("claws").is_empty());
        let id = farm.status(name)["id"].as_str().expect("an id").to_owned();
        farm.until_ready(&id);
        assert_eq!(farm.containers(), [id.as_str()], "made once");

        // Nobody asks for anything: what is not seen is unknown and not made again.
        farm.engine.crash();
        until("nothing is known of it", || {
            let status = farm.status(&id);
            if status["unknown_since"].is_string() { Ok(()) } else { Err(status) }
        });
        farm.engine.revive();
        farm.until_ready(&id);

        crash_when(&farm, &["stop", &id], server_too, || stopping(&farm, &id));
        until("it is stopped", || match farm.inspect(&id, ".State.Running") {
            running if running == "false" => Ok(()),
            running => Err(running),
        });
        assert_eq!(farm.status(&id)["phase"], "stopped");

        let before = farm.life(&id);
        crash_when(&farm, &["start", &id], server_too, || farm.life(&id) != before);
        farm.until_ready(&id);
        assert_eq!(farm.containers(), [id.as_str()], "started once");

        crash_when(&farm, &["rm", &id, "--purge", "--force"], server_too, || stopping(&farm, &id));
        assert_eq!(farm.containers(), Vec::<String>::new());
        assert!(!farm.claw_folder(&id).exists());
    }
    farm.clear();
}

/// Whether the server has begun to end it, or has ended it.
fn stopping(farm: &Farm, id: &str) -> bool {
    let record = std::fs::read_to_string(farm.claw_folder(id).join("container.json")).unwrap_or_default();
    !record.contains("\"asked\": false")
}
