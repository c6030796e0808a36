//! The host's side.

mod stream;

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::frame::{Decoder, Frame, Kind};
use crate::message::{Exec, Hello, Refusal, Request, Started, VERSION, body};
use stream::Stream;
pub use stream::{Event, Input, Output};

/// How often a greeting is said again to an agent that may not be there yet.
const GREET_AGAIN: Duration = Duration::from_secs(1);

/// Pieces of input that wait for the line.
const INPUTS: usize = 16;
/// How long a line may take nothing that waits for it, before it is given up: a guest with little
/// of a processor is slow, one that reads nothing is not to be waited for.
const STALLED: Duration = Duration::from_secs(60);
/// How much of what a guest says is looked at in a second, in bytes: it may say as much as it likes
/// to nobody, and would have a processor of the server's for it.
const A_SECOND: usize = 64 << 20;

/// Why something did not come about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GuestError {
    /// The agent did not do it.
    Refused(Refusal),
    /// The line has ended.
    Gone(String),
    /// There was no answer within the limit.
    TimedOut,
}

impl fmt::Display for GuestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // Of the guest: it must not reach a terminal as it is.
            Self::Refused(refusal) => write!(f, "{}", refusal.message.escape_debug()),
            Self::Gone(why) => write!(f, "the line to the guest's agent has ended: {why}"),
            Self::TimedOut => f.write_str("the guest's agent did not answer in time"),
        }
    }
}

impl std::error::Error for GuestError {}

/// A line to an agent that has been greeted. The line ends with the last of its clones and of
/// what runs on it.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
    _ends: Arc<DropGuard>,
}

/// A command that runs in the guest. It gets SIGHUP when both halves are dropped before its end.
#[derive(Debug)]
pub struct Running {
    /// Its process id in the guest.
    pub pid: u32,
    /// What it reads.
    pub input: Input,
    /// What it writes, and its end.
    pub output: Output,
}

/// What all conversations of a line share.
pub(crate) struct Shared {
    /// What is short and must not wait. A line that does not take it for long is given up.
    frames: mpsc::UnboundedSender<Frame>,
    /// Input of commands, and its end. Bounded: a guest may allow much and read nothing.
    inputs: mpsc::Sender<Frame>,
    streams: Mutex<HashMap<u32, Arc<Stream>>>,
    next: AtomicU32,
    hello: watch::Sender<Option<Hello>>,
    gone: watch::Sender<Option<String>>,
}

impl Client {
    /// Greets the agent at the other end of `line` until it answers, for `limit` at most.
    ///
    /// # Errors
    /// `TimedOut` when nobody answers: the guest has no agent, or is not there yet. `Gone` when
    /// the line ends, or the agent is of a version that is not understood.
    pub async fn connect<L>(line: L, limit: Duration) -> Result<Self, GuestError>
    where
        L: AsyncRead + AsyncWrite + Send + 'static,
    {
        let (frames, waiting) = mpsc::unbounded_channel();
        let (inputs, waiting_inputs) = mpsc::channel(INPUTS);
        let random = |e| GuestError::Gone(format!("no random numbers: {e}"));
        let nonce = getrandom::u64().map_err(random)?.max(1);
        // Not from 1 on: what is still said of an earlier conversation over the same line must not
        // be taken for this one's.
        let first = getrandom::u32().map_err(random)?;
        let ends = CancellationToken::new();
        let shared = Arc::new(Shared {
            frames,
            inputs,
            streams: Mutex::default(),
            next: AtomicU32::new(first),
            hello: watch::Sender::new(None),
            gone: watch::Sender::new(None),
        });
        let waiting = Waiting { frames: waiting, inputs: waiting_inputs };
        tokio::spawn(keep(line, Arc::clone(&shared), waiting, nonce, ends.clone()));
        let client = Self { shared, _ends: Arc::new(ends.drop_guard()) };
        let hello = Hello { version: VERSION, nonce, agent: String::new(), boot: String::new() };
        let mut answer = client.shared.hello.subscribe();
        let mut gone = client.shared.gone.subscribe();
        let greeted = timeout(limit, async {
            loop {
                client.shared.send(Kind::Hello, 0, body(&hello));
                tokio::select! {
                    answered = answer.wait_for(Option::is_some) => {
                        return answered.map(|_| ()).map_err(|_| GuestError::TimedOut);
                    }
                    why = gone.wait_for(Option::is_some) => {
                        let why = why.ok().and_then(|why| why.clone()).unwrap_or_default();
                        return Err(GuestError::Gone(why));
                    }
                    () = tokio::time::sleep(GREET_AGAIN) => {}
                }
            }
        });
        greeted.await.map_err(|_| GuestError::TimedOut)??;
        let theirs = client.about().version;
        if theirs != VERSION {
            return Err(GuestError::Gone(format!("it speaks version {theirs}, and this is {VERSION}")));
        }
        Ok(client)
    }

    /// What the agent said of itself.
    #[must_use]
    pub fn about(&self) -> Hello {
        let none = || Hello { version: 0, nonce: 0, agent: String::new(), boot: String::new() };
        self.shared.hello.borrow().clone().unwrap_or_else(none)
    }

    /// Whether the line has ended.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.shared.gone.borrow().is_some()
    }

    /// Asks something that is answered at once.
    ///
    /// # Errors
    /// What the agent refused it with, or that there was no answer.
    pub async fn ask<T: DeserializeOwned>(
        &self,
        request: &Request,
        limit: Duration,
    ) -> Result<T, GuestError> {
        let stream = self.open(request);
        let answer = self.answer(&stream, limit).await;
        self.shared.streams().remove(&stream.number);
        answer
    }

    /// Runs a command; its start is waited for.
    ///
    /// # Errors
    /// As [`Client::ask`]; `Refused` with the code `invalid` for a program that is not there.
    pub async fn exec(&self, exec: &Exec, limit: Duration) -> Result<Running, GuestError> {
        let stream = self.open(&Request::Exec(exec.clone()));
        // Closes the stream, too, when this is given up.
        let open = Arc::new(Open { stream: Arc::clone(&stream), client: self.clone() });
        let Started { pid } = self.answer(&stream, limit).await?;
        Ok(Running { pid, input: Input::of(Arc::clone(&open)), output: Output::of(open) })
    }

    fn open(&self, request: &Request) -> Arc<Stream> {
        let number = self.shared.next.fetch_add(1, Ordering::Relaxed);
        let stream = Arc::new(Stream::new(number));
        self.shared.streams().insert(number, Arc::clone(&stream));
        // A line that ended meanwhile has emptied the table; this one would wait for ever.
        if let Some(why) = self.shared.gone.borrow().clone() {
            stream.gone(&why);
        }
        self.shared.send(Kind::Open, number, body(request));
        stream
    }

    async fn answer<T: DeserializeOwned>(&self, stream: &Stream, limit: Duration) -> Result<T, GuestError> {
        let answer = timeout(limit, stream.answer()).await.unwrap_or(Err(GuestError::TimedOut));
        answer.and_then(|answer| {
            serde_json::from_slice(&answer).map_err(|e| GuestError::Gone(format!("its answer is none: {e}")))
        })
    }
}

/// A command's stream; closed with its last holder.
pub(crate) struct Open {
    pub(crate) stream: Arc<Stream>,
    pub(crate) client: Client,
}

impl Open {
    /// Sends some input, or its end, when the line takes it.
    pub(crate) async fn input(&self, kind: Kind, body: Vec<u8>) -> Result<(), GuestError> {
        let sent = self.client.shared.inputs.send(Frame::new(kind, self.stream.number, body)).await;
        sent.map_err(|_| GuestError::Gone("it has ended".to_owned()))
    }

    pub(crate) fn send(&self, kind: Kind, body: Vec<u8>) -> Result<(), GuestError> {
        if let Some(why) = self.client.shared.gone.borrow().clone() {
            return Err(GuestError::Gone(why));
        }
        self.client.shared.send(kind, self.stream.number, body);
        Ok(())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if !self.stream.is_over() {
            self.client.shared.send(Kind::Close, self.stream.number, Vec::new());
        }
        self.client.shared.streams().remove(&self.stream.number);
    }
}

impl Shared {
    fn streams(&self) -> MutexGuard<'_, HashMap<u32, Arc<Stream>>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn send(&self, kind: Kind, stream: u32, body: Vec<u8>) {
        // Whoever waits on the stream is told when the line has ended.
        let _ = self.frames.send(Frame::new(kind, stream, body));
    }

    /// What the guest said. An error ends the line.
    fn take(&self, frame: Frame, nonce: u64) -> Result<(), String> {
        if frame.kind == Kind::Hello {
            let Ok(hello) = serde_json::from_slice::<Hello>(&frame.body) else { return Ok(()) };
            let greeted = self.hello.borrow().is_some();
            return match hello.nonce {
                said if said == nonce => {
                    self.hello.send_replace(Some(hello));
                    Ok(())
                }
                // After a reboot of the guest, for example: what was asked of the one before is gone.
                _ if greeted => Err("the agent began anew".to_owned()),
                _ => Ok(()),
            };
        }
        // Of an earlier conversation.
        if self.hello.borrow().is_none() {
            return Ok(());
        }
        let stream = self.streams().get(&frame.stream).cloned();
        match stream {
            Some(stream) => stream.take(frame),
            None => Ok(()),
        }
    }
}

/// What waits for the line.
struct Waiting {
    frames: mpsc::UnboundedReceiver<Frame>,
    inputs: mpsc::Receiver<Frame>,
}

impl Waiting {
    async fn next(&mut self) -> Option<Frame> {
        tokio::select! {
            biased;
            frame = self.frames.recv() => frame,
            Some(frame) = self.inputs.recv() => Some(frame),
        }
    }
}

/// Reads and writes the line until it ends or nobody wants it any more.
async fn keep<L: AsyncRead + AsyncWrite + Send + 'static>(
    line: L,
    shared: Arc<Shared>,
    mut waiting: Waiting,
    nonce: u64,
    ends: CancellationToken,
) {
    let (mut reader, mut writer) = tokio::io::split(line);
    let write = async {
        // Whatever was left half said ends here.
        let mut bytes = vec![0];
        loop {
            let written = timeout(STALLED, async {
                writer.write_all(&bytes).await?;
                writer.flush().await
            });
            match written.await {
                Ok(written) => written.map_err(|e| e.to_string())?,
                Err(_) => return Err(format!("it took nothing for {} s", STALLED.as_secs())),
            }
            match waiting.next().await {
                Some(frame) => bytes = frame.encode(),
                None => return Ok(()),
            }
        }
    };
    let read = async {
        let mut decoder = Decoder::default();
        let mut buffer = vec![0; 64 * 1024];
        let (mut begun, mut came) = (Instant::now(), 0);
        loop {
            if came >= A_SECOND {
                tokio::time::sleep_until(begun + Duration::from_secs(1)).await;
                (begun, came) = (Instant::now(), 0);
            }
            match reader.read(&mut buffer).await {
                Ok(0) => return Err("the other end was closed".to_owned()),
                Ok(read) => {
                    came += read;
                    for frame in decoder.push(buffer.get(..read).unwrap_or_default()) {
                        shared.take(frame, nonce)?;
                    }
                }
                Err(error) => return Err(error.to_string()),
            }
        }
    };
    let ended: Result<(), String> = tokio::select! {
        ended = read => ended,
        ended = write => ended,
        () = ends.cancelled() => Ok(()),
    };
    let why = ended.err().unwrap_or_else(|| "it is not wanted any more".to_owned());
    shared.gone.send_replace(Some(why.clone()));
    for stream in shared.streams().values() {
        stream.gone(&why);
    }
}
