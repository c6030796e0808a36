//! How many claws start on a target at the same time, and in which order.
//!
//! A start costs half a minute of a processor. When a whole fleet wants one (the machine was
//! started again, two hundred sleepers are called at once) all of them together would take an hour
//! for everybody; a few at a time, the first is there in the time that one takes. People come
//! first, then what is due, then the rest. A place is held until the claw is ready, or is not going
//! to be. Thawing costs nothing and needs no place; neither does the first start of a new claw,
//! which is mostly waiting for its software.
//!
//! What is in memory here is lost with the server, as are the turns that wait in it.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use clawfarm_model::name::TargetName;
use clawfarm_model::{Cause, ClawId, Code, Error, Instance, Result};
use tokio::time::Instant;

use crate::admission::CAPACITY_LIMIT;
use crate::core::Core;
use crate::reconcile::queue::Priority;

/// Starts at a time for each core of a target: the second uses what the first leaves while it
/// reads its files.
const PER_CORE: f64 = 2.0;
/// How many may wait for a target. Beyond that the line is longer than anybody's patience.
const LINE_MAX: usize = 1024;
/// How long a target's number of cores is good for.
const GOOD_FOR: Duration = Duration::from_secs(60);
/// A place that nobody gave back is free again after this: longer than a start may take.
const PLACE_LIMIT: Duration = Duration::from_secs(600);
/// What a start takes, before one was measured.
const USUAL: Duration = Duration::from_secs(10);

/// Who goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Rank {
    /// Somebody waits.
    People,
    /// It is due at a time.
    Clock,
    /// It is to be up, and nobody waits.
    Rest,
}

impl Rank {
    pub(crate) const fn of(cause: Cause) -> Self {
        match cause {
            Cause::Request | Cause::Message | Cause::Inbox | Cause::Instance => Self::People,
            Cause::Clock | Cause::Hours | Cause::Habit => Self::Clock,
            // A wish of a person outlives its person: it counts as theirs only while they wait.
            Cause::Asked | Cause::Idle | Cause::WarmLong => Self::Rest,
        }
    }
}

/// The lines of all targets.
#[derive(Default)]
pub(crate) struct Starts(Mutex<HashMap<TargetName, Line>>);

#[derive(Default)]
struct Line {
    places: usize,
    known_at: Option<Instant>,
    going: HashMap<ClawId, Instant>,
    waiting: BTreeMap<(Rank, u64), ClawId>,
    ranks: HashMap<ClawId, (Rank, u64)>,
    drawn: u64,
    /// What a start takes: a moving average.
    takes: Option<Duration>,
}

impl Line {
    /// Whether it may start now; otherwise it waits.
    fn enter(&mut self, id: &ClawId, rank: Rank, now: Instant) -> bool {
        self.going.retain(|_, since| now.duration_since(*since) < PLACE_LIMIT);
        if self.going.contains_key(id) {
            return true;
        }
        self.join(id, rank);
        self.next(now).contains(id)
    }

    /// Waits, or moves up.
    fn join(&mut self, id: &ClawId, rank: Rank) {
        if let Some(place) = self.ranks.get(id).copied() {
            if place.0 <= rank {
                return;
            }
            self.waiting.remove(&place);
        }
        self.drawn += 1;
        self.ranks.insert(id.clone(), (rank, self.drawn));
        self.waiting.insert((rank, self.drawn), id.clone());
    }

    /// Gives the free places to the first in line, and says to whom.
    fn next(&mut self, now: Instant) -> Vec<ClawId> {
        let mut chosen = Vec::new();
        while self.going.len() < self.places
            && let Some((_, id)) = self.waiting.pop_first()
        {
            self.ranks.remove(&id);
            self.going.insert(id.clone(), now);
            chosen.push(id);
        }
        chosen
    }

    /// It is up, or does not want to start any more.
    fn leave(&mut self, id: &ClawId, now: Instant) -> Vec<ClawId> {
        if let Some(place) = self.ranks.remove(id) {
            self.waiting.remove(&place);
        }
        let Some(since) = self.going.remove(id) else { return Vec::new() };
        let took = now.duration_since(since);
        self.takes = Some(self.takes.map_or(took, |takes| (takes * 3 + took) / 4));
        self.next(now)
    }

    /// How long somebody would wait who came now.
    fn wait(&self, rank: Rank) -> Duration {
        let before = self.waiting.keys().filter(|(it, _)| *it <= rank).count();
        let free = self.places.saturating_sub(self.going.len());
        if before < free {
            return Duration::ZERO;
        }
        let rounds = u32::try_from(before / self.places.max(1) + 1).unwrap_or(u32::MAX);
        self.takes.unwrap_or(USUAL).saturating_mul(rounds)
    }
}

impl Starts {
    fn lock(&self) -> MutexGuard<'_, HashMap<TargetName, Line>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Somebody waits for this one: when it is in line, it moves up.
    pub(crate) fn hurry(&self, target: &TargetName, id: &ClawId) {
        let mut lines = self.lock();
        if let Some(line) = lines.get_mut(target)
            && line.ranks.contains_key(id)
        {
            line.join(id, Rank::People);
        }
    }

    /// Instances that wait for a place, for the metrics.
    pub(crate) fn waiting(&self) -> usize {
        self.lock().values().map(|line| line.waiting.len()).sum()
    }
}

impl Core {
    /// Refuses a wake that would not come to its turn in time, before anything is written.
    pub(crate) fn check_line(&self, instance: &Instance, cause: Cause) -> Result<()> {
        if instance.phase.holds_memory() {
            return Ok(());
        }
        let lines = self.starts.lock();
        let Some(line) = lines.get(&instance.spec.target) else { return Ok(()) };
        let limit = Duration::from_secs(u64::from(instance.spec.ready_timeout_secs));
        let wait = line.wait(if cause == Cause::Asked { Rank::People } else { Rank::of(cause) });
        if line.waiting.len() < LINE_MAX && wait <= limit {
            return Ok(());
        }
        let waiting = line.waiting.len();
        drop(lines);
        Err(Error::new(
            Code::Overloaded,
            format!("{waiting} others wait to be started on '{}' already", instance.spec.target),
        )
        .fix(format!("try again in {} s", wait.as_secs().clamp(1, 600))))
    }

    /// Whether an instance may start now. One that may not is looked at again when it is its turn.
    pub(crate) async fn may_start(&self, instance: &Instance) -> bool {
        // The first start is mostly waiting for software.
        if instance.observed.as_ref().is_none_or(|seen| seen.run == 0) {
            return true;
        }
        let target = &instance.spec.target;
        let stale = {
            let lines = self.starts.lock();
            lines.get(target).and_then(|line| line.known_at).is_none_or(|at| at.elapsed() >= GOOD_FOR)
        };
        let cpus = if stale { self.cpus_of(target).await } else { None };
        let waited_for = matches!(
            self.store.running_operation(&clawfarm_model::Context::system("starts"), &instance.id).await,
            Ok(Some(_))
        );
        let rank = match Rank::of(instance.intent.cause) {
            Rank::Rest if waited_for => Rank::People,
            rank => rank,
        };
        let now = Instant::now();
        let mut lines = self.starts.lock();
        let line = lines.entry(target.clone()).or_default();
        if stale {
            // A target that does not say is taken for a small one.
            line.places = cpus.map_or(line.places.max(2), places);
            line.known_at = Some(now);
        }
        line.enter(&instance.id, rank, now)
    }

    async fn cpus_of(&self, target: &TargetName) -> Option<f64> {
        let runtime = self.runtime(target).ok()?;
        let capacity = tokio::time::timeout(CAPACITY_LIMIT, runtime.capacity()).await.ok()?.ok()?;
        Some(capacity.cpus)
    }

    /// An instance is up, or does not want to start any more: its place is the next one's.
    pub(crate) fn leave_line(&self, target: &TargetName, id: &ClawId) {
        let next = match self.starts.lock().get_mut(target) {
            Some(line) => line.leave(id, Instant::now()),
            None => Vec::new(),
        };
        for id in next {
            self.reconciler.queue.push(&id, Priority::Person);
        }
    }
}

/// How many may start at a time on so many cores.
fn places(cpus: f64) -> usize {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to a small number")]
    let places = (cpus * PER_CORE).clamp(2.0, 100_000.0) as usize;
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: usize) -> ClawId {
        ClawId::new(format!("a-{n}")).unwrap()
    }

    fn line(places: usize) -> Line {
        Line { places, ..Line::default() }
    }

    #[tokio::test(start_paused = true)]
    async fn people_come_before_the_clock_before_the_rest() {
        let (mut line, now) = (line(1), Instant::now());
        assert!(line.enter(&id(0), Rank::Rest, now));
        for (n, rank) in
            [(1, Rank::Rest), (2, Rank::Clock), (3, Rank::People), (4, Rank::People), (5, Rank::Clock)]
        {
            assert!(!line.enter(&id(n), rank, now), "the place is taken");
        }
        let mut order = Vec::new();
        let mut up = id(0);
        while let Some(next) = line.leave(&up, now).pop() {
            assert!(line.enter(&next, Rank::Rest, now), "its place is kept for it");
            order.push(next.clone());
            up = next;
        }
        assert_eq!(order, [3, 4, 2, 5, 1].map(id));
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_somebody_comes_to_wait_for_moves_up_and_never_down() {
        let (mut line, now) = (line(1), Instant::now());
        line.enter(&id(0), Rank::Rest, now);
        line.enter(&id(1), Rank::Rest, now);
        line.enter(&id(2), Rank::Rest, now);
        line.join(&id(2), Rank::People);
        line.enter(&id(2), Rank::Rest, now);
        assert_eq!(line.leave(&id(0), now), [id(2)]);
        assert_eq!(line.waiting.len(), 1);
        assert!(line.leave(&id(1), now).is_empty(), "it went away from the line");
        assert!(line.waiting.is_empty() && line.ranks.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_place_that_nobody_gave_back_is_free_in_the_end() {
        let mut line = line(1);
        assert!(line.enter(&id(0), Rank::Rest, Instant::now()));
        tokio::time::advance(PLACE_LIMIT).await;
        assert!(line.enter(&id(1), Rank::Rest, Instant::now()));
    }

    #[tokio::test(start_paused = true)]
    async fn the_wait_is_told_by_what_starts_take() {
        let mut line = line(2);
        assert_eq!(line.wait(Rank::People), Duration::ZERO);
        let now = Instant::now();
        for n in 0..6 {
            line.enter(&id(n), Rank::Rest, now);
        }
        assert_eq!(line.wait(Rank::Rest), USUAL * 3);
        assert_eq!(line.wait(Rank::People), USUAL, "the others wait behind");
        tokio::time::advance(Duration::from_secs(4)).await;
        line.leave(&id(0), Instant::now());
        assert_eq!(line.wait(Rank::People), Duration::from_secs(4));
    }

    #[test]
    fn cores_make_places() {
        assert_eq!([0.5, 2.0, 16.0].map(places), [2, 4, 32]);
    }
}
