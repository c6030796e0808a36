//! A server or an engine that dies in the middle of an update.

use clawfarm_failpoint::Point;
use clawfarm_test_docker::{Engine, StandIn};

use super::{BROKEN, Farm, NEW, OLD, PATIENCE, until};
use crate::support::{eventually, finish_within};

const ARMED: &str = "CLAWFARM_FAILPOINTS";

impl Farm {
    /// A server of its own that something is to happen to; the one that runs is ended.
    fn serve(&self, armed: &str) -> std::process::Child {
        self.run(&["down"]).ends(0);
        let _ = std::fs::remove_file(self.trace());
        let mut command = self.home.command(&["serve"]);
        command.env(ARMED, armed).env("CLAWFARM_FAILPOINTS_TRACE", self.trace());
        let mut child = command.spawn().expect("the program starts");
        eventually("the server serves", || {
            let ended = child.try_wait().expect("waited");
            assert!(ended.is_none(), "the server ended: {ended:?}");
            let found = self.home.command(&["version", "--json"]).output().expect("runs");
            String::from_utf8_lossy(&found.stdout).contains("\"pid\"").then_some(())
        });
        child
    }

    /// Where it writes which points it has passed.
    fn trace(&self) -> std::path::PathBuf {
        self.home.path().join("points")
    }

    fn check(&self, id: &str, runs: StandIn, history: &[StandIn], when: &str) {
        self.until_ready(id);
        assert_eq!(self.version(id), runs.version, "{when}");
        let history: Vec<&str> = history.iter().map(|it| it.version).collect();
        assert_eq!(self.versions(id), history, "{when}: what its data has seen");
        until(&format!("{when}: nothing is left"), || {
            let left = (self.containers(), self.claw_folder(id).join("copy").exists());
            if left == (vec![format!("clawfarm-{id}")], false) { Ok(()) } else { Err(left) }
        });
    }
}

#[test]
fn a_server_that_is_killed_at_any_stage_is_followed_by_one_that_goes_on() {
    if !Engine::possible() {
        return;
    }
    let farm = Farm::on(Engine::shared());
    for (point, hit) in [
        (Point::SoftwareFileBefore, 1),
        (Point::StopAfter, 1),
        (Point::DataCopied, 1),
        (Point::StartAfter, 1),
        (Point::RemoveCopyBefore, 1),
    ] {
        let id = farm.new_claw("forth");
        killed_at(&farm, &id, NEW, point, hit);
        farm.check(&id, NEW, &[OLD, NEW], point.as_str());
        farm.run(&["rm", &id, "--purge", "--force"]).ends(0);
    }
    let id = farm.new_claw("back");
    // Its second part, so that one is back already.
    for (point, hit) in [(Point::PutBackBefore, 1), (Point::DataTakenOut, 2), (Point::RemoveCopyBefore, 1)] {
        killed_at(&farm, &id, BROKEN, point, hit);
        farm.check(&id, OLD, &[OLD], point.as_str());
    }
}

fn killed_at(farm: &Farm, id: &str, to: StandIn, point: Point, hit: u32) {
    let server = farm.serve(&format!("{}@{hit}=kill", point.as_str()));
    // It may be killed before it has answered.
    let _ = farm.run(&["update", id, "--version", to.version, "--detach"]);
    let ended = finish_within(server, PATIENCE);
    assert_eq!(ended.code, None, "{} was not reached: {ended:?}", point.as_str());
}

#[test]
fn an_engine_that_is_killed_in_the_middle_takes_nothing_with_it() {
    if !Engine::possible() {
        return;
    }
    let farm = Farm::on(Engine::private());
    for (point, to) in [
        (Point::CopyDataBefore, NEW),
        (Point::StartBefore, NEW),
        (Point::StartAfter, NEW),
        (Point::PutBackBefore, BROKEN),
    ] {
        let (id, text) = (farm.new_claw("alice"), point.as_str());
        let server = farm.serve(&format!("{text}@1=delay:1000"));
        farm.run(&["update", &id, "--version", to.version, "--detach"]).ends(0);
        until(text, || {
            let hit = std::fs::read_to_string(farm.trace()).unwrap_or_default();
            if hit.lines().any(|line| line == text) { Ok(()) } else { Err(hit) }
        });
        farm.engine.crash();
        until("its absence is seen", || {
            let status = farm.status(&id);
            if status.as_ref().is_some_and(|it| !it["unknown_since"].is_null()) {
                Ok(())
            } else {
                Err(status)
            }
        });
        farm.engine.revive();
        farm.until_ready(&id);
        // Whether the new version counts as one that has failed depends on what it was doing when
        // it was ended with the engine; the data is that of the version that runs in any case.
        let runs = if farm.version(&id) == NEW.version { NEW } else { OLD };
        farm.check(&id, runs, if runs.version == NEW.version { &[OLD, NEW] } else { &[OLD] }, text);
        assert!(!to.broken || runs.version == OLD.version, "{text}: a broken version was kept");
        farm.run(&["rm", &id, "--purge", "--force"]).ends(0);
        farm.run(&["down"]).ends(0);
        finish_within(server, PATIENCE).ends(0);
    }
}
