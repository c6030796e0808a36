//! A connection to a claw, and who keeps it going.
//!
//! Whoever waits for an answer keeps the connection going beside it: a task of its own for each
//! would be woken for the request, and would wake for the answer, and each costs a small request as
//! much as passing it on does. Where the connection has to go on by itself it gets its task.

use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::{Connection, SendRequest};
use hyper::rt::{Read, Write};

use crate::body::Body;

type Going = Pin<Box<dyn Future<Output = hyper::Result<()>> + Send>>;

/// A connection to a claw.
pub(crate) struct Link {
    sender: SendRequest<Body>,
    /// What keeps it going; `None` when a task does, or when it has ended.
    going: Option<Going>,
}

impl Link {
    pub(crate) fn new<T>(sender: SendRequest<Body>, connection: Connection<T, Body>) -> Self
    where
        T: Read + Write + Unpin + Send + 'static,
    {
        Self { sender, going: Some(Box::pin(connection.with_upgrades())) }
    }

    /// Lets it go on by itself, also while nobody asks for more of an answer: a body is still on its
    /// way to the claw, or it becomes another protocol's.
    pub(crate) fn apart(&mut self) {
        if let Some(going) = self.going.take() {
            tokio::spawn(async move { told(going.await) });
        }
    }

    /// Goes on as far as it can now; who asked is woken when it can go further.
    pub(crate) fn go_on(&mut self, cx: &mut Context<'_>) {
        if let Some(going) = &mut self.going
            && let Poll::Ready(ended) = going.as_mut().poll(cx)
        {
            told(ended);
            self.going = None;
        }
    }

    /// Whether it takes a request.
    pub(crate) fn is_ready(&mut self) -> bool {
        self.go_on(&mut Context::from_waker(Waker::noop()));
        self.sender.is_ready()
    }

    /// Whether it may take another request, when an answer has been read to its end. A task that
    /// keeps it going may need a moment more to see that.
    pub(crate) fn is_kept(&mut self) -> bool {
        if self.going.is_some() { self.is_ready() } else { !self.is_closed() }
    }

    /// Whether it has ended, as far as was seen.
    pub(crate) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Sends a request and returns the head of its answer.
    pub(crate) async fn send(
        &mut self,
        request: Request<Body>,
    ) -> Result<Response<Incoming>, TrySendError<Request<Body>>> {
        let Self { sender, going } = self;
        let mut answer = pin!(sender.try_send_request(request));
        std::future::poll_fn(|cx| {
            if let Some(it) = going
                && let Poll::Ready(ended) = it.as_mut().poll(cx)
            {
                told(ended);
                *going = None;
            }
            answer.as_mut().poll(cx)
        })
        .await
    }
}

fn told(ended: hyper::Result<()>) {
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection to a claw ended");
    }
}
