//! The reconciler: makes of what is wanted what is.
//!
//! A turn takes no input beyond the instance's id. It reads what is wanted and what is
//! there ([`pass`]), decides ([`decide`], pure), acts ([`act`]) and writes what it saw
//! ([`absorb`], pure). It has no private retry loop: a failed act is written down with the
//! time of the next attempt, and the queue brings the instance back.

mod absorb;
mod act;
mod decide;
mod launch;
mod pass;
mod probe;
pub(crate) mod queue;
pub(crate) mod reach;
mod settle;

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use clawfarm_model::{ClawId, Result};
use tokio::sync::Notify;
use tokio::sync::broadcast::error::RecvError;

use self::queue::{Priority, Queue};
use crate::core::Core;

/// How often every instance is looked at, whatever happens or not.
const RESYNC_EVERY: Duration = Duration::from_secs(120);

/// The reconciler's own state. Losing it loses nothing: it is rebuilt by looking again.
#[derive(Default)]
pub(crate) struct Reconciler {
    pub(crate) queue: Queue,
    under_way: Mutex<HashMap<ClawId, Arc<Turning>>>,
    /// The generation of each instance whose record was last kept beside it. Forgotten with
    /// the server: the next one keeps each once more.
    kept: Mutex<HashMap<ClawId, i64>>,
    pub(crate) failures: probe::Failures,
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

    /// Whether the record of this generation has been kept beside the instance.
    fn is_kept(&self, id: &ClawId, generation: i64) -> bool {
        let kept = self.kept.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        kept.get(id) == Some(&generation)
    }

    fn set_kept(&self, id: &ClawId, generation: i64) {
        let mut kept = self.kept.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        kept.insert(id.clone(), generation);
    }

    fn forget(&self, id: &ClawId) {
        self.kept.lock().unwrap_or_else(std::sync::PoisonError::into_inner).remove(id);
        self.failures.forget(id);
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
    for (_, runtime) in core.targets() {
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
fn watch(core: &Arc<Core>, mut changes: tokio::sync::broadcast::Receiver<ClawId>) {
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
            () = tokio::time::sleep(RESYNC_EVERY) => push_all(&core, Priority::Housekeeping).await,
        }
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
