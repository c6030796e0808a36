//! Operations: what somebody waits on, and how far it is.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use clawfarm_model::fence::Fence;
use clawfarm_model::operation::Step;
use clawfarm_model::{ClawId, Context, Operation, OperationState, Result, Timestamp};
use clawfarm_runtime::Progress;
use clawfarm_store::{Page, PageRequest, Store};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::Control;

/// How often a waiter looks into the store though it was told of nothing: a server that wrote and
/// died at once tells nobody.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// How long a step or its progress waits until it is written. Waiters on this server see it at
/// once; a fleet of quick operations would otherwise be mostly writes of steps that have ended.
const WRITE_AFTER: Duration = Duration::from_millis(250);
/// The steps an operation keeps: a crash loop within one operation must not grow it for ever.
const MAX_STEPS: usize = 40;

/// The operations this server works on, with steps newer than the store's.
pub(crate) struct Board {
    store: Store,
    live: Mutex<HashMap<String, Arc<Live>>>,
}

struct Live {
    instance: Option<ClawId>,
    state: Mutex<LiveState>,
    changed: Notify,
}

struct LiveState {
    steps: Vec<Step>,
    updated_at: Timestamp,
    /// A write is on its way, which will take along whatever comes until then.
    to_be_written: bool,
    /// Its end was written, with the last steps.
    ended: bool,
}

impl Board {
    pub(crate) fn new(store: Store) -> Self {
        Self { store, live: Mutex::default() }
    }

    fn live(&self, id: &str) -> Option<Arc<Live>> {
        self.live.lock().unwrap_or_else(std::sync::PoisonError::into_inner).get(id).cloned()
    }

    /// Where acts for this operation report their steps.
    pub(crate) fn follow(&self, operation: &Operation, fence: Option<&Fence>) -> StepLog {
        let mut all = self.live.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let live = all.entry(operation.id.clone()).or_insert_with(|| {
            Arc::new(Live {
                instance: operation.instance.clone(),
                state: Mutex::new(LiveState {
                    steps: operation.steps.clone(),
                    updated_at: operation.updated_at,
                    to_be_written: false,
                    ended: false,
                }),
                changed: Notify::new(),
            })
        });
        let mut state = live.lock();
        if operation.updated_at > state.updated_at {
            state.steps.clone_from(&operation.steps);
            state.updated_at = operation.updated_at;
        }
        drop(state);
        let fence = fence.cloned();
        StepLog { id: operation.id.clone(), live: Some(Arc::clone(live)), store: self.store.clone(), fence }
    }

    /// The operation ended, or another took its place: its waiters look again.
    pub(crate) fn ended(&self, id: &str) {
        let live = self.live.lock().unwrap_or_else(std::sync::PoisonError::into_inner).remove(id);
        if let Some(live) = live {
            live.lock().ended = true;
            live.changed.notify_waiters();
        }
    }

    /// Something happened to an instance, perhaps at another server: whoever waits for an
    /// operation on it looks again.
    pub(crate) fn touched(&self, id: &ClawId) {
        let all = self.live.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        for live in all.values().filter(|live| live.instance.as_ref() == Some(id)) {
            live.changed.notify_waiters();
        }
    }

    /// The steps of an operation that may end now: those that were told here, or what the
    /// server before this one wrote of them.
    pub(crate) fn last_steps(&self, operation: &Operation) -> LastSteps {
        LastSteps(match self.live(&operation.id) {
            Some(live) => live.lock().steps.clone(),
            None => operation.steps.clone(),
        })
    }

    fn overlay(&self, operation: &mut Operation) {
        if operation.state.ended() {
            self.ended(&operation.id);
            return;
        }
        if let Some(live) = self.live(&operation.id) {
            let state = live.lock();
            // Another server may have worked on it since.
            if state.updated_at >= operation.updated_at {
                operation.steps.clone_from(&state.steps);
                operation.updated_at = state.updated_at;
            }
        }
    }

    async fn read(&self, context: &Context, id: &str) -> Result<Operation> {
        let mut operation = self.store.operation(context, id).await?;
        self.overlay(&mut operation);
        Ok(operation)
    }

    async fn changed(
        &self,
        context: &Context,
        id: &str,
        after: Timestamp,
        wait: Duration,
    ) -> Result<Operation> {
        let until = Instant::now() + wait;
        let mut stored = self.store.watch_operation(id);
        loop {
            // Listened to before it is read, so that no change falls between the two.
            let live = self.live(id);
            let notified = live.as_ref().map(|l| l.changed.notified());
            stored.mark_unchanged();
            let operation = self.read(context, id).await?;
            if operation.state.ended() {
                self.ended(id);
                return Ok(operation);
            }
            if operation.updated_at > after || Instant::now() >= until {
                return Ok(operation);
            }
            let Some(notified) = notified else {
                // Nobody works on it yet: whoever will finds this entry.
                self.follow(&operation, None);
                continue;
            };
            tokio::select! {
                () = notified => {}
                // Written, by this server or another one.
                _ = stored.changed() => {}
                () = tokio::time::sleep_until(until.min(Instant::now() + LOOK_EVERY)) => {}
            }
        }
    }
}

/// The steps of an operation when it ends.
pub(crate) struct LastSteps(Vec<Step>);

impl LastSteps {
    /// None is left open: what is reached was done to its end, whichever server did it. Of one
    /// that failed the last stays open, which says where it failed.
    pub(crate) fn ended_with(mut self, state: OperationState) -> Vec<Step> {
        if state != OperationState::Failed {
            end_last(&mut self.0, Timestamp::now());
        }
        self.0
    }
}

impl Live {
    fn lock(&self) -> std::sync::MutexGuard<'_, LiveState> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

fn end_last(steps: &mut [Step], now: Timestamp) {
    if let Some(last) = steps.last_mut().filter(|s| s.ended_at.is_none()) {
        last.ended_at = Some(now);
        if let Some(total) = last.total {
            last.done = last.done.max(total);
        }
    }
}

/// Where the acts for one operation report their steps; nowhere when nobody waits.
#[derive(Clone)]
pub(crate) struct StepLog {
    id: String,
    live: Option<Arc<Live>>,
    store: Store,
    fence: Option<Fence>,
}

impl StepLog {
    /// For an act that no operation waits on.
    pub(crate) const fn nobody(store: Store) -> Self {
        Self { id: String::new(), live: None, store, fence: None }
    }

    /// Writes the steps as they are in a moment, once for all that happens until then.
    fn write(&self, live: &Arc<Live>) {
        let (store, id, live) = (self.store.clone(), self.id.clone(), Arc::clone(live));
        let fence = self.fence.clone();
        // A step that could not be written costs a bar its last position; the operation's end
        // is written in the transaction that ends it.
        tokio::spawn(async move {
            tokio::time::sleep(WRITE_AFTER).await;
            let steps = {
                let mut state = live.lock();
                state.to_be_written = false;
                if state.ended {
                    return;
                }
                state.steps.clone()
            };
            let system = Context::system("progress");
            if let Err(error) = store.set_operation_steps(&system, &id, &steps, fence.as_ref()).await {
                tracing::warn!(operation = %id, ?error, "steps were not written");
            }
        });
    }
}

impl Progress for StepLog {
    fn step(&self, name: &str, message: &str, total: Option<u64>, unit: &str) {
        let Some(live) = &self.live else { return };
        let now = Timestamp::now();
        let write = {
            let mut state = live.lock();
            end_last(&mut state.steps, now);
            if state.steps.len() >= MAX_STEPS {
                state.steps.remove(0);
            }
            state.steps.push(Step {
                name: name.to_owned(),
                message: message.to_owned(),
                done: 0,
                total,
                unit: unit.to_owned(),
                started_at: now,
                ended_at: None,
            });
            state.updated_at = now;
            !std::mem::replace(&mut state.to_be_written, true)
        };
        live.changed.notify_waiters();
        if write {
            self.write(live);
        }
    }

    fn advance(&self, done: u64) {
        let Some(live) = &self.live else { return };
        let write = {
            let mut state = live.lock();
            match state.steps.last_mut() {
                Some(last) if last.done != done => last.done = done,
                _ => return,
            }
            state.updated_at = Timestamp::now();
            !std::mem::replace(&mut state.to_be_written, true)
        };
        live.changed.notify_waiters();
        if write {
            self.write(live);
        }
    }
}

impl Control {
    /// An operation, with how far it is.
    ///
    /// # Errors
    /// `NotFound` when there is none by this id.
    pub async fn operation(&self, context: &Context, id: &str) -> Result<Operation> {
        self.core.board.read(context, id).await
    }

    /// Operations, newest first; of one instance when it is given.
    ///
    /// # Errors
    /// `NotFound` when there is no such instance; `InvalidInput` for a broken cursor.
    pub async fn operations(
        &self,
        context: &Context,
        instance: Option<&str>,
        cursor: Option<&str>,
        limit: u32,
    ) -> Result<Page<Operation>> {
        let id = match instance {
            Some(text) => Some(self.core.store.resolve(context, text).await?),
            None => None,
        };
        let mut page = self
            .core
            .store
            .operations(context, id.as_ref(), &PageRequest::after(cursor.map(str::to_owned), limit))
            .await?;
        for operation in &mut page.items {
            self.core.board.overlay(operation);
        }
        Ok(page)
    }

    /// Waits until an operation changed after `after`, or ended, or `wait` is over.
    ///
    /// # Errors
    /// `NotFound` when there is none by this id.
    pub async fn operation_changed(
        &self,
        context: &Context,
        id: &str,
        after: Timestamp,
        wait: Duration,
    ) -> Result<Operation> {
        self.core.board.changed(context, id, after, wait).await
    }
}
