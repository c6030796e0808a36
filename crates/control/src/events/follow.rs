//! Following the events from a place on, without a hole and without one twice.

use std::sync::Arc;

use clawfarm_model::event::Event;
use clawfarm_model::{ClawId, Context, Result};
use clawfarm_store::{EventFilter, PageRequest, Store, Told};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};

use super::feed::Feed;

/// Follows the events that a context may see.
pub struct Follower {
    store: Store,
    context: Context,
    instance: Option<ClawId>,
    after: i64,
    live: Receiver<Arc<Told>>,
    /// There may be something in the store that the feed did not or will not hand over.
    behind: bool,
}

impl Follower {
    pub(super) fn new(
        feed: &Feed,
        store: &Store,
        context: &Context,
        instance: Option<ClawId>,
        after: i64,
    ) -> Self {
        // Listening begins before the first look into the store, so nothing falls between the two.
        let live = feed.subscribe(context, instance.as_ref());
        Self { store: store.clone(), context: context.clone(), instance, after, live, behind: true }
    }

    /// The next events, at least one; `None` when the server ends.
    ///
    /// # Errors
    /// When the store can't be read: the next call tries again. `Gone` when the watcher was so
    /// slow that events after its place were pruned.
    pub async fn next(&mut self) -> Result<Option<Vec<Event>>> {
        loop {
            let events = if self.behind { self.read_store().await? } else { self.hear_feed().await };
            match events {
                None => return Ok(None),
                Some(events) if events.is_empty() => {}
                Some(events) => return Ok(Some(events)),
            }
        }
    }

    async fn read_store(&mut self) -> Result<Option<Vec<Event>>> {
        let filter =
            EventFilter { instance: self.instance.clone(), after_seq: Some(self.after), newest: false };
        let events = self.store.events(&self.context, &filter, PageRequest::MAX).await?;
        if self.after > 0 {
            let instance = self.instance.as_ref();
            self.store.check_events_after(&self.context, instance, self.after).await?;
        }
        self.after = events.last().map_or(self.after, |event| event.seq);
        self.behind = events.len() >= PageRequest::MAX as usize;
        Ok(Some(events))
    }

    async fn hear_feed(&mut self) -> Option<Vec<Event>> {
        let mut events = Vec::new();
        match self.live.recv().await {
            Ok(told) => self.take(&told, &mut events),
            Err(RecvError::Lagged(_)) => self.behind = true,
            Err(RecvError::Closed) => return None,
        }
        while !self.behind && events.len() < PageRequest::MAX as usize {
            match self.live.try_recv() {
                Ok(told) => self.take(&told, &mut events),
                Err(TryRecvError::Lagged(_)) => self.behind = true,
                Err(TryRecvError::Empty | TryRecvError::Closed) => break,
            }
        }
        Some(events)
    }

    /// What was read from the store already comes from the feed once more.
    fn take(&mut self, told: &Told, events: &mut Vec<Event>) {
        if told.event.seq > self.after && self.context.sees(&told.tenant) {
            self.after = told.event.seq;
            events.push(told.event.clone());
        }
    }
}
