use std::time::Duration;

use clawfarm_model::{ClawId, Desired, Phase, Timestamp};

use super::Sleeper;
use crate::testing::instance;

fn claw(n: usize, idle: Option<u32>) -> clawfarm_model::Instance {
    let mut it = instance();
    it.id = ClawId::new(format!("a-{n}")).unwrap();
    it.spec.policy.idle_seconds = idle;
    it.phase = Phase::Ready;
    it.phase_since = Timestamp::now();
    it
}

#[test]
fn of_a_large_fleet_only_what_is_due_is_looked_at() {
    let sleeper = Sleeper::default();
    for n in 0..10_000 {
        // Every hundredth has a policy.
        let idle = (n % 100 == 0).then(|| 600 + u32::try_from(n).unwrap());
        sleeper.note(&claw(n, idle));
    }
    assert_eq!(sleeper.planned(), 100);
    let now = Timestamp::now();
    let after = |secs| now.after(Duration::from_secs(secs));
    let (taken, next) = sleeper.take_due(after(500));
    assert!(taken.is_empty() && next.is_some_and(|at| at > after(500)));
    let (taken, _) = sleeper.take_due(after(1_650));
    assert_eq!(taken.len(), 11, "those idle for 600 s to 1,600 s");
    assert_eq!(sleeper.planned(), 89);
    assert!(sleeper.take_due(after(1_650)).0.is_empty(), "each is taken once");
}

#[test]
fn turns_that_change_nothing_put_nothing_off() {
    let sleeper = Sleeper::default();
    let mut it = claw(1, Some(600));
    sleeper.note(&it);
    let due = sleeper.take_due(Timestamp::from_millis(0)).1;
    it.version += 1;
    it.observed_at = Some(Timestamp::now());
    sleeper.note(&it);
    assert_eq!(sleeper.take_due(Timestamp::from_millis(0)).1, due);
    // It is used: the time is looked at again when it comes, and put off then.
    sleeper.forget(&it.id);
    assert_eq!(sleeper.planned(), 0);
}

#[test]
fn what_sleeps_is_looked_at_once_to_read_what_is_remembered() {
    let sleeper = Sleeper::default();
    let mut it = claw(1, Some(600));
    it.phase = Phase::Suspended;
    it.intent.desired = Desired::Suspended;
    sleeper.note(&it);
    assert_eq!(sleeper.take_due(Timestamp::now().after(Duration::from_secs(1))).0.len(), 1);
    // One that was stopped is nobody's business here.
    it.phase = Phase::Stopped;
    it.intent.desired = Desired::Stopped;
    sleeper.note(&it);
    assert_eq!(sleeper.planned(), 0);
}
