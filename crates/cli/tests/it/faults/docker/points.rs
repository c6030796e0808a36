//! A server that is killed before and after each thing that it has the engine do.

use clawfarm_failpoint::Point;

use super::{Farm, PATIENCE, made_of};
use crate::faults::serve;
use crate::support::{finish, finish_within};

const ARMED: &str = "CLAWFARM_FAILPOINTS";

#[test]
fn what_a_killed_server_had_begun_is_done_once_by_the_next() {
    let Some(farm) = Farm::shared() else { return };
    farm.run(&["down"]).ends(0);
    let table: &[(Point, &[&str])] = &[
        (Point::EnsureAfter, &made_of("alice")),
        (Point::StopBefore, &["stop", "alice"]),
        (Point::StopAfter, &["start", "alice"]),
        (Point::StopAfter, &["stop", "alice"]),
        (Point::StartBefore, &["start", "alice"]),
        (Point::FreezeAfter, &["suspend", "--warm", "alice"]),
        (Point::ThawAfter, &["resume", "alice"]),
        (Point::StartAfter, &["restart", "alice"]),
        (Point::KillAfter, &["kill", "alice"]),
        (Point::DestroyBefore, &["rm", "alice", "--purge", "--force"]),
        (Point::StartAfter, &made_of("bob")),
        (Point::DestroyAfter, &["rm", "bob", "--purge", "--force"]),
    ];
    for (point, arguments) in table {
        let armed = format!("{}@1=kill", point.as_str());
        let mut command = farm.home.command(&["serve"]);
        command.env(ARMED, &armed);
        let server = serve(&farm.home, command);
        // The command starts the next server and goes on waiting.
        let done = finish_within(farm.start(arguments), PATIENCE);
        assert_eq!(done.code, Some(0), "{armed}: {done:?}");
        let name = arguments
            [arguments.iter().position(|word| *word == "alice" || *word == "bob").expect("it is named")];
        let listed = farm.run(&["ps", "--json"]).ends(0).json();
        let items = listed["items"].as_array().expect("a list");
        let of: Vec<_> = items.iter().filter(|item| item["name"] == name).collect();
        let wanted = match arguments[0] {
            "stop" | "kill" => Some("stopped"),
            "suspend" => Some("warm"),
            "rm" => None,
            _ => Some("ready"),
        };
        assert_eq!(of.len(), usize::from(wanted.is_some()), "{armed}: {listed}");
        if let Some(wanted) = wanted {
            assert_eq!(of[0]["phase"], wanted, "{armed}: {listed}");
        }
        let ids: Vec<_> = items.iter().map(|item| item["id"].as_str().expect("an id").to_owned()).collect();
        assert_eq!(farm.containers(), ids, "{armed}: one container for each");
        farm.run(&["down"]).ends(0);
        drop(finish(server));
    }
    farm.clear();
}
