//! Which claws there are, so that the store is not asked for each name that somebody makes up.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use clawfarm_model::{ClawId, Context};
use clawfarm_store::Store;
use tokio::time::Instant;

/// How many unknown names a second are looked for in the store all the same: one that was made a
/// moment ago, maybe at another server, may not have been heard of yet.
const LOOKS: u32 = 50;
const SECOND: Duration = Duration::from_secs(1);

/// The ids of all claws that are not destroyed, as far as this server has heard.
#[derive(Default)]
pub(super) struct Ids(Mutex<Heard>);

#[derive(Default)]
struct Heard {
    /// `None`: nothing was read yet, so any may be.
    ids: Option<HashSet<ClawId>>,
    /// Looks of the second that began then.
    looks: Option<(Instant, u32)>,
}

impl Ids {
    fn lock(&self) -> MutexGuard<'_, Heard> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the store is to be asked for an id.
    pub(super) fn may_have(&self, id: &ClawId) -> bool {
        let mut heard = self.lock();
        if heard.ids.as_ref().is_none_or(|ids| ids.contains(id)) {
            return true;
        }
        let now = Instant::now();
        let looks = match heard.looks {
            Some((began, looks)) if now.duration_since(began) < SECOND => (began, looks + 1),
            _ => (now, 1),
        };
        heard.looks = Some(looks);
        looks.1 <= LOOKS
    }

    /// One of which something was told.
    pub(super) fn add(&self, id: &ClawId) {
        if let Some(ids) = &mut self.lock().ids
            && !ids.contains(id)
        {
            ids.insert(id.clone());
        }
    }

    /// Something was missed: any may be.
    pub(super) fn forget(&self) {
        self.lock().ids = None;
    }

    /// Reads all of them; what is told later is added.
    pub(super) async fn read(&self, store: &Store) {
        match store.instance_ids_to_reconcile(&Context::system("edge")).await {
            Ok(ids) => self.lock().ids = Some(ids.into_iter().collect()),
            // Each is looked for then.
            Err(error) => tracing::warn!(?error, "the edge could not read which claws there are"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_nobody_s_cost_no_more_than_so_many_looks() {
        let ids = Ids::default();
        let id = |n: usize| ClawId::new(format!("x-{n}")).unwrap();
        assert!((0..1000).all(|n| ids.may_have(&id(n))), "before anything was read");
        ids.lock().ids = Some(HashSet::from([id(0)]));
        let began = Instant::now();
        let looks = (1..=100_000).filter(|n| ids.may_have(&id(*n))).count();
        let seconds = usize::try_from(began.elapsed().as_secs()).unwrap() + 1;
        assert!(looks >= 50 && looks <= 50 * (seconds + 1), "{looks} in {seconds} s");
        assert!((0..1000).all(|_| ids.may_have(&id(0))), "known ones always");
        ids.add(&id(7));
        assert!((0..1000).all(|_| ids.may_have(&id(7))));
    }
}
