//! What an observation means for an instance: phases, counters and words. Pure.

use std::time::Duration;

use clawfarm_model::event::NewEvent;
use clawfarm_model::instance::RestartPolicy;
use clawfarm_model::observed::Exit;
use clawfarm_model::{
    Code, Desired, Error, Health, Instance, Observation, ObservedState, Phase, Signal, SoftwareUpdate,
    Timestamp,
};

/// Takes in what was seen. Returns what is worth telling.
pub(crate) fn absorb(instance: &mut Instance, seen: &Observation, now: Timestamp) -> Vec<NewEvent> {
    let mut events = Vec::new();
    if instance.unknown_since.take().is_some() {
        events.push(NewEvent::info("target-answers", "its target answers again"));
    }
    let before = instance.observed.replace(seen.clone());
    instance.observed_at = Some(now);
    catch_up(instance, before.as_ref().map_or(0, |b| b.run), seen.run, &mut events);
    match seen.state {
        ObservedState::Running => up(instance, seen, now, &mut events),
        ObservedState::Frozen => {
            if instance.intent.desired == Desired::Warm {
                moved(instance, Signal::Frozen, now, &mut events);
            }
        }
        ObservedState::Exited => {
            let news = before.as_ref().and_then(|b| b.exit.as_ref()) != seen.exit.as_ref();
            down(instance, seen.exit.as_ref(), news && seen.exit.is_some(), now, &mut events);
        }
        ObservedState::Prepared | ObservedState::Absent => down(instance, None, false, now, &mut events),
    }
    events
}

/// The database may be older than the claw: a backup was restored, or a standby took over that
/// had not heard of the last starts. Runtimes refuse a launch with an earlier number than that
/// of the last one, so the numbers go on from what was seen; a fresh start that was asked for
/// and has not begun gets the next.
fn catch_up(instance: &mut Instance, before: i64, seen: i64, events: &mut Vec<NewEvent>) {
    if seen <= instance.intent.run {
        return;
    }
    let asked = instance.intent.desired == Desired::Running && before < instance.intent.run;
    events.push(NewEvent::warning(
        "state-behind",
        format!("it had been started {seen} times, of which {} were known here", instance.intent.run),
    ));
    instance.intent.run = seen.saturating_add(i64::from(asked));
}

/// Moves the phase, with the event that tells of it.
pub(crate) fn moved(instance: &mut Instance, signal: Signal, now: Timestamp, events: &mut Vec<NewEvent>) {
    let before = instance.phase;
    if instance.signal(signal, now) {
        let text = format!("{before} -> {}", instance.phase);
        events.push(match instance.phase {
            Phase::Failed | Phase::Exited | Phase::Unhealthy => NewEvent::warning("phase", text),
            _ => NewEvent::info("phase", text),
        });
    }
}

fn up(instance: &mut Instance, seen: &Observation, now: Timestamp, events: &mut Vec<NewEvent>) {
    // On its way down it is still up: that is no news.
    if instance.intent.desired != Desired::Running || seen.run < instance.intent.run {
        return;
    }
    // A machine boots until something in it answers, which its probe tells.
    if instance.spec.vm.is_none() || instance.phase != Phase::Booting {
        moved(instance, Signal::Up, now, events);
    }
    if instance.health == Health::Unknown {
        instance.health = Health::Starting;
    }
    let window = Duration::from_secs(u64::from(instance.spec.restart.window_secs));
    if instance.restarts > 0 && seen.started_at.is_some_and(|t| now.since(t) >= window) {
        instance.restarts = 0;
    }
}

fn down(
    instance: &mut Instance,
    exit: Option<&Exit>,
    news: bool,
    now: Timestamp,
    events: &mut Vec<NewEvent>,
) {
    instance.health = Health::Unknown;
    // While its software is replaced, an end is part of that; one of a version that is tried is
    // no crash of the instance's own.
    if instance.update.as_ref().is_some_and(SoftwareUpdate::holds) {
        return;
    }
    let signal = match instance.intent.desired {
        Desired::Stopped => Signal::Stopped,
        Desired::Suspended => Signal::Suspended,
        Desired::Warm => {
            // What was frozen lost its memory (a reboot, a kill): it wakes by a start.
            if instance.phase == Phase::Warm {
                events
                    .push(NewEvent::warning("memory-lost", "it ended while frozen; it will wake by a start"));
            }
            Signal::Suspended
        }
        Desired::Destroyed => return,
        Desired::Running => match exit {
            Some(exit) if !exit.requested && news => {
                count_end(instance, exit, now, events);
                Signal::Ended
            }
            // It was up, and there is not even a trace of its end: somebody removed it.
            None if matches!(instance.phase, Phase::Running | Phase::Ready | Phase::Unhealthy) => {
                events.push(NewEvent::warning("gone", "it was removed by somebody else; it is made again"));
                Signal::Ended
            }
            _ => return,
        },
    };
    moved(instance, signal, now, events);
}

/// An end that nobody asked for.
fn count_end(instance: &mut Instance, exit: &Exit, now: Timestamp, events: &mut Vec<NewEvent>) {
    if !exit.known() {
        // The machine went down, or somebody ended the shim: not the claw's fault, so it is
        // started again at once and does not count as a crash.
        events.push(NewEvent::warning(
            "lost",
            "it is gone without a record; the machine or its keeper was ended",
        ));
        return;
    }
    instance.restarts = instance.restarts.saturating_add(1);
    instance.restarts_total = instance.restarts_total.saturating_add(1);
    instance.not_before = Some(now.after(jittered(RestartPolicy::backoff(instance.restarts))));
    let mut message = exit.to_string();
    if !exit.log_tail.trim().is_empty() {
        message = format!("{message}; its last lines: {}", exit.log_tail.trim());
    }
    events.push(NewEvent::warning("ended", exit.to_string()));
    instance.last_error = Some(
        Error::new(Code::ClawFailed, message).fix(format!("see clawfarm logs {}", instance.id)).report(),
    );
}

/// A wait and up to a quarter more, so that what failed together does not come back together.
pub(crate) fn jittered(wait: Duration) -> Duration {
    clawfarm_failpoint::wait(wait + up_to(wait / 4))
}

/// A random part of a time.
pub(crate) fn up_to(time: Duration) -> Duration {
    let mut bytes = [0_u8; 2];
    // Without randomness there is no jitter; nothing else depends on it.
    let part = if getrandom::fill(&mut bytes).is_ok() { u16::from_ne_bytes(bytes) } else { 0 };
    time.mul_f64(f64::from(part) / f64::from(u16::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{instance, observation};

    fn now() -> Timestamp {
        Timestamp::from_millis(1_000_000)
    }

    fn exit(code: Option<i32>, requested: bool) -> Exit {
        Exit { code, signal: None, at: now(), out_of_memory: false, requested, log_tail: "boom".into() }
    }

    #[test]
    fn an_end_counts_once_however_often_it_is_seen() {
        let mut it = instance();
        it.phase = Phase::Ready;
        it.intent.run = 1;
        let mut seen = observation(&it.id, ObservedState::Exited, 1);
        seen.exit = Some(exit(Some(1), false));
        assert!(!absorb(&mut it, &seen, now()).is_empty());
        assert!(absorb(&mut it, &seen, now()).is_empty());
        assert_eq!((it.restarts, it.restarts_total, it.phase), (1, 1, Phase::Exited));
        assert!(it.not_before.unwrap() > now());
        assert!(it.last_error.unwrap().message.contains("boom"));
    }

    #[test]
    fn a_state_that_was_restored_goes_on_from_the_run_that_is_seen() {
        let mut it = instance();
        it.intent.run = 1;
        it.observed = Some(observation(&it.id, ObservedState::Running, 1));
        let seen = observation(&it.id, ObservedState::Running, 4);
        assert_eq!(absorb(&mut it.clone(), &seen, now())[0].reason, "state-behind");
        let mut restarted = it.clone();
        absorb(&mut it, &seen, now());
        assert_eq!(it.intent.run, 4, "it goes on as it is");
        // A restart was asked for before anybody looked.
        restarted.intent.run = 2;
        absorb(&mut restarted, &seen, now());
        assert_eq!(restarted.intent.run, 5, "the restart is not taken for done");
    }

    #[test]
    fn what_somebody_removed_is_no_longer_ready() {
        let mut it = instance();
        it.phase = Phase::Ready;
        let gone = absorb(&mut it, &Observation::absent(instance().id), now());
        assert_eq!((it.phase, it.restarts), (Phase::Exited, 0));
        assert_eq!(gone.len(), 2, "the removal and the phase are told");
        // Between two steps of a start there is nothing to see yet either.
        it.phase = Phase::Booting;
        assert!(absorb(&mut it, &Observation::absent(instance().id), now()).is_empty());
    }

    #[test]
    fn a_reboot_is_no_crash() {
        let mut it = instance();
        it.phase = Phase::Ready;
        it.intent.run = 1;
        let mut seen = observation(&it.id, ObservedState::Exited, 1);
        seen.exit = Some(exit(None, false));
        absorb(&mut it, &seen, now());
        assert_eq!((it.restarts, it.not_before, it.phase), (0, None, Phase::Exited));
    }

    #[test]
    fn what_was_asked_to_stop_or_sleep_did() {
        for (desired, phase) in [(Desired::Stopped, Phase::Stopped), (Desired::Suspended, Phase::Suspended)] {
            let mut it = instance();
            it.phase = Phase::Stopping;
            it.intent.desired = desired;
            let mut seen = observation(&it.id, ObservedState::Exited, 1);
            seen.exit = Some(exit(Some(0), true));
            absorb(&mut it, &seen, now());
            assert_eq!((it.phase, it.restarts), (phase, 0));
        }
    }

    #[test]
    fn a_claw_on_its_way_down_does_not_flicker_up() {
        let mut it = instance();
        it.phase = Phase::Stopping;
        it.intent.desired = Desired::Stopped;
        absorb(&mut it, &observation(&instance().id, ObservedState::Running, 1), now());
        assert_eq!(it.phase, Phase::Stopping);
    }

    #[test]
    fn staying_up_clears_the_count_of_crashes() {
        let mut it = instance();
        it.phase = Phase::Ready;
        it.restarts = 3;
        let mut seen = observation(&it.id, ObservedState::Running, 1);
        seen.started_at = Some(Timestamp::from_millis(now().as_millis() - 601_000));
        absorb(&mut it, &seen, now());
        assert_eq!(it.restarts, 0);
    }
}
