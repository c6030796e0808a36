//! Whether one more fits into a target's memory.
//!
//! What is promised to the instances that are up is read from the store, which costs more the
//! more there are; so it is read once a second at most while there is room, and what is
//! admitted in between is added up here. A figure that would refuse somebody is never an old
//! one: it is read afresh first.
//!
//! Other servers may give out the memory of a target that they share. So of what was free at a
//! look a server gives out a small part by itself, and for everything beyond that the sum is
//! taken again in the transaction that takes the memory ([`Room`]).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use clawfarm_model::name::TargetName;
use clawfarm_model::target::Capacity;
use clawfarm_model::{Code, Context, Error, Result};
use clawfarm_runtime::Runtime;
use clawfarm_store::Room;
use tokio::time::Instant;

use crate::core::Core;

/// How long a target may take to say what it has.
pub(crate) const CAPACITY_LIMIT: Duration = Duration::from_secs(5);
/// Memory that is left to the machine itself, in MiB.
const RESERVE_MIB: u64 = 256;
/// How long a sum of promises is good enough to admit somebody by.
const GOOD_FOR: Duration = Duration::from_secs(1);

/// Of what is free on a shared target at a look, a server gives out one part of so many before
/// it counts again. A figure is used for a second, so that a server may give out two such parts
/// while another one's figure is as old as it can be: eight servers stay within what is free.
/// PostgreSQL's usual 100 connections are enough for five.
const PARTS: u64 = 16;

/// What is promised on each target, as far as this server knows.
#[derive(Default)]
pub(crate) struct Admission {
    targets: Arc<Mutex<HashMap<TargetName, Promised>>>,
    /// One look into the store at a time: whoever waited finds what it brought.
    looking: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Promised {
    read_at: Option<Instant>,
    /// In the store at that time, in MiB.
    stored: u64,
    /// Admitted since, in MiB.
    since: u64,
    /// Admitted, and perhaps not in the store yet, in MiB.
    under_way: u64,
}

/// Memory that was admitted, until what holds it is in the store.
pub(crate) struct Reservation {
    targets: Arc<Mutex<HashMap<TargetName, Promised>>>,
    target: TargetName,
    mib: u64,
    /// What the transaction has to look at, on a target that is shared.
    room: Option<Room>,
}

impl Reservation {
    /// What the transaction that takes the memory has to look at, where others may take it too.
    pub(crate) fn room(&self) -> Option<Room> {
        self.room.clone()
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if let Some(promised) = lock(&self.targets).get_mut(&self.target) {
            promised.under_way = promised.under_way.saturating_sub(self.mib);
        }
    }
}

fn lock(targets: &Mutex<HashMap<TargetName, Promised>>) -> MutexGuard<'_, HashMap<TargetName, Promised>> {
    targets.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Admission {
    /// Takes the memory when it is there; else what is promised, in MiB, and whether that is fresh.
    fn take(
        &self,
        target: &TargetName,
        mib: u64,
        capacity: &Capacity,
        shared: bool,
    ) -> Result<Reservation, (u64, bool)> {
        let mut targets = lock(&self.targets);
        let promised = targets.entry(target.clone()).or_default();
        let total = promised.stored + promised.since;
        let fresh = promised.read_at.is_some_and(|at| at.elapsed() < GOOD_FOR);
        let most_mib = capacity.memory_mib.saturating_sub(RESERVE_MIB);
        let free = most_mib.saturating_sub(total);
        if !fresh || mib > free || mib > capacity.memory_available_mib {
            return Err((total, fresh));
        }
        promised.since += mib;
        promised.under_way += mib;
        let little = promised.since <= most_mib.saturating_sub(promised.stored) / PARTS;
        drop(targets);
        let room = (shared && !little).then(|| Room { target: target.clone(), wanted_mib: mib, most_mib });
        Ok(Reservation { targets: Arc::clone(&self.targets), target: target.clone(), mib, room })
    }

    fn put(&self, target: &TargetName, stored: u64) {
        let mut targets = lock(&self.targets);
        let promised = targets.entry(target.clone()).or_default();
        // What is under way may be in the sum already: counted twice for a moment, never not at all.
        *promised = Promised {
            read_at: Some(Instant::now()),
            stored,
            since: promised.under_way,
            under_way: promised.under_way,
        };
    }
}

impl Core {
    /// Refuses, with figures, what would not fit into a target's memory beside what has been
    /// promised to the instances that are up on it. `mib` is what is wanted beyond what it
    /// holds already. What is returned is to be kept until the wish is in the store.
    pub(crate) async fn admit(
        &self,
        target: &TargetName,
        runtime: &dyn Runtime,
        mib: u32,
    ) -> Result<Reservation> {
        let mib = u64::from(mib);
        let capacity = tokio::time::timeout(CAPACITY_LIMIT, runtime.capacity()).await.map_err(|_| {
            Error::new(Code::Unavailable, format!("target '{target}' does not say how much memory it has"))
        })??;
        let take = || self.admission.take(target, mib, &capacity, !self.is_own(target));
        if let Ok(reservation) = take() {
            return Ok(reservation);
        }
        let _looking = self.admission.looking.lock().await;
        // Somebody may have looked while this waited. A refusal is looked at afresh by itself.
        if let Ok(reservation) = take() {
            return Ok(reservation);
        }
        let stored = self.store.promised_memory_mib(&Context::system("admission"), target).await?;
        self.admission.put(target, stored);
        take().map_err(|(promised, _)| refused(target, mib, promised, &capacity))
    }
}

fn refused(target: &TargetName, mib: u64, promised: u64, capacity: &Capacity) -> Error {
    Error::new(
        Code::Insufficient,
        format!(
            "{mib} MiB are wanted; '{target}' has {} MiB in all, of which {promised} are promised to instances that are up and {} are free at the moment",
            capacity.memory_mib, capacity.memory_available_mib
        ),
    )
    .field("resources.memory_mib")
    .fix("suspend or stop another instance, ask for less with --memory-mib, or take the risk with --overcommit")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn capacity(memory_mib: u64) -> Capacity {
        Capacity { cpus: 2.0, memory_mib, memory_available_mib: memory_mib }
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_of_it_is_given_once() {
        let (admission, target) = (Admission::default(), TargetName::new("sim").unwrap());
        let all = capacity(RESERVE_MIB + 3000);
        assert!(admission.take(&target, 1000, &all, false).is_err(), "nothing is known yet");
        admission.put(&target, 500);
        let first = admission.take(&target, 1000, &all, false).map_err(|_| ()).unwrap();
        let _second = admission.take(&target, 1000, &all, false).map_err(|_| ()).unwrap();
        assert_eq!(admission.take(&target, 1000, &all, false).err(), Some((2500, true)));
        // The first was written, and is in the sum that is read next; the second is not yet.
        drop(first);
        admission.put(&target, 1500);
        assert_eq!(admission.take(&target, 1000, &all, false).err(), Some((2500, true)));
        assert!(admission.take(&target, 500, &all, false).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn an_old_figure_admits_nobody() {
        let (admission, target) = (Admission::default(), TargetName::new("sim").unwrap());
        admission.put(&target, 0);
        tokio::time::advance(GOOD_FOR).await;
        assert_eq!(admission.take(&target, 1, &capacity(10_000), false).err(), Some((0, false)));
    }

    #[tokio::test(start_paused = true)]
    async fn of_a_shared_target_a_small_part_is_given_without_counting_again() {
        let (admission, target) = (Admission::default(), TargetName::new("sim").unwrap());
        let all = capacity(RESERVE_MIB + 16_500);
        admission.put(&target, 500);
        let take = |mib| admission.take(&target, mib, &all, true).map_err(|_| ()).unwrap().room();
        assert_eq!((take(600), take(400)), (None, None), "a sixteenth of what is free");
        let counted = take(100).unwrap();
        assert_eq!((counted.wanted_mib, counted.most_mib), (100, 16_500));
        assert_eq!(admission.take(&target, 100, &all, false).map_err(|_| ()).unwrap().room(), None);
    }
}
