//! A command that the host wants run, with pipes or with a terminal.

use std::collections::VecDeque;
use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::pin::Pin;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use nix::errno::Errno;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::process::Child;
use tokio::sync::mpsc;
use tokio::time::{sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::terminal::{Master, Terminal};
use super::{Input, Out};
use crate::frame::{Kind, MAX_BODY};
use crate::message::{Exec, Exit, Size, body};
use crate::window::{Held, Window};

/// Where root finds programs, as Debian's `login` has it.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// When a command has ended, what it left in its pipes is read until nothing came for so long: a
/// service that it started may hold them for ever.
const QUIET: Duration = Duration::from_millis(250);
/// And at most so much, in bytes: the largest that a pipe can be made.
const LEFT: usize = 1024 * 1024;
/// Control-D: what a terminal takes for the end of the input.
const END_OF_INPUT: &[u8] = &[4];

type Reader = Pin<Box<dyn AsyncRead + Send>>;
type Writer = Pin<Box<dyn AsyncWrite + Send>>;

/// A command that runs.
pub(super) struct Command {
    child: Child,
    pid: u32,
    terminal: Option<Master>,
    input: Option<Writer>,
    output: Reader,
    errors: Option<Reader>,
}

impl Command {
    /// Starts it as the leader of a session of its own.
    pub(super) fn start(exec: &Exec, home: &str) -> io::Result<Self> {
        let Some((program, arguments)) = exec.argv.split_first() else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "there is no program"));
        };
        let mut command = tokio::process::Command::new(program);
        command
            .args(arguments)
            .env_clear()
            .envs([("PATH", PATH), ("HOME", home), ("USER", "root"), ("LOGNAME", "root")])
            .envs([("SHELL", "/bin/bash"), ("LANG", "C.UTF-8")])
            .envs(exec.env.iter().map(|(name, value)| (name, value)))
            .current_dir(exec.cwd.as_deref().filter(|cwd| Path::new(cwd).is_dir()).unwrap_or(home));
        let has_terminal = exec.tty.is_some();
        let terminal = exec.tty.map(Terminal::open).transpose()?;
        if let Some(terminal) = &terminal {
            let end = || terminal.command_s_end().map(Stdio::from);
            command.stdin(end()?).stdout(end()?).stderr(end()?);
        } else {
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        }
        // SAFETY: what runs between fork and execution are two system calls with numbers.
        unsafe {
            command.pre_exec(move || {
                nix::unistd::setsid()?;
                if has_terminal {
                    Errno::result(libc::ioctl(0, libc::TIOCSCTTY, 0))?;
                }
                Ok(())
            });
        }
        let mut child = command.spawn()?;
        // Holds this process's copies of the terminal's other end: while they are open, reading it
        // never ends.
        drop(command);
        let pid = child.id().ok_or_else(|| io::Error::other("it ended before it began"))?;
        // The agent is the last that a machine without memory ends; what it runs is not.
        let _ = std::fs::write(format!("/proc/{pid}/oom_score_adj"), "0");
        if let Some(terminal) = terminal {
            let master = terminal.host_s_end()?;
            let (reader, writer) = (master.clone(), master.clone());
            return Ok(Self {
                child,
                pid,
                terminal: Some(master),
                input: Some(Box::pin(writer)),
                output: Box::pin(reader),
                errors: None,
            });
        }
        let (Some(input), Some(output), Some(errors)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(io::Error::other("it has no pipes"));
        };
        Ok(Self {
            child,
            pid,
            terminal: None,
            input: Some(Box::pin(input)),
            output: Box::pin(output),
            errors: Some(Box::pin(errors)),
        })
    }

    /// Its process id.
    pub(super) const fn pid(&self) -> u32 {
        self.pid
    }

    /// Lets it run to its end, which `end` hastens: SIGHUP to its session, and SIGKILL after
    /// `hang_up`.
    pub(super) async fn run(
        self,
        out: &Out,
        mut inputs: mpsc::UnboundedReceiver<Input>,
        held: &Held,
        window: &Window,
        end: &CancellationToken,
        hang_up: Duration,
    ) -> Exit {
        let Self { mut child, pid, terminal, mut input, mut output, errors } = self;
        let group = Pid::from_raw(pid.cast_signed());
        let exited = CancellationToken::new();
        let pumps = async {
            let errors = async {
                if let Some(mut errors) = errors {
                    pump(&mut errors, Kind::Errors, out, window, &exited).await;
                }
            };
            tokio::join!(pump(&mut output, Kind::Output, out, window, &exited), errors);
        };
        let mut pumps = std::pin::pin!(pumps);
        let mut exit = None;
        let mut read = false;
        let mut waiting = Waiting::default();
        let mut kill_at = None;
        while exit.is_none() || !read {
            tokio::select! {
                status = child.wait(), if exit.is_none() => {
                    exit = Some(status.map(how).unwrap_or_default());
                    exited.cancel();
                }
                () = &mut pumps, if !read => read = true,
                message = inputs.recv(), if exit.is_none() && !inputs.is_closed() => match message {
                    Some(Input::Bytes(bytes)) if input.is_some() => waiting.pieces.push_back(bytes),
                    Some(Input::Bytes(bytes)) => taken(out, held, bytes.len()).await,
                    Some(Input::End) => waiting.ends = true,
                    Some(Input::Resize(size)) => resize(terminal.as_ref(), size),
                    Some(Input::Signal(signal)) => {
                        if let Ok(signal) = Signal::try_from(signal) {
                            let _ = killpg(group, signal);
                        }
                    }
                    None => {}
                },
                written = waiting.write(&mut input), if waiting.has_some(input.is_some()) && exit.is_none() => {
                    if let Ok(bytes) = written {
                        taken(out, held, bytes).await;
                    } else {
                        // It reads no more: what comes is thrown away, and its sender goes on.
                        input = None;
                        let lost = waiting.pieces.drain(..).map(|piece| piece.len()).sum();
                        taken(out, held, lost).await;
                    }
                }
                () = end.cancelled(), if kill_at.is_none() => {
                    window.close();
                    if exit.is_none() {
                        let _ = killpg(group, Signal::SIGHUP);
                    }
                    kill_at = Some(tokio::time::Instant::now() + hang_up);
                }
                () = sleep_until(kill_at.unwrap_or_else(tokio::time::Instant::now)), if kill_at.is_some() && exit.is_none() => {
                    let _ = killpg(group, Signal::SIGKILL);
                    kill_at = Some(tokio::time::Instant::now() + hang_up);
                }
            }
            if waiting.ends && waiting.pieces.is_empty() && input.is_some() {
                if terminal.is_some() {
                    waiting.pieces.push_back(Bytes::from_static(END_OF_INPUT));
                    waiting.ends = false;
                    // The host never sent this byte.
                    held.came(END_OF_INPUT.len());
                } else {
                    input = None;
                }
            }
        }
        exit.unwrap_or_default()
    }
}

/// What the command has not read yet.
#[derive(Default)]
struct Waiting {
    pieces: VecDeque<Bytes>,
    /// Nothing more will come.
    ends: bool,
}

impl Waiting {
    fn has_some(&self, open: bool) -> bool {
        open && !self.pieces.is_empty()
    }

    /// Writes some of it. Nothing is written when this is given up before its end.
    async fn write(&mut self, input: &mut Option<Writer>) -> io::Result<usize> {
        let (Some(input), Some(piece)) = (input, self.pieces.front_mut()) else {
            return std::future::pending().await;
        };
        let written = input.write(piece).await?;
        if written == 0 && !piece.is_empty() {
            return Err(io::ErrorKind::WriteZero.into());
        }
        piece.advance(written);
        if piece.is_empty() {
            self.pieces.pop_front();
        }
        Ok(written)
    }
}

async fn taken(out: &Out, held: &Held, bytes: usize) {
    if bytes > 0 {
        held.taken(bytes);
        out.send(Kind::Credit, body(&bytes)).await;
    }
}

fn resize(terminal: Option<&Master>, size: Size) {
    if let Some(terminal) = terminal {
        let _ = terminal.resize(size);
    }
}

/// Hands on what `reader` has, until its end, or until the command has ended and nothing of it is
/// left there.
async fn pump(reader: &mut Reader, kind: Kind, out: &Out, window: &Window, exited: &CancellationToken) {
    let mut buffer = vec![0; MAX_BODY];
    let mut left = LEFT;
    while left > 0 {
        let read = if exited.is_cancelled() {
            timeout(QUIET, reader.read(&mut buffer)).await.unwrap_or(Ok(0))
        } else {
            tokio::select! {
                read = reader.read(&mut buffer) => read,
                () = exited.cancelled() => continue,
            }
        };
        let Ok(read @ 1..) = read else { return };
        if exited.is_cancelled() {
            left = left.saturating_sub(read);
        }
        let piece = Bytes::copy_from_slice(buffer.get(..read).unwrap_or_default());
        if !window.take(read).await || !out.send(kind, piece).await {
            return;
        }
    }
}

fn how(status: ExitStatus) -> Exit {
    Exit { code: status.code(), signal: status.signal() }
}
