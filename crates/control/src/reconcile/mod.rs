//! The reconciler: makes of what is wanted what is.
//!
//! A turn takes no input beyond the instance's id. It reads what is wanted and what is
//! there ([`pass`]), decides ([`decide`], pure), acts ([`act`]) and writes what it saw
//! ([`absorb`], pure). It has no private retry loop: a failed act is written down with the
//! time of the next attempt, and the queue brings the instance back.

pub(crate) mod absorb;
pub(crate) mod act;
mod apply;
mod decide;
mod doubt;
pub(crate) mod launch;
mod pass;
pub(crate) mod probe;
pub(crate) mod queue;
pub(crate) mod reach;
mod settle;
mod update;

pub(crate) use settle::stays_down;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use clawfarm_model::{ClawId, Instance, Phase, Result, UpdateStage};
use tokio::sync::Notify;
use tokio::sync::broadcast::error::RecvError;

use self::queue::{Priority, Queue};
use crate::core::Core;

/// How often what no look is planned for (what is stopped, or asleep) is looked at all the
/// same.
const RESYNC_EVERY: Duration = Duration::from_secs(120);
/// The time that each instance at rest adds to the time between two looks at one: 20 looks a
/// second at most, however many there are. A look costs about half a millisecond of processor
/// time, so a fleet at rest costs about 1 % of a core. Ends are told by the runtimes at once;
/// what a look finds is a claw that is up and does not answer.
const LOOK_SPACING: Duration = Duration::from_millis(50);
/// When a claw that did not answer a look is asked again.
const DOUBT_AGAIN: Duration = Duration::from_secs(5);
/// How long a drain that nobody takes back can last: OpenClaw's ends after two minutes.
const DRAIN_LASTS: Duration = Duration::from_secs(150);

/// The reconciler's own state. Losing it loses nothing: it is rebuilt by looking again.
#[derive(Default)]
pub(crate) struct Reconciler {
    pub(crate) queue: Queue,
    under_way: Mutex<HashMap<ClawId, Arc<Turning>>>,
    /// What each record that was last kept beside its instance was of. Forgotten with the server:
    /// the next one keeps each once more.
    kept: Mutex<HashMap<ClawId, Kept>>,
    pub(crate) failures: probe::Failures,
    doubts: doubt::Doubts,
    /// What was ended by a kill that could not be written down: it is not started again before
    /// that is.
    kept_down: Mutex<HashSet<ClawId>>,
    /// What was asked to take nothing new, on its way to sleep, and has not been let go since.
    /// For those that did not answer when that was to be taken back: since when.
    drained: Mutex<HashMap<ClawId, Option<Instant>>>,
    /// For which revision of its configuration each was last started because it had not taken it up
    /// while it ran.
    started_for: Mutex<HashMap<ClawId, i64>>,
}

/// What tells one record of an instance from the next: the generation, whether it had failed, and
/// how far its update was.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Kept(i64, bool, Option<UpdateStage>);

impl Kept {
    fn of(it: &Instance) -> Self {
        Self(it.intent.generation, it.phase == Phase::Failed, it.update.as_ref().map(|u| u.stage))
    }
}

/// A turn that is under way.
#[derive(Default)]
pub(crate) struct Turning {
    /// Something else is wanted.
    pub(crate) interrupt: Notify,
    /// The generation of the wish it works on; 0 before it is read.
    pub(crate) generation: AtomicI64,
}

impl Reconciler {
    /// The generation of the wish that a turn works on at the moment.
    pub(crate) fn working_on(&self, id: &ClawId) -> Option<i64> {
        self.under_way().get(id).map(|turning| turning.generation.load(Ordering::Relaxed))
    }

    /// Leaves what is being done to `id`, if anything is.
    pub(crate) fn interrupt(&self, id: &ClawId) {
        if let Some(turning) = self.under_way().get(id) {
            turning.interrupt.notify_one();
        }
    }

    fn under_way(&self) -> std::sync::MutexGuard<'_, HashMap<ClawId, Arc<Turning>>> {
        self.under_way.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Starts `id` no more, although the store says that it is to be up.
    pub(crate) fn keep_down(&self, id: &ClawId) {
        self.kept_down.lock().unwrap_or_else(std::sync::PoisonError::into_inner).insert(id.clone());
    }

    /// Goes by the store again: something was written.
    pub(crate) fn let_up(&self, id: &ClawId) {
        self.kept_down.lock().unwrap_or_else(std::sync::PoisonError::into_inner).remove(id);
    }

    /// It is asked to take nothing new.
    pub(crate) fn is_drained(&self, id: &ClawId) {
        self.drained.lock().unwrap_or_else(std::sync::PoisonError::into_inner).insert(id.clone(), None);
    }

    /// It did not answer when its drain was to be taken back: it is told again.
    fn is_not_let_go(&self, id: &ClawId) {
        let mut drained = self.drained.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        drained.entry(id.clone()).or_default().get_or_insert_with(Instant::now);
    }

    /// It takes work again, or has ended.
    pub(crate) fn is_let_go(&self, id: &ClawId) {
        self.drained.lock().unwrap_or_else(std::sync::PoisonError::into_inner).remove(id);
    }

    /// Whether it was started for this revision of its configuration.
    fn was_started_for(&self, id: &ClawId, revision: i64) -> bool {
        let started = self.started_for.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        started.get(id) == Some(&revision)
    }

    /// It is started for this revision of its configuration.
    fn started_for(&self, id: &ClawId, revision: i64) {
        self.started_for
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .insert(id.clone(), revision);
    }

    fn was_drained(&self, id: &ClawId) -> bool {
        let drained = self.drained.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        drained.get(id).is_some_and(|failed| failed.is_none_or(|since| since.elapsed() < DRAIN_LASTS))
    }

    fn is_kept_down(&self, id: &ClawId) -> bool {
        self.kept_down.lock().unwrap_or_else(std::sync::PoisonError::into_inner).contains(id)
    }

    /// Whether the record of an instance as it is now has been kept beside it.
    fn is_kept(&self, it: &Instance) -> bool {
        let kept = self.kept.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        kept.get(&it.id) == Some(&Kept::of(it))
    }

    fn set_kept(&self, it: &Instance) {
        let mut kept = self.kept.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        kept.insert(it.id.clone(), Kept::of(it));
    }

    fn forget(&self, id: &ClawId) {
        self.kept.lock().unwrap_or_else(std::sync::PoisonError::into_inner).remove(id);
        self.started_for.lock().unwrap_or_else(std::sync::PoisonError::into_inner).remove(id);
        self.failures.forget(id);
    }

    /// How long to wait until the next look at an instance at rest: `least` where there are few.
    /// Where there are many, anything between half and one and a half times what is the turn of
    /// each: those made together would otherwise be looked at together ever after.
    fn rest(&self, id: &ClawId, least: Duration) -> Duration {
        if self.failures.any(id) {
            return DOUBT_AGAIN;
        }
        let all = u32::try_from(self.queue.scheduled()).unwrap_or(u32::MAX);
        let turn = LOOK_SPACING * all;
        absorb::jittered(least.max(turn / 2 + absorb::up_to(turn)))
    }

    fn begin_turn(&self, id: &ClawId) -> Arc<Turning> {
        Arc::clone(self.under_way().entry(id.clone()).or_default())
    }

    fn end_turn(&self, id: &ClawId) {
        self.under_way().remove(id);
        self.queue.done(id);
    }
}

/// Takes up every instance, and begins to work.
pub(crate) async fn begin(core: &Arc<Core>) -> Result<()> {
    for (_, runtime) in core.targets().iter() {
        watch(core, runtime.watch());
    }
    for id in core.my_instances().await? {
        core.reconciler.queue.push(&id, Priority::Event);
    }
    core.turns.spawn(dispatch(Arc::clone(core)));
    core.turns.spawn(resync(Arc::clone(core)));
    Ok(())
}

/// Looks at what a runtime says something happened to.
pub(crate) fn watch(core: &Arc<Core>, mut changes: tokio::sync::broadcast::Receiver<ClawId>) {
    let core = Arc::clone(core);
    tokio::spawn(async move {
        loop {
            let change = tokio::select! {
                () = core.stopping.cancelled() => return,
                change = changes.recv() => change,
            };
            match change {
                Ok(id) if core.may_be_mine(&id) => core.reconciler.queue.push(&id, Priority::Event),
                Ok(_) => {}
                Err(RecvError::Lagged(_)) => push_all(&core, Priority::Event).await,
                Err(RecvError::Closed) => return,
            }
        }
    });
}

async fn push_all(core: &Core, priority: Priority) {
    match core.my_instances().await {
        Ok(ids) => ids.iter().for_each(|id| core.reconciler.queue.push(id, priority)),
        Err(error) => tracing::warn!(?error, "the instances could not be listed; the next round will"),
    }
}

async fn resync(core: Arc<Core>) {
    loop {
        tokio::select! {
            () = core.stopping.cancelled() => return,
            () = tokio::time::sleep(RESYNC_EVERY) => plan_looks(&core).await,
        }
    }
}

/// Plans a look at each instance that none is planned for, one after the other.
async fn plan_looks(core: &Core) {
    match core.my_instances().await {
        Ok(ids) => {
            let mut when = tokio::time::Instant::now();
            for id in ids.iter().filter(|id| !core.reconciler.queue.has(id)) {
                core.reconciler.queue.push_at(id, when);
                when += LOOK_SPACING;
            }
        }
        Err(error) => tracing::warn!(?error, "the instances could not be listed; the next round will"),
    }
}

/// Gives turns, as many at once as the queue has places.
async fn dispatch(core: Arc<Core>) {
    loop {
        let (id, _) = tokio::select! {
            () = core.stopping.cancelled() => return,
            next = core.reconciler.queue.pop() => next,
        };
        let turns = core.turns.clone();
        let core = Arc::clone(&core);
        turns.spawn(async move {
            let turning = core.reconciler.begin_turn(&id);
            let turn = Turn { core: Arc::clone(&core), id: id.clone() };
            tokio::select! {
                () = core.stopping.cancelled() => {}
                () = pass::turn(&core, &id, &turning) => {}
            }
            drop(turn);
        });
    }
}

/// An instance that the reconciler leaves alone for a while: until this is dropped nothing is
/// done to it but by whoever has this. What is wanted of it meanwhile is written down, told by
/// [`Turning::interrupt`], and done afterwards.
pub(crate) struct Aside {
    pub(crate) turning: Arc<Turning>,
    _turn: Turn,
}

impl Aside {
    /// Takes it, when the turn that may be under way has ended.
    pub(crate) async fn take(core: &Arc<Core>, id: &ClawId) -> Self {
        core.reconciler.queue.take(id).await;
        let turning = core.reconciler.begin_turn(id);
        let turn = Turn { core: Arc::clone(core), id: id.clone() };
        // Whatever becomes of it, it is looked at afterwards.
        core.reconciler.queue.push(id, Priority::Event);
        Self { turning, _turn: turn }
    }
}

/// Ends the turn however it ends, so that a panic in one act does not take an instance out
/// of the reconciler's hands.
struct Turn {
    core: Arc<Core>,
    id: ClawId,
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.core.reconciler.end_turn(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fleet_at_rest_costs_no_more_for_being_large() {
        let reconciler = Reconciler::default();
        let id = |n: u32| ClawId::new(format!("a-{n}")).unwrap();
        let least = Duration::from_secs(15);
        let few = reconciler.rest(&id(0), least);
        assert!(few >= least && few <= least * 5 / 4, "{few:?}");
        let soon = tokio::time::Instant::now();
        (0..10_000).for_each(|n| reconciler.queue.push_at(&id(n), soon));
        let turn = LOOK_SPACING * 10_000;
        let rests: Vec<Duration> = (0..1000).map(|_| reconciler.rest(&id(0), least)).collect();
        let mean = rests.iter().sum::<Duration>() / 1000;
        assert!(mean >= turn * 9 / 10, "{mean:?} for each of 10,000 is more than the looks allowed");
        let soon = rests.iter().filter(|rest| **rest < turn * 3 / 4).count();
        assert!(
            (50..500).contains(&soon),
            "{soon} of 1,000 made together are looked at in the first quarter"
        );
    }
}
