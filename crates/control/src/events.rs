//! Events, for whoever watches.

use clawfarm_model::event::Event;
use clawfarm_model::{Context, Result};
use clawfarm_store::EventFilter;
use tokio::sync::watch;

use crate::Control;

impl Control {
    /// Events, oldest first: those after number `after`, or the newest ones without it; of
    /// one instance when it is given. With the number to ask on from.
    ///
    /// # Errors
    /// `NotFound` when there is no such instance.
    pub async fn events(
        &self,
        context: &Context,
        instance: Option<&str>,
        after: Option<i64>,
        limit: u32,
    ) -> Result<(Vec<Event>, i64)> {
        let instance = match instance {
            Some(text) => Some(self.core.store.resolve(context, text).await?),
            None => None,
        };
        let filter = EventFilter { instance, after_seq: after, newest: after.is_none() };
        let events = self.core.store.events(context, &filter, limit).await?;
        let last = events.last().map_or(after.unwrap_or(0), |e| e.seq);
        Ok((events, last))
    }

    /// Changes to the number of the last event whenever there is a new one. A watcher then
    /// asks [`Self::events`] for what it may see of them.
    #[must_use]
    pub fn event_signal(&self) -> watch::Receiver<i64> {
        self.core.store.subscribe()
    }
}
