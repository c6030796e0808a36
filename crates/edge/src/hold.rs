//! Waking: once for however many wait, with a bound on how many may, and with a short memory of
//! what went wrong.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use clawfarm_model::{ClawId, Code, Error, Result};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use crate::directory::{Directory, Site};

/// Requests that may wait for one claw.
const WAITERS_MAX: usize = 256;
/// Requests that may wait for all claws.
const ALL_WAITERS_MAX: usize = 4096;
/// How long a failed wake is remembered: who comes in this time is told at once instead of
/// starting what has just failed.
const MEMORY: Duration = Duration::from_secs(5);

type Outcome = Option<Result<Arc<Site>, Arc<Error>>>;

struct Wake {
    outcome: watch::Receiver<Outcome>,
    waiters: Arc<AtomicUsize>,
    ended: Option<Instant>,
}

/// The wakes that are under way, and those that failed a moment ago.
pub(crate) struct Wakes {
    directory: Arc<dyn Directory>,
    wakes: Arc<Mutex<HashMap<ClawId, Wake>>>,
    waiting: AtomicUsize,
}

/// How a wait for a claw ended.
pub(crate) enum Waited {
    /// It takes requests.
    Awake(Arc<Site>),
    /// It can't be woken.
    Failed(Arc<Error>),
    /// It is on its way, and the caller's patience is over.
    Later,
    /// Too many wait already.
    Full,
}

/// Counts one who waits, for as long as it lives.
struct Waiting<'a>(&'a AtomicUsize);

impl Waiting<'_> {
    fn begin(count: &AtomicUsize, most: usize) -> Option<Waiting<'_>> {
        let counted = Waiting(count);
        (count.fetch_add(1, Ordering::Relaxed) < most).then_some(counted)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Wakes {
    pub(crate) fn new(directory: Arc<dyn Directory>) -> Self {
        Self { directory, wakes: Arc::default(), waiting: AtomicUsize::new(0) }
    }

    /// Wakes a claw and waits until it takes requests, or for as long as `patience`. The wake goes
    /// on when nobody waits any more: who asked will ask again.
    pub(crate) async fn wake(&self, id: &ClawId, patience: Duration) -> Waited {
        let Some(_all) = Waiting::begin(&self.waiting, ALL_WAITERS_MAX) else { return Waited::Full };
        let (mut outcome, waiters) = self.join(id);
        let Some(_one) = Waiting::begin(&waiters, WAITERS_MAX) else { return Waited::Full };
        // Too long, or the wake was dropped because the server ends.
        let Ok(Ok(outcome)) = timeout(patience, outcome.wait_for(Option::is_some)).await else {
            return Waited::Later;
        };
        match outcome.as_ref() {
            Some(Ok(site)) => Waited::Awake(Arc::clone(site)),
            Some(Err(error)) => Waited::Failed(Arc::clone(error)),
            None => Waited::Later,
        }
    }

    /// Why the last wake of a claw failed, when that was a moment ago.
    pub(crate) fn failed(&self, id: &ClawId) -> Option<Arc<Error>> {
        let wakes = self.wakes.lock().unwrap_or_else(PoisonError::into_inner);
        let outcome = wakes.get(id)?.outcome.borrow();
        outcome.as_ref()?.as_ref().err().cloned()
    }

    /// Whether a wake of a claw is under way.
    pub(crate) fn is_under_way(&self, id: &ClawId) -> bool {
        let wakes = self.wakes.lock().unwrap_or_else(PoisonError::into_inner);
        wakes.get(id).is_some_and(|wake| wake.ended.is_none())
    }

    /// The wake that is under way, or a new one.
    fn join(&self, id: &ClawId) -> (watch::Receiver<Outcome>, Arc<AtomicUsize>) {
        let mut wakes = self.wakes.lock().unwrap_or_else(PoisonError::into_inner);
        wakes.retain(|_, wake| wake.ended.is_none_or(|at| at.elapsed() < MEMORY));
        if let Some(wake) = wakes.get(id) {
            return (wake.outcome.clone(), Arc::clone(&wake.waiters));
        }
        let (tell, outcome) = watch::channel(None);
        let waiters = Arc::new(AtomicUsize::new(0));
        let wake = Wake { outcome: outcome.clone(), waiters: Arc::clone(&waiters), ended: None };
        wakes.insert(id.clone(), wake);
        drop(wakes);
        let directory = Arc::clone(&self.directory);
        let mut entry = Entry { wakes: Arc::clone(&self.wakes), id: id.clone(), failed: false };
        tokio::spawn(async move {
            let woken = directory.wake(&entry.id).await;
            if let Err(error) = &woken {
                tracing::warn!(id = %entry.id, %error, "a claw could not be woken");
                entry.failed = true;
            }
            // Told before the entry goes, so that who finds no entry finds the claw awake.
            tell.send_replace(Some(woken.map_err(Arc::new)));
            drop(entry);
        });
        (outcome, waiters)
    }
}

/// A wake's place in the map, given up at its end however it ends.
struct Entry {
    wakes: Arc<Mutex<HashMap<ClawId, Wake>>>,
    id: ClawId,
    failed: bool,
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut wakes = self.wakes.lock().unwrap_or_else(PoisonError::into_inner);
        // A success is not remembered: the claw may be asleep again the next moment.
        if !self.failed {
            wakes.remove(&self.id);
        } else if let Some(wake) = wakes.get_mut(&self.id) {
            wake.ended = Some(Instant::now());
        }
    }
}

/// Whether a failed wake may well succeed later.
pub(crate) fn may_pass(error: &Error) -> bool {
    matches!(
        error.code(),
        Code::Insufficient | Code::Timeout | Code::Unavailable | Code::Overloaded | Code::Busy
    )
}
