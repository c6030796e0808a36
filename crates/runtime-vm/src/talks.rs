//! The conversations with machines that run. QEMU has one at a time, so each machine has one
//! place for it; a QEMU that is slow to greet keeps nobody from talking with the others.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use clawfarm_model::{ClawId, Code, Error, Result};
use clawfarm_qemu::Qmp;
use clawfarm_qemu::qmp::Event;
use tokio::sync::broadcast::{Receiver, error::RecvError};
use tokio::time::{Instant, timeout_at};

use crate::inner::{Inner, guard};

/// How often a machine's events may make anybody look at it: a QEMU that was broken into may tell
/// of them without end.
const LOOKS: Duration = Duration::from_secs(1);

/// What changes whether a machine does anything, among QEMU's events.
const NEWS: [&str; 6] = ["BLOCK_IO_ERROR", "GUEST_PANICKED", "RESUME", "STOP", "SUSPEND", "WAKEUP"];

/// A machine's place: whoever holds it makes the conversation, or finds it made.
type Place = Arc<tokio::sync::Mutex<Option<Arc<Qmp>>>>;

/// Every machine's.
#[derive(Default)]
pub(crate) struct Talks(Mutex<HashMap<ClawId, Place>>);

impl Talks {
    /// The conversation with a machine whose QEMU listens at `socket`, and whether it was begun by
    /// this call.
    pub(crate) async fn with(&self, id: &ClawId, socket: &Path, limit: Duration) -> Result<(Arc<Qmp>, bool)> {
        let until = Instant::now() + limit;
        let place = Arc::clone(guard(&self.0).entry(id.clone()).or_default());
        let mut known = timeout_at(until, place.lock()).await.map_err(|_| {
            Error::new(Code::Timeout, format!("'{id}' did not greet another who asked within {limit:?}"))
                .fix("try again; if it goes on, end it with `clawfarm kill`")
        })?;
        if let Some(known) = known.as_ref().filter(|qmp| qmp.ended().is_none()) {
            return Ok((Arc::clone(known), false));
        }
        // The old one goes first: QEMU greets nobody else before.
        *known = None;
        let left = until.saturating_duration_since(Instant::now());
        let qmp = Arc::new(Qmp::connect(socket, left).await?);
        *known = Some(Arc::clone(&qmp));
        Ok((qmp, true))
    }

    /// Ends it. One that is being made is for whoever makes it, and for nobody after them.
    pub(crate) fn end(&self, id: &ClawId) {
        guard(&self.0).remove(id);
    }
}

/// Tells the watchers when QEMU tells that something happened, for as long as it is talked with.
pub(crate) fn listen(inner: Weak<Inner>, id: ClawId, mut events: Receiver<Event>) {
    tokio::spawn(async move {
        loop {
            let news = match events.recv().await {
                Ok(event) => NEWS.contains(&event.name.as_str()),
                Err(RecvError::Lagged(_)) => true,
                Err(RecvError::Closed) => return,
            };
            if news {
                let Some(inner) = inner.upgrade() else { return };
                inner.watch.tell(&id);
                drop(inner);
                tokio::time::sleep(LOOKS).await;
            }
        }
    });
}
