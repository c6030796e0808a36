//! Places that are held for as long as something lasts: connections, requests, WebSockets.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How many each has now. Who has none is not in it, so it holds no more than there is open.
pub(crate) struct Places<K>(Arc<Taken<K>>);

struct Taken<K>(Mutex<HashMap<K, u32>>);

/// A place, until it is dropped.
pub(crate) struct Place<K: Eq + Hash> {
    taken: Arc<Taken<K>>,
    key: K,
}

impl<K> Default for Places<K> {
    fn default() -> Self {
        Self(Arc::new(Taken(Mutex::new(HashMap::new()))))
    }
}

impl<K: Eq + Hash + Clone> Places<K> {
    /// Takes one of `most` places; 0 is as many as there are. `None` when all are taken.
    pub(crate) fn take(&self, key: K, most: u32) -> Option<Place<K>> {
        let mut taken = self.0.lock();
        let count = taken.entry(key.clone()).or_default();
        if most > 0 && *count >= most {
            return None;
        }
        *count += 1;
        drop(taken);
        Some(Place { taken: Arc::clone(&self.0), key })
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.lock().len()
    }
}

impl<K> Taken<K> {
    fn lock(&self) -> MutexGuard<'_, HashMap<K, u32>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Eq + Hash> Drop for Place<K> {
    fn drop(&mut self) {
        let mut taken = self.taken.lock();
        if let Some(count) = taken.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.key);
            }
        }
    }
}
