//! Bytes between asynchronous streams and the threads that pack and unpack.

use std::io::{self, Read, Write};
use std::time::Duration;

use bytes::Bytes;
use clawfarm_model::{Code, Error, Result};
use futures::{Stream, StreamExt};
use tokio::sync::mpsc::{Receiver, Sender};
use tokio::time::{Instant, timeout};

/// Bytes in a piece, and pieces that wait for their reader: 2 MiB at most.
const PIECE: usize = 1 << 18;
pub(super) const PIECES: usize = 8;
/// How long the next piece of an archive may take to arrive.
const IDLE_LIMIT: Duration = Duration::from_secs(60);
/// How much of an archive that was refused is read all the same, and for how long: a caller that
/// is still sending would not hear why.
const REST_MAX: usize = 64 << 20;
const REST_LIMIT: Duration = Duration::from_secs(10);

/// What is written here is sent in pieces.
pub(super) struct Sending {
    to: Sender<Result<Bytes>>,
    piece: Vec<u8>,
}

impl Sending {
    pub(super) fn new(to: Sender<Result<Bytes>>) -> Self {
        Self { to, piece: Vec::with_capacity(PIECE) }
    }
}

impl Write for Sending {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(PIECE - self.piece.len());
        self.piece.extend_from_slice(&bytes[..taken]);
        if self.piece.len() == PIECE {
            self.flush()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.piece.is_empty() {
            return Ok(());
        }
        let piece = std::mem::replace(&mut self.piece, Vec::with_capacity(PIECE));
        let gone = |_| io::Error::new(io::ErrorKind::BrokenPipe, "nobody reads the archive any more");
        self.to.blocking_send(Ok(piece.into())).map_err(gone)
    }
}

/// What was sent is read here.
pub(super) struct Receiving {
    from: Receiver<Result<Bytes>>,
    piece: Bytes,
}

impl Receiving {
    pub(super) const fn new(from: Receiver<Result<Bytes>>) -> Self {
        Self { from, piece: Bytes::new() }
    }
}

impl Read for Receiving {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            match self.from.blocking_recv() {
                Some(Ok(piece)) => self.piece = piece,
                Some(Err(error)) => return Err(io::Error::other(error)),
                None => return Ok(0),
            }
        }
        let taken = self.piece.len().min(to.len());
        to[..taken].copy_from_slice(&self.piece.split_to(taken));
        Ok(taken)
    }
}

/// Sends the pieces of a stream, until it ends, breaks or says nothing for too long.
pub(super) async fn pump(from: impl Stream<Item = Result<Bytes>>, to: Sender<Result<Bytes>>) {
    let mut from = std::pin::pin!(from);
    loop {
        let piece = match timeout(IDLE_LIMIT, from.next()).await {
            Ok(Some(piece)) => piece,
            Ok(None) => return,
            Err(_) => Err(Error::new(
                Code::Timeout,
                format!("nothing of the archive arrived for {} s", IDLE_LIMIT.as_secs()),
            )
            .field("archive")
            .fix("send it again, over a line that does not stand still")),
        };
        let broken = piece.is_err();
        if to.send(piece).await.is_err() {
            break;
        }
        if broken {
            return;
        }
    }
    // It was refused.
    let (mut rest, until) = (0, Instant::now() + REST_LIMIT);
    while rest < REST_MAX
        && let Ok(Some(Ok(piece))) = tokio::time::timeout_at(until, from.next()).await
    {
        rest += piece.len();
    }
}
