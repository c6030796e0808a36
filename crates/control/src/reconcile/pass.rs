//! One turn: look, write down, decide, act.

use std::sync::atomic::Ordering;
use std::time::Duration;

use clawfarm_model::event::NewEvent;
use clawfarm_model::{Action, ClawId, Desired};
use clawfarm_model::{
    Code, Context, Error, Health, Instance, Observation, ObservedState, Phase, Result, SoftwareUpdate,
    Timestamp, UpdateStage, is_fenced,
};
use clawfarm_store::Changes;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::Turning;
use super::absorb::absorb;
use super::act;
use super::decide::{Act, Decision, LIVENESS_EVERY, decide};
use super::launch;
use super::probe::{self, Probed};
use super::queue::Priority;
use super::update;
use crate::core::{Core, may};
use crate::sharing::held::{Claim, Hold};

/// How long a target may take to say what it sees.
const OBSERVE_LIMIT: Duration = Duration::from_secs(15);
/// When a target that did not answer is asked again.
const UNKNOWN_AGAIN: Duration = Duration::from_secs(5);
/// When one that did not take its drain back is told again.
const UNDRAIN_AGAIN: Duration = Duration::from_secs(2);
/// How often a frozen one is looked at.
const WARM_EVERY: Duration = Duration::from_secs(30);
/// When an instance is looked at again after its turn broke (the store does not answer).
const BROKEN_AGAIN: Duration = Duration::from_secs(3);

/// One turn of one instance. Never fails: what went wrong is written down or logged, and the
/// instance is brought back.
pub(crate) async fn turn(core: &Core, id: &ClawId, turning: &Turning) {
    let system = Context::system("reconcile");
    let again = match core.store.instance(&system, id).await {
        Ok(instance) if instance.phase == Phase::Destroyed => {
            core.reconciler.forget(id);
            core.sleeper.forget(id);
            return;
        }
        Ok(instance) => {
            turning.generation.store(instance.intent.generation, Ordering::Relaxed);
            Box::pin(held_turn(core, instance, &turning.interrupt)).await
        }
        Err(error) if error.code() == Code::NotFound => return,
        Err(error) => Err(error),
    };
    match again {
        Ok(Again::Never) => {}
        Ok(Again::Now) => core.reconciler.queue.push(id, Priority::Event),
        Ok(Again::At(when)) => {
            let wait = when.since(Timestamp::now()).max(Duration::from_millis(10));
            core.reconciler.queue.push_at(id, Instant::now() + wait);
        }
        Err(error) if is_fenced(&error) => {
            dropped();
            tracing::info!(instance = %id, ?error, "a turn was dropped");
            core.reconciler.queue.push_at(id, Instant::now() + clawfarm_failpoint::wait(BROKEN_AGAIN));
        }
        Err(error) => {
            tracing::error!(instance = %id, ?error, "a turn broke off");
            core.reconciler.queue.push_at(id, Instant::now() + clawfarm_failpoint::wait(BROKEN_AGAIN));
        }
    }
}

/// A turn ended without an effect, because its instance is another server's: the heartbeat
/// found that out, or a write was refused.
fn dropped() {
    metrics::counter!("clawfarm_fenced_total").increment(1);
}

/// When to look again.
pub(crate) enum Again {
    Never,
    Now,
    At(Timestamp),
}

/// A turn under the lease of the instance's shard; nothing where another server has it.
async fn held_turn(core: &Core, instance: Instance, interrupt: &Notify) -> Result<Again> {
    match core.claim(&instance) {
        Claim::Mine(hold) => {
            core.sleeper.under(&instance.id, hold.fence());
            tokio::select! {
                again = look_and_act(core, &hold, instance, interrupt) => again,
                // Whoever has it now goes on; it comes back here should it be given back.
                () = hold.lost() => {
                    dropped();
                    Ok(Again::Never)
                }
            }
        }
        Claim::Stale => Ok(Again::At(Timestamp::now().after(BROKEN_AGAIN))),
        Claim::NotMine => {
            core.reconciler.forget(&instance.id);
            core.sleeper.forget(&instance.id);
            Ok(Again::Never)
        }
    }
}

async fn look_and_act(core: &Core, hold: &Hold, instance: Instance, interrupt: &Notify) -> Result<Again> {
    clawfarm_failpoint::point!(TurnBegins);
    let runtime = core.runtime(&instance.spec.target)?;
    let looking = runtime.observe(&instance.id);
    let seen = match core.reconciler.doubts.ask(&instance.spec.target, OBSERVE_LIMIT, looking).await {
        Ok(seen) => seen,
        Err(error) => return unknown(core, hold, instance, &error).await,
    };
    if thawed_unwritten(&instance, &seen) || called_back(core, &instance, &seen) {
        act::undrain(core, hold, &instance).await?;
    }
    let probed = probe(core, &instance, &seen).await;
    if matches!(probed, Probed::Passed) && instance.phase != Phase::Ready {
        // Before anybody is told that it is ready: who asks then finds how it went.
        core.woken(&instance).await;
    }
    let now = Timestamp::now();
    let instance = if is_news(&instance, &seen, &probed, now) {
        core.record(hold, &instance.id, |it| {
            let mut events = absorb(it, &seen, now);
            events.extend(probe::absorb(it, probed, now));
            events
        })
        .await?
    } else {
        core.settle(hold, &instance).await?;
        instance
    };
    core.sleeper.note(&instance);
    core.up_or_given_up(&instance);
    keep_record(core, hold, &instance).await?;
    let decision = match final_exit(core, &instance) {
        Some(error) => Decision::Act(Act::GiveUp(error), "its claw says that another start can't help"),
        None => decide(&instance, now),
    };
    let decision = update::decide(&instance, decision, now);
    match decision {
        Decision::No if instance.phase == Phase::Destroyed => Ok(Again::Never),
        Decision::No => Ok(asleep(core, &instance, now)),
        Decision::Wait(until) => {
            let until = at_rest(core, &instance, now).unwrap_or(until);
            let again = now.after(clawfarm_failpoint::wait(UNDRAIN_AGAIN));
            Ok(Again::At(if called_back(core, &instance, &seen) { until.min(again) } else { until }))
        }
        Decision::Act(Act::Start, _) if core.reconciler.is_kept_down(&instance.id) => {
            write_kill(core, &instance).await
        }
        Decision::Act(what, why) => act::act(core, hold, &instance, what, why, interrupt).await,
    }
}

/// Whether it goes on after a freeze, and whoever let it died before that was written down: the
/// drain may not have been taken back.
fn thawed_unwritten(instance: &Instance, seen: &Observation) -> bool {
    instance.intent.desired == Desired::Running
        && seen.state == ObservedState::Running
        && instance.observed.as_ref().is_some_and(|o| o.state == ObservedState::Frozen)
}

/// Whether it was on its way to sleep and is to be up again: it may have been drained already, and
/// would take nothing until its drain runs out.
fn called_back(core: &Core, instance: &Instance, seen: &Observation) -> bool {
    instance.intent.desired == Desired::Running
        && seen.state == ObservedState::Running
        && core.reconciler.was_drained(&instance.id)
}

/// Keeps beside the instance what the store knows of it, once for each change of it, so that
/// a lost store can be rebuilt. That it can't be written now is no reason not to act.
pub(super) async fn keep_record(core: &Core, hold: &Hold, instance: &Instance) -> Result<()> {
    if core.reconciler.is_kept(instance) {
        return Ok(());
    }
    let runtime = core.acting(hold, &instance.spec.target)?;
    match runtime.keep_record(&instance.id, &launch::record(instance)).await {
        Ok(()) => core.reconciler.set_kept(instance),
        Err(error) if is_fenced(&error) => return Err(error),
        Err(error) => tracing::warn!(instance = %instance.id, ?error, "its record was not kept beside it"),
    }
    Ok(())
}

/// Whether its claw ended in a way that another start can't mend, by what its type says.
fn final_exit(core: &Core, instance: &Instance) -> Option<Error> {
    let seen = instance.observed.as_ref().filter(|o| o.run >= instance.intent.run)?;
    let exit = seen.exit.as_ref().filter(|e| !e.requested)?;
    let wanted = instance.intent.desired == Desired::Running && instance.phase != Phase::Failed;
    if seen.state != ObservedState::Exited || !wanted {
        return None;
    }
    let error = core.adapter(instance).ok()?.final_exit(exit)?;
    let tail = exit.log_tail.trim();
    let last = if tail.is_empty() { String::new() } else { format!("; its last lines: {tail}") };
    let mut told = Error::new(error.code(), format!("{}{last}", error.message()));
    if let Some(field) = error.field_name() {
        told = told.field(field);
    }
    Some(told.fix(error.fix_text().unwrap_or_default().replace("<id>", instance.id.as_str())))
}

/// What is down as it should be is looked at again when its runtime tells of it, or by the next
/// round; a frozen one, which can't tell of itself, a little earlier.
fn asleep(core: &Core, instance: &Instance, now: Timestamp) -> Again {
    if instance.phase == Phase::Warm {
        Again::At(now.after(core.reconciler.rest(&instance.id, WARM_EVERY)))
    } else {
        Again::Never
    }
}

/// When what is up and well is looked at again.
fn at_rest(core: &Core, instance: &Instance, now: Timestamp) -> Option<Timestamp> {
    let updating = instance.update.as_ref().is_some_and(SoftwareUpdate::is_under_way);
    let well = instance.phase == Phase::Ready && instance.health == Health::Passing && !updating;
    well.then(|| now.after(core.reconciler.rest(&instance.id, LIVENESS_EVERY)))
}

/// Writes down the kill that could not be written when it was asked for (the disk was full):
/// so it stays down, as whoever killed it wanted.
async fn write_kill(core: &Core, instance: &Instance) -> Result<Again> {
    let grant = may(&Context::system("kill"), Action::InstanceChange, instance)?;
    let writing = core.store.update_instance(&grant, &instance.id, None, |it| {
        it.intent.desired = Desired::Stopped;
        it.intent.generation += 1;
        let text = "kill was asked for while nothing could be written down";
        Ok(Changes::event(NewEvent::info("asked", text)))
    });
    core.wishing(&instance.id, Box::pin(writing)).await?;
    Ok(Again::Now)
}

async fn probe(core: &Core, instance: &Instance, seen: &Observation) -> Probed {
    let awake = seen.state == ObservedState::Running
        && instance.intent.desired == Desired::Running
        && seen.run >= instance.intent.run
        && instance.update.as_ref().is_none_or(|u| !u.holds() || u.stage == UpdateStage::Trying);
    if awake { probe::probe(core, instance, seen).await } else { Probed::Nothing }
}

/// Whether anything has to be written: an idle fleet must not write all day.
fn is_news(instance: &Instance, seen: &Observation, probed: &Probed, now: Timestamp) -> bool {
    if instance.observed.as_ref() != Some(seen) || instance.unknown_since.is_some() {
        return true;
    }
    let settled = match seen.state {
        ObservedState::Running => {
            instance.intent.desired == Desired::Running
                && matches!(instance.phase, Phase::Ready | Phase::Unhealthy | Phase::Running | Phase::Waking)
        }
        ObservedState::Frozen => instance.phase == Phase::Warm,
        // It is down; whether that is as it should be, or another phase is due (what sleeps was
        // stopped, what failed was), is a matter of what is wanted.
        _ => match instance.intent.desired {
            Desired::Running => matches!(
                instance.phase,
                Phase::Stopped | Phase::Suspended | Phase::Exited | Phase::Failed | Phase::Creating
            ),
            Desired::Stopped => instance.phase == Phase::Stopped,
            Desired::Suspended | Desired::Warm => instance.phase == Phase::Suspended,
            Desired::Destroyed => false,
        },
    };
    !settled || probed.is_news(instance) || instance.restarts > 0 && forgiven(instance, seen, now)
}

fn forgiven(instance: &Instance, seen: &Observation, now: Timestamp) -> bool {
    let window = Duration::from_secs(u64::from(instance.spec.restart.window_secs));
    seen.started_at.is_some_and(|t| now.since(t) >= window)
}

async fn unknown(core: &Core, hold: &Hold, instance: Instance, error: &Error) -> Result<Again> {
    let again = Timestamp::now().after(clawfarm_failpoint::wait(UNKNOWN_AGAIN));
    if instance.unknown_since.is_none() {
        tracing::warn!(instance = %instance.id, ?error, "the target does not answer");
        let report = error.report();
        core.record(hold, &instance.id, |it| {
            it.unknown_since = Some(Timestamp::now());
            if it.health == Health::Passing {
                it.health = Health::Unknown;
            }
            vec![NewEvent::warning("unknown", format!("its target does not answer: {}", report.message))]
        })
        .await?;
    }
    Ok(Again::At(again))
}
