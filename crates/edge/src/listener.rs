//! Connections of callers: accepted up to a number, HTTP/1.1 and HTTP/2, with limits on time and
//! size, ended gracefully.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use clawfarm_model::{Code, Error, Result};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::server::Acceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::edge::{Caller, Edge};
use crate::patient::Patient;
use crate::told::{self, Connected, Reason};

/// The largest head, in bytes: nginx takes 32 KiB.
const HEAD_MAX: usize = 64 << 10;
/// The most headers.
const HEADERS_MAX: usize = 100;
/// How long a TLS handshake may take, where a head may take longer.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
/// Streams at a time on one HTTP/2 connection.
const STREAMS_MAX: u32 = 250;
/// What may be under way to the edge on one HTTP/2 connection, in bytes: one upload that has to wait
/// must not use up what the others share.
const CONNECTION_WINDOW: u32 = 8 << 20;
/// The same of one request.
const STREAM_WINDOW: u32 = 256 << 10;
/// How often connections to claws that nobody uses are looked for.
const SWEEP: Duration = Duration::from_secs(2);
/// How long to wait when no connection can be accepted (too many open files).
const PAUSE: Duration = Duration::from_millis(100);

/// The names that callers may ask for.
#[async_trait]
pub trait Certificates: Send + Sync + 'static {
    /// Returns when there is a certificate for a name, or there will be none soon.
    async fn ready(&self, name: &str);
}

/// How callers are answered over TLS.
#[derive(Clone)]
pub struct EdgeTls {
    /// What is offered, with the certificates.
    pub config: Arc<ServerConfig>,
    /// Who is told which name is asked for, where a certificate may have to be got first.
    pub certificates: Option<Arc<dyn Certificates>>,
}

impl EdgeTls {
    async fn accept<S>(&self, stream: S) -> std::io::Result<TlsStream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let start = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
        if let Some(certificates) = &self.certificates {
            let name = start.client_hello().server_name().map(str::to_owned);
            if let Some(name) = name {
                certificates.ready(&name).await;
            }
        }
        start.into_stream(Arc::clone(&self.config)).await
    }
}

/// Where callers come in.
pub struct Listener {
    tcp: TcpListener,
    tls: Option<EdgeTls>,
}

impl Listener {
    /// Binds an address.
    ///
    /// # Errors
    /// `Conflict` when it is taken, `InvalidInput` when it can't be bound.
    pub async fn bind(address: SocketAddr, tls: Option<EdgeTls>) -> Result<Self> {
        Ok(Self { tcp: bind(address, "edge").await?, tls })
    }

    /// Where it is, with the port that was chosen.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        self.tcp.local_addr().ok()
    }
}

/// Binds an address, which is said in the option `field`.
pub(crate) async fn bind(address: SocketAddr, field: &str) -> Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| {
        let code = match error.kind() {
            std::io::ErrorKind::AddrInUse => Code::Conflict,
            _ => Code::InvalidInput,
        };
        Error::new(code, format!("can't listen on {address}: {error}"))
            .field(field)
            .fix("choose another address or port")
            .source(error)
    })
}

/// Serves callers until `stopping` is cancelled; what is under way then may take as long as
/// `grace`.
pub async fn serve(edge: Arc<Edge>, listener: Listener, stopping: CancellationToken, grace: Duration) {
    let (tasks, cut) = (TaskTracker::new(), CancellationToken::new());
    let limits = &edge.config.limits;
    let places = Arc::new(Semaphore::new(most(limits.connections)));
    let mut sweep = interval(SWEEP);
    sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let (stream, address, place) = tokio::select! {
            () = stopping.cancelled() => break,
            _ = sweep.tick() => {
                edge.upstream.sweep();
                continue;
            }
            accepted = accept(&listener.tcp, &places) => accepted,
        };
        // Proxies of ours are many callers.
        let ours = edge.config.proxies.as_ref().is_some_and(|it| it.are_at(address.ip()));
        let share = if ours { None } else { edge.meter.connection(address.ip()) };
        if share.is_none() && !ours {
            told::refused(Reason::AddressConnections);
            continue;
        }
        if listener.tls.is_some() && !ours && !edge.meter.handshake(address.ip()) {
            told::refused(Reason::Handshake);
            continue;
        }
        // Answers are written as they come; a delay for fuller packets only costs.
        let _ = stream.set_nodelay(true);
        // Who vanished without a word must not keep a claw awake.
        let _ = rustix::net::sockopt::set_socket_keepalive(&stream, true);
        let ends = Ends { stopping: stopping.clone(), cut: cut.clone() };
        let caller = Caller { address: address.ip(), tls: listener.tls.is_some() };
        let stream = Patient::new(stream, edge.config.limits.silence);
        let (edge, tls) = (Arc::clone(&edge), listener.tls.clone());
        tasks.spawn(async move {
            let _held = (place, share, Connected::new());
            match tls {
                None => requests(stream, &edge, caller, ends).await,
                Some(tls) => {
                    if let Some(stream) = shake_hands(&tls, stream, edge.config.limits.head).await {
                        requests(stream, &edge, caller, ends).await;
                    }
                }
            }
        });
    }
    drop(listener);
    edge.stopping.cancel();
    tasks.close();
    // A request may become a WebSocket until all have ended.
    let all = async {
        tasks.wait().await;
        edge.tunnels.close();
        edge.tunnels.wait().await;
    };
    if timeout(grace, all).await.is_err() {
        edge.cut.cancel();
        cut.cancel();
        edge.tunnels.close();
        tokio::join!(tasks.wait(), edge.tunnels.wait());
    }
}

/// A number of places; 0 is as many as there can be.
fn most(limit: u32) -> usize {
    match usize::try_from(limit) {
        Ok(0) | Err(_) => Semaphore::MAX_PERMITS,
        Ok(limit) => limit,
    }
}

async fn shake_hands<S>(tls: &EdgeTls, stream: S, head: Duration) -> Option<TlsStream<S>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    match timeout(HANDSHAKE_LIMIT.min(head), tls.accept(stream)).await {
        Ok(Ok(stream)) => return Some(stream),
        Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
        Err(_) => tracing::debug!("a TLS handshake took too long"),
    }
    told::refused(Reason::Handshake);
    None
}

struct Ends {
    /// No new requests.
    stopping: CancellationToken,
    /// No more patience.
    cut: CancellationToken,
}

pub(crate) async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> (TcpStream, SocketAddr, OwnedSemaphorePermit) {
    loop {
        let Ok(place) = Arc::clone(places).acquire_owned().await else {
            unreachable!("the places are never closed")
        };
        match listener.accept().await {
            Ok((stream, address)) => return (stream, address, place),
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                sleep(PAUSE).await;
            }
        }
    }
}

async fn requests<S>(stream: S, edge: &Arc<Edge>, caller: Caller, ends: Ends)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let head = edge.config.limits.head;
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(head)
        .max_headers(HEADERS_MAX)
        .max_buf_size(HEAD_MAX)
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .initial_stream_window_size(STREAM_WINDOW)
        .max_header_list_size(u32::try_from(HEAD_MAX).unwrap_or(u32::MAX))
        .keep_alive_interval(head)
        .keep_alive_timeout(head)
        .enable_connect_protocol();
    let began = AtomicBool::new(false);
    let service = service_fn(|request| {
        began.store(true, Ordering::Relaxed);
        let edge = Arc::clone(edge);
        async move { Ok::<_, std::convert::Infallible>(edge.handle(caller, request).await) }
    });
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let mut asked = false;
    // Which HTTP it is to be is found out without a limit of its own.
    let first = sleep(head);
    tokio::pin!(first);
    let mut waiting = true;
    loop {
        tokio::select! {
            outcome = connection.as_mut() => {
                if let Err(error) = outcome {
                    tracing::debug!(error, "a connection ended");
                }
                return;
            }
            () = ends.stopping.cancelled(), if !asked => {
                asked = true;
                connection.as_mut().graceful_shutdown();
            }
            () = first.as_mut(), if waiting => {
                if !began.load(Ordering::Relaxed) {
                    return;
                }
                waiting = false;
            }
            () = ends.cut.cancelled() => return,
        }
    }
}
