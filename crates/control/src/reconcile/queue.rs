//! Which instance is looked at next.
//!
//! Each instance is in the queue once at most and is worked on by one task at a time. What
//! is asked of it meanwhile is remembered as one further turn. People come before what
//! happens by itself, and that before housekeeping; housekeeping can fill only a part of
//! the places, so that there is always one for people.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap, VecDeque};
use std::sync::Mutex;

use clawfarm_model::ClawId;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Why an instance is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Priority {
    /// Nothing happened; it is time for a look.
    Housekeeping,
    /// Something happened to it, or a retry is due.
    Event,
    /// Somebody waits.
    Person,
}

/// How many reconciles run at once, in all and by priority. An act is mostly waiting (for a
/// claw to drain, a package to come), so there are more places than cores.
const PLACES: usize = 64;
const PLACES_EVENT: usize = 48;
const PLACES_HOUSEKEEPING: usize = 16;

#[derive(Default)]
struct State {
    ready: BTreeMap<Reverse<Priority>, VecDeque<ClawId>>,
    queued: HashMap<ClawId, Priority>,
    active: HashMap<ClawId, Priority>,
    again: HashMap<ClawId, Priority>,
    later: BinaryHeap<Reverse<(Instant, ClawId)>>,
    due: HashMap<ClawId, Instant>,
}

/// The queue.
#[derive(Default)]
pub(crate) struct Queue {
    state: Mutex<State>,
    changed: Notify,
    /// The work on one ended.
    freed: Notify,
}

impl Queue {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Asks for a look at `id`.
    pub(crate) fn push(&self, id: &ClawId, priority: Priority) {
        self.lock().push(id, priority);
        self.changed.notify_one();
    }

    /// Asks for a look at `id` at `when`; of several such wishes the earliest counts.
    pub(crate) fn push_at(&self, id: &ClawId, when: Instant) {
        let mut state = self.lock();
        if state.due.get(id).is_none_or(|due| when < *due) {
            state.due.insert(id.clone(), when);
            state.later.push(Reverse((when, id.clone())));
            drop(state);
            self.changed.notify_one();
        }
    }

    /// The next instance to work on; waits for one. The caller must call [`Self::done`].
    pub(crate) async fn pop(&self) -> (ClawId, Priority) {
        loop {
            let wait = {
                let mut state = self.lock();
                state.ripen(Instant::now());
                if let Some(next) = state.take() {
                    // There may be more for others to take.
                    self.changed.notify_one();
                    return next;
                }
                state.later.peek().map(|Reverse((when, _))| *when)
            };
            match wait {
                Some(when) => {
                    tokio::select! {
                        () = tokio::time::sleep_until(when) => {}
                        () = self.changed.notified() => {}
                    }
                }
                None => self.changed.notified().await,
            }
        }
    }

    /// Takes an instance as [`Self::pop`] does, but this one, waiting for who works on it. The
    /// caller must call [`Self::done`].
    pub(crate) async fn take(&self, id: &ClawId) {
        loop {
            // Listened to before it is looked at, so that no end falls between the two.
            let freed = self.freed.notified();
            let mut freed = std::pin::pin!(freed);
            freed.as_mut().enable();
            if self.lock().take_this(id) {
                return;
            }
            freed.await;
        }
    }

    /// The work on `id` ended.
    pub(crate) fn done(&self, id: &ClawId) {
        let mut state = self.lock();
        state.active.remove(id);
        if let Some(priority) = state.again.remove(id) {
            state.push(id, priority);
        }
        drop(state);
        self.changed.notify_one();
        self.freed.notify_waiters();
    }

    /// How many instances have a look at a later time before them: what is up and at rest,
    /// and what waits for another attempt.
    pub(crate) fn scheduled(&self) -> usize {
        self.lock().due.len()
    }

    /// Whether a look at `id` is under way or will come by itself.
    pub(crate) fn has(&self, id: &ClawId) -> bool {
        let state = self.lock();
        state.due.contains_key(id) || state.queued.contains_key(id) || state.active.contains_key(id)
    }

    /// Instances waiting for a turn, for the metrics.
    pub(crate) fn waiting(&self) -> usize {
        self.lock().queued.len()
    }
}

impl State {
    fn push(&mut self, id: &ClawId, priority: Priority) {
        if self.active.contains_key(id) {
            let again = self.again.entry(id.clone()).or_insert(priority);
            *again = (*again).max(priority);
            return;
        }
        match self.queued.get(id).copied() {
            Some(present) if present >= priority => {}
            present => {
                if let Some(present) = present
                    && let Some(line) = self.ready.get_mut(&Reverse(present))
                {
                    line.retain(|other| other != id);
                }
                self.queued.insert(id.clone(), priority);
                self.ready.entry(Reverse(priority)).or_default().push_back(id.clone());
            }
        }
    }

    /// Moves what is due into the queue.
    fn ripen(&mut self, now: Instant) {
        while let Some(Reverse((when, _))) = self.later.peek()
            && *when <= now
        {
            let Some(Reverse((when, id))) = self.later.pop() else { break };
            if self.due.get(&id) == Some(&when) {
                self.due.remove(&id);
                self.push(&id, Priority::Housekeeping);
            }
        }
    }

    /// Takes one out of the line, unless it is worked on. Whoever wanted it looked at gets that
    /// afterwards.
    fn take_this(&mut self, id: &ClawId) -> bool {
        if self.active.contains_key(id) {
            return false;
        }
        if let Some(priority) = self.queued.remove(id) {
            if let Some(line) = self.ready.get_mut(&Reverse(priority)) {
                line.retain(|other| other != id);
            }
            self.again.insert(id.clone(), priority);
        }
        self.active.insert(id.clone(), Priority::Person);
        true
    }

    fn take(&mut self) -> Option<(ClawId, Priority)> {
        let active = self.active.len();
        let housekeeping = self.active.values().filter(|p| **p == Priority::Housekeeping).count();
        for (Reverse(priority), line) in &mut self.ready {
            let room = match priority {
                Priority::Person => active < PLACES,
                Priority::Event => active < PLACES_EVENT,
                Priority::Housekeeping => active < PLACES_EVENT && housekeeping < PLACES_HOUSEKEEPING,
            };
            if room && let Some(id) = line.pop_front() {
                let priority = *priority;
                self.queued.remove(&id);
                self.active.insert(id.clone(), priority);
                return Some((id, priority));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn id(n: usize) -> ClawId {
        ClawId::new(format!("a-{n}")).unwrap()
    }

    #[tokio::test]
    async fn people_come_first_and_nobody_comes_twice() {
        let queue = Queue::default();
        queue.push(&id(1), Priority::Housekeeping);
        queue.push(&id(2), Priority::Event);
        queue.push(&id(3), Priority::Person);
        queue.push(&id(1), Priority::Person);
        queue.push(&id(2), Priority::Housekeeping);
        assert_eq!(queue.pop().await, (id(3), Priority::Person));
        assert_eq!(queue.pop().await, (id(1), Priority::Person));
        assert_eq!(queue.pop().await, (id(2), Priority::Event));
        assert_eq!(queue.waiting(), 0);
    }

    #[tokio::test]
    async fn what_is_asked_meanwhile_is_one_further_turn() {
        let queue = Queue::default();
        queue.push(&id(1), Priority::Event);
        queue.pop().await;
        queue.push(&id(1), Priority::Event);
        queue.push(&id(1), Priority::Person);
        assert_eq!(queue.waiting(), 0, "it is being worked on");
        queue.done(&id(1));
        assert_eq!(queue.pop().await, (id(1), Priority::Person));
        queue.done(&id(1));
        assert_eq!(queue.waiting(), 0);
    }

    #[tokio::test]
    async fn one_that_is_taken_is_worked_on_by_nobody_else() {
        let queue = std::sync::Arc::new(Queue::default());
        queue.push(&id(1), Priority::Event);
        queue.take(&id(1)).await;
        assert_eq!(queue.waiting(), 0);
        let second = tokio::spawn({
            let queue = std::sync::Arc::clone(&queue);
            async move { queue.take(&id(1)).await }
        });
        tokio::task::yield_now().await;
        assert!(!second.is_finished(), "it is taken");
        queue.done(&id(1));
        // What was in line is so again, and the one who waits may be first or second.
        second.await.unwrap();
        queue.done(&id(1));
        assert_eq!(queue.pop().await, (id(1), Priority::Event));
    }

    #[tokio::test]
    async fn housekeeping_leaves_room_for_people() {
        let queue = Queue::default();
        for n in 0..200 {
            queue.push(&id(n), Priority::Housekeeping);
        }
        for _ in 0..PLACES_HOUSEKEEPING {
            queue.pop().await;
        }
        let waited = tokio::time::timeout(Duration::from_millis(20), queue.pop()).await;
        assert!(waited.is_err(), "housekeeping took a place that is not its own");
        queue.push(&id(999), Priority::Person);
        assert_eq!(queue.pop().await.0, id(999));
    }

    #[tokio::test(start_paused = true)]
    async fn the_earliest_of_several_times_counts() {
        let queue = Queue::default();
        let start = Instant::now();
        queue.push_at(&id(1), start + Duration::from_secs(60));
        queue.push_at(&id(1), start + Duration::from_secs(5));
        queue.pop().await;
        assert_eq!(Instant::now().duration_since(start).as_secs(), 5);
        queue.done(&id(1));
        let later = tokio::time::timeout(Duration::from_secs(120), queue.pop()).await;
        assert!(later.is_err(), "the later wish is the same wish");
    }
}
