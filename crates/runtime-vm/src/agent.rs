//! Talking with the agent in a machine, where it has one.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use clawfarm_files::connect_own;
use clawfarm_guest::client::{Client, Event, GuestError, Running};
use clawfarm_guest::message::{Exec, Exit, RefusalCode, Request, Size};
use clawfarm_model::vm::VmSpec;
use clawfarm_model::{ClawId, Code, Error, Result};
use clawfarm_qemu::machine::Channel;
use clawfarm_runtime::{ExecInput, ExecOutput, ExecRequest, ExecSession, TermSize};
use tokio::net::UnixStream;
use tokio::sync::mpsc;

use crate::inner::{Inner, guard};
use crate::paths::VM;
use crate::record::MachineRecord;

/// How long the agent may take to greet: it does so in milliseconds, on a guest that has little
/// of a processor in a second or two.
const GREETING: Duration = Duration::from_secs(5);
/// How long one that did not is not asked again: it may be missing from the image's first boot,
/// or still to come, and SSH is there.
const QUIET: Duration = Duration::from_secs(30);
/// How long it may take to start a command: less than its caller waits (30 s).
const STARTING: Duration = Duration::from_secs(20);
/// How many pieces wait for a slow reader before the command has to.
const PIECES: usize = 16;
/// What a shell says of a program that can't be started.
const NOT_STARTED: i32 = 127;

/// The lines to agents, and when one was found not to answer.
#[derive(Default)]
pub(crate) struct Agents(Mutex<HashMap<ClawId, Arc<tokio::sync::Mutex<Option<Known>>>>>);

/// Whether an agent was once too slow to answer.
type Missed = bool;

/// What is known of an agent.
enum Known {
    /// It answers here; whether it did not the last time.
    Line(Client, Missed),
    /// It did not, then.
    Silent(Instant),
}

impl Agents {
    fn of(&self, id: &ClawId) -> Arc<tokio::sync::Mutex<Option<Known>>> {
        Arc::clone(guard(&self.0).entry(id.clone()).or_default())
    }

    /// Keeps a line that somebody has begun.
    pub(crate) async fn keep(&self, id: &ClawId, client: Client) {
        *self.of(id).lock().await = Some(Known::Line(client, false));
    }

    /// Lets go of a line.
    pub(crate) fn forget(&self, id: &ClawId) {
        guard(&self.0).remove(id);
    }
}

/// Where QEMU listens for us.
pub(crate) fn socket(dir: &Path) -> PathBuf {
    dir.join(VM).join("agent")
}

/// The device in the guest, and where its other end is. Every machine has it, so that an agent
/// may come later.
pub(crate) fn channel(dir: &Path) -> Channel {
    Channel { name: clawfarm_guest::PORT.into(), socket: socket(dir) }
}

/// The agent of a machine that runs, when it has one that answers.
pub(crate) async fn of(inner: &Inner, id: &ClawId) -> Option<Client> {
    let known = inner.agents.of(id);
    // One asks at a time: QEMU has one line, and lets a second caller wait at it for an answer that
    // goes to the first.
    let mut known = known.lock().await;
    match &*known {
        Some(Known::Line(client, missed)) if !client.is_gone() => match (answers(client).await, *missed) {
            (Answer::Yes, _) => {
                let client = client.clone();
                *known = Some(Known::Line(client.clone(), false));
                return Some(client);
            }
            // Slow, perhaps; and whoever has a command under way keeps QEMU's only line.
            (Answer::None, false) => {
                *known = Some(Known::Line(client.clone(), true));
                return None;
            }
            (Answer::None, true) | (Answer::Gone, _) => {}
        },
        Some(Known::Silent(since)) if since.elapsed() < QUIET => return None,
        _ => {}
    }
    // The old line goes first, for the same reason.
    *known = None;
    let greeted = async {
        let line = connect_own(&socket(&inner.dir(id))).and_then(UnixStream::from_std);
        let line = line.map_err(|e| e.to_string())?;
        Client::connect(line, GREETING).await.map_err(|e| e.to_string())
    };
    match greeted.await {
        Ok(client) => {
            *known = Some(Known::Line(client.clone(), false));
            Some(client)
        }
        Err(why) => {
            tracing::debug!(%id, why, "no agent answers");
            *known = Some(Known::Silent(Instant::now()));
            None
        }
    }
}

/// What became of a question.
enum Answer {
    Yes,
    None,
    Gone,
}

/// Whether the agent at the other end of a line is still there: QEMU keeps the line of one that has ended,
/// and a command that is handed to nobody would be waited for.
async fn answers(client: &Client) -> Answer {
    match client.ask::<()>(&Request::Ping, GREETING).await {
        Ok(()) | Err(GuestError::Refused(_)) => Answer::Yes,
        Err(GuestError::TimedOut) => Answer::None,
        Err(GuestError::Gone(_)) => Answer::Gone,
    }
}

/// Runs a command by the agent; `None` when there is none, and SSH has to.
///
/// # Errors
/// What the agent said, where it is there and can't.
pub(crate) async fn exec(
    inner: &Inner,
    record: &MachineRecord,
    request: &ExecRequest,
) -> Result<Option<ExecSession>> {
    let Some(agent) = of(inner, &record.id).await else { return Ok(None) };
    let exec = asked(record, request);
    let running = match agent.exec(&exec, STARTING).await {
        Ok(running) => running,
        Err(GuestError::Refused(refusal)) if refusal.code == RefusalCode::Invalid => {
            return Ok(Some(not_started(&GuestError::Refused(refusal))));
        }
        Err(why) => return Err(no_command(inner, record, why).await),
    };
    Ok(Some(session(running)))
}

/// Why a command could not be run by an agent that is there.
async fn no_command(inner: &Inner, record: &MachineRecord, why: GuestError) -> Error {
    let id = &record.id;
    match &why {
        GuestError::Refused(refusal) if refusal.code == RefusalCode::Busy => {
            Error::new(Code::Overloaded, format!("too much is done in '{id}': {why}"))
                .fix("try again when some of it has ended")
        }
        GuestError::Refused(_) => Error::internal(format!("the agent in '{id}' can't do it: {why}"), why),
        // It was asked: another way would start it a second time.
        GuestError::Gone(_) | GuestError::TimedOut => {
            inner.agents.forget(id);
            Error::new(
                Code::Unavailable,
                format!("it is not known whether the command was started in '{id}': {why}"),
            )
            .fix("look whether it runs, then try again")
        }
    }
}

/// Has the guest write what it holds to its disks; `false` when there is no agent for it.
pub(crate) async fn sync(inner: &Inner, id: &ClawId, limit: Duration) -> bool {
    let Some(agent) = of(inner, id).await else { return false };
    agent.ask::<()>(&Request::Sync, limit).await.is_ok()
}

/// Steps the guest's clock; `false` when there is no agent for it.
pub(crate) async fn set_clock(inner: &Inner, id: &ClawId) -> bool {
    let Some(agent) = of(inner, id).await else { return false };
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let unix_nanos = i64::try_from(now.as_nanos()).unwrap_or(i64::MAX);
    agent.ask::<()>(&Request::SetTime { unix_nanos }, GREETING).await.is_ok()
}

fn asked(record: &MachineRecord, request: &ExecRequest) -> Exec {
    let folder = record.vm.workspace.as_ref().map(|_| VmSpec::WORKSPACE.to_owned());
    let argv = match request.argv.is_empty() {
        true => vec!["/bin/bash".to_owned(), "-l".to_owned()],
        false => request.argv.clone(),
    };
    let term = request.tty.map(|_| request.term.clone().unwrap_or_else(|| "xterm-256color".to_owned()));
    Exec {
        argv,
        env: term.map(|term| ("TERM".to_owned(), term)).into_iter().collect(),
        cwd: folder,
        tty: request.tty.map(size),
    }
}

const fn size(size: TermSize) -> Size {
    Size { rows: size.rows, cols: size.cols }
}

/// A command that ended before it began, as a shell tells it.
fn not_started(why: &GuestError) -> ExecSession {
    let (input, _) = mpsc::channel(1);
    let (to_caller, output) = mpsc::channel(2);
    let said = Bytes::from(format!("clawfarm: {why}\r\n"));
    // There is room for both.
    let _ = to_caller.try_send(ExecOutput::Stderr(said));
    let _ = to_caller.try_send(ExecOutput::Exit(NOT_STARTED));
    ExecSession { input, output }
}

fn session(running: Running) -> ExecSession {
    let (input, mut from_caller) = mpsc::channel(PIECES);
    let (to_caller, output) = mpsc::channel(PIECES);
    let Running { input: stdin, output: mut printed, .. } = running;
    tokio::spawn(async move {
        let feed = async {
            while let Some(piece) = from_caller.recv().await {
                let fed = match piece {
                    ExecInput::Stdin(bytes) => stdin.write(&bytes).await,
                    ExecInput::Eof => stdin.end().await,
                    ExecInput::Resize(to) => stdin.resize(size(to)),
                };
                if let Err(error) = fed {
                    tracing::debug!(%error, "a command takes no more input");
                }
            }
            // Whoever went away without saying that there is no more may only listen.
            std::future::pending::<()>().await;
        };
        let read = async {
            loop {
                let piece = match printed.next().await {
                    Ok(Event::Output(bytes)) => ExecOutput::Stdout(bytes),
                    Ok(Event::Errors(bytes)) => ExecOutput::Stderr(bytes),
                    Ok(Event::Exit(exit)) => ExecOutput::Exit(code(exit)),
                    Err(why) => {
                        let said = format!("clawfarm: {why}\r\n");
                        let _ = to_caller.send(ExecOutput::Stderr(said.into())).await;
                        ExecOutput::Exit(255)
                    }
                };
                let last = matches!(piece, ExecOutput::Exit(_));
                if to_caller.send(piece).await.is_err() || last {
                    return;
                }
            }
        };
        // Dropping both halves hangs up: the command gets SIGHUP.
        tokio::select! {
            () = read => {}
            () = feed => {}
            () = to_caller.closed() => {}
        }
    });
    ExecSession { input, output }
}

/// As a shell says it.
fn code(exit: Exit) -> i32 {
    exit.code.or_else(|| exit.signal.map(|signal| 128 + signal)).unwrap_or(255)
}
