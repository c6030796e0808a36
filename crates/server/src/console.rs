//! Consoles: tickets, and the pump between a WebSocket and a command.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message, WebSocket, close_code};
use bytes::{BufMut, Bytes, BytesMut};
use clawfarm_api::ConsoleFrame;
use clawfarm_model::{Code, Context, Error, Result, Timestamp};
use clawfarm_runtime::{ExecInput, ExecOutput, ExecRequest, ExecSession, TermSize};
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use sha2::{Digest, Sha256};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{interval, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::token::random_hex;

/// How long a ticket is good for: from the answer to the next request of the same client.
const TICKET_LIFE: Duration = Duration::from_secs(30);
/// Tickets at a time. Each lives half a minute, so that more are no honest use.
const TICKETS_MAX: usize = 1000;
/// Consoles open at a time; each holds a command in an instance.
const CONSOLES_MAX: usize = 256;
/// The longest message that is taken: a pasted file, in one piece.
pub(crate) const MESSAGE_MAX: usize = 1 << 20;
/// Between two pings.
const PING: Duration = Duration::from_secs(20);
/// A peer that answers no ping for so long is gone.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// How long the peer may take to close after the last word.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);

/// What a ticket opens.
#[derive(Debug)]
pub(crate) struct Ticket {
    /// Who asked for it.
    pub(crate) context: Context,
    /// For which instance.
    pub(crate) instance: String,
    /// What to run.
    pub(crate) request: ExecRequest,
    /// Which command that sets its machine up is run instead.
    pub(crate) setup: Option<u32>,
    expires_at: Timestamp,
}

/// The tickets that were given out and not used yet, and the consoles that are open.
#[derive(Debug)]
pub(crate) struct Consoles {
    /// By the hash of their text: looking one up takes as long whether it is nearly right or not.
    tickets: Mutex<HashMap<[u8; 32], Ticket>>,
    places: Arc<Semaphore>,
    tasks: TaskTracker,
}

/// A console that may be open; let go when it is dropped.
pub(crate) struct Place {
    _place: OwnedSemaphorePermit,
    _task: TaskTrackerToken,
}

impl Default for Consoles {
    fn default() -> Self {
        Self {
            tickets: Mutex::default(),
            places: Arc::new(Semaphore::new(CONSOLES_MAX)),
            tasks: TaskTracker::new(),
        }
    }
}

impl Consoles {
    /// Room for one more. A console outlives its request, so that the limits on requests do
    /// not count it.
    pub(crate) fn place(&self) -> Result<Place> {
        let place = Arc::clone(&self.places).try_acquire_owned().map_err(|_| {
            Error::new(Code::Overloaded, format!("{CONSOLES_MAX} consoles are open")).fix("close another one")
        })?;
        Ok(Place { _place: place, _task: self.tasks.token() })
    }

    /// Waits until the open ones have said their last word.
    pub(crate) async fn finish(&self, grace: Duration) {
        self.tasks.close();
        if timeout(grace, self.tasks.wait()).await.is_err() {
            tracing::warn!(left = self.tasks.len(), "leaving consoles that did not close in time");
        }
    }

    /// Gives out a ticket, and tells until when it is good. Of several servers each knows its own
    /// tickets only, and the others have to know whose one is: then its text is `named`.
    pub(crate) fn issue(
        &self,
        context: Context,
        instance: String,
        request: ExecRequest,
        setup: Option<u32>,
        named: Option<String>,
    ) -> Result<(String, Timestamp)> {
        let text = named.map_or_else(random_hex::<32>, Ok)?;
        let now = Timestamp::now();
        let expires_at = now.after(TICKET_LIFE);
        let mut open = self.tickets.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|_, ticket| ticket.expires_at > now);
        if open.len() >= TICKETS_MAX {
            return Err(Error::new(Code::Overloaded, format!("{TICKETS_MAX} consoles wait to be opened"))
                .fix("try again in half a minute"));
        }
        open.insert(Sha256::digest(&text).into(), Ticket { context, instance, request, setup, expires_at });
        Ok((text, expires_at))
    }

    /// Takes a ticket; it is good once.
    pub(crate) fn redeem(&self, text: &str) -> Result<Ticket> {
        let hash: [u8; 32] = Sha256::digest(text).into();
        let ticket = self.tickets.lock().unwrap_or_else(PoisonError::into_inner).remove(&hash);
        ticket.filter(|ticket| ticket.expires_at > Timestamp::now()).ok_or_else(|| {
            Error::new(Code::Unauthenticated, "the ticket was used before, is too old, or never was")
                .field("ticket")
                .fix("ask for another: POST /api/v1/instances/{id}/console")
        })
    }
}

/// Carries bytes both ways until the command ends, the peer is gone or the server is stopped.
/// Dropping the session at the end hangs up on a command that still runs.
pub(crate) async fn pump(socket: WebSocket, session: ExecSession, stop: CancellationToken, _place: Place) {
    let (mut sink, mut stream) = socket.split();
    let ExecSession { input, output } = session;
    tokio::select! {
        () = outbound(&mut sink, output) => {}
        () = inbound(&mut stream, input) => {}
        () = stop.cancelled() => {
            let _ = sink.send(frame(ConsoleFrame::Error, b"the server is being stopped")).await;
        }
    }
    close(sink, stream).await;
}

/// Says goodbye, and waits a moment for the peer's.
pub(crate) async fn close(mut sink: SplitSink<WebSocket, Message>, mut stream: SplitStream<WebSocket>) {
    let goodbye = Message::Close(Some(CloseFrame { code: close_code::NORMAL, reason: "".into() }));
    // Whatever the peer still sends is read away, or the kernel would take back our last words.
    let _ = timeout(CLOSE_LIMIT, async {
        if sink.send(goodbye).await.is_ok() {
            while let Some(Ok(_)) = stream.next().await {}
        }
    })
    .await;
}

/// From the command to the peer, until the command ended or the peer is gone. A slow peer
/// makes the command wait, because nothing is read from it meanwhile.
async fn outbound(sink: &mut SplitSink<WebSocket, Message>, mut output: mpsc::Receiver<ExecOutput>) {
    let mut ping = interval(PING);
    loop {
        let message = tokio::select! {
            piece = output.recv() => match piece {
                Some(ExecOutput::Stdout(bytes)) => frame(ConsoleFrame::Stdout, &bytes),
                Some(ExecOutput::Stderr(bytes)) => frame(ConsoleFrame::Stderr, &bytes),
                Some(ExecOutput::Exit(code)) => {
                    let _ = sink.send(frame(ConsoleFrame::Exit, &code.to_be_bytes())).await;
                    return;
                }
                None => {
                    let _ = sink.send(frame(ConsoleFrame::Error, b"the instance hung up on the command")).await;
                    return;
                }
            },
            _ = ping.tick() => Message::Ping(Bytes::new()),
        };
        if sink.send(message).await.is_err() {
            return;
        }
    }
}

/// From the peer to the command, until the peer is gone. A slow command makes the peer wait.
async fn inbound(stream: &mut SplitStream<WebSocket>, input: mpsc::Sender<ExecInput>) {
    while let Ok(Some(Ok(message))) = timeout(SILENCE_MAX, stream.next()).await {
        let piece = match message {
            Message::Binary(bytes) => match read(bytes) {
                Some(piece) => piece,
                None => return,
            },
            Message::Text(_) | Message::Close(_) => return,
            Message::Ping(_) | Message::Pong(_) => continue,
        };
        // A command that takes no more input may still have something to say.
        let _ = input.send(piece).await;
    }
}

fn frame(kind: ConsoleFrame, bytes: &[u8]) -> Message {
    let mut message = BytesMut::with_capacity(1 + bytes.len());
    message.put_u8(kind as u8);
    message.put_slice(bytes);
    Message::Binary(message.freeze())
}

/// What a message says; `None` for one that breaks the protocol.
fn read(mut bytes: Bytes) -> Option<ExecInput> {
    if bytes.is_empty() {
        return None;
    }
    let kind = ConsoleFrame::from_byte(bytes.split_to(1)[0])?;
    match (kind, bytes.as_ref()) {
        (ConsoleFrame::Stdin, _) => Some(ExecInput::Stdin(bytes)),
        (ConsoleFrame::Eof, []) => Some(ExecInput::Eof),
        (ConsoleFrame::Resize, &[a, b, c, d]) => Some(ExecInput::Resize(TermSize {
            cols: u16::from_be_bytes([a, b]).clamp(1, 1000),
            rows: u16::from_be_bytes([c, d]).clamp(1, 1000),
        })),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clawfarm_model::name::TenantName;

    fn issue(tickets: &Consoles) -> Result<(String, Timestamp)> {
        let context = Context::owner("t".into(), TenantName::default_tenant(), "r".into());
        let request = ExecRequest { argv: vec!["true".into()], tty: None, term: None };
        tickets.issue(context, "alice-x7k2b".into(), request, None, None)
    }

    #[test]
    fn a_ticket_is_good_once() {
        let tickets = Consoles::default();
        let (text, _) = issue(&tickets).unwrap();
        assert_eq!(text.len(), 64, "256 bits");
        assert_eq!(tickets.redeem(&text).unwrap().instance, "alice-x7k2b");
        assert_eq!(tickets.redeem(&text).unwrap_err().code(), Code::Unauthenticated);
        assert_eq!(tickets.redeem("made up").unwrap_err().code(), Code::Unauthenticated);
    }

    #[test]
    fn an_old_ticket_is_good_no_more_and_makes_room() {
        let tickets = Consoles::default();
        let (text, _) = issue(&tickets).unwrap();
        for _ in 1..TICKETS_MAX {
            issue(&tickets).unwrap();
        }
        assert_eq!(issue(&tickets).unwrap_err().code(), Code::Overloaded);
        for ticket in tickets.tickets.lock().unwrap().values_mut() {
            ticket.expires_at = Timestamp::from_millis(0);
        }
        assert_eq!(tickets.redeem(&text).unwrap_err().code(), Code::Unauthenticated);
        issue(&tickets).unwrap();
        assert_eq!(tickets.tickets.lock().unwrap().len(), 1);
    }

    #[test]
    fn only_whole_frames_are_read() {
        let read = |bytes: &'static [u8]| read(Bytes::from_static(bytes));
        assert_eq!(read(b"\0ab"), Some(ExecInput::Stdin("ab".into())));
        assert_eq!(read(&[4]), Some(ExecInput::Eof));
        assert_eq!(read(&[3, 0, 80, 0, 24]), Some(ExecInput::Resize(TermSize { cols: 80, rows: 24 })));
        assert_eq!(read(&[3, 0, 0, 255, 255]), Some(ExecInput::Resize(TermSize { cols: 1, rows: 1000 })));
        for wrong in [&[][..], &[3, 1], &[4, 1], &[1, 2], &[99]] {
            assert_eq!(read(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn fuzz_frames_from_a_peer() {
        clawfarm_fuzz::fuzz(&[b"\0keys", &[3, 0, 80, 0, 24], &[4]], |bytes| {
            if let Some(ExecInput::Stdin(text)) = read(Bytes::copy_from_slice(bytes)) {
                assert_eq!(text, bytes[1..]);
            }
        });
    }
}
