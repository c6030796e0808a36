//! Connections to claws: kept open between requests, one request at a time on each.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Context;
use std::time::Duration;

use clawfarm_model::{ClawId, Code, Error, Result};
use http::{Method, Request, Response};
use hyper::body::{Body as _, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::time::{Instant, timeout};

use crate::body::{AtEnd, Body};
use crate::directory::{Connection, Directory};
use crate::link::Link;

/// How long a claw may take to accept a connection.
const DIAL_LIMIT: Duration = Duration::from_secs(10);
/// How long a connection is kept for the next request. Node closes an idle one after 5 s
/// (`server.keepAliveTimeout`); a request must not meet that.
const IDLE_LIMIT: Duration = Duration::from_secs(4);
/// Idle connections to one claw.
const IDLE_MAX: usize = 32;
/// The largest head of an answer, in bytes.
const HEAD_MAX: usize = 256 << 10;

/// The connections to all claws.
pub(crate) struct Upstream {
    directory: Arc<dyn Directory>,
    idle: Arc<Idle>,
}

/// Connections that nobody uses now, the latest last.
#[derive(Default)]
struct Idle(Mutex<HashMap<ClawId, Vec<Waiting>>>);

/// A connection that waits for the next request.
struct Waiting {
    link: Link,
    /// To which run of the claw.
    run: i64,
    since: Instant,
}

/// A request that got no answer.
pub(crate) enum Failed {
    /// The claw never saw it: it may be sent again.
    Unsent(Box<Request<Body>>, Error),
    /// The claw may have acted on it.
    Broken(Error),
}

/// The connection of an answer that is being read.
pub(crate) struct InUse {
    link: Link,
    id: ClawId,
    run: i64,
    idle: Arc<Idle>,
    /// It is of no use for the next request.
    once: bool,
}

impl Upstream {
    pub(crate) fn new(directory: Arc<dyn Directory>) -> Self {
        Self { directory, idle: Arc::default() }
    }

    /// Sends a request and returns the head of its answer. `apart` says that the connection has to
    /// go on also while nobody asks for more of the answer.
    pub(crate) async fn send(
        &self,
        id: &ClawId,
        run: i64,
        mut request: Request<Body>,
        apart: bool,
    ) -> Result<(Response<Incoming>, InUse), Failed> {
        // One that was kept may be closed by the claw in this very moment. Either the request comes
        // back, or it is lost with the connection; then it goes out again when doing it twice is
        // doing it once.
        let mut lost = false;
        while let Some(mut link) = self.idle.take(id, run).filter(|_| !lost) {
            let again = repeated(&request);
            if apart {
                link.apart();
            }
            match link.send(request).await {
                Ok(answer) => return Ok((answer, self.in_use(id, run, link))),
                Err(mut failed) => match (failed.take_message(), again) {
                    (Some(back), _) => request = back,
                    // Once: a claw that hangs up on this very request would do so on each.
                    (None, Some(again)) => (request, lost) = (again, true),
                    (None, None) => return Err(Failed::Broken(broken(id, failed.into_error()))),
                },
            }
        }
        let mut link = match self.connect(id).await {
            Ok(link) => link,
            Err(error) => return Err(Failed::Unsent(Box::new(request), error)),
        };
        if apart {
            link.apart();
        }
        match link.send(request).await {
            Ok(answer) => Ok((answer, self.in_use(id, run, link))),
            Err(mut failed) => Err(match failed.take_message() {
                Some(back) => Failed::Unsent(Box::new(back), broken(id, failed.into_error())),
                None => Failed::Broken(broken(id, failed.into_error())),
            }),
        }
    }

    /// Sends a request over a connection of its own to another listener of a claw; to its gateway
    /// as [`Self::send`] does, when there is none.
    pub(crate) async fn send_to(
        &self,
        id: &ClawId,
        run: i64,
        listener: Option<SocketAddr>,
        request: Request<Body>,
    ) -> Result<(Response<Incoming>, InUse), Failed> {
        let Some(listener) = listener else { return self.send(id, run, request, true).await };
        let mut link = match self.handshake(id, self.directory.dial_at(id, listener)).await {
            Ok(link) => link,
            Err(error) => return Err(Failed::Unsent(Box::new(request), error)),
        };
        link.apart();
        match link.send(request).await {
            Ok(answer) => Ok((answer, InUse { once: true, ..self.in_use(id, run, link) })),
            Err(failed) => Err(Failed::Broken(broken(id, failed.into_error()))),
        }
    }

    /// Forgets the connections to a claw that has gone.
    pub(crate) fn forget(&self, id: &ClawId) {
        self.idle.lock().remove(id);
    }

    /// Closes what nobody has used for a while.
    pub(crate) fn sweep(&self) {
        self.idle.lock().retain(|_, list| {
            list.retain(|it| !it.link.is_closed() && it.since.elapsed() < IDLE_LIMIT);
            !list.is_empty()
        });
    }

    async fn connect(&self, id: &ClawId) -> Result<Link> {
        self.handshake(id, self.directory.dial(id)).await
    }

    async fn handshake(
        &self,
        id: &ClawId,
        dialling: impl Future<Output = Result<Box<dyn Connection>>> + Send,
    ) -> Result<Link> {
        let connection = timeout(DIAL_LIMIT, dialling).await.unwrap_or_else(|_| {
            Err(Error::new(Code::Unavailable, format!("'{id}' does not take connections")))
        })?;
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(HEAD_MAX)
            .handshake(TokioIo::new(connection))
            .await
            .map_err(|error| broken(id, error))?;
        Ok(Link::new(sender, connection))
    }

    fn in_use(&self, id: &ClawId, run: i64, link: Link) -> InUse {
        InUse { link, id: id.clone(), run, idle: Arc::clone(&self.idle), once: false }
    }
}

impl AtEnd for InUse {
    fn go_on(&mut self, cx: &mut Context<'_>) {
        self.link.go_on(cx);
    }

    fn whole(mut self) {
        if self.once || !self.link.is_kept() {
            return;
        }
        let mut idle = self.idle.lock();
        let list = idle.entry(self.id).or_default();
        if list.len() < IDLE_MAX {
            list.push(Waiting { link: self.link, run: self.run, since: Instant::now() });
        }
    }
}

impl Idle {
    fn lock(&self) -> MutexGuard<'_, HashMap<ClawId, Vec<Waiting>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The one that was used last: it is the likeliest to be open.
    fn take(&self, id: &ClawId, run: i64) -> Option<Link> {
        loop {
            let mut it = self.last(id)?;
            if it.run == run && it.since.elapsed() < IDLE_LIMIT && it.link.is_ready() {
                return Some(it.link);
            }
        }
    }

    fn last(&self, id: &ClawId) -> Option<Waiting> {
        let mut idle = self.lock();
        let last = idle.get_mut(id)?.pop();
        if last.is_none() {
            idle.remove(id);
        }
        last
    }
}

/// The same request once more, when it has no body and changes nothing (RFC 9110, 9.2.2).
fn repeated(request: &Request<Body>) -> Option<Request<Body>> {
    let safe = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    if !safe || !request.body().is_end_stream() || request.headers().contains_key(http::header::UPGRADE) {
        return None;
    }
    let mut again = Request::new(crate::body::empty());
    *again.method_mut() = request.method().clone();
    *again.uri_mut() = request.uri().clone();
    *again.headers_mut() = request.headers().clone();
    Some(again)
}

fn broken(id: &ClawId, error: hyper::Error) -> Error {
    Error::new(Code::Unavailable, format!("'{id}' broke off the connection")).source(error)
}
