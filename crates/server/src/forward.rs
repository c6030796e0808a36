//! Ports of instances: the pump between a WebSocket and a connection to an instance.
//!
//! A binary message carries bytes of the connection; an empty one says that no more follow in
//! that direction. Both sides ping every [`PING`], whatever the other does, so that a connection
//! on which nothing is said for hours stays, and one whose other end is gone does not.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::extract::ws::{Message, WebSocket};
use bytes::{Bytes, BytesMut};
use clawfarm_model::{ClawId, Code, Error, Result};
use clawfarm_runtime::Connection;
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::{interval, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::console::close;

/// Connections to ports of instances at a time, of which each is two sockets of this process, or
/// three where another server is asked.
const FORWARDS_MAX: usize = 1024;
/// Those to one instance, so that one that is much asked for leaves others theirs: the WebSockets
/// that the edge has to a claw, and the connections that it keeps for requests, by default.
const FORWARDS_PER_CLAW: usize = 128 + 32;
/// The longest message that is taken.
pub(crate) const MESSAGE_MAX: usize = 1 << 20;
/// What is read from the instance at a time.
const PIECE: usize = 32 << 10;
/// Between two pings.
const PING: Duration = Duration::from_secs(20);
/// A peer that sends nothing, not even a ping, for so long is gone.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// The connections that are open.
#[derive(Debug)]
pub(crate) struct Forwards {
    places: Arc<Semaphore>,
    shares: Shares,
    tasks: TaskTracker,
}

/// How many each instance has. Who has none is not in it.
type Shares = Arc<Mutex<HashMap<ClawId, usize>>>;

/// A connection that may be open; let go when it is dropped.
pub(crate) struct Place {
    _place: OwnedSemaphorePermit,
    _share: Share,
    _task: TaskTrackerToken,
}

/// One of an instance's.
struct Share {
    shares: Shares,
    id: ClawId,
}

impl Share {
    fn of(shares: &Shares, id: &ClawId) -> Option<Self> {
        let mut counts = lock(shares);
        let count = counts.entry(id.clone()).or_default();
        if *count >= FORWARDS_PER_CLAW {
            return None;
        }
        *count += 1;
        Some(Self { shares: Arc::clone(shares), id: id.clone() })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut counts = lock(&self.shares);
        if let Some(count) = counts.get_mut(&self.id) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.id);
            }
        }
    }
}

fn lock(shares: &Shares) -> MutexGuard<'_, HashMap<ClawId, usize>> {
    shares.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Default for Forwards {
    fn default() -> Self {
        let places = Arc::new(Semaphore::new(FORWARDS_MAX));
        Self { places, shares: Arc::default(), tasks: TaskTracker::new() }
    }
}

impl Forwards {
    /// Room for one more to an instance, whether this server reaches it or another one does.
    ///
    /// # Errors
    /// `Overloaded` when the instance has its share, or all places are taken.
    pub(crate) fn place(&self, id: &ClawId) -> Result<Place> {
        let full = |what: String| Error::new(Code::Overloaded, what).fix("close others, or try again later");
        let share = Share::of(&self.shares, id).ok_or_else(|| {
            full(format!("{FORWARDS_PER_CLAW} connections to '{id}' are forwarded already"))
        })?;
        let place = Arc::clone(&self.places)
            .try_acquire_owned()
            .map_err(|_| full(format!("{FORWARDS_MAX} connections are forwarded already")))?;
        Ok(Place { _place: place, _share: share, _task: self.tasks.token() })
    }

    /// Waits until the open ones are closed.
    pub(crate) async fn finish(&self, grace: Duration) {
        self.tasks.close();
        if timeout(grace, self.tasks.wait()).await.is_err() {
            tracing::warn!(
                left = self.tasks.len(),
                "leaving forwarded connections that did not close in time"
            );
        }
    }
}

/// Why a pump ended before both directions did.
struct Cut;

/// Carries bytes both ways until both directions have ended, one breaks, or the server is
/// stopped. Who does not read makes the other side wait: at most one piece is held each way.
pub(crate) async fn pump(
    socket: WebSocket,
    connection: Box<dyn Connection>,
    stop: CancellationToken,
    _place: Place,
) {
    let (mut sink, mut stream) = socket.split();
    let (read, write) = tokio::io::split(connection);
    let (ended, peer_ended) = oneshot::channel();
    tokio::select! {
        _ = async { tokio::try_join!(to_peer(&mut sink, read, peer_ended), from_peer(&mut stream, write, ended)) } => {}
        () = stop.cancelled() => {}
    }
    close(sink, stream).await;
}

async fn to_peer(
    sink: &mut SplitSink<WebSocket, Message>,
    mut read: ReadHalf<Box<dyn Connection>>,
    mut peer_ended: oneshot::Receiver<()>,
) -> Result<(), Cut> {
    let mut ping = interval(PING);
    let mut buffer = BytesMut::with_capacity(PIECE);
    let mut open = true;
    loop {
        let message = tokio::select! {
            // Not before this side has said all.
            _ = &mut peer_ended, if !open => return Ok(()),
            length = read.read_buf(&mut buffer), if open => match length {
                Ok(length) => {
                    open = length > 0;
                    let piece = buffer.split().freeze();
                    buffer.reserve(PIECE);
                    Message::Binary(piece)
                }
                Err(_) => return Err(Cut),
            },
            _ = ping.tick() => Message::Ping(Bytes::new()),
        };
        sink.send(message).await.map_err(|_| Cut)?;
    }
}

async fn from_peer(
    stream: &mut SplitStream<WebSocket>,
    mut write: WriteHalf<Box<dyn Connection>>,
    ended: oneshot::Sender<()>,
) -> Result<(), Cut> {
    while let Ok(Some(Ok(message))) = timeout(SILENCE_MAX, stream.next()).await {
        match message {
            Message::Binary(bytes) if bytes.is_empty() => {
                write.shutdown().await.map_err(|_| Cut)?;
                // The other direction knows by itself when nobody waits for it any more.
                let _ = ended.send(());
                return Ok(());
            }
            Message::Binary(bytes) => write.write_all(&bytes).await.map_err(|_| Cut)?,
            Message::Ping(_) | Message::Pong(_) => {}
            Message::Text(_) | Message::Close(_) => return Err(Cut),
        }
    }
    Err(Cut)
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::extract::ws::WebSocketUpgrade;
    use axum::routing::any;
    use clawfarm_client::{Client, Endpoint};
    use secrecy::SecretString;
    use tokio::io::{AsyncRead, DuplexStream, duplex};

    use super::*;

    const LIMIT: Duration = Duration::from_secs(30);
    /// What fits on the way to the instance, in bytes: far less than is sent.
    const NARROW: usize = 4 << 10;

    /// A server whose one instance is `claw`, and a connection of ours to it.
    async fn through(
        claw: impl FnOnce(DuplexStream) + Clone + Send + Sync + 'static,
    ) -> (Client, CancellationToken, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s.sock");
        let listener = tokio::net::UnixListener::bind(&path).unwrap();
        let stop = CancellationToken::new();
        let ending = stop.clone();
        let forwards = Arc::new(Forwards::default());
        let router = Router::new().route(
            "/api/v1/instances/{id}/port-forward",
            any(move |upgrade: WebSocketUpgrade| async move {
                let (ours, theirs) = duplex(NARROW);
                claw.clone()(theirs);
                let place = forwards.place(&ClawId::new("alice-x7k2m").unwrap()).unwrap();
                upgrade.on_upgrade(move |socket| pump(socket, Box::new(ours), ending, place))
            }),
        );
        tokio::spawn(async move { axum::serve(listener, router).await });
        (Client::new(Endpoint::Unix(path), SecretString::from("t")), stop, folder)
    }

    #[test]
    fn an_instance_has_its_share_and_leaves_others_theirs() {
        let forwards = Forwards::default();
        let id = |n: usize| ClawId::new(format!("claw-{n}")).unwrap();
        let (one, other) = (id(0), id(1));
        let mut held: Vec<_> = (0..FORWARDS_PER_CLAW).map(|_| forwards.place(&one).unwrap()).collect();
        let refused = forwards.place(&one).err().unwrap();
        assert_eq!(refused.code(), Code::Overloaded);
        assert!(refused.message().contains("'claw-0'"), "{}", refused.message());
        held.push(forwards.place(&other).unwrap());
        held.remove(0);
        held.push(forwards.place(&one).unwrap());
        // All of them together have an end, too; who was refused took nothing.
        let rest = (2..).map(id).flat_map(|id| vec![id; FORWARDS_PER_CLAW]);
        held.extend(rest.map_while(|id| forwards.place(&id).ok()));
        assert_eq!(held.len(), FORWARDS_MAX);
        drop(held);
        assert!(lock(&forwards.shares).is_empty(), "what is free is not remembered");
        assert_eq!(forwards.places.available_permits(), FORWARDS_MAX);
    }

    fn echo(stream: DuplexStream) {
        tokio::spawn(async move {
            let (mut read, mut write) = tokio::io::split(stream);
            // What comes is sent back as it comes; its end too.
            let _ = tokio::io::copy(&mut read, &mut write).await;
            let _ = write.shutdown().await;
        });
    }

    fn bytes(count: usize, seed: u8) -> Vec<u8> {
        (0..count).map(|n| (n.wrapping_mul(31) ^ (n >> 9)) as u8 ^ seed).collect()
    }

    async fn whole(mut stream: impl AsyncRead + Unpin) -> Vec<u8> {
        let mut read = Vec::new();
        timeout(LIMIT, stream.read_to_end(&mut read)).await.expect("the end comes").unwrap();
        read
    }

    #[tokio::test]
    async fn many_connections_carry_a_mebibyte_each_way_through_a_narrow_place() {
        let (client, _stop, _folder) = through(echo).await;
        let one = |seed: u8| {
            let client = client.clone();
            async move {
                let (ours, theirs) = duplex(NARROW);
                let carried =
                    tokio::spawn(client.port_forward("alice", Some(1)).await.unwrap().carry(theirs));
                let sent = bytes(1 << 20, seed);
                let expected = sent.clone();
                let (read, mut write) = tokio::io::split(ours);
                let sending = tokio::spawn(async move {
                    write.write_all(&sent).await.unwrap();
                    write.shutdown().await.unwrap();
                });
                assert!(whole(read).await == expected, "connection {seed}");
                sending.await.unwrap();
                timeout(LIMIT, carried).await.expect("it ends").unwrap().unwrap();
            }
        };
        futures::future::join_all((0..12).map(one)).await;
    }

    #[tokio::test]
    async fn either_side_may_end_first_and_the_other_goes_on() {
        // The instance says its all at once, and listens on.
        let (told, mut heard) = tokio::sync::mpsc::channel(1);
        let claw = move |stream: DuplexStream| {
            let told = told.clone();
            tokio::spawn(async move {
                let (read, mut write) = tokio::io::split(stream);
                write.write_all(b"hello").await.unwrap();
                write.shutdown().await.unwrap();
                told.send(whole(read).await).await.unwrap();
            });
        };
        let (client, _stop, _folder) = through(claw).await;
        let (ours, theirs) = duplex(NARROW);
        let carried = tokio::spawn(client.port_forward("alice", None).await.unwrap().carry(theirs));
        let (read, mut write) = tokio::io::split(ours);
        assert_eq!(whole(read).await, b"hello");
        let late = bytes(100_000, 7);
        write.write_all(&late).await.unwrap();
        write.shutdown().await.unwrap();
        assert!(timeout(LIMIT, heard.recv()).await.expect("heard").expect("all of it") == late);
        timeout(LIMIT, carried).await.expect("it ends").unwrap().unwrap();
    }

    #[tokio::test]
    async fn an_instance_that_hangs_up_and_a_server_that_ends_are_told() {
        let (client, _stop, _folder) = through(drop).await;
        let (ours, theirs) = duplex(NARROW);
        let carried = tokio::spawn(client.port_forward("alice", None).await.unwrap().carry(theirs));
        assert!(whole(ours).await.is_empty());
        timeout(LIMIT, carried).await.expect("it ends").unwrap().ok();
        let hold = |stream: DuplexStream| {
            tokio::spawn(async move {
                whole(stream).await;
            });
        };
        let (client, stop, _folder) = through(hold).await;
        let (_ours, theirs) = duplex(NARROW);
        let carried = tokio::spawn(client.port_forward("alice", None).await.unwrap().carry(theirs));
        stop.cancel();
        let error = timeout(LIMIT, carried).await.expect("it ends").unwrap().unwrap_err();
        assert_eq!(error.code(), Code::Unavailable);
    }
}
