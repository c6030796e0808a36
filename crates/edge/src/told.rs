//! What is measured and logged of requests.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode, Version};
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use metrics::{counter, gauge};
use tokio::time::Instant;

use crate::directory::Site;
use crate::edge::Asked;

/// Why the edge refused something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// More requests of one address than it may send.
    AddressRate,
    /// More connections of one address than it may have.
    AddressConnections,
    /// More messages of one address that are not there yet.
    AddressMessages,
    /// More attempts to sign in.
    SignInRate,
    /// More requests to one claw.
    ClawRate,
    /// More at a time.
    ClawBusy,
    /// More messages of strangers at a time.
    ClawMessages,
    /// More WebSockets.
    ClawWebsockets,
    /// Who has shown nothing that counts.
    Stranger,
    /// Another site's page.
    CrossSite,
    /// A path that is closed.
    ClosedPath,
    /// What can't be read in one way only.
    Malformed,
    /// A handshake that failed or took too long.
    Handshake,
    /// Who sent or took nothing for too long.
    Silent,
}

impl Reason {
    const fn as_str(self) -> &'static str {
        match self {
            Self::AddressRate => "address_rate",
            Self::AddressConnections => "address_connections",
            Self::AddressMessages => "address_messages",
            Self::SignInRate => "sign_in_rate",
            Self::ClawRate => "claw_rate",
            Self::ClawBusy => "claw_busy",
            Self::ClawMessages => "claw_messages",
            Self::ClawWebsockets => "claw_websockets",
            Self::Stranger => "stranger",
            Self::CrossSite => "cross_site",
            Self::ClosedPath => "closed_path",
            Self::Malformed => "malformed",
            Self::Handshake => "handshake",
            Self::Silent => "silent",
        }
    }
}

/// Counts what was refused.
pub(crate) fn refused(reason: Reason) {
    counter!("clawfarm_edge_refused_total", "reason" => reason.as_str()).increment(1);
}

/// An open connection, counted until it is dropped.
pub(crate) struct Connected;

impl Connected {
    pub(crate) fn new() -> Self {
        gauge!("clawfarm_edge_connections").increment(1.0);
        Self
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        gauge!("clawfarm_edge_connections").decrement(1.0);
    }
}

/// The line of the access log that a request becomes when all of it is over.
pub(crate) struct Line {
    site: Arc<Site>,
    request: String,
    caller: std::net::IpAddr,
    who: &'static str,
    protocol: &'static str,
    method: Method,
    path: String,
    began: Instant,
    /// Bytes of the body that came.
    pub(crate) received: Arc<AtomicU64>,
    answered: Option<Answered>,
}

struct Answered {
    status: StatusCode,
    after: Duration,
    woke: Option<Duration>,
    sent: u64,
    whole: bool,
}

impl Line {
    pub(crate) fn new<B>(
        asked: &Asked,
        site: &Arc<Site>,
        who: &'static str,
        request: &http::Request<B>,
        websocket: bool,
    ) -> Self {
        let protocol = match (websocket, request.version()) {
            (true, _) => "websocket",
            (_, Version::HTTP_2) => "h2",
            (_, Version::HTTP_10) => "http/1.0",
            _ => "http/1.1",
        };
        Self {
            site: Arc::clone(site),
            request: asked.id.clone(),
            caller: asked.caller.address,
            who,
            protocol,
            method: request.method().clone(),
            path: request.uri().path().to_owned(),
            began: Instant::now(),
            received: Arc::default(),
            answered: None,
        }
    }

    /// The head of the answer is there.
    pub(crate) fn answered(&mut self, status: StatusCode, woke: Option<Duration>) {
        let after = self.began.elapsed();
        self.answered = Some(Answered { status, after, woke, sent: 0, whole: false });
    }

    /// So much went out.
    pub(crate) const fn sent(&mut self, bytes: u64) {
        if let Some(answered) = &mut self.answered {
            answered.sent += bytes;
        }
    }

    /// All went out.
    pub(crate) const fn whole(&mut self) {
        if let Some(answered) = &mut self.answered {
            answered.whole = true;
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let received = self.received.load(Ordering::Relaxed);
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let status = self.answered.as_ref().map(|it| it.status);
        count(status);
        let answered = self.answered.as_ref();
        tracing::info!(
            target: "clawfarm::access",
            request = self.request, instance = %self.site.id, tenant = self.site.tenant,
            caller = %self.caller, who = self.who, protocol = self.protocol,
            method = %self.method, path = self.path, status = status.map(|it| it.as_u16()),
            received, sent = answered.map(|it| it.sent), whole = answered.is_some_and(|it| it.whole),
            ms = answered.map(|it| millis(it.after)), woke_ms = answered.and_then(|it| it.woke).map(millis),
            total_ms = millis(self.began.elapsed()),
            "request"
        );
    }
}

/// Counts a request by the class of its answer; one whose caller went first has none.
fn count(status: Option<StatusCode>) {
    let class = match status.map_or(0, |it| it.as_u16() / 100) {
        1 => "1xx",
        2 => "2xx",
        3 => "3xx",
        4 => "4xx",
        5 => "5xx",
        _ => "none",
    };
    counter!("clawfarm_edge_requests_total", "status" => class).increment(1);
}

/// An answer's body, whose end is logged.
pub(crate) struct Told<B> {
    body: B,
    line: Line,
}

impl<B: HttpBody<Data = Bytes>> Told<B> {
    pub(crate) fn new(body: B, mut line: Line) -> Self {
        if body.is_end_stream() {
            line.whole();
        }
        Self { body, line }
    }
}

impl<B: HttpBody<Data = Bytes> + Unpin> HttpBody for Told<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let Some(data) = frame.data_ref()
        {
            self.line.sent(data.len() as u64);
        }
        if matches!(polled, Poll::Ready(None)) || self.body.is_end_stream() {
            self.line.whole();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
