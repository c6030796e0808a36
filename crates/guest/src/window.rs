//! How much may be on its way on one stream in one direction, so that nobody has to keep more
//! than that for a reader that is slow.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Semaphore;

/// So many bytes may be sent that were not taken yet: two of the largest frames would do; more
/// keeps a line with a long way busy.
pub(crate) const WINDOW: usize = 256 * 1024;

/// The sender's side.
#[derive(Debug)]
pub(crate) struct Window(Semaphore);

impl Window {
    pub(crate) fn new() -> Self {
        Self(Semaphore::new(WINDOW))
    }

    /// Waits until `bytes`, at most a frame's, may be sent. `false` when the stream has ended.
    pub(crate) async fn take(&self, bytes: usize) -> bool {
        let bytes = u32::try_from(bytes.min(WINDOW)).unwrap_or(u32::MAX);
        match self.0.acquire_many(bytes).await {
            Ok(permits) => {
                permits.forget();
                true
            }
            Err(_) => false,
        }
    }

    /// So many were taken by the other side. It can't give more than the whole window.
    pub(crate) fn give(&self, bytes: usize) {
        let room = WINDOW.saturating_sub(self.0.available_permits());
        self.0.add_permits(bytes.min(room));
    }

    /// Nobody waits from now on.
    pub(crate) fn close(&self) {
        self.0.close();
    }
}

/// The receiver's side: what came and was not taken yet.
#[derive(Debug, Default)]
pub(crate) struct Held(AtomicUsize);

impl Held {
    /// `bytes` came. `false` when the other side sends more than it may.
    pub(crate) fn came(&self, bytes: usize) -> bool {
        self.0.fetch_add(bytes, Ordering::Relaxed) + bytes <= WINDOW
    }

    /// `bytes` were taken.
    pub(crate) fn taken(&self, bytes: usize) {
        self.0.fetch_sub(bytes, Ordering::Relaxed);
    }
}
