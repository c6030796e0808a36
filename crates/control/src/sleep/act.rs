//! Looking at what is due, and doing what is decided about it.

use std::time::Duration;

use clawfarm_adapters::{Activity, Rest};
use clawfarm_model::{
    Action, Cause, ClawId, Code, Context, Desired, Instance, OperationKind, Phase, Result, Timestamp,
    is_fenced,
};
use metrics::counter;

use super::memory::Memory;
use super::verdict::{self, Depth, Facts, Verdict, verdict};
use super::{AGAIN, AGAIN_MOST, LastBusy, Sleeper, marks};
use crate::core::{Core, may};
use crate::instances::Wanted;
use crate::reconcile::absorb::jittered;
use crate::reconcile::reach::Reach;
use crate::sharing::held::{Claim, Hold};

/// How long a claw may take to say whether it rests.
const ASK_LIMIT: Duration = Duration::from_secs(10);
/// How long it may take to say what is planned, on its way to sleep.
const PLAN_LIMIT: Duration = Duration::from_secs(3);

/// Looks at one instance, and puts it to sleep or wakes it when it is time. Never fails: what went
/// wrong is tried again.
pub(super) async fn look(core: &Core, id: &ClawId) {
    match Box::pin(once(core, id)).await {
        Ok(()) => {}
        Err(error) if error.code() == Code::NotFound || error.code() == Code::Gone => core.sleeper.forget(id),
        Err(error) => {
            if is_fenced(&error) {
                tracing::info!(%id, ?error, "a sleep or wake was dropped");
            } else {
                tracing::warn!(%id, ?error, "its sleep could not be looked after; it is tried again");
            }
            core.sleeper.later(id, core.sleeper.clock.now().after(jittered(AGAIN)));
        }
    }
}

async fn once(core: &Core, id: &ClawId) -> Result<()> {
    let sleeper = &core.sleeper;
    let instance = core.store.instance(&Context::system("policy"), id).await?;
    let hold = match core.claim(&instance) {
        Claim::Mine(hold) => hold,
        Claim::Stale => {
            sleeper.later(id, sleeper.clock.now().after(jittered(AGAIN)));
            return Ok(());
        }
        Claim::NotMine => {
            sleeper.forget(id);
            return Ok(());
        }
    };
    sleeper.under(id, hold.fence());
    sleeper.note(&instance);
    let memory = sleeper.remember(core, &instance).await?;
    match instance.phase {
        Phase::Ready if instance.intent.desired == Desired::Running => {
            awake(core, &hold, &instance, memory).await
        }
        Phase::Warm | Phase::Suspended => asleep(core, &hold, &instance, &memory).await,
        _ => Ok(()),
    }
}

async fn awake(core: &Core, hold: &Hold, instance: &Instance, memory: Memory) -> Result<()> {
    let (sleeper, id) = (&core.sleeper, &instance.id);
    // What other servers have seen is read only when it matters.
    match sleeper.judge(core, instance, &memory, None) {
        Verdict::Sleep(_) => {}
        other => {
            sleeper.put_off(id, &other);
            return Ok(());
        }
    }
    let reach = Reach::acting(core, hold, instance).await?;
    let Ok(asked) = tokio::time::timeout(ASK_LIMIT, reach.adapter().rest(&reach.access())).await else {
        sleeper.later(id, sleeper.clock.now().after(jittered(AGAIN)));
        return Ok(());
    };
    let rest = asked?;
    if let Activity::Busy(blockers) = &rest.activity {
        sleeper.is_busy(id, blockers.clone());
        return Ok(());
    }
    let depth = match sleeper.judge(core, instance, &memory, Some(&rest)) {
        Verdict::Sleep(depth) => depth,
        other => {
            sleeper.put_off(id, &other);
            return Ok(());
        }
    };
    let desired = match depth {
        Depth::Warm => Desired::Warm,
        Depth::Suspended => Desired::Suspended,
    };
    if sleeper.prewake_missed(id) {
        counter!("clawfarm_prewakes_total", "outcome" => "miss").increment(1);
    }
    wish(core, hold, instance, desired, OperationKind::Suspend, Cause::Idle).await
}

async fn asleep(core: &Core, hold: &Hold, instance: &Instance, memory: &Memory) -> Result<()> {
    let (sleeper, id) = (&core.sleeper, &instance.id);
    let now = sleeper.clock.now();
    let Some((policy, since, brief_cause)) = sleeper.sleeping(id) else { return Ok(()) };
    let wake = memory.wake_at(&policy, instance.phase, brief_cause, since, now);
    if let Some((at, cause)) = wake
        && at <= now
    {
        let woken = core.wake_by_clock(instance, cause, hold.fence().cloned()).await;
        return match woken {
            Ok(()) => {
                if cause == Cause::Habit {
                    sleeper.is_prewoken(id, now);
                }
                Ok(())
            }
            // There is no memory for it, or too many start: people come first.
            Err(error) if matches!(error.code(), Code::Insufficient | Code::Overloaded) => {
                tracing::info!(%id, ?error, "it could not be woken in time");
                sleeper.later(id, now.after(jittered(AGAIN)));
                Ok(())
            }
            Err(error) if matches!(error.code(), Code::Conflict) => {
                sleeper.later(id, now.after(jittered(AGAIN)));
                Ok(())
            }
            Err(error) => Err(error),
        };
    }
    if instance.phase == Phase::Warm && policy.idle().is_some() {
        match sleeper.judge(core, instance, memory, None) {
            Verdict::Sleep(Depth::Suspended) => {
                return wish(
                    core,
                    hold,
                    instance,
                    Desired::Suspended,
                    OperationKind::Suspend,
                    Cause::WarmLong,
                )
                .await;
            }
            other => {
                sleeper.stays_warm(id, &other, wake.map(|(at, _)| at));
                return Ok(());
            }
        }
    }
    sleeper.replan(id);
    Ok(())
}

/// Writes a wish down, unless something was changed since it was decided.
async fn wish(
    core: &Core,
    hold: &Hold,
    instance: &Instance,
    desired: Desired,
    kind: OperationKind,
    cause: Cause,
) -> Result<()> {
    let wanted = Wanted {
        cause,
        unchanged_since: Some((instance.intent.generation, instance.phase)),
        fence: hold.fence().cloned(),
        ..Wanted::new(kind, desired)
    };
    match core.want(&Context::system("policy"), instance.id.as_str(), wanted).await {
        Ok(_) => Ok(()),
        // Somebody was faster: their wish holds, and its turn tells of it here.
        Err(error) if error.code() == Code::Conflict => {
            core.sleeper.later(&instance.id, core.sleeper.clock.now().after(jittered(AGAIN)));
            Ok(())
        }
        Err(error) => Err(error),
    }
}

impl Sleeper {
    /// What is to be decided about an instance by all that is known here, and by what it said.
    pub(super) fn judge(
        &self,
        core: &Core,
        instance: &Instance,
        memory: &Memory,
        rest: Option<&Rest>,
    ) -> Verdict {
        let now = self.clock.now();
        let Some(known) = self.lock().known.get(&instance.id).cloned() else {
            return Verdict::Stay(Vec::new());
        };
        let policy = self.layers.effective(&known.brief);
        let mut traffic = core.doors.get().map(|doors| doors.traffic(&instance.id)).unwrap_or_default();
        marks::note_traffic(core, &instance.id, traffic, now);
        let channels = super::channels::of(core, instance);
        let visited = self.is_visited(&known, &instance.id);
        // What other servers saw may be this much behind.
        let elsewhere = if core.shares.is_shared() { marks::EVERY * 2 } else { Duration::ZERO };
        // At how many servers is not known, and no matter.
        if memory.sockets_at.is_some_and(|at| at.after(elsewhere) > now) {
            traffic.sockets = traffic.sockets.max(1);
        }
        let mut used = known.since.max(memory.active_at.map_or(known.since, |at| at.after(elsewhere)));
        used = used.max(self.marks.last_used(&instance.id).unwrap_or(used));
        if let Some(rest) = rest {
            used = used.max(rest.last_active.unwrap_or(used));
        }
        // The job that it was woken for counts from when it is due.
        if let Some(run) = memory.next_run_at.filter(|_| known.brief.cause == Cause::Clock) {
            used = used.max(run);
        }
        let next_run = match rest {
            Some(rest) => rest.next_wake,
            None => memory.next_run_at.filter(|_| instance.phase != Phase::Ready),
        };
        verdict(&Facts {
            policy: &policy,
            phase: instance.phase,
            cause: known.brief.cause,
            since: known.since,
            used,
            visited,
            traffic,
            in_use: self.marks.open(&instance.id),
            channels: &channels,
            can_freeze: core.runtime(&instance.spec.target).is_ok_and(|runtime| runtime.freeze().is_some()),
            next_run,
            lead_warm: memory.lead(true),
            lead_suspended: memory.lead(false),
            now,
        })
    }

    /// What is remembered of an instance: when it was used last is read afresh, because other
    /// servers write it.
    async fn remember(&self, core: &Core, instance: &Instance) -> Result<Memory> {
        let mut read = Memory::of(&core.store.rest(&Context::system("policy"), &instance.id).await?);
        let mut state = self.lock();
        let Some(known) = state.known.get_mut(&instance.id) else { return Ok(read) };
        if let Some(held) = &known.memory {
            // Written by this server alone, and perhaps not yet.
            read = Memory {
                active_at: read.active_at.max(held.active_at),
                sockets_at: read.sockets_at,
                ..held.clone()
            };
        }
        let used = read.active_at.max(self.marks.last_used(&instance.id));
        if let Some(at) = used {
            read.facts.habit.used(at);
        }
        if let Some(woken) = known.prewoken
            && used.is_some_and(|at| at > woken)
        {
            known.prewoken = None;
            counter!("clawfarm_prewakes_total", "outcome" => "hit").increment(1);
        }
        known.memory = Some(read.clone());
        Ok(read)
    }

    /// How long one that sleeps by its policy may finish what came in meanwhile.
    pub(crate) fn drain_limit(&self, instance: &Instance) -> Option<Duration> {
        let by_policy = matches!(instance.intent.cause, Cause::Idle | Cause::WarmLong);
        let known = self.lock().known.get(&instance.id).cloned().filter(|_| by_policy)?;
        Some(super::verdict::seconds(self.layers.effective(&known.brief).drain_timeout_seconds))
    }

    fn later(&self, id: &ClawId, at: Timestamp) {
        let mut state = self.lock();
        if let Some(known) = state.known.get_mut(id) {
            known.not_before = Some(at);
        }
        self.put(&mut state, id, Some(at));
        drop(state);
        self.changed.notify_one();
    }

    /// Goes by a verdict that is not sleep.
    fn put_off(&self, id: &ClawId, verdict: &Verdict) {
        match verdict {
            Verdict::Until(at, _) => self.later(id, *at),
            // Until something about it changes, of which its next turn tells.
            Verdict::Stay(_) => {
                let mut state = self.lock();
                self.put(&mut state, id, None);
            }
            Verdict::Sleep(_) => self.later(id, self.clock.now().after(jittered(AGAIN))),
        }
    }

    /// Goes by a verdict that is not sleep, for one that is warm: the clock may wake it before that
    /// changes.
    pub(super) fn stays_warm(&self, id: &ClawId, verdict: &Verdict, wake: Option<Timestamp>) {
        match (verdict, wake) {
            (Verdict::Until(at, _), Some(wake)) => self.later(id, wake.min(*at)),
            (Verdict::Stay(_), Some(wake)) => self.later(id, wake),
            _ => self.put_off(id, verdict),
        }
    }

    fn replan(&self, id: &ClawId) {
        let now = self.clock.now();
        let mut state = self.lock();
        if let Some(known) = state.known.get_mut(id) {
            known.not_before = None;
        }
        self.plan(&mut state, id, now);
        // What is due in this very moment was just looked at.
        if let Some(due) = state.known.get(id).and_then(|known| known.due)
            && due <= now
        {
            self.put(&mut state, id, Some(now.after(Duration::from_secs(1))));
        }
        drop(state);
        self.changed.notify_one();
    }

    fn is_busy(&self, id: &ClawId, blockers: Vec<String>) {
        let now = self.clock.now();
        let mut state = self.lock();
        let Some(known) = state.known.get_mut(id) else { return };
        let wait = (AGAIN * 2_u32.saturating_pow(known.refusals.min(10))).min(AGAIN_MOST);
        known.refusals = known.refusals.saturating_add(1);
        known.busy = Some(LastBusy { at: now, with: blockers });
        let for_a_job = verdict::for_a_job(known.brief.cause, self.is_visited(known, id));
        drop(state);
        // It is used by whoever it works for; the job that it was woken for is nobody.
        if !for_a_job {
            self.marks.touch(id, now);
        }
        self.later(id, now.after(jittered(wait)));
    }

    fn sleeping(&self, id: &ClawId) -> Option<(clawfarm_model::EffectivePolicy, Timestamp, Cause)> {
        let state = self.lock();
        let known = state.known.get(id).filter(|known| known.brief.is_asleep())?;
        Some((self.layers.effective(&known.brief), known.since, known.brief.cause))
    }

    fn is_prewoken(&self, id: &ClawId, at: Timestamp) {
        if let Some(known) = self.lock().known.get_mut(id) {
            known.prewoken = Some(at);
        }
    }

    fn prewake_missed(&self, id: &ClawId) -> bool {
        self.lock().known.get_mut(id).is_some_and(|known| known.prewoken.take().is_some())
    }

    pub(super) fn tenant_of(&self, id: &ClawId) -> Option<String> {
        self.lock().known.get(id).map(|known| known.brief.tenant.to_string())
    }
}

impl Core {
    /// Asks a claw that is about to sleep when it has to be up next, and writes that down: from
    /// here on the clock wakes it, whichever server is there then. A claw that does not say is put
    /// to sleep all the same; what it has planned is then not known.
    pub(crate) async fn before_sleep(&self, hold: &Hold, instance: &Instance) -> Result<()> {
        let reach = Reach::acting(self, hold, instance).await?;
        let asked = tokio::time::timeout(PLAN_LIMIT, reach.adapter().next_wake(&reach.access())).await;
        let mut memory = self.sleeper.remember(self, instance).await?;
        let said = match asked {
            Ok(Ok(next)) => Some(next),
            Ok(Err(error)) => {
                tracing::debug!(instance = %instance.id, ?error, "it does not say what it has planned");
                None
            }
            Err(_) => None,
        };
        memory.planned(said, self.sleeper.clock.now());
        self.keep_memory(instance, memory).await?;
        clawfarm_failpoint::point!(NextRunKept);
        Ok(())
    }

    /// Gives the place in the line of starts back of one that is up, or is not going to be.
    pub(crate) fn up_or_given_up(&self, instance: &Instance) {
        let starting = instance.intent.desired == Desired::Running
            && matches!(instance.phase, Phase::Creating | Phase::Booting | Phase::Waking | Phase::Running);
        if starting {
            return;
        }
        self.leave_line(&instance.spec.target, &instance.id);
        self.sleeper.wakings.forget(&instance.id);
    }

    /// Measures a wake that has come to its end, and remembers how it went.
    pub(crate) async fn woken(&self, instance: &Instance) {
        let Some(wake) = self.sleeper.wakings.ready(instance) else { return };
        let remembered = async {
            let mut memory = self.sleeper.remember(self, instance).await?;
            match wake.from {
                clawfarm_model::WokenFrom::Warm => memory.facts.warm_ms = Some(wake.total_ms()),
                clawfarm_model::WokenFrom::Suspended => memory.facts.suspended_ms = Some(wake.total_ms()),
                clawfarm_model::WokenFrom::Cold => {}
            }
            memory.facts.last_wake = Some(wake);
            self.keep_memory(instance, memory).await
        };
        if let Err(error) = remembered.await {
            tracing::warn!(instance = %instance.id, ?error, "how long its wake took was not written down");
        }
    }

    async fn keep_memory(&self, instance: &Instance, memory: Memory) -> Result<()> {
        let system = Context::system("policy");
        self.store.put_rest(&system, &instance.id, instance.tenant.as_str(), &memory.rest()).await?;
        if let Some(known) = self.sleeper.lock().known.get_mut(&instance.id) {
            known.memory = Some(memory);
        }
        Ok(())
    }

    /// Wakes one that sleeps, for something that is due.
    async fn wake_by_clock(
        &self,
        instance: &Instance,
        cause: Cause,
        fence: Option<clawfarm_model::Fence>,
    ) -> Result<()> {
        let system = Context::system("clock");
        may(&system, Action::InstanceChange, instance)?;
        let wanted = Wanted {
            cause,
            unchanged_since: Some((instance.intent.generation, instance.phase)),
            fence,
            ..Wanted::new(OperationKind::Resume, Desired::Running)
        };
        self.wake_with(&system, instance, wanted).await.map(drop)
    }
}
