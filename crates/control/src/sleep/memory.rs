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
/// A wish to sleep that a person wrote holds for so long at least: a job that is due meanwhile
/// wakes it when that is over.
const ASKED_HOLDS: Duration = Duration::from_secs(60);

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Memory {
    pub(super) active_at: Option<Timestamp>,
    /// When a WebSocket to it was last seen open, at any server.
    pub(super) sockets_at: Option<Timestamp>,
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
        Self { active_at: rest.active_at, sockets_at: rest.sockets_at, next_run_at: rest.next_run_at, facts }
    }

    pub(super) fn rest(&self) -> Rest {
        Rest {
            active_at: self.active_at,
            sockets_at: self.sockets_at,
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
        // Put off, not left out: only the earliest of its jobs is known, and the others would never
        // be asked for again.
        let holds = since.after(lead + ASKED_HOLDS);
        let job = self.next_run_at.map(|at| if asked == Cause::Asked { at.max(holds) } else { at });
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

    /// Remembers what it said is planned: `None` when it did not say. What is over is no time to
    /// wake it at: it would be woken the moment it sleeps.
    pub(super) fn planned(&mut self, said: Option<Option<Timestamp>>, now: Timestamp) {
        let to_come = |at: &Timestamp| *at > now;
        // What it said before holds where it says nothing of use, as far as it is still to come.
        let before = self.next_run_at.filter(to_come);
        self.next_run_at = match said {
            Some(None) => None,
            Some(Some(at)) => Some(at).filter(to_come).or(before),
            None => before,
        };
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
    fn what_a_person_put_to_sleep_is_not_woken_the_moment_after_but_it_is_woken() {
        let wake = |job, asked| {
            let memory = Memory { next_run_at: Some(at(job)), ..Memory::default() };
            memory.wake_at(&policy(), Phase::Suspended, asked, at(0), at(1)).unwrap()
        };
        assert_eq!(wake(90, Cause::Idle).0, at(30));
        assert_eq!(wake(90, Cause::Asked), (at(60), Cause::Clock), "its later jobs are known by this one");
        assert_eq!(wake(1000, Cause::Asked).0, at(940));
    }

    #[test]
    fn what_is_over_is_no_time_to_wake_it_at() {
        let after = |before: Option<i64>, said: Option<Option<i64>>| {
            let mut memory = Memory { next_run_at: before.map(at), ..Memory::default() };
            memory.planned(said.map(|it| it.map(at)), at(100));
            memory.next_run_at
        };
        assert_eq!(after(None, Some(Some(200))), Some(at(200)));
        assert_eq!(after(None, Some(Some(90))), None, "overdue");
        assert_eq!(after(Some(300), Some(Some(90))), Some(at(300)));
        assert_eq!(after(Some(300), Some(None)), None, "it has nothing planned any more");
        assert_eq!(after(Some(300), None), Some(at(300)), "it did not say");
        assert_eq!(after(Some(90), None), None);
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
