//! When claws were last used: at the edge, by messages, consoles and port-forwards.
//!
//! A claw may be used at a server that does not decide about its sleep. So each server writes down
//! twice a minute what it has seen, in one transaction, and who decides reads it when a sleep is
//! due and waits for that much longer. Asking all servers each time would make a sleep depend on
//! every one of them.
//!
//! WebSockets that are open are written down beside it, also where nobody says anything on them: a
//! claw that is suspended under a dashboard of another server's is woken by it at once.

use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use clawfarm_model::{ClawId, Context, Timestamp};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::core::Core;

/// How often it is written down.
pub(super) const EVERY: Duration = Duration::from_secs(30);

/// What goes to a claw through an edge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Requests under way.
    pub requests: usize,
    /// WebSockets that are open.
    pub sockets: usize,
    /// How long ago a request last began or ended, or a client last said something on a WebSocket.
    pub last: Option<Duration>,
}

#[derive(Default)]
pub(crate) struct Marks(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    used: HashMap<ClawId, Used>,
}

#[derive(Default)]
struct Used {
    at: Option<Timestamp>,
    /// Not in the store yet.
    unwritten: bool,
    open: usize,
}

/// A use of a claw that is under way, until this is dropped.
pub struct InUse {
    state: Arc<Mutex<State>>,
    id: ClawId,
}

impl InUse {
    /// A connection that is in use until it is dropped.
    pub(crate) fn with<C>(self, connection: C) -> UsedBy<C> {
        UsedBy { connection, _using: self }
    }
}

impl std::fmt::Debug for InUse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "InUse({})", self.id)
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        if let Some(used) = lock(&self.state).used.get_mut(&self.id) {
            used.open = used.open.saturating_sub(1);
            // By now, whenever that is found out: the next look sees that it is not open any more.
            used.unwritten = true;
        }
    }
}

/// A connection to a claw: the claw is in use for as long as it is open.
pub(crate) struct UsedBy<C> {
    connection: C,
    _using: InUse,
}

impl<C: AsyncRead + Unpin> AsyncRead for UsedBy<C> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_read(cx, buffer)
    }
}

impl<C: AsyncWrite + Unpin> AsyncWrite for UsedBy<C> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.connection).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_shutdown(cx)
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Marks {
    /// It is being used, for as long as what is returned lives.
    pub(super) fn begin(&self, id: &ClawId, now: Timestamp) -> InUse {
        let mut state = lock(&self.0);
        let used = state.used.entry(id.clone()).or_default();
        used.open += 1;
        used.at = used.at.max(Some(now));
        used.unwritten = true;
        InUse { state: Arc::clone(&self.0), id: id.clone() }
    }

    /// It was used at this time.
    pub(super) fn touch(&self, id: &ClawId, at: Timestamp) {
        let mut state = lock(&self.0);
        let used = state.used.entry(id.clone()).or_default();
        if used.at.is_none_or(|before| before < at) {
            used.at = Some(at);
            used.unwritten = true;
        }
    }

    pub(super) fn last_used(&self, id: &ClawId) -> Option<Timestamp> {
        lock(&self.0).used.get(id).and_then(|used| used.at)
    }

    /// Uses that are under way.
    pub(super) fn open(&self, id: &ClawId) -> usize {
        lock(&self.0).used.get(id).map_or(0, |used| used.open)
    }

    /// What is to be written down. What is open is in use now.
    fn take(&self, now: Timestamp) -> Vec<(ClawId, Timestamp)> {
        let mut state = lock(&self.0);
        let mut taken = Vec::new();
        for (id, used) in &mut state.used {
            if used.open > 0 {
                used.at = Some(now);
                used.unwritten = true;
            }
            if let (true, Some(at)) = (used.unwritten, used.at) {
                used.unwritten = false;
                taken.push((id.clone(), at));
            }
        }
        taken
    }

    /// Puts back what could not be written.
    fn put_back(&self, ids: &[(ClawId, String, Timestamp)]) {
        let mut state = lock(&self.0);
        for (id, ..) in ids {
            if let Some(used) = state.used.get_mut(id) {
                used.unwritten = true;
            }
        }
    }

    fn forget(&self, id: &ClawId) {
        let mut state = lock(&self.0);
        if state.used.get(id).is_some_and(|used| used.open == 0) {
            state.used.remove(id);
        }
    }
}

/// Writes the marks down, until the server ends.
pub(super) async fn run(core: Arc<Core>) {
    loop {
        tokio::select! {
            () = core.stopping.cancelled() => break,
            () = tokio::time::sleep(EVERY) => {}
        }
        write(&core).await;
    }
}

/// Writes down what was used since the last time.
pub(super) async fn write(core: &Core) {
    let (now, marks) = (core.sleeper.clock.now(), &core.sleeper.marks);
    if let Some(doors) = core.doors.get() {
        let mut open = Vec::new();
        for (id, traffic) in doors.all_traffic() {
            note_traffic(core, &id, traffic, now);
            // A server that is alone knows of all of them itself.
            if traffic.sockets > 0
                && core.shares.is_shared()
                && let Some(tenant) = tenant_of(core, &id).await
            {
                open.push((id, tenant));
            }
        }
        if !open.is_empty()
            && let Err(error) = core.store.mark_sockets(&Context::system("marks"), &open, now).await
        {
            tracing::debug!(?error, "which WebSockets are open could not be written down");
        }
    }
    let system = Context::system("marks");
    let mut used = Vec::new();
    for (id, at) in marks.take(now) {
        if let Some(tenant) = tenant_of(core, &id).await {
            used.push((id, tenant, at));
        }
    }
    if used.is_empty() {
        return;
    }
    if let Err(error) = core.store.mark_active(&system, &used).await {
        tracing::debug!(?error, "what was used could not be written down; it is tried again");
        marks.put_back(&used);
    }
}

/// Whose claw it is; `None` for one that has gone, or when that can't be read now.
async fn tenant_of(core: &Core, id: &ClawId) -> Option<String> {
    if let Some(tenant) = core.sleeper.tenant_of(id) {
        return Some(tenant);
    }
    // Another server decides about it.
    match core.store.instance(&Context::system("marks"), id).await {
        Ok(instance) if instance.phase != clawfarm_model::Phase::Destroyed => {
            Some(instance.tenant.to_string())
        }
        Ok(_) => {
            core.sleeper.marks.forget(id);
            None
        }
        Err(error) => {
            tracing::debug!(%id, ?error, "whose claw this is could not be read");
            None
        }
    }
}

/// Takes note of what an edge has seen.
pub(super) fn note_traffic(core: &Core, id: &ClawId, traffic: Traffic, now: Timestamp) {
    let last = match traffic.requests {
        0 => traffic.last,
        _ => Some(Duration::ZERO),
    };
    if let Some(ago) = last {
        let ago = i64::try_from(ago.as_millis()).unwrap_or(i64::MAX);
        let at = Timestamp::from_millis(now.as_millis().saturating_sub(ago));
        // What is open is touched each time; what was over before is known already.
        core.sleeper.marks.touch(id, at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    #[test]
    fn a_use_is_written_once_and_one_that_goes_on_each_time() {
        let (marks, id) = (Marks::default(), ClawId::new("alice-x7k2m").unwrap());
        marks.touch(&id, at(10));
        marks.touch(&id, at(5));
        assert_eq!(marks.take(at(100)), [(id.clone(), at(10))]);
        assert!(marks.take(at(200)).is_empty(), "nothing is new");
        let using = marks.begin(&id, at(300));
        assert_eq!((marks.open(&id), marks.last_used(&id)), (1, Some(at(300))));
        assert_eq!(marks.take(at(400)), [(id.clone(), at(400))]);
        drop(using);
        assert_eq!(marks.take(at(500)).len(), 1, "its end is written down, too");
        assert!(marks.take(at(600)).is_empty());
        marks.put_back(&[(id.clone(), "default".into(), at(400))]);
        assert_eq!(marks.take(at(700)).len(), 1);
        marks.forget(&id);
        assert_eq!(marks.last_used(&id), None);
    }
}
