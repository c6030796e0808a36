//! What messages of all claws have of the memory.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::limits::Sort;

/// How many messages are read at once: of strangers, and as many of those who have proven
/// themselves. With the largest that is taken, 128 MiB each.
const READ_AT_ONCE: usize = 128;
/// How much of messages is held for claws that have not answered yet, and while it is written down,
/// in KiB.
const WAITING_KIB: usize = 256 << 10;
const WRITING_KIB: usize = 64 << 10;

/// Places and memory for messages. Each is held as shortly as can be: nobody's
/// unfinished messages keep proven ones out, and claws that don't answer no others' messages.
pub(crate) struct Intake {
    proven: Arc<Semaphore>,
    strangers: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
    writing: Arc<Semaphore>,
}

impl Default for Intake {
    fn default() -> Self {
        let of = |permits| Arc::new(Semaphore::new(permits));
        Self {
            proven: of(READ_AT_ONCE),
            strangers: of(READ_AT_ONCE),
            waiting: of(WAITING_KIB),
            writing: of(WRITING_KIB),
        }
    }
}

impl Intake {
    /// A place for one that is read, or none at once.
    pub(super) fn room(&self, sort: Sort) -> Option<OwnedSemaphorePermit> {
        let of = if sort == Sort::Proven { &self.proven } else { &self.strangers };
        Arc::clone(of).try_acquire_owned().ok()
    }

    /// Memory for one of so many bytes while its claw thinks.
    pub(super) fn waiting(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        take(&self.waiting, bytes)
    }

    /// The same while it is written down.
    pub(super) fn writing(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        take(&self.writing, bytes)
    }
}

fn take(memory: &Arc<Semaphore>, bytes: usize) -> Option<OwnedSemaphorePermit> {
    let kib = u32::try_from(bytes / 1024 + 1).ok()?;
    Arc::clone(memory).try_acquire_many_owned(kib).ok()
}
