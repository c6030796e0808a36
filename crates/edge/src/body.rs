//! Bodies on their way through: never gathered, only counted.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Empty, Full};
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};

/// Why a body broke off.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
/// The body of an answer.
pub type Body = UnsyncBoxBody<Bytes, BoxError>;

/// A body with this in it.
pub(crate) fn full(text: impl Into<Bytes>) -> Body {
    Full::new(text.into()).map_err(|never| match never {}).boxed_unsync()
}

/// No body.
pub(crate) fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// A claw's answer, with what is to happen when it has been passed on or dropped.
pub(crate) struct Passing<G> {
    body: Incoming,
    /// Told of the end, then dropped.
    guard: Option<G>,
}

/// What waits for the end of a body.
pub(crate) trait AtEnd: Unpin {
    /// More of the body is asked for: what brings it goes on.
    fn go_on(&mut self, cx: &mut Context<'_>);

    /// The body was passed on whole.
    fn whole(self);
}

impl<G: AtEnd> Passing<G> {
    pub(crate) const fn new(body: Incoming, guard: G) -> Self {
        Self { body, guard: Some(guard) }
    }
}

impl<G: AtEnd> HttpBody for Passing<G> {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        if let Some(guard) = &mut self.guard {
            guard.go_on(cx);
        }
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if (matches!(polled, Poll::Ready(None)) || self.body.is_end_stream())
            && let Some(guard) = self.guard.take()
        {
            guard.whole();
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
