//! Sleep by policy: when a claw is put to sleep, how deep, and when the clock wakes it.
//!
//! One task waits for the earliest of all due times and works on what is due, so that a fleet at
//! rest costs nothing. The times are kept in memory: each turn of the reconciler tells of its
//! instance ([`Sleeper::note`]), so they are there again after a restart, and only where the
//! instance is this server's. What must outlive a server is in the store: when the claw's next job
//! is due, when it was last used ([`marks`]), how long it takes to wake ([`memory`]).
//!
//! What to do is decided apart from doing it ([`verdict`]). Sleep and waking are wishes like those
//! of people: written with an event and an operation, under the lease, and only if nothing was
//! changed since it was decided. So a server that is killed anywhere in between leaves either the
//! wish, which the next one carries out, or nothing.

mod act;
pub(crate) mod channels;
mod clock;
mod habit;
mod layers;
mod marks;
mod memory;
mod policy;
mod told;
mod verdict;
mod waking;

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use clawfarm_model::fence::Fence;
use clawfarm_model::name::{ProjectName, TenantName};
use clawfarm_model::{Cause, ClawId, Desired, Instance, Phase, RuntimePolicy, Timestamp};
use tokio::sync::{Notify, Semaphore};

pub use self::marks::{InUse, Traffic};
pub use self::policy::PolicyChange;
pub use self::told::{LastBusy, SleepOutlook};

use self::clock::Clock;
use self::layers::Layers;
use self::marks::Marks;
use self::memory::Memory;
use self::waking::Wakings;
use crate::core::Core;

/// How many claws are asked at a time.
const AT_ONCE: usize = 16;
/// When something that could not be done (the store or the claw did not answer) is tried again.
const AGAIN: Duration = Duration::from_secs(30);
/// The longest wait between two questions to a claw that works.
const AGAIN_MOST: Duration = Duration::from_secs(300);

/// All that sleep by policy keeps in memory.
pub(crate) struct Sleeper {
    pub(crate) clock: Clock,
    pub(crate) marks: Marks,
    pub(crate) wakings: Wakings,
    layers: Layers,
    state: Mutex<State>,
    changed: Notify,
    places: Arc<Semaphore>,
}

impl Default for Sleeper {
    fn default() -> Self {
        Self {
            clock: Clock::default(),
            marks: Marks::default(),
            wakings: Wakings::default(),
            layers: Layers::default(),
            state: Mutex::default(),
            changed: Notify::new(),
            places: Arc::new(Semaphore::new(AT_ONCE)),
        }
    }
}

#[derive(Default)]
struct State {
    known: HashMap<ClawId, Known>,
    due: BTreeSet<(Timestamp, ClawId)>,
    /// Under which epoch of its shard's lease each is known. Nothing where there are no leases.
    epochs: HashMap<ClawId, i64>,
}

/// What is known of one instance of this server's.
#[derive(Clone)]
struct Known {
    brief: Brief,
    /// Since when it is in its phase, by the policy's clock.
    since: Timestamp,
    /// When something is to be done about it.
    due: Option<Timestamp>,
    /// Not before: it was asked a moment ago.
    not_before: Option<Timestamp>,
    /// Questions in a row that it answered by what it works on.
    refusals: u32,
    /// What it worked on when it was asked last.
    busy: Option<LastBusy>,
    /// What the store remembers of it; `None` until it was read.
    memory: Option<Memory>,
    /// It was woken by habit, and nobody has used it since.
    prewoken: Option<Timestamp>,
}

/// What of an instance decides when it is looked at.
#[derive(Clone, PartialEq)]
struct Brief {
    tenant: TenantName,
    project: ProjectName,
    own: RuntimePolicy,
    phase: Phase,
    desired: Desired,
    cause: Cause,
    updating: bool,
}

impl Brief {
    fn of(it: &Instance) -> Self {
        Self {
            tenant: it.tenant.clone(),
            project: it.project.clone(),
            own: it.spec.policy.clone(),
            phase: it.phase,
            desired: it.intent.desired,
            cause: it.intent.cause,
            updating: it.update.as_ref().is_some_and(clawfarm_model::SoftwareUpdate::is_under_way),
        }
    }

    /// Up, and wanted so.
    fn is_awake(&self) -> bool {
        self.phase == Phase::Ready && self.desired == Desired::Running
    }

    /// Asleep, and wanted so.
    fn is_asleep(&self) -> bool {
        match self.phase {
            Phase::Warm => self.desired == Desired::Warm,
            Phase::Suspended => matches!(self.desired, Desired::Suspended | Desired::Warm),
            _ => false,
        }
    }
}

impl Sleeper {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It is being used, for as long as what is returned lives.
    pub(crate) fn in_use(&self, id: &ClawId) -> InUse {
        self.marks.begin(id, self.clock.now())
    }

    /// Something is about to be done about an instance under this lease. What is known of it from an
    /// earlier one is forgotten: whoever had the lease in between may have written all of it anew.
    pub(crate) fn under(&self, id: &ClawId, fence: Option<&Fence>) {
        let Some(fence) = fence else { return };
        if self.lock().epochs.get(id) != Some(&fence.epoch) {
            self.forget(id);
            self.lock().epochs.insert(id.clone(), fence.epoch);
        }
    }

    /// Takes note of an instance of this server's, after each turn of it.
    pub(crate) fn note(&self, instance: &Instance) {
        let now = self.clock.now();
        let mut state = self.lock();
        let brief = Brief::of(instance);
        match state.known.get_mut(&instance.id) {
            Some(known) if known.brief == brief => return,
            Some(known) => {
                if (known.brief.phase, known.brief.desired) != (brief.phase, brief.desired) {
                    known.since = now;
                    known.not_before = None;
                    known.refusals = 0;
                    known.busy = None;
                    // Whoever waited for it while it woke is there.
                    if self.marks.open(&instance.id) > 0 {
                        self.marks.touch(&instance.id, now);
                    }
                }
                known.brief = brief;
            }
            None => {
                let known = Known {
                    brief,
                    since: instance.phase_since.min(now),
                    due: None,
                    not_before: None,
                    refusals: 0,
                    busy: None,
                    memory: None,
                    prewoken: None,
                };
                state.known.insert(instance.id.clone(), known);
            }
        }
        self.plan(&mut state, &instance.id, now);
        drop(state);
        self.changed.notify_one();
    }

    /// Forgets one that has gone, or is another server's.
    pub(crate) fn forget(&self, id: &ClawId) {
        let mut state = self.lock();
        state.epochs.remove(id);
        if let Some(known) = state.known.remove(id)
            && let Some(due) = known.due
        {
            state.due.remove(&(due, id.clone()));
        }
    }

    /// Plans when an instance is looked at next.
    fn plan(&self, state: &mut State, id: &ClawId, now: Timestamp) {
        let Some(known) = state.known.get(id) else { return };
        let due = self.when(known, now, id);
        self.put(state, id, due);
    }

    fn put(&self, state: &mut State, id: &ClawId, due: Option<Timestamp>) {
        let Some(known) = state.known.get_mut(id) else { return };
        let before = std::mem::replace(&mut known.due, due);
        if let Some(before) = before {
            state.due.remove(&(before, id.clone()));
        }
        if let Some(due) = due {
            state.due.insert((due, id.clone()));
        }
    }

    /// The earliest time at which there may be something to do: of what this is unsure it is the
    /// look itself that finds out.
    fn when(&self, known: &Known, now: Timestamp, id: &ClawId) -> Option<Timestamp> {
        let brief = &known.brief;
        let policy = self.layers.effective(brief);
        let due = if brief.is_awake() && !brief.updating {
            let for_a_job = verdict::for_a_job(brief.cause, self.is_visited(known, id));
            let idle = verdict::idle(&policy, for_a_job)?;
            let used = self.marks.last_used(id).unwrap_or(known.since).max(known.since);
            let running = known.since.after(verdict::running(&policy, for_a_job));
            let idle = used.after(idle).max(running);
            // At most once in an hour that it is to be up.
            policy.hours.until(now).map_or(idle, |until| idle.max(until))
        } else if brief.is_asleep() {
            // What is remembered of it is not read yet: that is what the look is for.
            let Some(memory) = &known.memory else { return Some(now) };
            let woken = memory.wake_at(&policy, brief.phase, brief.cause, known.since, now).map(|(at, _)| at);
            let deeper = (brief.phase == Phase::Warm && policy.idle().is_some())
                .then(|| known.since.after(verdict::seconds(policy.min_warm_seconds)));
            [woken, deeper].into_iter().flatten().min()?
        } else {
            return None;
        };
        Some(known.not_before.map_or(due, |at| due.max(at)))
    }

    /// Whether somebody has used it since it is in its phase. What the claw says of its sessions
    /// does not tell: its jobs use them, too.
    fn is_visited(&self, known: &Known, id: &ClawId) -> bool {
        let written = known.memory.as_ref().and_then(|memory| memory.active_at);
        self.marks.open(id) > 0 || written.max(self.marks.last_used(id)).is_some_and(|at| at >= known.since)
    }

    /// Looks at all of them again: a policy that holds for several has changed.
    fn plan_all(&self) {
        let now = self.clock.now();
        let mut state = self.lock();
        let ids: Vec<ClawId> = state.known.keys().cloned().collect();
        for id in &ids {
            self.plan(&mut state, id, now);
        }
        drop(state);
        self.changed.notify_one();
    }

    /// Takes what is due, and says when the next is.
    fn take_due(&self, now: Timestamp) -> (Vec<ClawId>, Option<Timestamp>) {
        let mut state = self.lock();
        let mut taken = Vec::new();
        while let Some((due, _)) = state.due.first()
            && *due <= now
        {
            let Some((_, id)) = state.due.pop_first() else { break };
            if let Some(known) = state.known.get_mut(&id) {
                known.due = None;
            }
            taken.push(id);
        }
        (taken, state.due.first().map(|(due, _)| *due))
    }

    /// How many have a time at which they are looked at.
    #[cfg(test)]
    fn planned(&self) -> usize {
        self.lock().due.len()
    }
}

/// Looks at what is due, until the server ends.
pub(crate) async fn run(core: Arc<Core>) {
    let sleeper = &core.sleeper;
    if let Err(error) = sleeper.layers.read(&core).await {
        tracing::warn!(?error, "the sleep policies could not be read yet");
    }
    core.turns.spawn(marks::run(Arc::clone(&core)));
    core.turns.spawn(layers::follow(Arc::clone(&core)));
    loop {
        let now = sleeper.clock.now();
        let (due, next) = sleeper.take_due(now);
        for id in due {
            let (core, places) = (Arc::clone(&core), Arc::clone(&sleeper.places));
            let turns = core.turns.clone();
            turns.spawn(async move {
                let Ok(_place) = places.acquire_owned().await else { return };
                tokio::select! {
                    () = core.stopping.cancelled() => {}
                    () = act::look(&core, &id) => {}
                }
            });
        }
        // At most for an hour: the machine's clock may be set.
        let wait =
            next.map_or(Duration::from_secs(3600), |next| next.since(now).min(Duration::from_secs(3600)));
        tokio::select! {
            () = core.stopping.cancelled() => return,
            () = sleeper.changed.notified() => {}
            () = tokio::time::sleep(wait.max(Duration::from_millis(5))) => {}
        }
    }
}

#[cfg(test)]
mod tests;
