//! Asking a claw how it is, and what the answers mean.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use clawfarm_adapters::Probe;
use clawfarm_model::event::NewEvent;
use clawfarm_model::setup::{SetupStep, StepState};
use clawfarm_model::{
    ClawId, Code, Error, Health, Instance, Observation, Phase, Signal, SoftwareUpdate, Timestamp, UpdateStage,
};

use super::absorb::moved;
use super::reach;
use crate::core::Core;
use crate::setup;

/// How long one probe may take.
const PROBE_LIMIT: Duration = Duration::from_secs(5);
/// Probes in a row that a claw which was ready may fail before it counts as unhealthy: one
/// can fall into a long garbage collection (OpenClaw's event loop stops for seconds).
const PATIENCE: u32 = 3;

/// Failed probes in a row, of claws that were ready.
#[derive(Default)]
pub(crate) struct Failures(Mutex<HashMap<ClawId, u32>>);

impl Failures {
    pub(super) fn forget(&self, id: &ClawId) {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).remove(id);
    }

    /// Whether the last probe of `id` failed.
    pub(super) fn any(&self, id: &ClawId) -> bool {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).contains_key(id)
    }

    fn count(&self, id: &ClawId, passed: bool) -> u32 {
        let mut all = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if passed {
            all.remove(id);
            return 0;
        }
        let count = all.entry(id.clone()).or_insert(0);
        *count += 1;
        *count
    }
}

/// What a probe told.
#[derive(Debug)]
pub(crate) enum Probed {
    /// It was not asked.
    Nothing,
    /// It answers.
    Passed,
    /// It does not answer yet, and still has time.
    NotYet,
    /// Its machine has booted, and what is in it is not ready: a claw starts, commands set it up.
    Up,
    /// Its machine has booted, and the commands that set it up may be run.
    Booted,
    /// A command that set it up was begun, and nobody runs it any more.
    CutOff {
        /// Which, counted from 0.
        at: usize,
        /// When it was begun.
        started_at: Option<Timestamp>,
    },
    /// It should answer and does not.
    Failed(Error),
}

impl Probed {
    /// Whether it changes anything about what is known.
    pub(crate) fn is_news(&self, instance: &Instance) -> bool {
        match self {
            Self::Nothing => false,
            Self::Passed => {
                instance.health != Health::Passing
                    || instance.phase != Phase::Ready
                    || instance.last_error.is_some()
            }
            Self::NotYet => instance.health == Health::Unknown,
            Self::Up => instance.health == Health::Unknown || instance.phase == Phase::Booting,
            Self::Booted | Self::CutOff { .. } => true,
            // Another setup command may fail after the first.
            Self::Failed(error) => {
                instance.health != Health::Failing
                    || instance.last_error.as_ref().is_none_or(|last| last.message != error.message())
            }
        }
    }
}

/// What its runtime tells already: nothing can answer in it then, and the runtime knows why.
fn told(seen: &Observation) -> Option<Probed> {
    seen.trouble.clone().map(|report| Probed::Failed((*report).into()))
}

/// Asks once.
pub(crate) async fn probe(core: &Core, instance: &Instance, seen: &Observation) -> Probed {
    if let Some(told) = told(seen) {
        return told;
    }
    let was_ready = instance.health == Health::Passing;
    let mut booted = false;
    let answer = match (reach::dial(core, instance), core.adapter(instance)) {
        (Ok(dial), Ok(adapter)) => {
            let ask = async {
                if was_ready {
                    return Ok(adapter.probe_liveness(&dial).await);
                }
                if instance.spec.vm.is_some() {
                    let answer = setup::booted(core, instance).await?;
                    if answer != Probe::Passed {
                        return Ok(answer);
                    }
                    booted = true;
                }
                Ok(adapter.probe_startup(&dial).await)
            };
            match tokio::time::timeout(PROBE_LIMIT, ask).await {
                Ok(Ok(answer)) => answer,
                Ok(Err(error)) => return Probed::Failed(error),
                Err(_) => Probe::NoAnswer(format!("it does not answer within {} s", PROBE_LIMIT.as_secs())),
            }
        }
        (Err(error), _) | (_, Err(error)) => Probe::NoAnswer(error.to_string()),
    };
    let failures = core.reconciler.failures.count(&instance.id, matches!(answer, Probe::Passed));
    let why = match answer {
        Probe::Passed if was_ready => return Probed::Passed,
        Probe::Passed => return setup::look(core, instance).unwrap_or(Probed::Passed),
        Probe::Failed(why) | Probe::NoAnswer(why) => why,
    };
    if was_ready {
        return if failures >= PATIENCE { Probed::Failed(unhealthy(instance, &why)) } else { Probed::NotYet };
    }
    let limit = Duration::from_secs(u64::from(instance.spec.ready_timeout_secs));
    let up = seen.started_at.map_or(Duration::ZERO, |t| Timestamp::now().since(t));
    if up >= limit || instance.health == Health::Failing {
        Probed::Failed(too_slow(instance, limit, &why))
    } else if booted {
        Probed::Up
    } else {
        Probed::NotYet
    }
}

fn unhealthy(instance: &Instance, why: &str) -> Error {
    Error::new(Code::ClawFailed, format!("it is up, but its probe failed {PATIENCE} times: {why}"))
        .fix(format!("see clawfarm logs {0}; clawfarm restart {0}", instance.id))
}

fn too_slow(instance: &Instance, limit: Duration, why: &str) -> Error {
    Error::new(Code::Timeout, format!("it is up, but was not ready within {} s: {why}", limit.as_secs()))
        .fix(format!("see clawfarm logs {}; if it only needs longer, give --ready-timeout-secs", instance.id))
}

/// Takes in what a probe told.
pub(crate) fn absorb(instance: &mut Instance, probed: Probed, now: Timestamp) -> Vec<NewEvent> {
    let mut events = Vec::new();
    match probed {
        Probed::Nothing => {}
        Probed::Passed => {
            instance.health = Health::Passing;
            instance.last_error = None;
            instance.attempts = 0;
            instance.not_before = None;
            if let Some(update) = trying(instance) {
                update.stage = UpdateStage::Keeping;
            }
            moved(instance, Signal::ProbePassed, now, &mut events);
        }
        Probed::NotYet => {
            if instance.health == Health::Unknown {
                instance.health = Health::Starting;
            }
        }
        Probed::Up => runs(instance, now, &mut events),
        Probed::Booted => {
            runs(instance, now, &mut events);
            if let Some(setup) = &mut instance.setup {
                setup.waiting_since = Some(now);
                let left = setup.steps.iter().filter(|step| !step.state.is_over()).count();
                events.push(NewEvent::info("booted", format!("it has booted; {left} commands set it up")));
            }
        }
        Probed::CutOff { at, started_at } => {
            let setup = instance.setup.as_mut();
            let still = |step: &SetupStep| step.state == StepState::Running && step.started_at == started_at;
            if let Some(setup) = setup.filter(|setup| setup.steps.get(at).is_some_and(still)) {
                setup.end(at, None, String::new(), now);
                let what = format!("setup command {} was cut off; it is not run again by itself", at + 1);
                events.push(NewEvent::warning("setup", what));
            }
        }
        Probed::Failed(error) if trying(instance).is_some() => {
            events.push(NewEvent::warning("update", error.message().to_owned()));
            instance.health = Health::Unknown;
            if let Some(update) = trying(instance) {
                update.stage = UpdateStage::Undoing;
                update.error = Some(error.report());
            }
        }
        Probed::Failed(error) => {
            if instance.health != Health::Failing {
                events.push(NewEvent::warning("unhealthy", error.message().to_owned()));
            }
            instance.health = Health::Failing;
            instance.last_error = Some(error.report());
            // One that never got ready is up without being healthy: that is `unhealthy`
            // however far its phase had come.
            let before = instance.phase;
            if matches!(before, Phase::Booting | Phase::Waking | Phase::Updating) {
                instance.signal(Signal::StopBegun, now);
                instance.signal(Signal::Up, now);
            }
            // One event for all of it: what lies between is no phase that it was in.
            if instance.signal(Signal::ProbeFailed, now) {
                events.push(NewEvent::warning("phase", format!("{before} -> {}", instance.phase)));
            }
        }
    }
    events
}

/// Its machine has booted.
fn runs(instance: &mut Instance, now: Timestamp, events: &mut Vec<NewEvent>) {
    if instance.health == Health::Unknown {
        instance.health = Health::Starting;
    }
    if instance.phase == Phase::Booting {
        moved(instance, Signal::Up, now, events);
    }
}

/// The update whose new version is to pass its probe.
fn trying(instance: &mut Instance) -> Option<&mut SoftwareUpdate> {
    instance.update.as_mut().filter(|update| update.stage == UpdateStage::Trying)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{instance, observation};

    #[test]
    fn what_a_runtime_knows_to_be_in_its_way_is_told_in_its_words() {
        let mut it = instance();
        it.phase = Phase::Ready;
        it.health = Health::Passing;
        let mut seen = observation(&it.id, clawfarm_model::ObservedState::Running, 1);
        assert!(told(&seen).is_none());
        let full = Error::new(Code::Insufficient, "its disk is full").fix("make room");
        seen.trouble = Some(Box::new(full.report()));
        absorb(&mut it, told(&seen).unwrap(), Timestamp::now());
        assert_eq!((it.phase, it.health), (Phase::Unhealthy, Health::Failing));
        assert_eq!(it.last_error, Some(full.report()));
    }

    #[test]
    fn readiness_clears_what_went_wrong_before() {
        let mut it = instance();
        it.phase = Phase::Running;
        it.attempts = 2;
        it.last_error = Some(Error::new(Code::Timeout, "x").report());
        absorb(&mut it, Probed::Passed, Timestamp::now());
        assert_eq!(
            (it.phase, it.health, it.attempts, it.last_error),
            (Phase::Ready, Health::Passing, 0, None)
        );
    }

    #[test]
    fn a_machine_boots_until_something_in_it_answers() {
        let now = Timestamp::now();
        let up = || {
            let mut it = instance();
            it.spec.vm = Some(Box::new(clawfarm_model::vm::VmSpec::new("debian:12".parse().unwrap())));
            it.phase = Phase::Booting;
            let seen = crate::testing::observation(&it.id, clawfarm_model::ObservedState::Running, 1);
            super::super::absorb::absorb(&mut it, &seen, now);
            assert_eq!(
                (it.phase, it.health),
                (Phase::Booting, Health::Starting),
                "QEMU runs, it does not yet"
            );
            absorb(&mut it, Probed::NotYet, now);
            assert_eq!(it.phase, Phase::Booting);
            it
        };
        let mut bare = up();
        absorb(&mut bare, Probed::Passed, now);
        assert_eq!(bare.phase, Phase::Ready);
        for probed in [Probed::Booted, Probed::Up] {
            let mut it = up();
            assert!(probed.is_news(&it), "{probed:?}");
            absorb(&mut it, probed, now);
            assert_eq!(it.phase, Phase::Running, "its commands are run");
        }
        let mut broken = up();
        absorb(&mut broken, Probed::Failed(Error::new(Code::ClawFailed, "its set-up failed")), now);
        assert_eq!(broken.phase, Phase::Unhealthy);
    }

    #[test]
    fn one_that_never_gets_ready_is_unhealthy_from_wherever_it_started() {
        for phase in [Phase::Booting, Phase::Waking, Phase::Running, Phase::Ready] {
            let mut it = instance();
            it.phase = phase;
            let events = absorb(&mut it, Probed::Failed(Error::new(Code::Timeout, "x")), Timestamp::now());
            assert_eq!(it.phase, Phase::Unhealthy, "from {phase}");
            assert_eq!(events.len(), 2, "one for the phase, one for the reason");
            let again = absorb(&mut it, Probed::Failed(Error::new(Code::Timeout, "x")), Timestamp::now());
            assert!(again.is_empty(), "told once");
        }
    }
}
