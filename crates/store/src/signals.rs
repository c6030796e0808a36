//! Telling watchers that there is something new: those of this server at once, those of other
//! servers on the same database by a notification.
//!
//! A signal says that there is something to read, never what. Whoever hears it reads the table
//! from where it stopped, so a signal that is lost costs time and nothing else.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, watch};

/// What is new since it was told last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct News {
    /// The number of the latest event, when there is a new one.
    pub(crate) latest: Option<i64>,
    /// The operations that changed.
    pub(crate) operations: BTreeSet<String>,
    /// The instances with messages that can be delivered.
    pub(crate) inbox: BTreeSet<String>,
}

impl News {
    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// The signals of one store.
pub(crate) struct Signals {
    latest: watch::Sender<i64>,
    operations: Mutex<Watched>,
    /// The instances with messages that nobody has looked at yet.
    inbox: Mutex<BTreeSet<String>>,
    /// Some may have been missed.
    inbox_missed: AtomicBool,
    pub(crate) delivered_to: Notify,
    /// What other servers are to be told, where there are others.
    outbox: Option<Mutex<News>>,
    pub(crate) posted: Notify,
}

#[derive(Default)]
struct Watched {
    by_id: HashMap<String, watch::Sender<()>>,
    /// Where the forgotten ones are cleared out next.
    sweep_at: usize,
}

impl Signals {
    pub(crate) fn new(latest: i64, others: bool) -> Self {
        Self {
            latest: watch::Sender::new(latest),
            operations: Mutex::default(),
            inbox: Mutex::default(),
            inbox_missed: AtomicBool::new(false),
            delivered_to: Notify::new(),
            outbox: others.then(Mutex::default),
            posted: Notify::new(),
        }
    }

    pub(crate) fn events(&self) -> watch::Receiver<i64> {
        self.latest.subscribe()
    }

    pub(crate) fn latest(&self) -> i64 {
        *self.latest.borrow()
    }

    pub(crate) fn operation(&self, id: &str) -> watch::Receiver<()> {
        let mut watched = lock(&self.operations);
        if watched.by_id.len() >= watched.sweep_at {
            watched.by_id.retain(|_, sender| sender.receiver_count() > 0);
            watched.sweep_at = 64.max(2 * watched.by_id.len());
        }
        watched.by_id.entry(id.to_owned()).or_default().subscribe()
    }

    /// Tells everybody, on other servers too, what this one committed.
    pub(crate) fn committed(&self, news: News) {
        if news.is_empty() {
            return;
        }
        self.heard(&news);
        if let Some(outbox) = &self.outbox {
            let mut waiting = lock(outbox);
            waiting.latest = waiting.latest.max(news.latest);
            waiting.operations.extend(news.operations);
            waiting.inbox.extend(news.inbox);
            drop(waiting);
            self.posted.notify_one();
        }
    }

    /// Tells the watchers of this server.
    pub(crate) fn heard(&self, news: &News) {
        if let Some(seq) = news.latest {
            self.latest.send_if_modified(|latest| {
                let newer = seq > *latest;
                *latest = seq.max(*latest);
                newer
            });
        }
        if !news.inbox.is_empty() {
            lock(&self.inbox).extend(news.inbox.iter().cloned());
            self.delivered_to.notify_one();
        }
        if !news.operations.is_empty() {
            let watched = lock(&self.operations);
            for sender in news.operations.iter().filter_map(|id| watched.by_id.get(id)) {
                sender.send_replace(());
            }
        }
    }

    /// Notifications may have been missed: everybody who waits for an operation, or delivers
    /// messages, looks again.
    pub(crate) fn look_again(&self) {
        self.inbox_missed.store(true, Ordering::Release);
        self.delivered_to.notify_one();
        for sender in lock(&self.operations).by_id.values() {
            sender.send_replace(());
        }
    }

    /// The instances with messages that nobody has looked at yet.
    /// `None` when there are none; nothing in it when some may have been missed.
    pub(crate) fn take_inbox(&self) -> Option<BTreeSet<String>> {
        let told = std::mem::take(&mut *lock(&self.inbox));
        (!told.is_empty() || self.inbox_missed.swap(false, Ordering::AcqRel)).then_some(told)
    }

    /// What other servers have not been told yet.
    pub(crate) fn take(&self) -> News {
        self.outbox.as_ref().map(|outbox| std::mem::take(&mut *lock(outbox))).unwrap_or_default()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn news(latest: Option<i64>, operations: &[&str]) -> News {
        let operations = operations.iter().map(|id| (*id).to_owned()).collect();
        News { latest, operations, ..News::default() }
    }

    #[test]
    fn an_operations_watchers_hear_of_it_and_of_no_other() {
        let signals = Signals::new(0, false);
        let (mut one, mut other) = (signals.operation("op-1"), signals.operation("op-2"));
        signals.committed(news(None, &["op-1", "op-9"]));
        assert!(one.has_changed().unwrap() && !other.has_changed().unwrap());
        one.mark_unchanged();
        signals.look_again();
        assert!(one.has_changed().unwrap() && other.has_changed().unwrap());
        other.mark_unchanged();
        assert_eq!(signals.take(), News::default(), "there is nobody else to tell");
    }

    #[test]
    fn what_others_are_told_is_put_together() {
        let signals = Signals::new(5, true);
        let mut events = signals.events();
        signals.committed(news(Some(7), &["op-1"]));
        signals.committed(news(Some(6), &["op-2", "op-1"]));
        assert_eq!((*events.borrow_and_update(), signals.latest()), (7, 7));
        signals.committed(news(Some(7), &[]));
        assert!(!events.has_changed().unwrap(), "it is no news");
        assert_eq!(signals.take(), news(Some(7), &["op-1", "op-2"]));
        assert!(signals.take().is_empty());
    }

    #[test]
    fn those_that_nobody_waits_for_are_forgotten() {
        let signals = Signals::new(0, false);
        let kept = signals.operation("kept");
        for n in 0..1_000 {
            drop(signals.operation(&format!("op-{n}")));
        }
        assert!(lock(&signals.operations).by_id.len() <= 65);
        signals.heard(&news(None, &["kept"]));
        assert!(kept.has_changed().unwrap());
    }
}
