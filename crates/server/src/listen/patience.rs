//! An end to connections whose reader has stopped reading.
//!
//! What is sent is produced no faster than it is taken, so such a reader costs no memory beyond
//! its buffers. But it keeps its place, and a follower of events or a console can do so for ever:
//! nothing else on the connection has a limit then.

use std::io::{Error, ErrorKind, Result};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// How long a reader may take nothing of what waits for it. Longer than somebody looks at a
/// terminal that was stopped with Ctrl-S, or a program stands in a debugger's breakpoint, as a rule.
pub(super) const STALL_LIMIT: Duration = Duration::from_secs(5 * 60);

/// A stream that breaks when nothing could be written for so long. Any byte that is taken counts.
pub(super) struct Patient<S> {
    inner: S,
    limit: Duration,
    stalled: Option<Pin<Box<Sleep>>>,
}

impl<S> Patient<S> {
    pub(super) fn new(inner: S, limit: Duration) -> Self {
        Self { inner, limit, stalled: None }
    }

    fn judge<T>(&mut self, cx: &mut Context<'_>, outcome: Poll<Result<T>>) -> Poll<Result<T>> {
        if outcome.is_ready() {
            self.stalled = None;
            return outcome;
        }
        let limit = self.limit;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(limit)));
        ready!(stalled.as_mut().poll(cx));
        tracing::info!("a connection is ended: its reader has taken nothing for {} s", limit.as_secs());
        Poll::Ready(Err(Error::new(ErrorKind::TimedOut, "the reader has taken nothing for too long")))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize>> {
        let outcome = Pin::new(&mut self.inner).poll_write(cx, bytes);
        self.judge(cx, outcome)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[std::io::IoSlice<'_>],
    ) -> Poll<Result<usize>> {
        let outcome = Pin::new(&mut self.inner).poll_write_vectored(cx, pieces);
        self.judge(cx, outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
    use tokio::time::Instant;

    const LIMIT: Duration = Duration::from_secs(300);

    #[tokio::test(start_paused = true)]
    async fn who_takes_nothing_is_ended_and_who_takes_little_is_not() {
        let (near, mut far) = duplex(16);
        let mut near = Patient::new(near, LIMIT);
        let begun = Instant::now();
        let reader = async {
            let mut byte = [0];
            for _ in 0..10 {
                sleep(LIMIT - Duration::from_secs(1)).await;
                far.read_exact(&mut byte).await.unwrap();
            }
            std::future::pending::<()>().await;
        };
        let writer = async {
            let mut sent = 0;
            loop {
                match near.write(b"x").await {
                    Ok(bytes) => sent += bytes,
                    Err(error) => break (sent, error),
                }
            }
        };
        let (sent, error) = tokio::select! {
            out = writer => out,
            () = reader => unreachable!("it never ends"),
        };
        assert_eq!((sent, error.kind()), (26, ErrorKind::TimedOut), "the pipe's 16 and what was read");
        assert!(begun.elapsed() >= LIMIT * 10, "{:?}", begun.elapsed());
    }
}
