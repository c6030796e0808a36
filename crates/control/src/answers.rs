//! How often requests to claws and deliveries to them came to nothing, to compare what was with
//! what is: a rollout asks whether those that it changed fail more often than before.
//!
//! Each server knows what went through its own edge and its own deliveries, since it began. That is
//! little to keep, and nothing is asked of the store for it. A server that saw too little says
//! nothing; another one that saw more does.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use clawfarm_model::ClawId;

use crate::Control;

/// What came within this time is one entry.
const TOGETHER: Duration = Duration::from_secs(2);
/// What is older may be joined to entries of this length. Two in a row are longer together, so half
/// of the entries would be of more than is remembered before nothing could be joined any more.
const JOINED: Duration = Duration::from_secs(60);
/// How long it is remembered.
const REMEMBERED: Duration = Duration::from_secs(3600);
/// So many entries are kept of a claw: 24 bytes each.
const ENTRIES: usize = 240;
/// Fewer requests than this say nothing of a share.
const TELLING: u32 = 20;
/// Fewer failures than this are bad luck.
const FAILURES: u32 = 5;

/// How many there were, and how many of them failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Share {
    /// Requests and deliveries.
    pub(crate) all: u32,
    /// Those that failed.
    pub(crate) failed: u32,
}

impl Share {
    const fn add(&mut self, other: Self) {
        self.all = self.all.saturating_add(other.all);
        self.failed = self.failed.saturating_add(other.failed);
    }

    fn rate(self) -> f64 {
        f64::from(self.failed) / f64::from(self.all.max(1))
    }

    /// Whether this is clearly worse than what was before: both of enough requests to tell, twice
    /// as many failures among them, and 5 of a hundred more at least.
    pub(crate) fn is_worse_than(self, before: Self) -> bool {
        let telling = self.all >= TELLING && before.all >= TELLING && self.failed >= FAILURES;
        telling && self.rate() > (before.rate() * 2.0).max(before.rate() + 0.05)
    }
}

#[derive(Clone, Copy)]
struct Entry {
    from: Instant,
    to: Instant,
    share: Share,
}

/// What this server saw.
#[derive(Default)]
pub(crate) struct Answers(Mutex<HashMap<ClawId, VecDeque<Entry>>>);

impl Answers {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<ClawId, VecDeque<Entry>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more.
    pub(crate) fn count(&self, id: &ClawId, failed: bool, now: Instant) {
        let share = Share { all: 1, failed: u32::from(failed) };
        let mut all = self.lock();
        let entries = match all.get_mut(id) {
            Some(known) => known,
            None => all.entry(id.clone()).or_default(),
        };
        if let Some(last) = entries.back_mut()
            && now.duration_since(last.from) < TOGETHER
        {
            last.share.add(share);
            last.to = last.to.max(now);
            return;
        }
        if entries.len() >= ENTRIES {
            entries.retain(|it| now.duration_since(it.to) < REMEMBERED);
        }
        if entries.len() >= ENTRIES {
            join(entries);
        }
        entries.push_back(Entry { from: now, to: now, share });
    }

    /// The claws of which so much failed that it may say something.
    pub(crate) fn suspects(&self, now: Instant) -> Vec<ClawId> {
        let mut all = self.lock();
        all.retain(|_, it| it.back().is_some_and(|last| now.duration_since(last.to) < REMEMBERED));
        let failed = |it: &VecDeque<Entry>| it.iter().map(|it| it.share.failed).fold(0, u32::saturating_add);
        all.iter().filter(|(_, it)| failed(it) >= FAILURES).map(|(id, _)| id.clone()).collect()
    }

    /// What was before one time, and after another.
    pub(crate) fn around(&self, id: &ClawId, before: Instant, after: Instant) -> (Share, Share) {
        let (mut was, mut is) = (Share::default(), Share::default());
        for entry in self.lock().get(id).into_iter().flatten() {
            if entry.to <= before {
                was.add(entry.share);
            } else if entry.from >= after {
                is.add(entry.share);
            }
        }
        (was, is)
    }
}

/// Joins entries of the older half, as far as what comes of it is not too long to be told apart.
fn join(entries: &mut VecDeque<Entry>) {
    let newer = entries.split_off(entries.len() / 2);
    for entry in std::mem::take(entries) {
        match entries.back_mut() {
            Some(last) if entry.to.duration_since(last.from) <= JOINED => {
                last.share.add(entry.share);
                last.to = entry.to;
            }
            _ => entries.push_back(entry),
        }
    }
    entries.extend(newer);
}

impl Control {
    /// Takes note of an answer that a caller got from a claw through an edge. `failed`: it, or the
    /// edge in its place, said that it went wrong on this side.
    pub fn answered(&self, id: &ClawId, failed: bool) {
        self.core.answers.count(id, failed, Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id() -> ClawId {
        "alice-x7k2m".parse().unwrap()
    }

    fn secs(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn what_was_before_is_told_from_what_is() {
        let answers = Answers::default();
        let begin = Instant::now();
        for n in 0..100 {
            answers.count(&id(), n % 50 == 0, begin + secs(n));
        }
        for n in 0..100 {
            answers.count(&id(), n % 2 == 0, begin + secs(200 + n));
        }
        let (was, is) = answers.around(&id(), begin + secs(150), begin + secs(150));
        assert_eq!((was, is), (Share { all: 100, failed: 2 }, Share { all: 100, failed: 50 }));
        assert!(is.is_worse_than(was) && !was.is_worse_than(is));
        assert_eq!(answers.suspects(begin + secs(300)), [id()]);
        // Nothing is known of times that lie apart from both.
        let (was, is) = answers.around(&id(), begin, begin + secs(400));
        assert_eq!((was.all, is.all), (0, 0));
        assert_eq!(answers.suspects(begin + secs(300) + REMEMBERED), []);
    }

    #[test]
    fn few_say_nothing() {
        let share = |all, failed| Share { all, failed };
        assert!(!share(10, 10).is_worse_than(share(1_000, 0)), "too few since");
        assert!(!share(100, 100).is_worse_than(share(10, 0)), "too few before");
        assert!(!share(1_000, 4).is_worse_than(share(1_000, 0)), "bad luck");
        assert!(!share(100, 8).is_worse_than(share(100, 5)), "little worse");
        assert!(!share(100, 60).is_worse_than(share(100, 50)), "bad before, too");
        assert!(share(20, 10).is_worse_than(share(20, 0)));
    }

    #[test]
    fn what_is_kept_is_bounded_and_nothing_of_it_is_lost() {
        let answers = Answers::default();
        let begin = Instant::now();
        for n in 0..1_000 {
            answers.count(&id(), false, begin + secs(n * 3));
            assert!(answers.lock().values().all(|it| it.len() <= ENTRIES));
        }
        let end = begin + secs(3_000);
        assert_eq!(answers.around(&id(), end, end).0.all, 1_000);
        for n in 1_000..5_000 {
            answers.count(&id(), false, begin + secs(n * 3));
            assert!(answers.lock().values().all(|it| it.len() <= ENTRIES));
        }
        let kept = answers.around(&id(), begin + secs(15_000), begin + secs(15_000)).0.all;
        assert!(
            (1_200..2_400).contains(&kept),
            "{kept} of the last hour's 1,200 and what is not forgotten yet"
        );
    }
}
