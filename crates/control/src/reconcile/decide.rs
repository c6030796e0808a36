//! What to do about an instance: a pure function of what is wanted and what was seen.
//!
//! Deciding is apart from doing, so that it can be tested as a table and so that an act
//! that fails changes nothing of what will be decided next.

use std::time::Duration;

use clawfarm_model::instance::{RestartMode, RestartPolicy};
use clawfarm_model::{Code, Desired, Error, Health, Instance, ObservedState, Phase, Timestamp, Urgency};

use super::apply;

/// How often something that is up is looked at, when nothing happens to it.
pub(crate) const LIVENESS_EVERY: Duration = Duration::from_secs(15);
/// How often a claw that starts is asked whether it has.
pub(crate) const STARTUP_EVERY: Duration = Duration::from_millis(150);
/// How soon one that has just been started is asked again: a small one answers within that.
const STARTUP_FIRST: Duration = Duration::from_millis(50);
/// Failed attempts in a row (install, files, start) after which no further one is made.
pub(crate) const MAX_ATTEMPTS: u32 = 5;

/// What to do.
#[derive(Debug)]
pub(crate) enum Decision {
    /// Nothing: it is as it should be, or nothing can be done.
    No,
    /// Nothing before this time.
    Wait(Timestamp),
    /// This, for this reason.
    Act(Act, &'static str),
}

/// One act. Each is idempotent.
#[derive(Debug)]
pub(crate) enum Act {
    /// Prepare and start.
    Start,
    /// Let a frozen one go on.
    Thaw,
    /// Drain it, then freeze it.
    Freeze,
    /// Drain it, then end it, to be woken later.
    Suspend,
    /// End it, with so much time.
    Stop(Urgency),
    /// Remove it.
    Destroy,
    /// Put its changed configuration in force while it runs.
    Apply,
    /// Do the next stage of the update of its software.
    Update,
    /// Make no further attempt.
    GiveUp(Error),
}

/// Decides for one instance. `instance` holds what was just observed.
pub(crate) fn decide(instance: &Instance, now: Timestamp) -> Decision {
    let state = instance.observed.as_ref().map_or(ObservedState::Absent, |o| o.state);
    match instance.intent.desired {
        Desired::Destroyed if instance.phase == Phase::Destroyed => Decision::No,
        Desired::Destroyed => paced(instance, now, Act::Destroy, "its removal was asked for"),
        Desired::Stopped if state.is_up() => {
            Decision::Act(Act::Stop(instance.intent.urgency), "its stop was asked for")
        }
        Desired::Suspended if state.is_up() => {
            spaced(instance, now).unwrap_or(Decision::Act(Act::Suspend, "it was asked to sleep"))
        }
        Desired::Warm if state == ObservedState::Running => {
            spaced(instance, now).unwrap_or(Decision::Act(Act::Freeze, "it was asked to sleep warm"))
        }
        Desired::Stopped | Desired::Suspended | Desired::Warm => Decision::No,
        Desired::Running => running(instance, state, now),
    }
}

fn running(instance: &Instance, state: ObservedState, now: Timestamp) -> Decision {
    let run = instance.observed.as_ref().map_or(0, |o| o.run);
    match state {
        ObservedState::Frozen => Decision::Act(Act::Thaw, "it is to be awake"),
        ObservedState::Running if run < instance.intent.run => {
            Decision::Act(Act::Stop(instance.intent.urgency), "a fresh start was asked for")
        }
        ObservedState::Running if apply::is_due(instance) && is_well(instance) => {
            paced(instance, now, Act::Apply, "its configuration changed")
        }
        ObservedState::Running => Decision::Wait(next_look(instance, now)),
        ObservedState::Exited if ended_by_itself(instance) => after_an_end(instance, now),
        ObservedState::Absent | ObservedState::Prepared | ObservedState::Exited => {
            if instance.phase == Phase::Failed {
                return Decision::No;
            }
            paced(instance, now, Act::Start, "it is to be up")
        }
    }
}

/// Whether it can be asked what it goes by.
fn is_well(instance: &Instance) -> bool {
    instance.phase == Phase::Ready && instance.health == Health::Passing
}

/// Whether what is down went down in the run that is wanted, without being asked.
fn ended_by_itself(instance: &Instance) -> bool {
    instance.observed.as_ref().is_some_and(|o| {
        o.run >= instance.intent.run && o.exit.as_ref().is_some_and(|e| !e.requested && e.known())
    })
}

fn after_an_end(instance: &Instance, now: Timestamp) -> Decision {
    let policy = instance.spec.restart;
    let code = instance.observed.as_ref().and_then(|o| o.exit.as_ref()).and_then(|e| e.code);
    let wanted = match policy.mode {
        RestartMode::Always => true,
        RestartMode::OnFailure => code != Some(0),
        RestartMode::Never => false,
    };
    if !wanted || instance.phase == Phase::Failed {
        return Decision::No;
    }
    if instance.restarts > policy.max_restarts {
        return Decision::Act(Act::GiveUp(crash_loop(instance)), "it ends again and again");
    }
    paced(instance, now, Act::Start, "it ended by itself")
}

fn crash_loop(instance: &Instance) -> Error {
    let exit = instance.observed.as_ref().and_then(|o| o.exit.as_ref());
    let how = exit.map_or_else(|| "ended".to_owned(), ToString::to_string);
    let tail = exit.map(|e| e.log_tail.trim()).filter(|t| !t.is_empty());
    let last = tail.map_or_else(String::new, |t| format!("; its last lines: {t}"));
    let memory = exit.is_some_and(|e| e.out_of_memory);
    let fix = if memory {
        format!(
            "give it more memory than {} MiB, then: clawfarm start {}",
            instance.spec.resources.memory_mib, instance.id
        )
    } else {
        format!("see clawfarm logs {0}, mend the cause, then: clawfarm start {0}", instance.id)
    };
    Error::new(Code::ClawFailed, format!("{how}, {} times in a row{last}", instance.restarts)).fix(fix)
}

/// An act that may have failed before: not before its time, and not for ever.
/// The wait after an attempt that failed, while it lasts.
fn spaced(instance: &Instance, now: Timestamp) -> Option<Decision> {
    let not_before = instance.not_before.filter(|t| *t > now)?;
    // A clock that was set back must not stretch a wait beyond the longest backoff.
    let longest = now.after(RestartPolicy::backoff(u32::MAX) * 2);
    (not_before <= longest).then_some(Decision::Wait(not_before))
}

fn paced(instance: &Instance, now: Timestamp, act: Act, why: &'static str) -> Decision {
    if let Some(wait) = spaced(instance, now) {
        return wait;
    }
    if instance.attempts >= MAX_ATTEMPTS && instance.intent.desired != Desired::Destroyed {
        let error = instance
            .last_error
            .clone()
            .map_or_else(|| Error::new(Code::Internal, "every attempt failed"), Error::from);
        return Decision::Act(Act::GiveUp(error), "every attempt failed");
    }
    Decision::Act(act, why)
}

/// When something that is up is looked at next.
fn next_look(instance: &Instance, now: Timestamp) -> Timestamp {
    match instance.health {
        Health::Unknown | Health::Starting => {
            // Often at first, less often for one that takes long.
            let waited = instance
                .observed
                .as_ref()
                .and_then(|o| o.started_at)
                .map_or(Duration::ZERO, |started| now.since(started));
            let often = (waited / 4).clamp(STARTUP_FIRST, STARTUP_EVERY);
            now.after(often.max(waited / 40).min(Duration::from_secs(5)))
        }
        Health::Failing => now.after(Duration::from_secs(2)),
        Health::Passing => now.after(LIVENESS_EVERY),
    }
}

#[cfg(test)]
mod tests {
    use clawfarm_model::observed::Exit;

    use super::*;
    use crate::testing::{instance, observation};

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millis(1_000_000 + millis)
    }

    /// `desired`, what was seen (state, run, unrequested exit code), what is decided.
    #[test]
    fn the_table_of_decisions_holds() {
        use Desired as D;
        use ObservedState as S;
        let table: &[(D, S, i64, Option<i32>, &str)] = &[
            (D::Running, S::Absent, 0, None, "Start"),
            (D::Running, S::Prepared, 0, None, "Start"),
            (D::Running, S::Running, 1, None, "wait"),
            (D::Running, S::Running, 0, None, "Stop"),
            (D::Running, S::Frozen, 1, None, "Thaw"),
            (D::Running, S::Exited, 1, Some(1), "Start"),
            (D::Running, S::Exited, 0, Some(1), "Start"),
            (D::Warm, S::Running, 1, None, "Freeze"),
            (D::Warm, S::Frozen, 1, None, "no"),
            (D::Warm, S::Exited, 1, Some(1), "no"),
            (D::Suspended, S::Running, 1, None, "Suspend"),
            (D::Suspended, S::Frozen, 1, None, "Suspend"),
            (D::Suspended, S::Exited, 1, Some(0), "no"),
            (D::Stopped, S::Running, 1, None, "Stop"),
            (D::Stopped, S::Frozen, 1, None, "Stop"),
            (D::Stopped, S::Absent, 0, None, "no"),
            (D::Destroyed, S::Running, 1, None, "Destroy"),
            (D::Destroyed, S::Absent, 0, None, "Destroy"),
        ];
        for (desired, state, run, exit, wanted) in table {
            let mut it = instance();
            it.intent.desired = *desired;
            it.intent.run = 1;
            it.observed = Some(observation(&it.id, *state, *run));
            if let Some(code) = exit {
                it.observed.as_mut().unwrap().exit = Some(Exit {
                    code: Some(*code),
                    signal: None,
                    at: at(0),
                    out_of_memory: false,
                    requested: false,
                    log_tail: String::new(),
                });
            }
            let decided = match decide(&it, at(0)) {
                Decision::No => "no".to_owned(),
                Decision::Wait(_) => "wait".to_owned(),
                Decision::Act(act, _) => format!("{act:?}"),
            };
            assert!(decided.starts_with(wanted), "{desired:?} {state:?} run {run}: {decided}, not {wanted}");
        }
    }

    fn crashed(restarts: u32, mode: RestartMode, code: i32) -> Instance {
        let mut it = instance();
        it.intent.run = 1;
        it.spec.restart.mode = mode;
        it.restarts = restarts;
        let mut seen = observation(&it.id, ObservedState::Exited, 1);
        seen.exit = Some(Exit {
            code: Some(code),
            signal: None,
            at: at(0),
            out_of_memory: false,
            requested: false,
            log_tail: "Error: no such model".into(),
        });
        it.observed = Some(seen);
        it
    }

    #[test]
    fn a_claw_that_ends_is_started_again_as_its_policy_says() {
        assert!(matches!(decide(&crashed(1, RestartMode::Always, 0), at(0)), Decision::Act(Act::Start, _)));
        assert!(matches!(decide(&crashed(1, RestartMode::OnFailure, 0), at(0)), Decision::No));
        assert!(matches!(
            decide(&crashed(1, RestartMode::OnFailure, 3), at(0)),
            Decision::Act(Act::Start, _)
        ));
        assert!(matches!(decide(&crashed(1, RestartMode::Never, 3), at(0)), Decision::No));
    }

    #[test]
    fn a_crash_loop_ends_with_the_last_lines_and_what_to_do() {
        let Decision::Act(Act::GiveUp(error), _) = decide(&crashed(6, RestartMode::Always, 1), at(0)) else {
            panic!("it goes on for ever");
        };
        assert!(error.message().contains("exited with code 1, 6 times"), "{error}");
        assert!(error.message().contains("no such model"));
        assert!(error.fix_text().unwrap().contains("clawfarm logs"));
    }

    #[test]
    fn an_attempt_waits_for_its_time_but_not_for_a_clock_that_was_set_back() {
        let mut it = instance();
        it.observed = None;
        it.not_before = Some(at(5_000));
        assert!(matches!(decide(&it, at(0)), Decision::Wait(t) if t == at(5_000)));
        assert!(matches!(decide(&it, at(5_000)), Decision::Act(Act::Start, _)));
        it.not_before = Some(at(86_400_000));
        assert!(matches!(decide(&it, at(0)), Decision::Act(Act::Start, _)));
    }

    #[test]
    fn attempts_end() {
        let mut it = instance();
        it.attempts = MAX_ATTEMPTS;
        assert!(matches!(decide(&it, at(0)), Decision::Act(Act::GiveUp(_), _)));
        it.intent.desired = Desired::Destroyed;
        assert!(matches!(decide(&it, at(0)), Decision::Act(Act::Destroy, _)), "a removal is never given up");
        it.intent.desired = Desired::Running;
        it.attempts = 0;
        it.phase = Phase::Failed;
        assert!(matches!(decide(&it, at(0)), Decision::No), "what has failed waits for a person");
    }
}
