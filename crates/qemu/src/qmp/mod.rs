//! The conversation with a machine that runs: QMP over its unix socket.
//!
//! One connection serves one client at a time. Messages are lines of JSON; each command has a
//! number, and its answer carries it. Events come in between. A guest that broke out of its
//! machine speaks for QEMU here, so a line is bounded, nonsense ends the conversation with a
//! reason, and no wait is without a limit.

mod commands;
mod migration;
mod wire;

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use clawfarm_model::{Code, Error, Result};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use serde::Serialize;
use serde_json::Value;
use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{broadcast, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::found::Version;
use crate::text::tame;
pub use commands::{RunState, Share};
pub use migration::{Migration, MigrationState, Stream};
pub use wire::Event;
use wire::{Lines, Message};

/// How long a command may take. QEMU answers in milliseconds; what works longer (a migration)
/// answers at once and is asked how far it is. On a machine that swaps, seconds are possible.
const LIMIT: Duration = Duration::from_secs(30);

/// How many events a slow reader may be behind.
const EVENTS: usize = 256;

/// How many messages are taken in a second; more make QEMU wait. One that tells of events without
/// end would otherwise have a processor of the server's for it. Whoever saves a memory is
/// answered 50 times a second.
const MESSAGES_A_SECOND: u32 = 5_000;

/// A conversation with one machine. Dropped, it ends; the machine goes on.
#[derive(Debug)]
pub struct Qmp {
    shared: Arc<Shared>,
    write: tokio::sync::Mutex<OwnedWriteHalf>,
    version: Version,
    reader: JoinHandle<()>,
    /// Never read from: new receivers are made of it.
    events: broadcast::Receiver<Event>,
}

#[derive(Debug, Default)]
struct Shared(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    last: u64,
    waiting: HashMap<u64, oneshot::Sender<Result<Value>>>,
    /// Why nothing more comes.
    ended: Option<String>,
}

impl Shared {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        // Each change of it is whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self, why: String) {
        let mut state = self.state();
        for (_, waiting) in state.waiting.drain() {
            // Nobody waits any more: nothing to tell.
            let _ = waiting.send(Err(gone(&why)));
        }
        state.ended.get_or_insert(why);
    }
}

impl Qmp {
    /// Connects, and is greeted, within `limit`. A socket that is not there yet is waited for.
    ///
    /// # Errors
    /// `Timeout` when nothing listened or nobody greeted: as long as another client is connected,
    /// QEMU greets nobody. `Unavailable` when what answers does not speak QMP.
    pub async fn connect(socket: &Path, limit: Duration) -> Result<Self> {
        let shown = socket.display();
        match tokio::time::timeout(limit, Self::greeted(socket)).await {
            Ok(result) => result,
            Err(_) => Err(Error::new(
                Code::Timeout,
                format!("the virtual machine did not greet on {shown} within {limit:?}"),
            )
            .fix("see its qemu.log, and whether another program is connected to that socket")),
        }
    }

    async fn greeted(socket: &Path) -> Result<Self> {
        let stream = loop {
            match clawfarm_files::connect_own(socket).and_then(UnixStream::from_std) {
                Ok(stream) => break stream,
                // It is being started, or just ended, or others wait, too; the caller's limit decides.
                Err(e)
                    if matches!(
                        e.kind(),
                        io::ErrorKind::NotFound
                            | io::ErrorKind::ConnectionRefused
                            | io::ErrorKind::WouldBlock
                    ) =>
                {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                Err(e) => {
                    return Err(Error::new(
                        Code::Unavailable,
                        format!("could not connect to {}: {e}", socket.display()),
                    )
                    .source(e));
                }
            }
        };
        let (read, write) = stream.into_split();
        let mut lines = Lines::new(read);
        let version = loop {
            match lines.next().await {
                Ok(Some(Message::Greeting(version))) => break version,
                Ok(Some(Message::Event(_))) => {}
                Ok(Some(_)) => return Err(gone("it answered before it greeted")),
                Ok(None) => return Err(gone("it hung up before it greeted")),
                Err(e) => return Err(gone(&e.to_string())),
            }
        };
        let shared = Arc::new(Shared::default());
        let (tell, events) = broadcast::channel(EVENTS);
        let reader = tokio::spawn(read_all(lines, Arc::clone(&shared), tell));
        let qmp = Self { shared, write: tokio::sync::Mutex::new(write), version, reader, events };
        qmp.execute("qmp_capabilities", &Value::Null).await?;
        Ok(qmp)
    }

    /// The version of the QEMU that runs the machine, which may be older than the installed one.
    #[must_use]
    pub const fn version(&self) -> Version {
        self.version
    }

    /// Every event from now on, until the conversation ends. A reader that is too far behind is
    /// told so and goes on.
    #[must_use]
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.events.resubscribe()
    }

    /// Why nothing more can be asked on this connection, once that is so.
    #[must_use]
    pub fn ended(&self) -> Option<String> {
        self.shared.state().ended.clone()
    }

    /// The error of who waits for what can't come any more.
    fn gone(&self) -> Error {
        gone(&self.ended().unwrap_or_default())
    }

    /// Carries out any command: `arguments` is an object, or null for none.
    ///
    /// # Errors
    /// What QEMU answered: `Unsupported` for a command it does not have, `NotFound` for a device,
    /// else `Conflict`, with QEMU's own words. `Unavailable` when the conversation ended, `Timeout`
    /// when it did not answer; the command may have been carried out then.
    pub async fn execute(&self, command: &str, arguments: &(impl Serialize + Sync)) -> Result<Value> {
        self.ask(command, arguments, None).await
    }

    /// As [`Self::execute`], with an open file for the command.
    ///
    /// # Errors
    /// As for [`Self::execute`].
    pub async fn execute_with(
        &self,
        command: &str,
        arguments: &(impl Serialize + Sync),
        file: &OwnedFd,
    ) -> Result<Value> {
        self.ask(command, arguments, Some(file)).await
    }

    async fn ask(
        &self,
        command: &str,
        arguments: &(impl Serialize + Sync),
        file: Option<&OwnedFd>,
    ) -> Result<Value> {
        let arguments = serde_json::to_value(arguments)
            .map_err(|e| Error::internal(format!("the arguments of '{command}' can't be written"), e))?;
        let (tell, told) = oneshot::channel();
        let id = {
            let mut state = self.shared.state();
            if let Some(why) = &state.ended {
                return Err(gone(why));
            }
            state.last += 1;
            let id = state.last;
            state.waiting.insert(id, tell);
            id
        };
        // Taken out again whatever happens, also when the caller gives up.
        let _waiting = Waiting { shared: &self.shared, id };
        let mut message = serde_json::json!({ "execute": command, "id": id });
        if !arguments.is_null() {
            message["arguments"] = arguments;
        }
        let mut line = message.to_string().into_bytes();
        line.push(b'\n');
        let answered = tokio::time::timeout(LIMIT, async {
            self.send(&line, file).await.map_err(|e| gone(&e.to_string()))?;
            told.await.unwrap_or_else(|_| Err(gone("it hung up")))
        });
        match answered.await {
            Ok(answer) => answer.map_err(|e| named(command, e)),
            Err(_) => Err(Error::new(
                Code::Timeout,
                format!("the virtual machine did not answer '{command}' within {LIMIT:?}"),
            )
            .fix("see whether the machine is overloaded or out of memory, then try again")),
        }
    }

    async fn send(&self, line: &[u8], file: Option<&OwnedFd>) -> io::Result<()> {
        let mut write = self.write.lock().await;
        let mut sending = Sending { shared: &self.shared, whole: false };
        let mut rest = line;
        if let Some(file) = file {
            // The file goes with the first bytes; QEMU keeps it for the command they begin.
            let stream: &UnixStream = write.as_ref();
            let sent = loop {
                stream.writable().await?;
                match stream.try_io(Interest::WRITABLE, || send_with(stream, line, file)) {
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                    sent => break sent?,
                }
            };
            rest = line.get(sent..).unwrap_or_default();
        }
        write.write_all(rest).await?;
        sending.whole = true;
        Ok(())
    }
}

/// A command that was cut off, because its caller gave up or the socket broke, would be the
/// beginning of the next: nothing more is sent then.
struct Sending<'a> {
    shared: &'a Shared,
    whole: bool,
}

impl Drop for Sending<'_> {
    fn drop(&mut self) {
        if !self.whole {
            self.shared.end("a command was cut off".into());
        }
    }
}

impl Drop for Qmp {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

struct Waiting<'a> {
    shared: &'a Shared,
    id: u64,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.shared.state().waiting.remove(&self.id);
    }
}

fn send_with(stream: &UnixStream, bytes: &[u8], file: &OwnedFd) -> io::Result<usize> {
    let files = [file.as_fd()];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(&files)) {
        return Err(io::Error::other("no room for one open file"));
    }
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    Ok(rustix::net::sendmsg(stream, &[io::IoSlice::new(bytes)], &mut control, flags)?)
}

async fn read_all(mut lines: Lines<OwnedReadHalf>, shared: Arc<Shared>, events: broadcast::Sender<Event>) {
    let (mut begun, mut taken) = (Instant::now(), 0_u32);
    let why = loop {
        taken += 1;
        if taken > MESSAGES_A_SECOND {
            tokio::time::sleep_until(begun + Duration::from_secs(1)).await;
            (begun, taken) = (Instant::now(), 1);
        }
        match lines.next().await {
            Ok(Some(Message::Answer(id, answer))) => {
                // One that nobody waits for any more came too late.
                let waiting = shared.state().waiting.remove(&id);
                if let Some(waiting) = waiting {
                    let _ = waiting.send(answer);
                }
            }
            Ok(Some(Message::Event(event))) => {
                tracing::trace!(name = %tame(&event.name), "event of a virtual machine");
                // Nobody listens.
                let _ = events.send(event);
            }
            Ok(Some(Message::Greeting(_))) => {}
            Ok(None) => break "it hung up".to_owned(),
            Err(error) => break error.to_string(),
        }
    };
    // Before the events' end, which tells others to look why.
    shared.end(why);
    drop(events);
}

fn gone(why: &str) -> Error {
    Error::new(Code::Unavailable, format!("the conversation with the virtual machine ended: {}", tame(why)))
        .fix("see whether it still runs; its qemu.log says why it ended")
}

/// QEMU's refusal, with the command it refused.
fn named(command: &str, error: Error) -> Error {
    match error.field_name() {
        Some(wire::REFUSED) => {
            Error::new(error.code(), format!("QEMU refused '{command}': {}", error.message()))
        }
        _ => error,
    }
}
