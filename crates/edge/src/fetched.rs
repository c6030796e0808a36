//! Answers over HTTP/2, where a caller says for each stream how much of it may come: one that
//! lets nothing come and answers every ping looks alive, and would keep its claw for ever.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use bytes::Bytes;
use futures::task::AtomicWaker;
use http::Version;
use http_body_util::BodyExt as _;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep};

use crate::body::{Body, BoxError};
use crate::told::{self, Reason};

/// What is handed on at a time: a slow caller comes back for the next one soon enough to be seen
/// as one that takes something. As long as a frame of HTTP/2 is, unless asked for longer ones
/// (RFC 9113, 6.5.2).
const PIECE: usize = 16 << 10;

/// An answer's body, watched where it has to be: over HTTP/1 the connection is the stream, and tells
/// by itself when nothing is taken.
pub(crate) fn watched(body: Body, version: Version, limit: Duration) -> Body {
    if version != Version::HTTP_2 || body.is_end_stream() {
        return body;
    }
    Fetched::new(body, limit).boxed_unsync()
}

/// An answer's body, dropped with all it holds when nobody comes for what is ready.
///
/// The server asks a body for more only when its caller lets more come, so a body that waits for
/// its turn is not polled, and can't keep the time itself: a task does.
struct Fetched {
    body: Arc<Mutex<Option<Body>>>,
    bell: Arc<Bell>,
    /// What was too long for one piece.
    rest: Bytes,
    watch: AbortHandle,
}

/// Rung by the claw's side when there is more.
struct Bell {
    /// Since when there has been something that the caller has not come for; `None` while the
    /// claw thinks.
    due: Mutex<Option<Instant>>,
    caller: AtomicWaker,
}

impl Fetched {
    /// Watches a body from now on.
    fn new(body: Body, limit: Duration) -> Self {
        let body = Arc::new(Mutex::new(Some(body)));
        let bell = Arc::new(Bell { due: Mutex::new(Some(Instant::now())), caller: AtomicWaker::new() });
        // It holds nothing of the body, which ends with its answer.
        let watch = tokio::spawn(watch(Arc::downgrade(&body), Arc::clone(&bell), limit)).abort_handle();
        Self { body, bell, rest: Bytes::new(), watch }
    }

    /// The next piece of what is there.
    fn piece(&mut self) -> Frame<Bytes> {
        let length = self.rest.len().min(PIECE);
        Frame::data(self.rest.split_to(length))
    }
}

async fn watch(body: Weak<Mutex<Option<Body>>>, bell: Arc<Bell>, limit: Duration) {
    loop {
        let due = *lock(&bell.due);
        let wait = due.map_or(limit, |since| limit.saturating_sub(since.elapsed()));
        if wait.is_zero() {
            break;
        }
        sleep(wait).await;
    }
    let Some(body) = body.upgrade() else { return };
    let left = lock(&body).take();
    if left.is_some() {
        told::refused(Reason::Silent);
    }
    drop(left);
    bell.caller.wake();
}

impl Bell {
    fn due(&self, since: Option<Instant>) {
        *lock(&self.due) = since;
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.due(Some(Instant::now()));
        self.caller.wake();
    }
}

impl HttpBody for Fetched {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if !self.rest.is_empty() {
            self.bell.due(Some(Instant::now()));
            return Poll::Ready(Some(Ok(self.piece())));
        }
        self.bell.caller.register(cx.waker());
        // Before the claw is asked: what it says from here on is due anew.
        self.bell.due(None);
        let waker = Waker::from(Arc::clone(&self.bell));
        let polled = match lock(&self.body).as_mut() {
            Some(body) => Pin::new(body).poll_frame(&mut Context::from_waker(&waker)),
            None => Poll::Ready(Some(Err("the caller takes nothing".into()))),
        };
        match polled {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Some(Ok(frame))) => {
                self.bell.due(Some(Instant::now()));
                Poll::Ready(Some(Ok(match frame.into_data() {
                    Ok(data) => {
                        self.rest = data;
                        self.piece()
                    }
                    Err(trailers) => trailers,
                })))
            }
            Poll::Ready(ended) => {
                self.watch.abort();
                Poll::Ready(ended)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && lock(&self.body).as_ref().is_some_and(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let hint = lock(&self.body).as_ref().map(HttpBody::size_hint).unwrap_or_default();
        let rest = self.rest.len() as u64;
        let mut all = SizeHint::new();
        all.set_lower(hint.lower() + rest);
        if let Some(upper) = hint.upper() {
            all.set_upper(upper + rest);
        }
        all
    }
}

impl Drop for Fetched {
    fn drop(&mut self) {
        self.watch.abort();
    }
}

fn lock<T>(it: &Mutex<T>) -> MutexGuard<'_, T> {
    it.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use futures::channel::mpsc;
    use futures::{FutureExt as _, StreamExt as _};
    use http_body_util::StreamBody;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(60);

    type Claw = mpsc::UnboundedSender<Bytes>;

    /// A claw's side and a caller's.
    fn answer() -> (Claw, Fetched) {
        let (claw, said) = mpsc::unbounded();
        let body = StreamBody::new(said.map(|it| Ok::<_, BoxError>(Frame::data(it)))).boxed_unsync();
        (claw, Fetched::new(body, LIMIT))
    }

    async fn text(body: &mut Fetched) -> Option<Result<Bytes, BoxError>> {
        let frame = body.frame().await?;
        Some(frame.map(|frame| frame.into_data().unwrap()))
    }

    #[tokio::test(start_paused = true)]
    async fn a_claw_may_think_and_what_it_says_comes() {
        let (claw, mut body) = answer();
        for _ in 0..3 {
            let saying = claw.clone();
            tokio::spawn(async move {
                sleep(LIMIT * 60).await;
                saying.unbounded_send("said".into()).unwrap();
            });
            assert_eq!(text(&mut body).await.unwrap().unwrap(), "said");
            // A caller that comes back before its time is up, however late.
            sleep(LIMIT / 2).await;
        }
        drop(claw);
        assert!(text(&mut body).await.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_come_for_what_is_ready_loses_it() {
        // Before the first word, after one, and between two.
        for polls in 0..3 {
            let (claw, mut body) = answer();
            if polls > 0 {
                claw.unbounded_send("first".into()).unwrap();
                text(&mut body).await.unwrap().unwrap();
            }
            if polls > 1 {
                assert!(body.frame().now_or_never().is_none(), "the claw thinks");
                sleep(LIMIT * 10).await;
                assert!(!claw.is_closed(), "and is waited for");
            }
            claw.unbounded_send("next".into()).unwrap();
            sleep(LIMIT / 2).await;
            assert!(!claw.is_closed(), "{polls}");
            sleep(LIMIT).await;
            assert!(claw.is_closed(), "{polls}: what it holds is let go");
            assert!(text(&mut body).await.unwrap().is_err(), "{polls}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_caller_is_none_that_takes_nothing() {
        let (claw, mut body) = answer();
        let all: Vec<u8> = (0..10 * PIECE + 1).map(|n| (n % 251) as u8).collect();
        claw.unbounded_send(all.clone().into()).unwrap();
        drop(claw);
        let mut taken = Vec::new();
        while let Some(piece) = text(&mut body).await {
            taken.extend_from_slice(&piece.unwrap());
            sleep(LIMIT / 2).await;
        }
        assert!(taken == all);
        let (claw, body) = answer();
        drop(body);
        assert!(claw.is_closed(), "at once");
    }
}
