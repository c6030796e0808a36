//! Rates, in a table that never grows.

use std::hash::{BuildHasher as _, Hash, RandomState};
use std::marker::PhantomData;
use std::num::NonZeroU32;
use std::time::Duration;

use governor::clock::{Clock as _, MonotonicClock};
use governor::nanos::Nanos;
use governor::state::{InMemoryState, NotKeyed, StateStore};
use governor::{Quota, RateLimiter};

/// Cells of a table: 512 KiB. Two callers share one by chance in 65,536; who chooses which can't
/// be known outside.
const CELLS: usize = 1 << 16;

/// How often each of many may do something.
pub(crate) struct Rates<K: Hash + Eq + Clone> {
    limiter: Option<RateLimiter<K, Table<K>, MonotonicClock>>,
}

impl<K: Hash + Eq + Clone> Rates<K> {
    /// So many in a time, and `burst` times as many at once; 0 is no limit.
    pub(crate) fn new(most: u32, burst: u32, time: Duration) -> Self {
        let quota = NonZeroU32::new(most).and_then(|most| {
            let quota = Quota::with_period(time / most.get())?;
            Some(quota.allow_burst(most.saturating_mul(NonZeroU32::new(burst).unwrap_or(NonZeroU32::MIN))))
        });
        Self { limiter: quota.map(|quota| RateLimiter::new(quota, Table::new(), MonotonicClock)) }
    }

    /// Counts one more.
    ///
    /// # Errors
    /// After which time it may be tried again.
    pub(crate) fn count(&self, key: &K) -> Result<(), Duration> {
        let Some(limiter) = &self.limiter else { return Ok(()) };
        limiter.check_key(key).map_err(|not_until| not_until.wait_time_from(MonotonicClock.now()))
    }
}

/// A cell for many keys, chosen by a hash that nobody outside knows.
struct Table<K> {
    cells: Box<[InMemoryState]>,
    hasher: RandomState,
    keys: PhantomData<fn(K)>,
}

impl<K> Table<K> {
    fn new() -> Self {
        Self {
            cells: (0..CELLS).map(|_| InMemoryState::default()).collect(),
            hasher: RandomState::new(),
            keys: PhantomData,
        }
    }
}

impl<K: Hash> StateStore for Table<K> {
    type Key = K;

    fn measure_and_replace<T, F, E>(&self, key: &K, f: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        // The remainder is below the number of cells.
        let at = self.hasher.hash_one(key) % CELLS as u64;
        self.cells[usize::try_from(at).unwrap_or_default()].measure_and_replace(&NotKeyed::NonKey, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn most_of_a_hundred_thousand_callers_have_their_own_share() {
        let rates = Rates::<u32>::new(1, 5, Duration::from_secs(3600));
        let refused = (0..100_000).filter(|caller| rates.count(caller).is_err()).count();
        // Where six or more meet in a cell of five, and there are no more cells than before.
        assert!(refused < 1000, "{refused}");
        assert_eq!(rates.limiter.unwrap().into_state_store().cells.len(), CELLS);
    }

    #[test]
    fn no_limit_is_none() {
        let rates = Rates::<u32>::new(0, 5, Duration::from_secs(1));
        assert!((0..10_000).all(|_| rates.count(&1).is_ok()));
    }
}
