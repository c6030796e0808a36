use std::time::Duration;

use clawfarm_model::fence::Fence;
use clawfarm_model::name::TargetName;
use clawfarm_model::{ClawId, Desired, Phase, Timestamp};

use super::Sleeper;
use super::memory::Memory;
use super::verdict::Verdict;
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

#[test]
fn a_warm_one_that_is_not_suspended_yet_is_woken_by_the_clock_all_the_same() {
    let sleeper = Sleeper::default();
    let mut it = claw(1, Some(600));
    it.phase = Phase::Warm;
    it.intent.desired = Desired::Warm;
    sleeper.note(&it);
    let now = Timestamp::now();
    let after = |secs| now.after(Duration::from_secs(secs));
    // As after a restart: it is looked at, and is to be warm for eight hours.
    assert_eq!(sleeper.take_due(after(1)).0.len(), 1);
    let warm = Verdict::Until(after(8 * 3600), Vec::new());
    sleeper.stays_warm(&it.id, &warm, Some(after(1800)));
    assert_eq!(sleeper.take_due(after(10)).1, Some(after(1800)));
    sleeper.stays_warm(&it.id, &warm, None);
    assert_eq!(sleeper.take_due(after(10)).1, Some(after(8 * 3600)));
    sleeper.stays_warm(&it.id, &Verdict::Stay(Vec::new()), Some(after(1800)));
    assert_eq!(sleeper.take_due(after(10)).1, Some(after(1800)));
}

#[test]
fn what_is_known_from_an_earlier_lease_is_read_anew() {
    let sleeper = Sleeper::default();
    let fence = |epoch| Fence { target: TargetName::new("sim").unwrap(), shard: 0, epoch };
    let mut it = claw(1, Some(600));
    it.phase = Phase::Suspended;
    it.intent.desired = Desired::Suspended;
    let soon = || Timestamp::now().after(Duration::from_secs(1));
    let noted = |epoch| {
        sleeper.under(&it.id, Some(&fence(epoch)));
        sleeper.note(&it);
        sleeper.take_due(soon()).0.len()
    };
    assert_eq!(noted(5), 1);
    // It has nothing planned, by what was read.
    sleeper.lock().known.get_mut(&it.id).unwrap().memory = Some(Memory::default());
    assert_eq!(noted(5), 0);
    // Another server had it: it was up there, planned a job, and sleeps again as before.
    assert_eq!(noted(7), 1);
    assert!(sleeper.lock().known[&it.id].memory.is_none());
    // One without leases keeps what it knows.
    sleeper.lock().known.get_mut(&it.id).unwrap().memory = Some(Memory::default());
    sleeper.under(&it.id, None);
    assert!(sleeper.lock().known[&it.id].memory.is_some());
}
