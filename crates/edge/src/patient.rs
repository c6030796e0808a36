//! Callers who say nothing, or take nothing: waited for, but not for ever.

use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

use crate::body::BoxError;
use crate::told::{self, Reason};

/// A limit on how long something may stand still.
struct Still {
    limit: Duration,
    /// Made when it first stands still: most never do.
    timer: Option<Pin<Box<Sleep>>>,
    running: bool,
}

impl Still {
    const fn new(limit: Duration) -> Self {
        Self { limit, timer: None, running: false }
    }

    const fn moved(&mut self) {
        self.running = false;
    }

    /// Ready when it has stood still for too long.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(self.limit)));
        if !self.running {
            timer.as_mut().reset(Instant::now() + self.limit);
            self.running = true;
        }
        timer.as_mut().poll(cx)
    }
}

/// A caller's stream: one that takes nothing of what is ready for it is ended.
pub(crate) struct Patient<S> {
    inner: S,
    still: Still,
}

impl<S> Patient<S> {
    pub(crate) const fn new(inner: S, limit: Duration) -> Self {
        Self { inner, still: Still::new(limit) }
    }

    fn held<T>(&mut self, cx: &mut Context<'_>, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.still.moved();
            return polled;
        }
        ready!(self.still.poll(cx));
        told::refused(Reason::Silent);
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the caller takes nothing")))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write(cx, bytes);
        self.held(cx, polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write_vectored(cx, bytes);
        self.held(cx, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.inner).poll_flush(cx);
        self.held(cx, polled)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.inner).poll_shutdown(cx);
        self.held(cx, polled)
    }
}

/// A request's body: counted, and broken off when its caller falls silent.
pub(crate) struct Arriving {
    body: Incoming,
    still: Still,
    received: Arc<AtomicU64>,
    silent: Arc<AtomicBool>,
}

impl Arriving {
    /// `silent` is set when it was broken off.
    pub(crate) const fn new(
        body: Incoming,
        limit: Duration,
        received: Arc<AtomicU64>,
        silent: Arc<AtomicBool>,
    ) -> Self {
        Self { body, still: Still::new(limit), received, silent }
    }
}

impl HttpBody for Arriving {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Ready(frame) => {
                self.still.moved();
                if let Some(Ok(frame)) = &frame
                    && let Some(data) = frame.data_ref()
                {
                    self.received.fetch_add(data.len() as u64, Ordering::Relaxed);
                }
                Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
            }
            // Only while it is waited for: a claw that does not read stops this clock.
            Poll::Pending => {
                ready!(self.still.poll(cx));
                self.silent.store(true, Ordering::Relaxed);
                told::refused(Reason::Silent);
                Poll::Ready(Some(Err("the caller sends nothing".into())))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
