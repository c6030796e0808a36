//! Events, for whoever watches.

pub(crate) mod feed;
mod follow;

use clawfarm_model::event::Event;
use clawfarm_model::{Context, Result};
use clawfarm_store::EventFilter;

pub use follow::Follower;

use crate::Control;

impl Control {
    /// Events, oldest first: those after number `after`, or the newest ones without it; of
    /// one instance when it is given. With the number to ask on from.
    ///
    /// # Errors
    /// `NotFound` when there is no such instance; `Gone` when events after number `after` were
    /// pruned, so that the answer would have a hole in it.
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
        // Behind the reading: what was removed between the two would be missed.
        if let Some(after) = after.filter(|after| *after > 0) {
            self.core.store.check_events_after(context, filter.instance.as_ref(), after).await?;
        }
        let last = events.last().map_or(after.unwrap_or(0), |e| e.seq);
        Ok((events, last))
    }

    /// The events after number `after` as they happen, on whichever server; of one instance
    /// when it is given.
    ///
    /// # Errors
    /// `NotFound` when there is no such instance.
    pub async fn follow_events(
        &self,
        context: &Context,
        instance: Option<&str>,
        after: i64,
    ) -> Result<Follower> {
        let instance = match instance {
            Some(text) => Some(self.core.store.resolve(context, text).await?),
            None => None,
        };
        Ok(Follower::new(&self.core.feed, &self.core.store, context, instance, after))
    }
}
