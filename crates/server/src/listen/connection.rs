//! Connections: accepted up to a number, each served over HTTP/1.1 with limits on its time
//! and size, and all of them ended when the server ends.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use super::patience::{Patient, STALL_LIMIT};

/// Connections at a time to a listener of the API; the rest wait in the kernel's queue. More
/// than the requests that the layers let in, so that these can answer 429.
pub(super) const API_MAX: usize = 2048;
/// Connections at a time to the listener for claws, which every program of the machine reaches.
pub(super) const CLAWS_MAX: usize = 512;
/// How long the head of a request may take to arrive, and a connection may idle between two.
const HEAD_LIMIT: Duration = Duration::from_secs(30);
/// The largest head, in bytes.
const HEAD_MAX: usize = 64 << 10;
/// The most headers.
const HEADERS_MAX: usize = 100;
/// How long a TLS handshake may take.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);

/// The places of one listener. Each has its own, so that whoever fills one up (a claw, or a
/// stranger on the network) keeps nobody from the others: above all not from `clawfarm kill`.
pub(super) struct Places(Arc<Semaphore>);

impl Places {
    pub(super) fn new(most: usize) -> Self {
        Self(Arc::new(Semaphore::new(most)))
    }
}

/// The connections of a server.
pub(super) struct Connections {
    tasks: TaskTracker,
    /// No new requests.
    stopping: CancellationToken,
    /// No more patience.
    cut: CancellationToken,
}

impl Connections {
    pub(super) fn new(stopping: CancellationToken) -> Self {
        Self { tasks: TaskTracker::new(), stopping, cut: CancellationToken::new() }
    }

    /// A place for one more connection, when there is one; `None` when the server ends.
    pub(super) async fn place(&self, places: &Places) -> Option<OwnedSemaphorePermit> {
        tokio::select! {
            biased;
            () = self.stopping.cancelled() => None,
            place = Arc::clone(&places.0).acquire_owned() => place.ok(),
        }
    }

    /// Returns when the server ends.
    pub(super) async fn stopping(&self) {
        self.stopping.cancelled().await;
    }

    /// Serves a connection on a task of its own.
    pub(super) fn serve<S>(&self, stream: S, router: Router, place: OwnedSemaphorePermit)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (stopping, cut) = (self.stopping.clone(), self.cut.clone());
        self.tasks.spawn(async move {
            let _place = place;
            requests(Patient::new(stream, STALL_LIMIT), router, stopping, cut).await;
        });
    }

    fn serve_tls<S>(&self, stream: S, acceptor: Arc<TlsAcceptor>, router: Router, place: OwnedSemaphorePermit)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (stopping, cut) = (self.stopping.clone(), self.cut.clone());
        self.tasks.spawn(async move {
            let _place = place;
            // Below TLS, which has taken what waits for its reader already.
            let stream = Patient::new(stream, STALL_LIMIT);
            match timeout(HANDSHAKE_LIMIT, acceptor.accept(stream)).await {
                Ok(Ok(stream)) => requests(stream, router, stopping, cut).await,
                Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
                Err(_) => tracing::debug!("a TLS handshake took too long"),
            }
        });
    }

    /// Waits for requests that are under way, and cuts off those that take longer than `grace`.
    pub(super) async fn finish(self, grace: Duration) {
        self.tasks.close();
        if timeout(grace, self.tasks.wait()).await.is_err() {
            tracing::warn!(left = self.tasks.len(), "cutting off connections that did not end in time");
            self.cut.cancel();
            self.tasks.wait().await;
        }
    }
}

async fn requests<S>(stream: S, router: Router, stopping: CancellationToken, cut: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service =
        service_fn(move |request: http::Request<Incoming>| router.clone().oneshot(request.map(Body::new)));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_LIMIT)
        .max_headers(HEADERS_MAX)
        .max_buf_size(HEAD_MAX)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    tokio::pin!(connection);
    let mut asked = false;
    loop {
        tokio::select! {
            outcome = connection.as_mut() => {
                if let Err(error) = outcome {
                    tracing::debug!(%error, "a connection ended");
                }
                return;
            }
            () = stopping.cancelled(), if !asked => {
                asked = true;
                connection.as_mut().graceful_shutdown();
            }
            () = cut.cancelled() => return,
        }
    }
}

/// Serves a TCP listener until the server ends.
pub(super) async fn tcp(
    listener: TcpListener,
    acceptor: Option<Arc<TlsAcceptor>>,
    connections: &Connections,
    places: &Places,
    router: &Router,
) {
    while let Some(place) = connections.place(places).await {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = connections.stopping() => return,
        };
        match accepted {
            Ok((stream, _)) => {
                // Small answers must not wait for more to send; an error here only means slower.
                let _ = stream.set_nodelay(true);
                let router = router.clone();
                match acceptor.clone() {
                    Some(acceptor) => connections.serve_tls(stream, acceptor, router, place),
                    None => connections.serve(stream, router, place),
                }
            }
            Err(error) => accept_error(&error).await,
        }
    }
}

/// Errors of a single connection are nothing; others (no descriptors left) need a pause, or
/// they would come without end.
pub(super) async fn accept_error(error: &std::io::Error) {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    if !matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset) {
        tracing::warn!(%error, "a connection can't be accepted");
        sleep(Duration::from_millis(500)).await;
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use axum::body::Bytes;
    use axum::routing::get;
    use futures::stream;
    use tokio::io::{AsyncWriteExt, duplex};

    use super::*;

    /// A follower that asks and never reads: what is made for it is bounded, and it is ended.
    #[tokio::test(start_paused = true)]
    async fn a_reader_that_does_not_read_costs_little_and_is_ended() {
        static MADE: AtomicUsize = AtomicUsize::new(0);
        const PIECE: usize = 1024;
        let endless = || async {
            Body::from_stream(stream::repeat_with(|| {
                MADE.fetch_add(PIECE, Ordering::Relaxed);
                Ok::<_, Infallible>(Bytes::from(vec![b'x'; PIECE]))
            }))
        };
        let router = Router::new().route("/", get(endless));
        let (near, mut far) = duplex(HEAD_MAX);
        far.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.expect("it has room");
        let connections = Connections::new(CancellationToken::new());
        let places = Places::new(1);
        let place = connections.place(&places).await.expect("it has one");
        connections.serve(near, router, place);
        // Time stands still while there is anything to do: this is when nothing else happens.
        tokio::time::sleep(STALL_LIMIT / 2).await;
        let made = MADE.load(Ordering::Relaxed);
        assert!((PIECE..8 * HEAD_MAX).contains(&made), "{made} bytes for one who reads none");
        let another = timeout(STALL_LIMIT, connections.place(&places)).await;
        assert!(another.is_ok(), "it still holds its place");
        let made = MADE.load(Ordering::Relaxed);
        assert!(made < 8 * HEAD_MAX, "{made} bytes by its end");
    }
}
