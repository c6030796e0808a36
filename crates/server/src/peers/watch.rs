//! Ends what waits for a server that is gone: one that stands still keeps its connections open.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use clawfarm_model::{Code, Error};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::sleep;

use super::there::There;

/// How often to look whether it is listed as there: a lease lasts ten seconds.
const LOOK_EVERY: Duration = Duration::from_secs(1);

impl There {
    /// Returns when that server is listed as gone, and gives no proof of itself either. (One that
    /// has only lost its database goes on with its streams and consoles.)
    pub(super) async fn gone(self) {
        loop {
            sleep(LOOK_EVERY).await;
            let listed = self.state.control().peer(&self.node).is_some_and(|peer| peer.live);
            if !listed && self.open().await.is_err() {
                return;
            }
        }
    }
}

/// The body of another server's answer, which breaks off when that server is gone.
pub(super) struct Watched {
    body: Incoming,
    gone: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl Watched {
    pub(super) fn new(body: Incoming, there: There) -> Self {
        Self { body, gone: Box::pin(there.gone()) }
    }
}

impl Body for Watched {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        ready!(self.gone.as_mut().poll(cx));
        let error = Error::new(Code::Unavailable, "the server that answers this is gone");
        Poll::Ready(Some(Err(error.into())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
