//! The guest's side.

mod command;
mod fd;
mod frozen;
mod identify;
mod line;
mod power;
mod stats;
mod terminal;

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::frame::{Decoder, Frame, Kind};
use crate::message::{Exec, Hello, Refusal, RefusalCode, Request, Size, Started, VERSION, body};
use crate::window::{Held, WINDOW, Window};
use command::Command;
pub use frozen::{Disks, Frozen};
pub use line::{open_port, vsock};

/// So many conversations at a time; more are refused.
const STREAMS: usize = 64;
/// Frames that wait for the line.
const WAITING: usize = 64;
/// How long a command may take to end when its host is gone: first SIGHUP, then SIGKILL.
const HANG_UP: Duration = Duration::from_secs(5);

/// What the agent does its work with.
#[derive(Clone, Debug)]
pub struct Options {
    /// The file systems and hooks; shared by all lines, because there is one machine.
    pub frozen: Arc<Frozen>,
    /// Where root's commands begin.
    pub home: String,
}

/// What is left of a stream while its command runs.
struct Stream {
    input: mpsc::UnboundedSender<Input>,
    held: Arc<Held>,
    output: Arc<Window>,
    end: CancellationToken,
}

/// What comes for a command.
#[derive(Debug)]
pub(crate) enum Input {
    Bytes(Bytes),
    End,
    Resize(Size),
    Signal(i32),
}

/// How a command's task reaches the host.
#[derive(Clone)]
pub(crate) struct Out {
    stream: u32,
    frames: mpsc::Sender<Frame>,
}

impl Out {
    /// Sends; `false` when the line is gone.
    pub(crate) async fn send(&self, kind: Kind, bytes: impl Into<Bytes>) -> bool {
        self.frames.send(Frame::new(kind, self.stream, bytes)).await.is_ok()
    }

    async fn refuse(&self, code: RefusalCode, message: impl Into<String>) {
        self.send(Kind::Refused, body(&Refusal { code, message: message.into() })).await;
    }
}

/// Answers one line until it ends. Commands that still run then get SIGHUP, as those of a
/// terminal whose user went away.
///
/// # Errors
/// What reading or writing the line ended with.
pub async fn serve<L: AsyncRead + AsyncWrite>(line: L, options: &Options) -> io::Result<()> {
    let (mut reader, mut writer) = tokio::io::split(line);
    let (frames, mut waiting) = mpsc::channel::<Frame>(WAITING);
    let write = async {
        // Whatever an earlier line left half said ends here. And a host that still talks to the
        // agent of before, over a line that outlived it, hears that this is another one.
        writer.write_all(&[0]).await?;
        writer.write_all(&Frame::new(Kind::Hello, 0, body(&hello(0))).encode()).await?;
        while let Some(frame) = waiting.recv().await {
            writer.write_all(&frame.encode()).await?;
            writer.flush().await?;
        }
        Ok(())
    };
    let mut talk = Talk { options, frames, streams: HashMap::new(), heard: None };
    let read = async {
        let (over, mut ended) = mpsc::unbounded_channel();
        let mut decoder = Decoder::default();
        let mut buffer = vec![0; 64 * 1024];
        loop {
            tokio::select! {
                read = reader.read(&mut buffer) => {
                    let read = read?;
                    if read == 0 {
                        return Ok(());
                    }
                    for frame in decoder.push(buffer.get(..read).unwrap_or_default()) {
                        talk.take(frame, &over).await;
                    }
                }
                Some(stream) = ended.recv() => { talk.streams.remove(&stream); }
            }
        }
    };
    // Whichever ends first: dropping the other one ends the line.
    let ended = tokio::select! {
        ended = read => ended,
        ended = write => ended,
    };
    talk.hang_up();
    ended
}

/// What is said of this agent.
fn hello(nonce: u64) -> Hello {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let agent = env!("CARGO_PKG_VERSION").to_owned();
    Hello { version: VERSION, nonce, agent, boot: boot.trim().to_owned() }
}

/// One line and what runs on it.
struct Talk<'a> {
    options: &'a Options,
    frames: mpsc::Sender<Frame>,
    streams: HashMap<u32, Stream>,
    /// The number of the conversation that is held; nothing is done before there is one.
    heard: Option<u64>,
}

impl Talk<'_> {
    async fn take(&mut self, frame: Frame, over: &mpsc::UnboundedSender<u32>) {
        match frame.kind {
            Kind::Hello => self.hello(&frame.body).await,
            _ if self.heard.is_none() => {}
            Kind::Open => self.open(frame, over).await,
            Kind::Input => {
                let Some(stream) = self.streams.get(&frame.stream) else { return };
                if stream.held.came(frame.body.len()) {
                    let _ = stream.input.send(Input::Bytes(frame.body));
                } else {
                    stream.end.cancel();
                }
            }
            Kind::InputEnd => self.tell(frame.stream, Input::End),
            Kind::Resize => {
                if let Ok(size) = serde_json::from_slice(&frame.body) {
                    self.tell(frame.stream, Input::Resize(size));
                }
            }
            Kind::Signal => {
                if let Ok(signal) = serde_json::from_slice(&frame.body) {
                    self.tell(frame.stream, Input::Signal(signal));
                }
            }
            Kind::Credit => {
                let bytes = serde_json::from_slice(&frame.body).unwrap_or(0_usize);
                if let Some(stream) = self.streams.get(&frame.stream) {
                    stream.output.give(bytes.min(WINDOW));
                }
            }
            Kind::Close => {
                if let Some(stream) = self.streams.get(&frame.stream) {
                    stream.end.cancel();
                }
            }
            // The host's to hear.
            Kind::Answer | Kind::Refused | Kind::Output | Kind::Errors | Kind::Exit => {}
        }
    }

    async fn hello(&mut self, said: &[u8]) {
        let Ok(Hello { nonce, .. }) = serde_json::from_slice(said) else { return };
        // Asked twice, because nobody was there yet at the first time.
        if self.heard != Some(nonce) {
            self.hang_up();
            self.heard = Some(nonce);
        }
        let _ = self.frames.send(Frame::new(Kind::Hello, 0, body(&hello(nonce)))).await;
    }

    async fn open(&mut self, frame: Frame, over: &mpsc::UnboundedSender<u32>) {
        let out = Out { stream: frame.stream, frames: self.frames.clone() };
        if self.streams.contains_key(&frame.stream) {
            out.refuse(RefusalCode::Invalid, "this conversation is going on already").await;
            return;
        }
        let request = match serde_json::from_slice(&frame.body) {
            Ok(request) => request,
            Err(error) => {
                let why = format!("this agent ({}) does not know it: {error}", env!("CARGO_PKG_VERSION"));
                out.refuse(RefusalCode::Unsupported, why).await;
                return;
            }
        };
        if self.streams.len() >= STREAMS {
            out.refuse(RefusalCode::Busy, format!("{STREAMS} conversations are going on")).await;
            return;
        }
        let (input, inputs) = mpsc::unbounded_channel();
        let stream = Stream {
            input,
            held: Arc::new(Held::default()),
            output: Arc::new(Window::new()),
            end: CancellationToken::new(),
        };
        let work = Work {
            out,
            inputs,
            held: Arc::clone(&stream.held),
            window: Arc::clone(&stream.output),
            end: stream.end.clone(),
            options: self.options.clone(),
        };
        self.streams.insert(frame.stream, stream);
        let over = over.clone();
        tokio::spawn(async move {
            work.run(request).await;
            let _ = over.send(frame.stream);
        });
    }

    fn tell(&self, stream: u32, input: Input) {
        if let Some(stream) = self.streams.get(&stream) {
            let _ = stream.input.send(input);
        }
    }

    fn hang_up(&mut self) {
        for (_, stream) in self.streams.drain() {
            stream.end.cancel();
            stream.output.close();
        }
    }
}

/// One conversation.
struct Work {
    out: Out,
    inputs: mpsc::UnboundedReceiver<Input>,
    held: Arc<Held>,
    window: Arc<Window>,
    end: CancellationToken,
    options: Options,
}

impl Work {
    async fn run(self, request: Request) {
        let frozen = &self.options.frozen;
        let done = match request {
            Request::Exec(exec) => return self.exec(exec).await,
            Request::Ping => Ok(serde_json::Value::Null),
            Request::Stats => stats::now().map(|stats| serde_json::json!(stats)),
            Request::Sync => frozen.sync().await.map(|()| serde_json::Value::Null),
            Request::Freeze { limit_secs } => {
                let limit = Duration::from_secs(u64::from(limit_secs));
                Arc::clone(frozen).freeze(limit).await.map(|()| serde_json::Value::Null)
            }
            Request::Thaw => frozen.thaw().await.map(|()| serde_json::Value::Null),
            Request::Power { how } => power::end(how).await.map(|()| serde_json::Value::Null),
            Request::Identify(identity) => {
                identify::become_one(*identity).await.map(|()| serde_json::Value::Null)
            }
            Request::SetTime { unix_nanos } => power::set_time(unix_nanos).map(|()| serde_json::Value::Null),
        };
        match done {
            Ok(answer) => {
                self.out.send(Kind::Answer, body(&answer)).await;
            }
            Err(error) => {
                let code = match error.kind() {
                    io::ErrorKind::InvalidInput | io::ErrorKind::NotFound => RefusalCode::Invalid,
                    _ => RefusalCode::Failed,
                };
                self.out.refuse(code, error.to_string()).await;
            }
        }
    }

    async fn exec(self, exec: Exec) {
        let command = match Command::start(&exec, &self.options.home) {
            Ok(command) => command,
            Err(error) => {
                let name = exec.argv.first().map_or("", String::as_str);
                let code = match error.kind() {
                    io::ErrorKind::NotFound
                    | io::ErrorKind::InvalidInput
                    | io::ErrorKind::PermissionDenied => RefusalCode::Invalid,
                    _ => RefusalCode::Failed,
                };
                return self.out.refuse(code, format!("'{name}' can't be started: {error}")).await;
            }
        };
        self.out.send(Kind::Answer, body(&Started { pid: command.pid() })).await;
        let exit = command.run(&self.out, self.inputs, &self.held, &self.window, &self.end, HANG_UP).await;
        self.out.send(Kind::Exit, body(&exit)).await;
    }
}
