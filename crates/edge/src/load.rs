//! What goes through the edge to each claw now: what keeps a claw awake.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use clawfarm_model::ClawId;
use tokio::time::Instant;

/// What goes to a claw.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Requests under way.
    pub requests: usize,
    /// WebSockets that are open.
    pub sockets: usize,
    /// When the last of them began or ended, or a client last said something on a WebSocket.
    pub last: Instant,
}

/// The loads of all claws.
#[derive(Clone, Default)]
pub(crate) struct Loads(Arc<Mutex<HashMap<ClawId, Arc<Counts>>>>);

struct Counts {
    /// Requests and WebSockets.
    open: AtomicUsize,
    /// The WebSockets among them.
    sockets: AtomicUsize,
    last: Mutex<Instant>,
}

/// One that goes to a claw, for as long as it lives.
pub(crate) struct Going {
    counts: Arc<Counts>,
    socket: bool,
}

impl Going {
    /// It has become a WebSocket.
    pub(crate) fn becomes_socket(&mut self) {
        if !std::mem::replace(&mut self.socket, true) {
            self.counts.sockets.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Its client has said something.
    pub(crate) fn talks(&self) {
        self.counts.touch();
    }
}

impl Loads {
    /// Counts one more.
    pub(crate) fn begin(&self, id: &ClawId) -> Going {
        let mut map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let counts = map.get(id).cloned().unwrap_or_else(|| {
            let new = Arc::new(Counts {
                open: AtomicUsize::new(0),
                sockets: AtomicUsize::new(0),
                last: Mutex::new(Instant::now()),
            });
            map.insert(id.clone(), Arc::clone(&new));
            new
        });
        // Under the map's lock, so that nobody forgets it in between.
        counts.open.fetch_add(1, Ordering::Relaxed);
        drop(map);
        counts.touch();
        Going { counts, socket: false }
    }

    pub(crate) fn of(&self, id: &ClawId) -> Option<Load> {
        let map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        map.get(id).map(|counts| counts.load())
    }

    pub(crate) fn all(&self) -> Vec<(ClawId, Load)> {
        let map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        map.iter().map(|(id, counts)| (id.clone(), counts.load())).collect()
    }

    pub(crate) fn forget(&self, id: &ClawId) {
        let mut map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if map.get(id).is_some_and(|counts| counts.open.load(Ordering::Relaxed) == 0) {
            map.remove(id);
        }
    }
}

impl Counts {
    fn load(&self) -> Load {
        let sockets = self.sockets.load(Ordering::Relaxed);
        let requests = self.open.load(Ordering::Relaxed).saturating_sub(sockets);
        Load { requests, sockets, last: self.last() }
    }

    fn touch(&self) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn last(&self) -> Instant {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Going {
    fn drop(&mut self) {
        self.counts.touch();
        if self.socket {
            self.counts.sockets.fetch_sub(1, Ordering::Relaxed);
        }
        self.counts.open.fetch_sub(1, Ordering::Relaxed);
    }
}
