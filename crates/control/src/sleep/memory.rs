//! What the store remembers of a claw's use, and when the clock wakes it by that.

use std::time::Duration;

use clawfarm_model::{Cause, EffectivePolicy, LastWake, Phase, Timestamp};
use clawfarm_store::Rest;
use serde::{Deserialize, Serialize};

use super::habit::Habit;

/// How long waking takes at most, when it was never measured: OpenClaw's slowest start on an idle
/// machine is half a minute.
const LEAD_SUSPENDED: Duration = Duration::from_secs(60);
const LEAD_WARM: Duration = Duration::from_secs(5);
/// A wish to sleep that a person wrote holds for so long at least, whatever is due meanwhile.
const ASKED_HOLDS: Duration = Duration::from_secs(60);

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Memory {
    pub(super) active_at: Option<Timestamp>,
    pub(super) next_run_at: Option<Timestamp>,
    pub(super) facts: MemoryFacts,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct MemoryFacts {
    /// How long the last wakes took, in milliseconds.
    pub(super) warm_ms: Option<u64>,
    pub(super) suspended_ms: Option<u64>,
    pub(super) last_wake: Option<LastWake>,
    pub(super) habit: Habit,
}

impl Memory {
    pub(super) fn of(rest: &Rest) -> Self {
        // What can't be read is learnt anew.
        let facts = serde_json::from_str(&rest.facts).unwrap_or_default();
        Self { active_at: rest.active_at, next_run_at: rest.next_run_at, facts }
    }

    pub(super) fn rest(&self) -> Rest {
        Rest {
            active_at: self.active_at,
            next_run_at: self.next_run_at,
            facts: serde_json::to_string(&self.facts).unwrap_or_default(),
        }
    }

    /// How long before it is needed it is woken: half as long again as it took last, and a bit.
    pub(super) fn lead(&self, warm: bool) -> Duration {
        let (took, unknown, more) = match warm {
            true => (self.facts.warm_ms, LEAD_WARM, Duration::from_secs(2)),
            false => (self.facts.suspended_ms, LEAD_SUSPENDED, Duration::from_secs(5)),
        };
        took.map_or(unknown, |ms| Duration::from_millis(ms.saturating_mul(3) / 2) + more)
    }

    /// When the clock wakes it, and why. `asked`: who put it to sleep; `since`: since when it
    /// sleeps.
    pub(super) fn wake_at(
        &self,
        policy: &EffectivePolicy,
        phase: Phase,
        asked: Cause,
        since: Timestamp,
        now: Timestamp,
    ) -> Option<(Timestamp, Cause)> {
        let lead = self.lead(phase == Phase::Warm);
        let by_a_person = asked == Cause::Asked;
        let job = self.next_run_at.filter(|at| !by_a_person || *at > since.after(lead + ASKED_HOLDS));
        let hours = self.hours(policy, since, now);
        let habit = policy.prewake.then(|| self.facts.habit.next(since)).flatten().map(|at| {
            // A missed one is let go: the next is looked for.
            if at < now { self.facts.habit.next(now).unwrap_or(at) } else { at }
        });
        let early = |at: Timestamp| Timestamp::from_millis(at.as_millis().saturating_sub(millis(lead)));
        [(job, Cause::Clock), (hours, Cause::Hours), (habit, Cause::Habit)]
            .into_iter()
            .filter_map(|(at, cause)| at.map(|at| (early(at), cause)))
            .min_by_key(|(at, _)| *at)
    }

    /// When its hours begin next, since it sleeps. Those that have begun and ended while nobody
    /// looked are over.
    fn hours(&self, policy: &EffectivePolicy, since: Timestamp, now: Timestamp) -> Option<Timestamp> {
        let start = policy.hours.next_start(since)?;
        if start <= now && policy.hours.until(now).is_none() {
            policy.hours.next_start(now)
        } else {
            Some(start)
        }
    }
}

fn millis(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use clawfarm_model::RuntimePolicy;
    use clawfarm_model::policy::{AwakeHours, Layer};

    use super::*;

    fn at(secs: i64) -> Timestamp {
        // 2026-11-21, 00:00 UTC.
        Timestamp::from_millis(1_795_219_200_000 + secs * 1000)
    }

    fn policy() -> EffectivePolicy {
        RuntimePolicy::effective(&[])
    }

    #[test]
    fn it_is_woken_as_early_as_its_own_last_wake_took_and_half_more() {
        let mut memory = Memory { next_run_at: Some(at(3600)), ..Memory::default() };
        let wake =
            |memory: &Memory, phase| memory.wake_at(&policy(), phase, Cause::Idle, at(0), at(10)).unwrap();
        assert_eq!(wake(&memory, Phase::Suspended), (at(3540), Cause::Clock));
        assert_eq!(wake(&memory, Phase::Warm), (at(3595), Cause::Clock));
        memory.facts.suspended_ms = Some(10_000);
        assert_eq!(wake(&memory, Phase::Suspended), (at(3580), Cause::Clock));
        memory.next_run_at = None;
        assert_eq!(memory.wake_at(&policy(), Phase::Warm, Cause::Idle, at(0), at(10)), None);
    }

    #[test]
    fn a_missed_time_is_due_at_once() {
        let memory = Memory { next_run_at: Some(at(100)), ..Memory::default() };
        let (due, _) = memory.wake_at(&policy(), Phase::Suspended, Cause::Idle, at(0), at(5_000)).unwrap();
        assert!(due <= at(5_000));
    }

    #[test]
    fn what_a_person_put_to_sleep_is_not_woken_the_moment_after() {
        let memory = Memory { next_run_at: Some(at(100)), ..Memory::default() };
        assert_eq!(memory.wake_at(&policy(), Phase::Suspended, Cause::Asked, at(0), at(1)), None);
        let memory = Memory { next_run_at: Some(at(1000)), ..Memory::default() };
        assert!(memory.wake_at(&policy(), Phase::Suspended, Cause::Asked, at(0), at(1)).is_some());
    }

    #[test]
    fn the_hours_wake_it_when_they_begin_and_not_when_they_are_over() {
        let hours = AwakeHours { zone: "UTC".into(), windows: vec!["09:00-18:00".parse().unwrap()] };
        let own = RuntimePolicy { hours: Some(hours), ..RuntimePolicy::default() };
        let policy = RuntimePolicy::effective(&[(Layer::Instance, &own)]);
        let wake = |since, now| {
            Memory::default().wake_at(&policy, Phase::Warm, Cause::Idle, at(since), at(now)).unwrap()
        };
        let hour = 3600;
        assert_eq!(wake(0, hour), (at(9 * hour - 5), Cause::Hours));
        assert_eq!(wake(0, 12 * hour).0, at(9 * hour - 5), "missed, and still its hours");
        assert_eq!(wake(0, 20 * hour).0, at(33 * hour - 5), "missed, and over");
        assert_eq!(wake(12 * hour, 13 * hour).0, at(33 * hour - 5), "a person put it to sleep in its hours");
    }

    #[test]
    fn what_is_remembered_is_read_again() {
        let mut memory = Memory { next_run_at: Some(at(1)), ..Memory::default() };
        memory.facts.warm_ms = Some(80);
        memory.facts.habit.used(at(5));
        assert_eq!(Memory::of(&memory.rest()), memory);
        assert_eq!(Memory::of(&Rest { facts: "nonsense".into(), ..Rest::default() }), Memory::default());
    }
}
