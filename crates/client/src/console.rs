//! A console: a command inside an instance, over a WebSocket.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use clawfarm_api::{CLIENT_VERSION_HEADER, ConsoleFrame};
use clawfarm_model::{Code, Error, Result};
use futures::stream::{SplitSink, SplitStream};
use futures::{Sink, SinkExt, Stream, StreamExt};
use http::HeaderValue;
use http::header::AUTHORIZATION;
use tokio::time::{Sleep, sleep};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error as WsError, Message};

use crate::connect::{Io, connect};
use crate::endpoint::Endpoint;
use crate::{CALL_TIMEOUT, http as plain};

pub(crate) type Socket = WebSocketStream<Box<dyn Io>>;

/// The longest piece of input in one message; longer ones are sent in parts. Below the
/// server's limit of 1 MiB a message.
const PIECE_MAX: usize = 64 << 10;
/// The longest message taken from the server.
const MESSAGE_MAX: usize = 4 << 20;
/// The server pings every 20 s; silence for three times as long means that it is gone.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// What goes to the command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConsoleInput {
    /// Bytes for its standard input.
    Stdin(Bytes),
    /// No more of them.
    Eof,
    /// The terminal has a new size.
    Resize {
        /// Columns.
        cols: u16,
        /// Rows.
        rows: u16,
    },
}

/// What comes from the command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConsoleOutput {
    /// Bytes from its standard output (from its terminal, when it has one).
    Stdout(Bytes),
    /// Bytes from its standard error.
    Stderr(Bytes),
    /// It ended: its code, or 128 and the number of the signal that ended it. Nothing follows.
    Exit(i32),
}

/// Both directions of a console. Dropping both hangs up, and the command gets SIGHUP.
#[derive(Debug)]
pub struct Console {
    /// To the command. A slow command makes its writer wait.
    pub input: ConsoleWriter,
    /// From the command.
    pub output: ConsoleReader,
}

/// A sink of what goes to the command.
#[derive(Debug)]
pub struct ConsoleWriter {
    sink: SplitSink<Socket, Message>,
}

/// A stream of what comes from the command; ends after [`ConsoleOutput::Exit`] or an error.
#[derive(Debug)]
pub struct ConsoleReader {
    stream: SplitStream<Socket>,
    silence: Pin<Box<Sleep>>,
    done: bool,
}

/// Opens the WebSocket at `path`, which a ticket named.
pub(crate) async fn open(endpoint: &Endpoint, path: &str) -> Result<Console> {
    let (sink, stream) = socket(endpoint, path, None).await?.split();
    let silence = Box::pin(sleep(SILENCE_MAX));
    Ok(Console { input: ConsoleWriter { sink }, output: ConsoleReader { stream, silence, done: false } })
}

/// Opens a WebSocket, which `credential` is for where no ticket is.
pub(crate) async fn socket(
    endpoint: &Endpoint,
    path: &str,
    credential: Option<HeaderValue>,
) -> Result<Socket> {
    let stream = connect(endpoint).await?;
    let mut request = format!("ws://{}{path}", endpoint.authority())
        .into_client_request()
        .map_err(|error| Error::internal("the server's address can't be used for a WebSocket", error))?;
    if let Some(credential) = credential {
        request.headers_mut().insert(AUTHORIZATION, credential);
    }
    request.headers_mut().insert(CLIENT_VERSION_HEADER, HeaderValue::from_static(env!("CARGO_PKG_VERSION")));
    let config =
        WebSocketConfig::default().max_message_size(Some(MESSAGE_MAX)).max_frame_size(Some(MESSAGE_MAX));
    let shake = tokio_tungstenite::client_async_with_config(request, stream, Some(config));
    match tokio::time::timeout(CALL_TIMEOUT, shake).await {
        Ok(result) => Ok(result.map_err(refused)?.0),
        Err(_) => Err(Error::new(Code::Timeout, "the server did not open the connection in time")),
    }
}

fn refused(error: WsError) -> Error {
    match error {
        WsError::Http(response) => {
            plain::problem(response.status(), response.body().as_deref().unwrap_or_default())
        }
        other => broken(other),
    }
}

pub(crate) fn broken(error: WsError) -> Error {
    Error::new(Code::Unavailable, "the connection to the server broke").source(error)
}

impl ConsoleWriter {
    /// Sends `input`, in parts when it is long.
    ///
    /// # Errors
    /// `Unavailable` when the console is closed: the command ended, or the connection broke.
    pub async fn send(&mut self, input: ConsoleInput) -> Result<()> {
        match input {
            ConsoleInput::Stdin(mut bytes) => {
                while !bytes.is_empty() {
                    let piece = bytes.split_to(bytes.len().min(PIECE_MAX));
                    SinkExt::send(self, ConsoleInput::Stdin(piece)).await?;
                }
                Ok(())
            }
            other => SinkExt::send(self, other).await,
        }
    }
}

fn encode(input: ConsoleInput) -> Message {
    let frame = |kind: ConsoleFrame, bytes: &[u8]| {
        let mut message = Vec::with_capacity(1 + bytes.len());
        message.push(kind as u8);
        message.extend_from_slice(bytes);
        Message::Binary(message.into())
    };
    match input {
        ConsoleInput::Stdin(bytes) => frame(ConsoleFrame::Stdin, &bytes),
        ConsoleInput::Eof => frame(ConsoleFrame::Eof, &[]),
        ConsoleInput::Resize { cols, rows } => {
            let [a, b] = cols.to_be_bytes();
            let [c, d] = rows.to_be_bytes();
            frame(ConsoleFrame::Resize, &[a, b, c, d])
        }
    }
}

impl Sink<ConsoleInput> for ConsoleWriter {
    type Error = Error;

    fn poll_ready(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        self.sink.poll_ready_unpin(cx).map_err(broken)
    }

    fn start_send(mut self: Pin<&mut Self>, input: ConsoleInput) -> Result<()> {
        self.sink.start_send_unpin(encode(input)).map_err(broken)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        self.sink.poll_flush_unpin(cx).map_err(broken)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        self.sink.poll_close_unpin(cx).map_err(broken)
    }
}

/// A frame from the server; `None` for one that this client does not know.
fn decode(mut bytes: Bytes) -> Result<Option<ConsoleOutput>> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let kind = bytes.split_to(1)[0];
    match ConsoleFrame::from_byte(kind) {
        Some(ConsoleFrame::Stdout) => Ok(Some(ConsoleOutput::Stdout(bytes))),
        Some(ConsoleFrame::Stderr) => Ok(Some(ConsoleOutput::Stderr(bytes))),
        Some(ConsoleFrame::Exit) => match <[u8; 4]>::try_from(bytes.as_ref()) {
            Ok(code) => Ok(Some(ConsoleOutput::Exit(i32::from_be_bytes(code)))),
            Err(_) => Err(Error::new(Code::Internal, "the console sent an exit code that is none")),
        },
        Some(ConsoleFrame::Error) => {
            Err(Error::new(Code::Unavailable, String::from_utf8_lossy(&bytes).into_owned()))
        }
        _ => Ok(None),
    }
}

/// What a message from the server means; `None` when it means nothing for the reader.
fn meaning(message: Option<Result<Message, WsError>>) -> Option<Result<ConsoleOutput>> {
    match message {
        Some(Ok(Message::Binary(bytes))) => decode(bytes).transpose(),
        Some(Ok(Message::Close(_))) | None => {
            Some(Err(Error::new(Code::Unavailable, "the console was closed before the command ended")))
        }
        Some(Ok(_)) => None,
        Some(Err(error)) => Some(Err(broken(error))),
    }
}

impl Stream for ConsoleReader {
    type Item = Result<ConsoleOutput>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        while !self.done {
            let Poll::Ready(message) = self.stream.poll_next_unpin(cx) else {
                if self.silence.as_mut().poll(cx).is_pending() {
                    return Poll::Pending;
                }
                self.done = true;
                let error = Error::new(
                    Code::Unavailable,
                    format!("the console was silent for {} s", SILENCE_MAX.as_secs()),
                );
                return Poll::Ready(Some(Err(error)));
            };
            self.silence.as_mut().reset(tokio::time::Instant::now() + SILENCE_MAX);
            if let Some(item) = meaning(message) {
                self.done = matches!(item, Err(_) | Ok(ConsoleOutput::Exit(_)));
                return Poll::Ready(Some(item));
            }
        }
        Poll::Ready(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_as_the_api_describes_them() {
        let bytes = |input| encode(input).into_data();
        assert_eq!(bytes(ConsoleInput::Stdin("ab".into())), [0, b'a', b'b'].as_slice());
        assert_eq!(bytes(ConsoleInput::Eof), [4].as_slice());
        assert_eq!(bytes(ConsoleInput::Resize { cols: 300, rows: 2 }), [3, 1, 44, 0, 2].as_slice());
        let read = |bytes: &'static [u8]| decode(Bytes::from_static(bytes));
        assert_eq!(read(b"\x01hi").unwrap(), Some(ConsoleOutput::Stdout("hi".into())));
        assert_eq!(read(b"\x02").unwrap(), Some(ConsoleOutput::Stderr(Bytes::new())));
        assert_eq!(read(&[5, 0, 0, 0, 130]).unwrap(), Some(ConsoleOutput::Exit(130)));
        assert_eq!(read(&[99, 1]).unwrap(), None);
        assert_eq!(read(b"").unwrap(), None);
        assert!(read(&[5, 1]).is_err());
        assert_eq!(read(b"\x06gone").unwrap_err().message(), "gone");
    }

    #[test]
    fn fuzz_frames_of_a_console() {
        clawfarm_fuzz::fuzz(&[b"\x01out", b"\x02err", b"\x05\0\0\0\x07", b"\x06why"], |bytes| {
            if let Ok(Some(ConsoleOutput::Stdout(text))) = decode(Bytes::copy_from_slice(bytes)) {
                assert_eq!(text, bytes[1..]);
            }
        });
    }
}
