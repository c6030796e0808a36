//! Start, stop, restart, kill, suspend, resume, remove: each writes what is wanted.

use std::time::Duration;

use clawfarm_adapters::Activity;
use clawfarm_model::event::NewEvent;
use clawfarm_model::{
    Action, Cause, ClawId, Code, Context, Desired, Error, Fence, Instance, OperationKind, Phase, Result,
    Signal, Timestamp, Urgency,
};
use clawfarm_store::{Changes, InstanceFilter, NewOperation, PageRequest, Room};
use tokio::time::Instant;

use crate::admission::Reservation;
use crate::core::{Core, may};
use crate::instances::software::{call_off, refuse_if_updating, undo_again};
use crate::reconcile::absorb::moved;
use crate::reconcile::reach::Reach;
use crate::{Accepted, Control};

/// How long a claw may take to say whether it is working.
const ACTIVITY_LIMIT: Duration = Duration::from_secs(5);
/// What a claw does for a shorter time than this does not keep it from sleep: it answers
/// requests of its own and of others all the time, right after its start most of all.
const MOMENT: Duration = Duration::from_secs(2);
/// How long stopping everything may take for one instance: OpenClaw's own drain and a reserve.
const STOP_ALL_LIMIT: Duration = Duration::from_secs(360);

impl Control {
    /// Starts what is down. Up already is a success.
    ///
    /// # Errors
    /// `Insufficient`, with figures, when its target's memory would not hold it.
    pub async fn start(&self, context: &Context, id: &str) -> Result<Accepted> {
        let instance = self.core.find(context, id).await?;
        self.core.wake(context, &instance, OperationKind::Start, Cause::Asked).await
    }

    /// Wakes what sleeps. Awake already is a success.
    ///
    /// # Errors
    /// `Conflict` when it was stopped rather than put to sleep; `Insufficient` as for a start.
    pub async fn resume(&self, context: &Context, id: &str) -> Result<Accepted> {
        self.wake(context, id, Cause::Asked).await
    }

    /// The same, for a cause that is told.
    ///
    /// # Errors
    /// As for [`Self::resume`]; `Overloaded` when so many start on its target that it would not
    /// be its turn in time.
    pub async fn wake(&self, context: &Context, id: &str, cause: Cause) -> Result<Accepted> {
        let instance = self.core.find(context, id).await?;
        if matches!(instance.intent.desired, Desired::Stopped) {
            return Err(Error::new(Code::Conflict, format!("'{}' is stopped, not asleep", instance.id))
                .field("id")
                .fix(format!("clawfarm start {}", instance.id)));
        }
        self.core.wake(context, &instance, OperationKind::Resume, cause).await
    }

    /// Wakes a claw for another one of its project.
    ///
    /// # Errors
    /// `NotFound` for one that is not of the caller's project; `Conflict` for one that was stopped;
    /// `Insufficient` and `Overloaded` as for [`Self::wake`].
    pub async fn wake_by_instance(&self, caller: &ClawId, id: &ClawId) -> Result<Instance> {
        let caller = self.core.store.instance(&Context::system("wake"), caller).await?;
        let context = Context::owner(format!("instance:{}", caller.id), caller.tenant, String::new());
        let instance = self.core.store.instance(&context, id).await?;
        if instance.project != caller.project {
            return Err(Error::not_found("instance", id));
        }
        let is_up = matches!(instance.phase, Phase::Ready | Phase::Running | Phase::Unhealthy);
        if is_up && instance.intent.desired == Desired::Running {
            return Ok(instance);
        }
        Ok(self.wake(&context, id.as_str(), Cause::Instance).await?.instance)
    }

    /// Stops it: it finishes its work first, unless `force`.
    ///
    /// # Errors
    /// `Conflict` when it is being removed.
    pub async fn stop(&self, context: &Context, id: &str, force: bool) -> Result<Accepted> {
        let urgency = if force { Urgency::Hurried } else { Urgency::Graceful };
        self.core.down(context, id, OperationKind::Stop, Desired::Stopped, urgency).await
    }

    /// Ends it at once. It stays stopped.
    ///
    /// # Errors
    /// `Conflict` when it is being removed; `Unavailable` when the store can't be written (the
    /// disk is full): it is ended all the same.
    pub async fn kill(&self, context: &Context, id: &str) -> Result<Accepted> {
        let core = &self.core;
        match core.down(context, id, OperationKind::Kill, Desired::Stopped, Urgency::Now).await {
            Err(error) if error.code() == Code::Unavailable => {
                Err(core.end_unwritten(context, id, error).await)
            }
            done => done,
        }
    }

    /// Stops it gracefully and starts it again.
    ///
    /// # Errors
    /// `Conflict` when it is being removed.
    pub async fn restart(&self, context: &Context, id: &str) -> Result<Accepted> {
        self.core.to(context, id, OperationKind::Restart, Desired::Running, Urgency::Graceful).await
    }

    /// Puts it to sleep: drained and ended, or frozen in memory when `warm`.
    ///
    /// # Errors
    /// `Busy`, with what it works on, unless `force`; `Conflict` when it is not up;
    /// `Unsupported` when its runtime can't freeze.
    pub async fn suspend(&self, context: &Context, id: &str, warm: bool, force: bool) -> Result<Accepted> {
        let core = &self.core;
        let instance = core.find(context, id).await?;
        let desired = if warm { Desired::Warm } else { Desired::Suspended };
        core.check_sleep(&instance, warm)?;
        let up = matches!(instance.phase, Phase::Ready | Phase::Running | Phase::Unhealthy);
        if up && !force {
            core.check_idle(&instance).await?;
        }
        let urgency = if force { Urgency::Hurried } else { Urgency::Graceful };
        core.down(context, instance.id.as_str(), OperationKind::Suspend, desired, urgency).await
    }

    /// Removes it. Its data becomes a dataset, or goes with it when `purge`.
    ///
    /// # Errors
    /// `NotFound` when there is none.
    pub async fn remove(&self, context: &Context, id: &str, purge: bool, force: bool) -> Result<Accepted> {
        let core = &self.core;
        let mut room = core.making_room().await;
        loop {
            match core.remove(context, id, purge, force).await {
                Err(error) if room.again(&error).await => {}
                done => return done,
            }
        }
    }

    /// Stops every instance that is up, and waits until they are down. Where other servers
    /// share the database: those that only this one reaches; the others go on with them.
    pub(crate) async fn stop_all(&self, context: &Context) -> Result<()> {
        let mut waits = Vec::new();
        let mut cursor = None;
        loop {
            let page = self
                .core
                .store
                .instances(context, &InstanceFilter::default(), &PageRequest::after(cursor, PageRequest::MAX))
                .await?;
            let own = page.items.iter().filter(|i| self.core.is_own(&i.spec.target));
            for instance in own.filter(|i| i.phase.holds_memory()) {
                let accepted = self.stop(context, instance.id.as_str(), false).await?;
                waits.push(accepted.operation);
            }
            match page.next {
                Some(next) => cursor = Some(next),
                None => break,
            }
        }
        for operation in waits {
            let ended = self
                .operation_changed(context, &operation.id, Timestamp::from_millis(i64::MAX), STOP_ALL_LIMIT)
                .await?;
            if let Some(error) = ended.error {
                return Err(error.into());
            }
        }
        Ok(())
    }
}

impl Core {
    async fn remove(&self, context: &Context, id: &str, purge: bool, force: bool) -> Result<Accepted> {
        let instance = self.find(context, id).await?;
        let action = if purge { Action::DataPurge } else { Action::InstanceRemove };
        let grant = may(context, action, &instance)?;
        let writing = self.store.update_instance(&grant, &instance.id, None, move |it| {
            // What is to be purged stays so, whoever removes it again without.
            it.intent.purge |= purge;
            it.intent.desired = Desired::Destroyed;
            it.intent.generation += 1;
            it.intent.urgency = if force { Urgency::Now } else { Urgency::Hurried };
            it.attempts = 0;
            it.not_before = None;
            let data = if it.intent.purge { "its data too" } else { "its data is set aside" };
            let mut events = vec![NewEvent::info("removing", format!("its removal was asked for; {data}"))];
            moved(it, Signal::DestroyBegun, Timestamp::now(), &mut events);
            Ok(Changes {
                events,
                begin: Some(NewOperation::new(OperationKind::Remove)),
                ..Changes::default()
            })
        });
        let (instance, operation) = self.wishing(&instance.id, Box::pin(writing)).await?;
        accepted(instance, operation)
    }

    /// As [`Self::to`], for a wish that makes room.
    async fn down(
        &self,
        context: &Context,
        id: &str,
        kind: OperationKind,
        desired: Desired,
        urgency: Urgency,
    ) -> Result<Accepted> {
        let mut room = self.making_room().await;
        loop {
            match self.to(context, id, kind, desired, urgency).await {
                Err(error) if room.again(&error).await => {}
                done => return done,
            }
        }
    }

    /// Writes a wish, with its event and operation, and wakes the reconciler.
    async fn to(
        &self,
        context: &Context,
        id: &str,
        kind: OperationKind,
        desired: Desired,
        urgency: Urgency,
    ) -> Result<Accepted> {
        self.want(context, id, Wanted { urgency, ..Wanted::new(kind, desired) }).await
    }

    /// As [`Self::to`], when there is room for it. One that holds its memory by then (it was
    /// started meanwhile) needs no more.
    pub(crate) async fn want(&self, context: &Context, id: &str, wanted: Wanted) -> Result<Accepted> {
        let Wanted { kind, desired, urgency, cause, room, unchanged_since, fence } = wanted;
        let id = self.store.resolve(context, id).await?;
        let present = self.store.instance(context, &id).await?;
        let grant = may(context, Action::InstanceChange, &present)?.under(fence);
        let writing = self.store.update_instance(&grant, &id, None, move |it| {
            refuse_if_going(it)?;
            if unchanged_since.is_some_and(|then| then != (it.intent.generation, it.phase)) {
                return Err(Error::new(Code::Conflict, format!("'{}' was changed meanwhile", it.id)));
            }
            let text = format!("{} was asked for{}", kind.as_str(), cause.told());
            let mut events = vec![NewEvent::info("asked", text)];
            if desired == Desired::Stopped {
                call_off(it, &mut events);
            } else {
                refuse_if_updating(it)?;
            }
            undo_again(it);
            let room = room.filter(|_| !it.phase.holds_memory());
            wish(it, kind, desired, urgency, &mut events);
            it.intent.cause = cause;
            Ok(Changes { events, begin: Some(NewOperation::new(kind)), room, ..Changes::default() })
        });
        let (instance, operation) = self.wishing(&id, Box::pin(writing)).await?;
        accepted(instance, operation)
    }

    /// Ends a claw although nothing can be written down: it may be the very one that fills the
    /// disk. Answers what its owner is told. Up to whoever frees the disk: until then its start
    /// can't be written down either.
    async fn end_unwritten(&self, context: &Context, id: &str, why: Error) -> Error {
        let ending = async {
            let id = self.store.resolve(context, id).await?;
            let present = self.store.instance(context, &id).await?;
            may(context, Action::InstanceChange, &present)?;
            let seen = self.runtime(&present.spec.target)?.kill(&id).await?;
            self.reconciler.keep_down(&id);
            Ok::<_, Error>(seen)
        };
        match ending.await {
            Ok(_) => {
                let fix = why.fix_text().unwrap_or("try again").to_owned();
                Error::new(
                    Code::Unavailable,
                    format!("it was ended, but that can't be written down: {}", why.message()),
                )
                .fix(format!("{fix}; it stays down while this server runs, and that is written down as soon as it can be"))
                .source(why)
            }
            Err(error) => {
                tracing::warn!(id, ?error, "a claw could not be ended unwritten");
                why
            }
        }
    }

    /// Wants it up, when there is memory for it.
    pub(crate) async fn wake(
        &self,
        context: &Context,
        instance: &Instance,
        kind: OperationKind,
        cause: Cause,
    ) -> Result<Accepted> {
        self.wake_with(context, instance, Wanted { cause, ..Wanted::new(kind, Desired::Running) }).await
    }

    /// As [`Self::wake`], with all that a wish can have.
    pub(crate) async fn wake_with(
        &self,
        context: &Context,
        instance: &Instance,
        wanted: Wanted,
    ) -> Result<Accepted> {
        self.check_line(instance, wanted.cause)?;
        // A target that only other servers reach is asked there, when one of them is there: the
        // request is passed on to it. When none is, the wish is kept until one comes.
        let counts = !instance.phase.holds_memory() && !instance.spec.overcommit;
        let mib = instance.spec.resources.memory_mib;
        let reserved = match self.runtime(&instance.spec.target) {
            Ok(runtime) if counts => Some(self.admit(&instance.spec.target, runtime.as_ref(), mib).await?),
            _ => None,
        };
        let room = reserved.as_ref().and_then(Reservation::room);
        self.want(context, instance.id.as_str(), Wanted { room, ..wanted }).await
    }

    fn check_sleep(&self, instance: &Instance, warm: bool) -> Result<()> {
        if warm && self.runtime(&instance.spec.target)?.freeze().is_none() {
            return Err(Error::new(
                Code::Unsupported,
                format!("instances on runtime {} can't be frozen", instance.spec.runtime),
            )
            .field("warm")
            .fix(format!("clawfarm suspend {}", instance.id)));
        }
        let asleep = matches!(instance.phase, Phase::Warm | Phase::Suspended);
        let up = matches!(instance.phase, Phase::Ready | Phase::Running | Phase::Unhealthy);
        if warm && instance.phase == Phase::Suspended {
            return Err(Error::new(
                Code::Conflict,
                format!("'{}' is suspended: nothing is in memory", instance.id),
            )
            .field("warm")
            .fix(format!("clawfarm resume {0}, then: clawfarm suspend --warm {0}", instance.id)));
        }
        // Asked for again, because the first answer was lost: it is on its way.
        let under_way = matches!(instance.intent.desired, Desired::Warm | Desired::Suspended);
        if up || asleep || under_way {
            return Ok(());
        }
        Err(Error::new(
            Code::Conflict,
            format!("'{}' is {}: there is nothing to put to sleep", instance.id, instance.phase),
        )
        .field("id")
        .fix(format!(
            "wait until it is ready (clawfarm status {0}), or start it: clawfarm start {0}",
            instance.id
        )))
    }

    /// Asks the claw whether it works, before anything is written: a refusal at once is worth
    /// more than a failed operation later. The reconciler asks again when it acts.
    async fn check_idle(&self, instance: &Instance) -> Result<()> {
        let reach = Reach::new(self, instance).await?;
        let until = Instant::now() + MOMENT;
        loop {
            let asked = tokio::time::timeout(ACTIVITY_LIMIT, reach.adapter().activity(&reach.access())).await;
            match asked {
                // A request that is just being answered is no work; what lasts is.
                Ok(Ok(Activity::Busy(_))) if Instant::now() < until => {
                    tokio::time::sleep(MOMENT / 8).await;
                }
                Ok(Ok(Activity::Busy(blockers))) => return Err(busy(&instance.id, &blockers)),
                // A claw that does not answer is not working on anything that could be lost by
                // asking it again when it is drained.
                Ok(Ok(Activity::Idle) | Err(_)) | Err(_) => return Ok(()),
            }
        }
    }
}

/// A wish, and all that may go with it.
pub(crate) struct Wanted {
    /// What the operation is called.
    pub(crate) kind: OperationKind,
    /// What it should be doing.
    pub(crate) desired: Desired,
    /// How much time it has on its way down.
    pub(crate) urgency: Urgency,
    /// Who or what wants it.
    pub(crate) cause: Cause,
    /// Memory that must be there.
    pub(crate) room: Option<Room>,
    /// Only while it is at this generation and phase: what was decided by them.
    pub(crate) unchanged_since: Option<(i64, Phase)>,
    /// The lease under which it is decided, where a server decides by itself.
    pub(crate) fence: Option<Fence>,
}

impl Wanted {
    /// What people want, in good time.
    pub(crate) const fn new(kind: OperationKind, desired: Desired) -> Self {
        let urgency = Urgency::Graceful;
        Self { kind, desired, urgency, cause: Cause::Asked, room: None, unchanged_since: None, fence: None }
    }
}

fn accepted(instance: Instance, operation: Option<clawfarm_model::Operation>) -> Result<Accepted> {
    let operation = operation.ok_or_else(|| Error::new(Code::Internal, "the store began no operation"))?;
    Ok(Accepted { instance, operation, warnings: Vec::new(), replayed: false })
}

pub(crate) fn busy(id: &ClawId, blockers: &[String]) -> Error {
    Error::new(Code::Busy, format!("'{id}' is working: {}", blockers.join("; ")))
        .field("id")
        .fix(format!("wait until it is done, or: clawfarm suspend --force {id}"))
}

fn refuse_if_going(instance: &Instance) -> Result<()> {
    if instance.intent.desired == Desired::Destroyed {
        return Err(Error::new(Code::Conflict, format!("'{}' is being removed", instance.id))
            .field("id")
            .fix("make a new instance; its data is listed by clawfarm dataset ls unless it was purged"));
    }
    Ok(())
}

/// What a wish changes: the intent, the counters of past failures, and the phase where it
/// is on its way at once, with the event that tells of it.
fn wish(
    it: &mut Instance,
    kind: OperationKind,
    desired: Desired,
    urgency: Urgency,
    events: &mut Vec<NewEvent>,
) {
    let now = Timestamp::now();
    it.intent.desired = desired;
    it.intent.generation += 1;
    it.intent.urgency = urgency;
    it.attempts = 0;
    it.restarts = 0;
    it.not_before = None;
    let down = matches!(it.phase, Phase::Stopped | Phase::Exited | Phase::Failed | Phase::Suspended);
    match desired {
        Desired::Running => {
            // A claw that is down is started anew; so is one that is up on a restart.
            if down || kind == OperationKind::Restart {
                it.intent.run += 1;
            }
            if down {
                it.last_error = None;
            }
            let signal = match it.phase {
                Phase::Warm | Phase::Suspended => Signal::WakeBegun,
                Phase::Stopped | Phase::Exited | Phase::Failed => Signal::StartBegun,
                _ if kind == OperationKind::Restart => Signal::StopBegun,
                _ => return,
            };
            moved(it, signal, now, events);
        }
        Desired::Stopped | Desired::Suspended => {
            if !down {
                moved(it, Signal::StopBegun, now, events);
            }
        }
        Desired::Warm | Desired::Destroyed => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::instance;

    #[test]
    fn a_wish_moves_what_is_on_its_way_at_once_and_counts_a_fresh_run_only_where_one_is_due() {
        let case = |phase: Phase, kind, desired| {
            let mut it = instance();
            it.phase = phase;
            it.attempts = 3;
            let mut events = Vec::new();
            wish(&mut it, kind, desired, Urgency::Graceful, &mut events);
            assert_eq!((it.attempts, it.intent.generation), (0, 2));
            assert_eq!(events.len(), usize::from(it.phase != phase), "a phase that moves is told");
            (it.phase, it.intent.run)
        };
        use OperationKind as K;
        assert_eq!(case(Phase::Ready, K::Start, Desired::Running), (Phase::Ready, 1));
        assert_eq!(case(Phase::Ready, K::Restart, Desired::Running), (Phase::Stopping, 2));
        assert_eq!(case(Phase::Stopped, K::Start, Desired::Running), (Phase::Booting, 2));
        assert_eq!(case(Phase::Failed, K::Restart, Desired::Running), (Phase::Booting, 2));
        assert_eq!(case(Phase::Warm, K::Resume, Desired::Running), (Phase::Waking, 1));
        assert_eq!(case(Phase::Suspended, K::Resume, Desired::Running), (Phase::Waking, 2));
        assert_eq!(case(Phase::Ready, K::Stop, Desired::Stopped), (Phase::Stopping, 1));
        assert_eq!(case(Phase::Suspended, K::Stop, Desired::Stopped), (Phase::Suspended, 1));
    }
}
