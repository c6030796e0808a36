//! Doing what was decided.

use std::time::Duration;

use clawfarm_adapters::Activity;
use clawfarm_model::dataset::Dataset;
use clawfarm_model::error::Class;
use clawfarm_model::event::NewEvent;
use clawfarm_model::instance::RestartPolicy;
use clawfarm_model::launch::{DataFate, StopOptions};
use clawfarm_model::{
    Action, Cause, ClawId, Code, Context, Desired, Error, Health, Instance, Observation, ObservedState,
    Operation, OperationKind, Phase, Result, Signal, Timestamp, UpdateStage, Urgency, is_fenced,
};
use clawfarm_runtime::{Progress, Runtime};
use clawfarm_store::{Changes, OperationEnd};
use tokio::sync::Notify;

use super::absorb::{absorb, jittered, moved};
use super::decide::Act;
use super::pass::{Again, keep_record};
use super::reach::Reach;
use super::settle::outcome;
use super::update;
use crate::core::{Core, may};
use crate::instances::{busy, is_bare};
use crate::operations::StepLog;
use crate::sharing::held::Hold;

/// What a hurried end gives: time to close files, not to finish work.
const HURRIED_GRACE: Duration = Duration::from_secs(10);
/// What a claw gets at least that has not answered yet.
const YOUNG_GRACE: Duration = Duration::from_secs(60);
/// How long a claw may take to say that it is drained: when it was asked to sleep and is idle
/// but for what it answers at the moment; and when it is to sleep although it works.
const DRAIN_IDLE: Duration = Duration::from_secs(2);
const DRAIN_FORCED: Duration = Duration::from_secs(30);
/// How often it is tried to put one to sleep that does not go.
const SLEEP_ATTEMPTS: u32 = 3;
/// When one that waits for its turn to start is looked at although nobody said that it is its turn.
const IN_LINE: Duration = Duration::from_secs(5);
/// How long starting may take: it holds a first installation.
pub(super) const START_LIMIT: Duration = Duration::from_secs(45 * 60);

/// Does it. Something else being wanted meanwhile leaves it where it is; every act is
/// idempotent, so the next turn goes on from there.
pub(super) async fn act(
    core: &Core,
    hold: &Hold,
    instance: &Instance,
    what: Act,
    why: &'static str,
    interrupt: &Notify,
) -> Result<Again> {
    let id = &instance.id;
    tracing::debug!(instance = %id, ?what, why, "acting");
    if matches!(what, Act::Stop(_) | Act::Suspend | Act::Destroy) {
        core.give_back_reserve().await;
    }
    let operation = core.store.running_operation(&Context::system("act"), id).await?;
    let steps = operation
        .as_ref()
        .map_or_else(|| StepLog::nobody(core.store.clone()), |o| core.board.follow(o, hold.fence()));
    let doing = async {
        clawfarm_failpoint::point!(BeforeAct);
        let again = match &what {
            Act::Start => start(core, hold, instance, &steps).await,
            Act::Thaw => thaw(core, hold, instance, &steps).await,
            Act::Freeze => freeze(core, hold, instance, &steps).await,
            Act::Suspend => suspend(core, hold, instance, &steps).await,
            Act::Stop(urgency) => stop(core, hold, instance, *urgency, &steps).await,
            Act::Destroy => destroy(core, hold, instance, &steps).await,
            Act::Apply => super::apply::act(core, hold, instance, &steps).await,
            Act::Update => Box::pin(update::act(core, hold, instance, &steps)).await,
            Act::GiveUp(error) => give_up(core, hold, instance, error).await,
        }?;
        clawfarm_failpoint::point!(AfterAct);
        Ok(again)
    };
    let outcome = tokio::select! {
        outcome = doing => outcome,
        () = interrupt.notified() => return Ok(Again::Now),
    };
    match outcome {
        Ok(again) => Ok(again),
        Err(error) if is_fenced(&error) => Err(error),
        Err(error) => failed(core, hold, instance, &what, error).await,
    }
}

async fn start(core: &Core, hold: &Hold, instance: &Instance, steps: &StepLog) -> Result<Again> {
    let target = &instance.spec.target;
    core.reconciler.is_let_go(&instance.id);
    if !core.may_start(instance).await {
        steps.step("queue", "waiting until it is its turn to start", None, "");
        return Ok(Again::At(Timestamp::now().after(IN_LINE)));
    }
    core.sleeper.wakings.begin(instance, false);
    let starting = async {
        let stamps = core.stamps(instance).await?;
        let (launch, warnings) = core.launch(hold, instance, steps).await?;
        core.note_given(hold, instance, stamps).await?;
        steps.step("start", &starting_what(instance), None, "");
        core.record(hold, &instance.id, |it| {
            let mut events: Vec<_> = warnings
                .iter()
                .map(|w| NewEvent::warning("config", format!("{}: {}", w.field, w.message)))
                .collect();
            moved(it, Signal::StartBegun, Timestamp::now(), &mut events);
            events
        })
        .await?;
        // Preparing may have taken long.
        core.acting(hold, target)?.start(&launch).await
    };
    let seen = match tokio::time::timeout(START_LIMIT, starting).await {
        Ok(Err(error)) if is_port_taken(&error) && instance.spec.port.is_none() => {
            let runtime = core.runtime(target)?;
            return other_port(core, hold, instance, runtime.as_ref(), &error).await;
        }
        Ok(result) => result?,
        Err(_) => return Err(Error::new(Code::Timeout, "its start was not done within 45 minutes")),
    };
    core.sleeper.wakings.acted(&instance.id);
    if let Some(note) = core.runtime(target)?.start_note(&instance.id).await {
        core.record(hold, &instance.id, |_| vec![NewEvent::warning("memory-lost", note)]).await?;
    }
    let boots = instance.spec.vm.is_some() && instance.phase != Phase::Waking;
    let until = match (boots, is_bare(&instance.spec)) {
        (true, true) => "waiting until it has booted",
        (true, false) => "waiting until it has booted and answers",
        (false, _) => "waiting until it answers",
    };
    steps.step("ready", until, None, "");
    saw(core, hold, &instance.id, seen).await?;
    Ok(Again::Now)
}

/// What starts, in words.
fn starting_what(instance: &Instance) -> String {
    let spec = &instance.spec;
    match &spec.vm {
        // It has no software but its image's.
        Some(vm) if is_bare(spec) => format!("starting a machine of {}", vm.image),
        _ => format!("starting {} {}", spec.claw_type, spec.version),
    }
}

fn is_port_taken(error: &Error) -> bool {
    error.code() == Code::Conflict && error.field_name() == Some("port")
}

/// The image of a machine could not be had: it was asked for several times already, and whoever waits
/// for the machine should hear it, instead of waiting for a site that is down or closed to this host.
fn is_out_of_reach(error: &Error) -> bool {
    matches!(error.code(), Code::Unavailable | Code::Timeout) && error.field_name() == Some("vm.image")
}

/// Something else sits on the port that was chosen for it: another is chosen.
async fn other_port(
    core: &Core,
    hold: &Hold,
    instance: &Instance,
    runtime: &dyn Runtime,
    taken: &Error,
) -> Result<Again> {
    let port = core.free_port(&instance.spec.target, runtime, instance.port.into_iter().collect()).await?;
    let message = taken.message().to_owned();
    core.record(hold, &instance.id, |it| {
        it.port = Some(port);
        vec![NewEvent::warning("port", format!("{message}; it gets {port}"))]
    })
    .await?;
    Ok(Again::Now)
}

async fn thaw(core: &Core, hold: &Hold, instance: &Instance, steps: &StepLog) -> Result<Again> {
    steps.step("thaw", "letting it go on", None, "");
    core.sleeper.wakings.begin(instance, true);
    let runtime = core.acting(hold, &instance.spec.target)?;
    let seen = freezer(runtime.as_ref(), instance)?.thaw(&instance.id).await?;
    core.sleeper.wakings.acted(&instance.id);
    // Before it is written down: a server killed in between finds it frozen in the store.
    undrain(core, hold, instance).await?;
    saw(core, hold, &instance.id, seen).await?;
    Ok(Again::Now)
}

/// It was drained before it was frozen. A claw that forgot it meanwhile (the drain's lease ran
/// out) answers that nothing is drained, which is as well. One that does not answer is told again
/// soon: until then it would take nothing.
pub(crate) async fn undrain(core: &Core, hold: &Hold, instance: &Instance) -> Result<()> {
    let reach = Reach::acting(core, hold, instance).await?;
    if let Err(error) = reach.adapter().undrain(&reach.access()).await {
        if is_fenced(&error) {
            return Err(error);
        }
        tracing::debug!(instance = %instance.id, ?error, "the drain was not taken back yet");
        core.reconciler.is_not_let_go(&instance.id);
    } else {
        core.reconciler.is_let_go(&instance.id);
    }
    clawfarm_failpoint::point!(Undrained);
    Ok(())
}

async fn freeze(core: &Core, hold: &Hold, instance: &Instance, steps: &StepLog) -> Result<Again> {
    core.before_sleep(hold, instance).await?;
    drain(core, hold, instance, steps).await?;
    steps.step("freeze", "freezing it", None, "");
    let runtime = core.acting(hold, &instance.spec.target)?;
    let seen = freezer(runtime.as_ref(), instance)?.freeze(&instance.id).await?;
    saw(core, hold, &instance.id, seen).await?;
    Ok(Again::Now)
}

async fn suspend(core: &Core, hold: &Hold, instance: &Instance, steps: &StepLog) -> Result<Again> {
    let frozen = instance.observed.as_ref().is_some_and(|o| o.state == ObservedState::Frozen);
    if frozen {
        // What came in since it was drained (its drain has run out, and a job may be due) is work
        // that it must be given the time for.
        steps.step("thaw", "letting it go on", None, "");
        let runtime = core.acting(hold, &instance.spec.target)?;
        freezer(runtime.as_ref(), instance)?.thaw(&instance.id).await?;
        undrain(core, hold, instance).await?;
    }
    core.before_sleep(hold, instance).await?;
    drain(core, hold, instance, steps).await?;
    begin_stop(core, hold, &instance.id).await?;
    let runtime = core.acting(hold, &instance.spec.target)?;
    let seen = if let Some(snapshot) = runtime.suspend() {
        steps.step("save", "saving its memory", None, "");
        snapshot.suspend(&instance.id).await?
    } else {
        steps.step("stop", "ending its process", None, "");
        runtime
            .stop(&instance.id, StopOptions { grace: grace(core, instance, instance.intent.urgency)? })
            .await?
    };
    saw(core, hold, &instance.id, seen).await?;
    Ok(Again::Now)
}

/// Asks it to take nothing new, and gives it a while to finish what it has; the stop that follows
/// has a grace for the rest.
pub(crate) async fn drain_all(core: &Core, hold: &Hold, instance: &Instance, steps: &StepLog) -> Result<()> {
    steps.step("drain", "letting it finish", None, "");
    let reach = Reach::acting(core, hold, instance).await?;
    let drained = reach.adapter().drain(&reach.access(), DRAIN_FORCED).await;
    clawfarm_failpoint::point!(Drained);
    if let Err(error) = drained {
        tracing::info!(instance = %instance.id, ?error, "it could not be drained");
    }
    Ok(())
}

/// Asks it to take nothing new. One that works says so and goes on, unless it is to sleep
/// all the same: then it is given a while, and ended by the stop that follows.
async fn drain(core: &Core, hold: &Hold, instance: &Instance, steps: &StepLog) -> Result<()> {
    steps.step("drain", "letting it finish", None, "");
    let forced = instance.intent.urgency != Urgency::Graceful;
    let wait = if forced { DRAIN_FORCED } else { core.sleeper.drain_limit(instance).unwrap_or(DRAIN_IDLE) };
    let reach = Reach::acting(core, hold, instance).await?;
    core.reconciler.is_drained(&instance.id);
    let drained = reach.adapter().drain(&reach.access(), wait).await;
    clawfarm_failpoint::point!(Drained);
    match drained {
        Ok(Activity::Busy(blockers)) if !forced => {
            core.reconciler.is_let_go(&instance.id);
            Err(busy(&instance.id, &blockers))
        }
        Ok(_) => Ok(()),
        Err(error) if is_fenced(&error) => Err(error),
        // Nobody but its policy wants it asleep, and that only while it rests, which it did not
        // say: a gateway that is held up by its work misses the limit of the question. The drain
        // may have been taken all the same; that it is up again takes it back (`called_back`).
        Err(error) if !forced && matches!(instance.intent.cause, Cause::Idle | Cause::WarmLong) => {
            Err(busy(&instance.id, &[format!("it did not say that it has finished: {}", error.message())]))
        }
        // A claw that can't be asked can't finish anything either; its stop has a grace.
        Err(error) => {
            tracing::info!(instance = %instance.id, ?error, "it could not be drained");
            Ok(())
        }
    }
}

pub(super) async fn stop(
    core: &Core,
    hold: &Hold,
    instance: &Instance,
    urgency: Urgency,
    steps: &StepLog,
) -> Result<Again> {
    begin_stop(core, hold, &instance.id).await?;
    let runtime = core.acting(hold, &instance.spec.target)?;
    let seen = if urgency == Urgency::Now {
        steps.step("kill", "ending it at once", None, "");
        runtime.kill(&instance.id).await?
    } else {
        let grace = grace(core, instance, urgency)?;
        steps.step("stop", &format!("letting it end, for {} s at most", grace.as_secs()), None, "");
        runtime.stop(&instance.id, StopOptions { grace }).await?
    };
    saw(core, hold, &instance.id, seen).await?;
    Ok(Again::Now)
}

async fn begin_stop(core: &Core, hold: &Hold, id: &ClawId) -> Result<()> {
    core.record(hold, id, |it| {
        let mut events = Vec::new();
        moved(it, Signal::StopBegun, Timestamp::now(), &mut events);
        events
    })
    .await?;
    Ok(())
}

pub(crate) fn grace(core: &Core, instance: &Instance, urgency: Urgency) -> Result<Duration> {
    Ok(match urgency {
        Urgency::Graceful => of_its_age(instance, core.adapter(instance)?.stop_grace(), Timestamp::now()),
        Urgency::Hurried => HURRIED_GRACE,
        Urgency::Now => Duration::ZERO,
    })
}

/// A claw that has not answered yet has no work to finish, and needs no longer than it has run, and
/// [`YOUNG_GRACE`]. A signal that meets a container in the moment of its start is lost, because its first
/// process does not listen yet: without this it would be waited out, for more than five minutes with
/// OpenClaw's usual time.
///
/// A machine's processes may be older than its QEMU.
fn of_its_age(instance: &Instance, usual: Duration, now: Timestamp) -> Duration {
    let started = instance.observed.as_ref().and_then(|seen| seen.started_at);
    let (Some(started), None, Health::Starting) = (started, &instance.spec.vm, instance.health) else {
        return usual;
    };
    let age = now.as_millis().saturating_sub(started.as_millis());
    usual.min(Duration::from_millis(u64::try_from(age).unwrap_or(0)).max(YOUNG_GRACE))
}

async fn destroy(core: &Core, hold: &Hold, instance: &Instance, steps: &StepLog) -> Result<Again> {
    let up = instance.observed.as_ref().is_some_and(|o| o.state.is_up());
    if up && instance.intent.urgency != Urgency::Now {
        stop(core, hold, instance, instance.intent.urgency, steps).await?;
    }
    steps.step("remove", "removing it", None, "");
    // What it was given and never ran with is somebody's data, not its own yet: a purge of an
    // instance that came to nothing must not take that away.
    let given = core.store.dataset_given_to(&Context::system("act"), &instance.id).await?;
    let purge = instance.intent.purge && given.is_none();
    let runtime = core.acting(hold, &instance.spec.target)?;
    let unproven = instance.update.as_ref();
    let unproven = unproven.filter(|u| matches!(u.stage, UpdateStage::Trying | UpdateStage::Undoing));
    if let (false, Some(update), Some(upgrade)) = (purge, unproven, runtime.upgrade()) {
        // What stays is what the version that worked had written. An earlier attempt may have
        // come as far as setting it aside.
        match upgrade.put_back(&instance.id, update.copy).await {
            Err(error) if error.code() == Code::NotFound => {}
            done => done?,
        }
    }
    let version = unproven.map_or(&instance.spec.version, |update| &update.from).clone();
    let size = runtime.destroy(&instance.id, if purge { DataFate::Purge } else { DataFate::Keep }).await?;
    if purge {
        // An earlier removal, which was to keep its data, may have come that far and no
        // further: under this id nothing is listed before the removal is written down.
        runtime.remove_dataset(&instance.id).await?;
    }
    let now = Timestamp::now();
    let dataset = (!purge && size > 0).then(|| Dataset {
        id: instance.id.clone(),
        tenant: instance.tenant.clone(),
        project: instance.project.clone(),
        claw_type: instance.spec.claw_type.clone(),
        version,
        target: instance.spec.target.clone(),
        size_bytes: size,
        created_at: now,
    });
    core.record_with(hold, &instance.id, move |it| {
        let mut events = Vec::new();
        it.observed = Some(Observation::absent(it.id.clone()));
        it.port = None;
        it.last_error = None;
        it.update = None;
        if let (true, Some(given), Some(kept)) = (it.intent.purge, given, &dataset) {
            let (given, kept) = (given.id, &kept.id);
            events.push(NewEvent::warning(
                "data-kept",
                format!("it never ran with the data of '{given}' that it was given: that is kept as dataset '{kept}'"),
            ));
        }
        moved(it, Signal::Destroyed, now, &mut events);
        Changes { events, dataset, ..Changes::default() }
    })
    .await?;
    if instance.spec.restore.is_some() {
        core.backups.look();
    }
    Ok(Again::Never)
}

pub(super) async fn give_up(core: &Core, hold: &Hold, instance: &Instance, error: &Error) -> Result<Again> {
    take_back(core, hold, instance).await?;
    let report = error.report();
    let failed = core
        .record(hold, &instance.id, |it| {
            let mut events = vec![NewEvent::warning("gave-up", report.message.clone())];
            it.last_error = Some(report);
            it.not_before = None;
            moved(it, Signal::GaveUp, Timestamp::now(), &mut events);
            events
        })
        .await?;
    // Nothing else may happen to it for long.
    keep_record(core, hold, &failed).await?;
    Ok(Again::Never)
}

/// Takes back what was made for a new instance that never ran. Not where it was given data, which
/// is in its folders by now. What can't be taken back is left to its removal.
async fn take_back(core: &Core, hold: &Hold, instance: &Instance) -> Result<()> {
    let waiting = core.store.running_operation(&Context::system("act"), &instance.id).await?;
    let is_new = waiting.is_some_and(|operation| operation.kind == OperationKind::Create);
    let ran = instance.observed.as_ref().is_some_and(|seen| seen.run > 0);
    if !is_new || ran || instance.spec.dataset.is_some() {
        return Ok(());
    }
    match core.acting(hold, &instance.spec.target)?.undo(&instance.id).await {
        Ok(()) => Ok(()),
        Err(error) if is_fenced(&error) => Err(error),
        Err(error) => {
            tracing::warn!(instance = %instance.id, ?error, "what was made for it is not all taken back");
            Ok(())
        }
    }
}

/// Writes down what an act saw.
pub(super) async fn saw(core: &Core, hold: &Hold, id: &ClawId, seen: Observation) -> Result<()> {
    core.record(hold, id, |it| absorb(it, &seen, Timestamp::now())).await?;
    Ok(())
}

fn freezer<'a>(runtime: &'a dyn Runtime, instance: &Instance) -> Result<&'a dyn clawfarm_runtime::Freeze> {
    runtime.freeze().ok_or_else(|| {
        Error::new(Code::Unsupported, format!("the runtime {} can't freeze", instance.spec.runtime))
    })
}

/// An act failed: whether and when it is tried again, by the error's class.
async fn failed(core: &Core, hold: &Hold, instance: &Instance, what: &Act, error: Error) -> Result<Again> {
    let id = &instance.id;
    tracing::warn!(instance = %id, ?what, ?error, "an act failed");
    if matches!(what, Act::Freeze | Act::Suspend) && will_not_sleep(instance, &error) {
        return stays_awake(core, hold, instance, &error).await;
    }
    if matches!(what, Act::Update) {
        return update::try_again(core, hold, instance, &error).await;
    }
    if matches!(what, Act::Start)
        && let Some(again) = update::start_failed(core, hold, instance, &error).await
    {
        return again;
    }
    let hopeless = matches!(error.code().class(), Class::User | Class::Fatal) || is_out_of_reach(&error);
    if matches!(what, Act::Start) && hopeless {
        return give_up(core, hold, instance, &error).await;
    }
    let report = error.report();
    let now = Timestamp::now();
    let not_before = now.after(jittered(RestartPolicy::backoff(instance.attempts + 1)));
    core.record(hold, id, |it| {
        it.attempts = it.attempts.saturating_add(1);
        it.not_before = Some(not_before);
        let event = NewEvent::warning("error", report.message.clone());
        it.last_error = Some(report);
        vec![event]
    })
    .await?;
    Ok(Again::At(not_before))
}

/// Whether a failed attempt to put it to sleep is the last: each stops its work for a while, so
/// there are few, and none more where the next would end as this one did.
fn will_not_sleep(instance: &Instance, error: &Error) -> bool {
    let at_once =
        matches!(error.code().class(), Class::User | Class::Fatal) || error.code() == Code::Insufficient;
    !is_fenced(error) && (at_once || instance.attempts + 1 >= SLEEP_ATTEMPTS)
}

/// It was to sleep and works, or can't: what is wanted is again what was before, and whoever waits
/// is told.
async fn stays_awake(core: &Core, hold: &Hold, instance: &Instance, error: &Error) -> Result<Again> {
    let report = error.report();
    let system = Context::system("act");
    let operation = core.store.running_operation(&system, &instance.id).await?;
    let ended = operation.as_ref().map(|o| o.id.clone());
    // Not an observation: what is wanted changes, unless somebody wanted something else
    // since this was decided.
    let grant = may(&system, Action::InstanceChange, instance)?.under(hold.fence().cloned());
    let decided_on = instance.intent.generation;
    core.store
        .update_instance(&grant, &instance.id, None, move |it| {
            if it.intent.generation != decided_on {
                return Ok(Changes::none());
            }
            it.intent.desired = Desired::Running;
            it.intent.generation += 1;
            (it.attempts, it.not_before) = (0, None);
            let kind = if report.code == Code::Busy { "busy" } else { "error" };
            let events = vec![NewEvent::warning(kind, report.message.clone())];
            let end = ended.iter().map(|id| OperationEnd::failed(id.clone(), report.clone())).collect();
            Ok(Changes { events, end, ..Changes::default() })
        })
        .await?;
    if let Some(operation) = operation {
        core.board.ended(&operation.id);
    }
    Ok(Again::Now)
}

impl Core {
    /// Writes what was observed of an instance, with the events of it, and ends the operation
    /// that it ends.
    pub(crate) async fn record(
        &self,
        hold: &Hold,
        id: &ClawId,
        change: impl FnOnce(&mut Instance) -> Vec<NewEvent> + Send,
    ) -> Result<Instance> {
        self.record_with(hold, id, |it| Changes { events: change(it), ..Changes::default() }).await
    }

    async fn record_with(
        &self,
        hold: &Hold,
        id: &ClawId,
        change: impl FnOnce(&mut Instance) -> Changes + Send,
    ) -> Result<Instance> {
        let system = Context::system("reconcile");
        let instance = self.store.instance(&system, id).await?;
        let grant = may(&system, Action::Observe, &instance)?.under(hold.fence().cloned());
        let operation = self.store.running_operation(&system, id).await?;
        let waiting: Option<Operation> = operation.clone();
        let steps = operation.as_ref().map(|o| self.board.last_steps(o));
        let (instance, _) = self
            .store
            .update_instance(&grant, id, None, move |it| {
                let mut changes = change(it);
                if let (Some(operation), Some((state, error))) = (&waiting, outcome(it))
                    && changes.end.is_empty()
                    && operation.generation <= it.intent.generation
                {
                    let steps = steps.map(|steps| steps.ended_with(state));
                    changes.end.push(OperationEnd { id: operation.id.clone(), state, error, steps });
                }
                Ok(changes)
            })
            .await?;
        if let Some(operation) = operation
            && outcome(&instance).is_some()
        {
            self.board.ended(&operation.id);
        }
        Ok(instance)
    }
    /// Ends the operation that waits for what already is: a start of what is up, a change that
    /// changes nothing of what runs.
    pub(super) async fn settle(&self, hold: &Hold, instance: &Instance) -> Result<()> {
        let waiting = self.store.running_operation(&Context::system("reconcile"), &instance.id).await?;
        if waiting.is_some() && outcome(instance).is_some() {
            self.record(hold, &instance.id, |_| Vec::new()).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn only_a_claw_that_has_not_answered_yet_is_given_less() {
        let usual = Duration::from_secs(330);
        let now = Timestamp::from_millis(1_000_000);
        let given = |health, secs: i64| {
            let mut it = testing::instance();
            let started = Timestamp::from_millis(now.as_millis() - secs * 1000);
            it.health = health;
            it.observed =
                Some(Observation { started_at: Some(started), ..Observation::absent(it.id.clone()) });
            of_its_age(&it, usual, now).as_secs()
        };
        assert_eq!(given(Health::Starting, 1), 60);
        assert_eq!(given(Health::Starting, 100), 100);
        assert_eq!(given(Health::Starting, 900), 330);
        // A clock that went back.
        assert_eq!(given(Health::Starting, -50), 60);
        for health in [Health::Passing, Health::Failing, Health::Unknown] {
            assert_eq!(given(health, 1), 330, "{health:?}");
        }
        let mut unseen = testing::instance();
        unseen.health = Health::Starting;
        assert_eq!(of_its_age(&unseen, usual, now), usual);
    }
}
