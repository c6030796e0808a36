//! Being up before the hour in which a claw is usually used.

use std::time::Duration;

use clawfarm_control::NewInstance;
use clawfarm_model::{Cause, Instance, Phase, RuntimePolicy, Timestamp};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};

use crate::fleet::{Fleet, claw, owner};

const DAY: u64 = 86_400;

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// One claw with a habit, and how far its clock was moved on.
struct Lived {
    fleet: Fleet,
    alice: Instance,
    ahead: Duration,
    counts: PrometheusHandle,
}

impl Lived {
    fn now(&self) -> Timestamp {
        Timestamp::now().after(self.ahead)
    }

    fn later(&mut self, by: Duration) {
        self.fleet.control.advance_sleep_clock(by);
        self.ahead += by;
    }

    async fn until_suspended(&mut self) {
        for _ in 0..300 {
            let id = self.alice.id.as_str();
            if self.fleet.control.get(&owner(), id).await.unwrap().phase == Phase::Suspended {
                return;
            }
            self.later(secs(100));
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("it did not sleep: {:?}", self.fleet.control.outlook(&owner(), "alice").await);
    }

    /// Moves on to a few seconds before its next usual hour, until it is up for that. On a machine
    /// that stands still in these seconds the hour is let go, as it should be: then the next day's.
    async fn up_for_its_hour(&mut self) {
        for _ in 0..5 {
            let begun = std::time::Instant::now();
            let at = loop {
                match self.fleet.control.outlook(&owner(), "alice").await.unwrap().wakes_at {
                    Some((at, Cause::Habit)) if at > self.now() => break at,
                    other => assert!(begun.elapsed() < secs(30), "no habit: {other:?}"),
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            };
            self.later(at.since(self.now()) + secs(1));
            let begun = std::time::Instant::now();
            while begun.elapsed() < secs(20) {
                let now = self.fleet.control.get(&owner(), "alice").await.unwrap();
                if now.phase == Phase::Ready && self.fleet.control.sleep_knows(&now.id, Phase::Ready) {
                    assert_eq!(now.intent.cause, Cause::Habit);
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        panic!("it was not up for its hour: {:?}", self.fleet.control.outlook(&owner(), "alice").await);
    }

    async fn used(&self) {
        use futures::StreamExt;
        let mut answer = self.fleet.control.send(&owner(), "alice", "hello").await.unwrap();
        while let Some(piece) = answer.next().await {
            piece.unwrap();
        }
    }

    fn count(&self, outcome: &str) -> u64 {
        let name = format!("clawfarm_prewakes_total{{outcome=\"{outcome}\"}} ");
        let text = self.counts.render();
        text.lines().find_map(|line| line.strip_prefix(&name)).map_or(0, |n| n.parse().unwrap())
    }
}

#[tokio::test]
async fn one_that_is_used_at_one_hour_is_up_before_it_and_who_comes_is_counted() {
    let counts = PrometheusBuilder::new().install_recorder().unwrap();
    let fleet = Fleet::new().await;
    let policy = RuntimePolicy { idle_seconds: Some(900), prewake: Some(true), ..RuntimePolicy::default() };
    let accepted =
        fleet.control.create(&owner(), NewInstance { policy, ..claw("alice") }, None).await.unwrap();
    let alice = fleet.reached(accepted).await;
    let mut lived = Lived { fleet, alice, ahead: Duration::ZERO, counts };
    // Ten minutes into an hour: the uses of each day fall into the same.
    let into_hour = u64::try_from(lived.now().as_millis() / 1000 % 3600).unwrap();
    lived.later(secs(3600 - into_hour + 600));
    let first = lived.now();
    for day in 0..4 {
        let due = first.after(secs(day * DAY));
        lived.later(due.since(lived.now()));
        lived.used().await;
        lived.until_suspended().await;
    }
    assert_eq!((lived.count("hit"), lived.count("miss")), (0, 0));
    // Nobody comes.
    lived.up_for_its_hour().await;
    lived.until_suspended().await;
    assert_eq!((lived.count("hit"), lived.count("miss")), (0, 1));
    // Somebody comes, and need not wait.
    lived.up_for_its_hour().await;
    lived.used().await;
    lived.until_suspended().await;
    assert_eq!((lived.count("hit"), lived.count("miss")), (1, 1));
}
