//! WebSockets and whatever else HTTP becomes: bytes both ways until one side ends.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{CONNECTION, CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue, UPGRADE};
use http::{Method, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use hyper::ext::Protocol;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::body::{Body, empty};
use crate::forward::Held;
use crate::frames::Frames;
use crate::told::Line;

const KEY: HeaderName = HeaderName::from_static("sec-websocket-key");
const ACCEPTED: HeaderName = HeaderName::from_static("sec-websocket-accept");

/// What a request wants to become.
pub(crate) struct Wish {
    client: OnUpgrade,
    /// Over HTTP/2 (RFC 8441), where the answer is another.
    extended: bool,
    protocol: HeaderValue,
}

/// The wish of a request, when it has one that is passed on: WebSocket. Everything else that
/// `Upgrade` can name (`h2c` above all) would get past the edge unread.
pub(crate) fn wish(request: &mut Request<Incoming>) -> Option<Wish> {
    let websocket = |text: &[u8]| text.eq_ignore_ascii_case(b"websocket");
    let extended = request.method() == Method::CONNECT
        && request.extensions().get::<Protocol>().is_some_and(|it| websocket(it.as_str().as_bytes()));
    let plain = request.version() == Version::HTTP_11
        && request.method() == Method::GET
        && request.headers().get(UPGRADE).is_some_and(|value| websocket(value.as_bytes()));
    (extended || plain).then(|| Wish {
        client: hyper::upgrade::on(request),
        extended,
        protocol: HeaderValue::from_static("websocket"),
    })
}

impl Wish {
    /// What the claw is asked: HTTP/1.1, whatever the client speaks.
    pub(crate) fn ask(&self, headers: &mut HeaderMap) {
        headers.remove(CONTENT_LENGTH);
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(UPGRADE, self.protocol.clone());
        if self.extended {
            let mut key = [0_u8; 16];
            // The key is no secret: it only shows that the other side reads WebSocket.
            let _ = getrandom::fill(&mut key);
            if let Ok(key) = HeaderValue::from_str(&STANDARD.encode(key)) {
                headers.insert(KEY, key);
            }
        }
    }

    /// Whether it came over HTTP/2, where any success means that the connection is open.
    pub(crate) const fn is_extended(&self) -> bool {
        self.extended
    }

    /// Joins the two sides, when the claw agreed. `heard` is told when the client has said
    /// something: its claw may have been frozen meanwhile.
    pub(crate) fn join(
        self,
        mut answer: Response<Incoming>,
        mut held: Held,
        mut line: Option<Line>,
        tasks: &TaskTracker,
        cut: CancellationToken,
        heard: Arc<Notify>,
    ) -> Response<Body> {
        let claw = hyper::upgrade::on(&mut answer);
        let (mut parts, _) = answer.into_parts();
        if self.extended {
            parts.status = StatusCode::OK;
            for name in [CONNECTION, UPGRADE, ACCEPTED, CONTENT_LENGTH] {
                parts.headers.remove(name);
            }
            parts.version = Version::HTTP_2;
        } else {
            parts.headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
            parts.headers.insert(UPGRADE, self.protocol.clone());
        }
        let client = self.client;
        held.becomes_socket();
        tasks.spawn(async move {
            let (client, claw) = match tokio::try_join!(client, claw) {
                Ok(both) => both,
                Err(error) => {
                    tracing::debug!(%error, "a connection did not become a WebSocket");
                    return;
                }
            };
            let received = line.as_ref().map_or_else(Arc::default, |line| Arc::clone(&line.received));
            let frames = Frames::default();
            let mut client = Heard { inner: TokioIo::new(client), heard, received, sent: 0, frames, held };
            let mut claw = TokioIo::new(claw);
            tokio::select! {
                ended = copy_bidirectional(&mut client, &mut claw) => match (ended, &mut line) {
                    (Ok(_), Some(line)) => line.whole(),
                    (Ok(_), None) => {}
                    (Err(error), _) => tracing::debug!(%error, "a WebSocket broke off"),
                },
                () = cut.cancelled() => {}
            }
            if let Some(line) = &mut line {
                line.sent(client.sent);
            }
        });
        Response::from_parts(parts, empty())
    }
}

/// Tells when the client has said something, and counts.
struct Heard<S> {
    inner: S,
    heard: Arc<Notify>,
    received: Arc<AtomicU64>,
    sent: u64,
    frames: Frames,
    held: Held,
}

impl<S: AsyncRead + Unpin> AsyncRead for Heard<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.inner).poll_read(cx, buffer);
        let read = &buffer.filled()[before..];
        self.received.fetch_add(read.len() as u64, Ordering::Relaxed);
        if self.frames.talk(read) {
            self.held.talks();
            self.heard.notify_one();
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Heard<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write(cx, bytes);
        if let Poll::Ready(Ok(written)) = polled {
            self.sent += written as u64;
        }
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
