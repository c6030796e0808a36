//! The leases this server holds, and until when it may act under each.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use clawfarm_model::fence::Fence;
use clawfarm_model::name::TargetName;
use clawfarm_model::server::Lease;
use clawfarm_model::{Code, Error, Result};
use tokio_util::sync::CancellationToken;

/// Milliseconds on a clock that also goes on while the machine sleeps or this process is
/// frozen, and that nobody sets.
pub(super) fn boot_millis() -> i64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    now.tv_sec.saturating_mul(1000).saturating_add(now.tv_nsec / 1_000_000)
}

/// How long what is under way may take when a lease is to be given back, in milliseconds:
/// most acts end by themselves sooner; a long one (a drain, an installation) is cut off, and
/// the next holder goes on from there.
const PATIENCE: i64 = 60_000;

/// A lease this server holds.
#[derive(Debug)]
pub(crate) struct Held {
    fence: Fence,
    /// Until when it may act under it, by [`boot_millis`]: earlier than the database lets
    /// anybody else have it.
    good_until: AtomicI64,
    /// Since when it is to be given back (nothing new is begun under it); 0 when it is not.
    leaving: AtomicI64,
    lost: CancellationToken,
}

impl Held {
    fn is_good(&self) -> bool {
        boot_millis() < self.good_until.load(Ordering::Acquire)
    }

    fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Acquire) != 0
    }
}

/// The leave to reconcile an instance, for one turn.
#[derive(Clone, Debug)]
pub(crate) struct Hold(Option<Arc<Held>>);

impl Hold {
    /// That of a server that is alone: its lock on its home is its lease.
    pub(crate) const fn alone() -> Self {
        Self(None)
    }

    /// What writes and acts carry.
    pub(crate) fn fence(&self) -> Option<&Fence> {
        self.0.as_ref().map(|held| &held.fence)
    }

    /// Checks, before an act, that the lease is still this server's: one that was frozen for a
    /// while finds here that it has been replaced, whatever it was in the middle of.
    pub(crate) fn check(&self) -> Result<()> {
        match &self.0 {
            Some(held) if !held.is_good() || held.lost.is_cancelled() => Err(held.fence.refused()),
            _ => Ok(()),
        }
    }

    /// Returns when the lease is known to be another server's.
    pub(crate) async fn lost(&self) {
        match &self.0 {
            Some(held) => held.lost.cancelled().await,
            None => std::future::pending().await,
        }
    }
}

/// Whether this server may reconcile an instance.
pub(crate) enum Claim {
    /// It may.
    Mine(Hold),
    /// It may as soon as its lease is renewed (the database did not answer for a while).
    Stale,
    /// Another one does, or nobody yet.
    NotMine,
}

type Key = (TargetName, u32);

/// All leases this server holds.
#[derive(Debug, Default)]
pub(super) struct Table(RwLock<HashMap<Key, Arc<Held>>>);

impl Table {
    pub(super) fn claim(&self, target: &TargetName, shard: u32) -> Claim {
        let all = self.0.read().unwrap_or_else(PoisonError::into_inner);
        match all.get(&(target.clone(), shard)) {
            Some(held) if held.is_leaving() => Claim::NotMine,
            Some(held) if held.is_good() => Claim::Mine(Hold(Some(Arc::clone(held)))),
            Some(_) => Claim::Stale,
            None => Claim::NotMine,
        }
    }

    pub(super) fn has(&self, target: &TargetName, shard: u32) -> bool {
        let all = self.0.read().unwrap_or_else(PoisonError::into_inner);
        all.contains_key(&(target.clone(), shard))
    }

    /// How many are held of each target.
    pub(super) fn counts(&self) -> HashMap<TargetName, usize> {
        let all = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let mut counts = HashMap::new();
        for (target, _) in all.keys() {
            *counts.entry(target.clone()).or_insert(0) += 1;
        }
        counts
    }

    /// Takes over what the database says: what is no longer this node's is lost, what is stays
    /// good until `good_until`, and what is its own without being known here is adopted.
    /// Returns what is new, or good again.
    pub(super) fn follow(&self, node: &str, leases: &[Lease], good_until: i64) -> Vec<Fence> {
        let mut all = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let mut news = Vec::new();
        let mut present = HashMap::new();
        for lease in leases.iter().filter(|l| l.live && l.holder.as_deref() == Some(node)) {
            let key = (lease.target.clone(), lease.shard);
            let held = match all.remove(&key) {
                Some(held) if held.fence.epoch == lease.epoch => {
                    if !held.is_good() {
                        news.push(held.fence.clone());
                    }
                    held.good_until.store(good_until, Ordering::Release);
                    held
                }
                former => {
                    former.inspect(|held| held.lost.cancel());
                    let fence =
                        Fence { target: lease.target.clone(), shard: lease.shard, epoch: lease.epoch };
                    news.push(fence.clone());
                    new(fence, good_until)
                }
            };
            present.insert(key, held);
        }
        for held in all.values() {
            held.lost.cancel();
        }
        *all = present;
        news
    }

    /// Enters what was just taken.
    pub(super) fn took(&self, fences: &[Fence], good_until: i64) {
        let mut all = self.0.write().unwrap_or_else(PoisonError::into_inner);
        for fence in fences {
            let former = all.insert((fence.target.clone(), fence.shard), new(fence.clone(), good_until));
            former.inspect(|held| held.lost.cancel());
        }
    }

    /// Begins to give leases back: nothing new is begun under them. Returns those under which
    /// nothing is under way any more, which can be given back now.
    pub(super) fn leave(&self, shards: &[Key]) -> Vec<Fence> {
        let mut all = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let mut free = Vec::new();
        for key in shards {
            let Some(held) = all.get(key) else { continue };
            let now = boot_millis();
            if !held.is_leaving() {
                held.leaving.store(now, Ordering::Release);
            } else if now - held.leaving.load(Ordering::Acquire) > PATIENCE {
                held.lost.cancel();
            }
            if Arc::strong_count(held) == 1 {
                free.push(held.fence.clone());
                all.remove(key);
            }
        }
        // One that was to be given back and is wanted again (another server went). What was
        // cut off under it is over: it is taken up anew at the next heartbeat.
        all.retain(|key, held| shards.contains(key) || !held.lost.is_cancelled());
        for (_, held) in all.iter().filter(|(key, _)| !shards.contains(key)) {
            held.leaving.store(0, Ordering::Release);
        }
        free
    }

    /// Forgets all: this server has no say any more.
    pub(super) fn clear(&self) {
        let mut all = self.0.write().unwrap_or_else(PoisonError::into_inner);
        for held in all.values() {
            held.lost.cancel();
        }
        all.clear();
    }
}

fn new(fence: Fence, good_until: i64) -> Arc<Held> {
    Arc::new(Held {
        fence,
        good_until: AtomicI64::new(good_until),
        leaving: AtomicI64::new(0),
        lost: CancellationToken::new(),
    })
}

/// Until when a lease is good that was asked for at `asked` (by [`boot_millis`]): the
/// database counts from when it was asked or later, and a fifth is kept back for clocks that
/// run unevenly and for the act that is begun last.
pub(super) fn good_until(asked: i64, ttl: Duration) -> i64 {
    let ttl = i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX);
    asked.saturating_add(ttl - ttl / 5)
}

/// The error of asking for what only other servers reach.
pub(crate) fn not_reached(target: &TargetName) -> Error {
    Error::new(Code::Unavailable, format!("target '{target}' is not reached from this server"))
        .field("target")
        .fix("see which server reaches it with 'clawfarm target ls', and ask there")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(shard: u32, holder: &str, epoch: i64) -> Lease {
        Lease {
            target: TargetName::new("sim").unwrap(),
            shard,
            holder: Some(holder.into()),
            epoch,
            live: true,
        }
    }

    fn far() -> i64 {
        boot_millis() + 60_000
    }

    #[test]
    fn a_lease_that_changed_hands_takes_its_holds_with_it() {
        let table = Table::default();
        let target = TargetName::new("sim").unwrap();
        assert_eq!(table.follow("me", &[lease(0, "me", 5), lease(1, "other", 5)], far()).len(), 1);
        let Claim::Mine(hold) = table.claim(&target, 0) else { panic!("it is held") };
        assert!(matches!(table.claim(&target, 1), Claim::NotMine));
        hold.check().unwrap();
        assert!(table.follow("me", &[lease(0, "me", 5)], far()).is_empty(), "nothing new");
        hold.check().unwrap();
        // Lost and had again: the hold is of the old epoch.
        assert_eq!(table.follow("me", &[lease(0, "me", 7)], far()).len(), 1);
        assert!(clawfarm_model::is_fenced(&hold.check().unwrap_err()));
        assert!(matches!(table.claim(&target, 0), Claim::Mine(_)));
    }

    #[test]
    fn a_lease_whose_time_is_over_allows_nothing_until_it_is_renewed() {
        let table = Table::default();
        let target = TargetName::new("sim").unwrap();
        table.follow("me", &[lease(0, "me", 5)], far());
        let Claim::Mine(hold) = table.claim(&target, 0) else { panic!("it is held") };
        table.follow("me", &[lease(0, "me", 5)], boot_millis() - 1);
        assert!(hold.check().is_err());
        assert!(matches!(table.claim(&target, 0), Claim::Stale));
        assert_eq!(table.follow("me", &[lease(0, "me", 5)], far()).len(), 1, "good again is news");
        hold.check().unwrap();
    }

    #[test]
    fn what_is_given_back_is_given_when_nothing_is_under_way() {
        let table = Table::default();
        let target = TargetName::new("sim").unwrap();
        table.follow("me", &[lease(0, "me", 5), lease(1, "me", 6)], far());
        let Claim::Mine(hold) = table.claim(&target, 0) else { panic!("it is held") };
        let both = [(target.clone(), 0), (target.clone(), 1)];
        let free = table.leave(&both);
        assert_eq!(free.iter().map(|f| f.epoch).collect::<Vec<_>>(), [6]);
        assert!(matches!(table.claim(&target, 0), Claim::NotMine), "nothing new is begun");
        hold.check().unwrap();
        drop(hold);
        assert_eq!(table.leave(&both).len(), 1);
        assert!(!table.has(&target, 0));
    }
}
