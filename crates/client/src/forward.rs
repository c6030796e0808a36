//! A connection to a port of an instance, over a WebSocket.

use std::time::Duration;

use bytes::BytesMut;
use clawfarm_model::{Code, Error, Result};
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::oneshot;
use tokio::time::{interval, timeout};
use tokio_tungstenite::tungstenite::{Bytes, Message};

use crate::console::{Socket, broken};

/// What is read at a time.
const PIECE: usize = 32 << 10;
/// Between two pings: the server takes silence of a minute for the end.
const PING: Duration = Duration::from_secs(20);
/// The server pings as often; silence for three times as long means that it is gone.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// How long the server may take to close after the last byte.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);

/// A connection to a port of an instance.
#[derive(Debug)]
pub struct Tunnel {
    pub(crate) socket: Socket,
}

impl Tunnel {
    /// Carries bytes between `stream` and the instance until both directions have ended; each
    /// may end before the other. Whoever does not read makes the other side wait.
    ///
    /// # Errors
    /// `Unavailable` when the instance, the server or the way to it breaks off. An error of
    /// `stream` itself is no error here: who it belongs to has gone.
    pub async fn carry<S: AsyncRead + AsyncWrite + Send>(self, stream: S) -> Result<()> {
        let (mut sink, mut source) = self.socket.split();
        let (read, write) = tokio::io::split(stream);
        let (ended, server_ended) = oneshot::channel();
        let both =
            async { tokio::try_join!(up(&mut sink, read, server_ended), down(&mut source, write, ended)) };
        let outcome = both.await;
        // What the server still says is of no interest; that it closes lets it count us out.
        let _ = timeout(CLOSE_LIMIT, async {
            if sink.close().await.is_ok() {
                while let Some(Ok(_)) = source.next().await {}
            }
        })
        .await;
        match outcome {
            Ok(_) | Err(End::Ours) => Ok(()),
            Err(End::Theirs(error)) => Err(error),
        }
    }
}

/// Whose fault it is that a connection ended early.
enum End {
    Ours,
    Theirs(Error),
}

fn cut() -> End {
    End::Theirs(
        Error::new(Code::Unavailable, "the instance or the server broke the connection off")
            .fix("see whether the instance is still up, and what it printed"),
    )
}

async fn up<S: AsyncRead>(
    sink: &mut SplitSink<Socket, Message>,
    mut read: ReadHalf<S>,
    mut server_ended: oneshot::Receiver<()>,
) -> Result<(), End> {
    let mut ping = interval(PING);
    let mut buffer = BytesMut::with_capacity(PIECE);
    let mut open = true;
    loop {
        let message = tokio::select! {
            _ = &mut server_ended, if !open => return Ok(()),
            length = read.read_buf(&mut buffer), if open => match length {
                Ok(length) => {
                    open = length > 0;
                    let piece = buffer.split().freeze();
                    buffer.reserve(PIECE);
                    Message::Binary(piece)
                }
                Err(_) => return Err(End::Ours),
            },
            _ = ping.tick() => Message::Ping(Bytes::new()),
        };
        sink.send(message).await.map_err(|error| End::Theirs(broken(error)))?;
    }
}

async fn down<S: AsyncWrite>(
    source: &mut SplitStream<Socket>,
    mut write: WriteHalf<S>,
    ended: oneshot::Sender<()>,
) -> Result<(), End> {
    loop {
        let message = timeout(SILENCE_MAX, source.next()).await.map_err(|_| cut())?;
        match message {
            Some(Ok(Message::Binary(bytes))) if bytes.is_empty() => {
                write.shutdown().await.map_err(|_| End::Ours)?;
                let _ = ended.send(());
                return Ok(());
            }
            Some(Ok(Message::Binary(bytes))) => write.write_all(&bytes).await.map_err(|_| End::Ours)?,
            Some(Ok(Message::Close(_)) | Err(_)) | None => return Err(cut()),
            Some(Ok(_)) => {}
        }
    }
}
