//! Commands in a machine: by its agent, or over SSH (OpenSSH's client here, sshd there) where it
//! has none that answers.

use std::process::{ExitStatus, Stdio};
use std::sync::Arc;

use bytes::Bytes;
use clawfarm_files::io_error;
use clawfarm_model::vm::VmSpec;
use clawfarm_model::{ClawId, Code, Error, ObservedState, Result};
use clawfarm_qemu::ssh::{Ended, Ssh, posix_word};
use clawfarm_runtime::{ExecInput, ExecOutput, ExecRequest, ExecSession, TermSize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::mpsc;

use crate::inner::Inner;
use crate::pty::{self, Terminal};
use crate::record::MachineRecord;
use crate::seed::Messages;
use crate::{agent, base, claw, observe, seed};

/// How many pieces wait for a slow reader before the command has to.
const PIECES: usize = 16;
/// How much is read at a time.
const CHUNK: usize = 16 * 1024;
/// What ends a terminal's input.
const END_OF_TRANSMISSION: &[u8] = &[4];

/// [`clawfarm_runtime::Exec::exec`].
pub(crate) async fn exec(inner: &Arc<Inner>, id: &ClawId, request: ExecRequest) -> Result<ExecSession> {
    match observe::observe(inner, id).await?.state {
        ObservedState::Running => {}
        ObservedState::Frozen => {
            return Err(Error::new(Code::Unavailable, format!("'{id}' is frozen"))
                .fix(format!("wake it with `clawfarm resume {id}`")));
        }
        _ => {
            return Err(Error::new(Code::Gone, format!("'{id}' does not run"))
                .fix(format!("start it with `clawfarm start {id}`")));
        }
    }
    let record = inner.record(id)?;
    base::check(&record)?;
    let request = match record.installed {
        Some(_) => ExecRequest { argv: claw::beside(&record, shell(request.argv)), ..request },
        None => request,
    };
    if let Some(session) = agent::exec(inner, &record, &request).await? {
        return Ok(session);
    }
    let ssh = seed::ssh(inner, &record)?;
    let messages = seed::messages(inner, id)?;
    let line = line(&record, &request.argv)?;
    let argv = ssh.argv(&line, request.tty.is_some(), messages.path())?;
    let term = request.term.unwrap_or_else(|| "xterm-256color".to_owned());
    match request.tty {
        Some(size) => on_a_terminal(&argv, size, &term, Watched { ssh, messages }),
        None => on_pipes(&argv, Watched { ssh, messages }),
    }
}

/// A shell where no command is named. No login shell beside a claw: that would forget where the
/// claw's programs are.
fn shell(argv: Vec<String>) -> Vec<String> {
    if argv.is_empty() { vec!["/bin/bash".to_owned()] } else { argv }
}

/// What sshd gives root's shell: each word quoted, in the folder where one works.
fn line(record: &MachineRecord, argv: &[String]) -> Result<String> {
    let folder = record.vm.workspace.as_ref().map_or("", |_| VmSpec::WORKSPACE);
    let go = if folder.is_empty() { String::new() } else { format!("cd {folder} 2>/dev/null; ") };
    if argv.is_empty() {
        return Ok(format!("{go}exec bash -l"));
    }
    let words: Vec<String> = argv.iter().map(|word| posix_word(word)).collect::<Result<_>>()?;
    Ok(format!("{go}exec {}", words.join(" ")))
}

/// ssh, and where it says what went wrong with it.
struct Watched {
    ssh: Ssh,
    messages: Messages,
}

impl Watched {
    /// How it ended, as what comes last: with a reason where it was not the command that ended.
    async fn ended(self, status: std::io::Result<ExitStatus>, output: &mpsc::Sender<ExecOutput>) {
        let told = match status {
            Ok(status) => self.ssh.ended(status, self.messages.path()).await,
            Err(e) => Err(io_error("wait for ssh", e)),
        };
        let (why, code) = match told {
            Ok(Ended::Code(code)) => (None, code),
            Ok(Ended::Lost(why)) => (Some(format!("the machine does not answer SSH: {why}")), 255),
            Err(error) => (Some(error.message().to_owned()), 255),
        };
        if let Some(why) = why {
            // Whoever listened may be gone.
            let _ = output.send(ExecOutput::Stderr(format!("clawfarm: {why}\r\n").into())).await;
        }
        let _ = output.send(ExecOutput::Exit(code)).await;
    }
}

fn command(argv: &[String], term: Option<&str>) -> Command {
    let mut command = std::process::Command::new(argv.first().map_or("ssh", String::as_str));
    command.args(argv.get(1..).unwrap_or_default()).env_clear().env("LC_ALL", "C").current_dir("/");
    if let Some(term) = term {
        command.env("TERM", term);
    }
    let mut command = Command::from(command);
    command.kill_on_drop(true);
    command
}

fn on_pipes(argv: &[String], watched: Watched) -> Result<ExecSession> {
    let mut command = command(argv, None);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|e| io_error("start ssh", e))?;
    let (Some(stdin), Some(out), Some(err)) = (child.stdin.take(), child.stdout.take(), child.stderr.take())
    else {
        return Err(Error::internal("ssh has no pipes", "a stream is missing"));
    };
    let (input, from_caller) = mpsc::channel(PIECES);
    let (to_caller, output) = mpsc::channel(PIECES);
    tokio::spawn(async move {
        let reading = async {
            tokio::join!(
                read_all(out, ExecOutput::Stdout, &to_caller),
                read_all(err, ExecOutput::Stderr, &to_caller)
            );
            child.wait().await
        };
        let status = until(reading, feed(stdin, from_caller), &to_caller).await;
        if let Some(status) = status {
            watched.ended(status, &to_caller).await;
        }
    });
    Ok(ExecSession { input, output })
}

fn on_a_terminal(argv: &[String], size: TermSize, term: &str, watched: Watched) -> Result<ExecSession> {
    let failed = |e| io_error("open a terminal", e);
    let (terminal, theirs) = pty::open(size).map_err(failed)?;
    let mut command = command(argv, Some(term));
    command
        .stdin(theirs.try_clone().map_err(failed)?)
        .stdout(theirs.try_clone().map_err(failed)?)
        .stderr(theirs);
    // ssh is told of a new size by the terminal that it was started on.
    // SAFETY: between fork and execution only two system calls are made, and nothing is allocated;
    // standard input is the terminal by then.
    unsafe {
        command.pre_exec(|| {
            rustix::process::setsid()?;
            let stdin = std::os::fd::BorrowedFd::borrow_raw(0);
            rustix::process::ioctl_tiocsctty(stdin)?;
            Ok(())
        });
    }
    let mut child: Child = command.spawn().map_err(|e| io_error("start ssh", e))?;
    // Our copies of the other end: as long as one is open, there is no end to be read.
    drop(command);
    let (input, from_caller) = mpsc::channel(PIECES);
    let (to_caller, output) = mpsc::channel(PIECES);
    tokio::spawn(async move {
        let reading = async {
            read_all(terminal.clone(), ExecOutput::Stdout, &to_caller).await;
            child.wait().await
        };
        let status = until(reading, type_in(terminal.clone(), from_caller), &to_caller).await;
        if let Some(status) = status {
            watched.ended(status, &to_caller).await;
        }
    });
    Ok(ExecSession { input, output })
}

/// Waits for the end of the command; `None` when nobody listens any more, which ends ssh, and
/// with it what it runs.
async fn until<T>(
    reading: impl Future<Output = T>,
    feeding: impl Future<Output = ()>,
    output: &mpsc::Sender<ExecOutput>,
) -> Option<T> {
    let feeding = async {
        feeding.await;
        // The caller only listens from here on.
        std::future::pending::<()>().await;
    };
    tokio::select! {
        done = reading => Some(done),
        () = output.closed() => None,
        () = feeding => None,
    }
}

async fn read_all(
    mut from: impl AsyncRead + Unpin,
    piece: fn(Bytes) -> ExecOutput,
    output: &mpsc::Sender<ExecOutput>,
) {
    let mut buffer = vec![0; CHUNK];
    loop {
        match from.read(&mut buffer).await {
            Ok(0) => return,
            Ok(count) => {
                let bytes = Bytes::copy_from_slice(buffer.get(..count).unwrap_or_default());
                if output.send(piece(bytes)).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                tracing::debug!(%error, "what a command printed can't be read");
                return;
            }
        }
    }
}

async fn feed(stdin: ChildStdin, mut input: mpsc::Receiver<ExecInput>) {
    let mut stdin = Some(stdin);
    while let Some(piece) = input.recv().await {
        match piece {
            ExecInput::Stdin(bytes) => write(&mut stdin, &bytes).await,
            ExecInput::Eof => stdin = None,
            ExecInput::Resize(_) => {}
        }
    }
    // Whoever went away without saying that there is no more may only listen from here on.
    std::future::pending::<()>().await;
}

async fn type_in(terminal: Terminal, mut input: mpsc::Receiver<ExecInput>) {
    let sizes = terminal.clone();
    let mut keys = Some(terminal);
    while let Some(piece) = input.recv().await {
        match piece {
            ExecInput::Stdin(bytes) => write(&mut keys, &bytes).await,
            ExecInput::Eof => write(&mut keys, END_OF_TRANSMISSION).await,
            ExecInput::Resize(size) => {
                if let Err(error) = sizes.resize(size) {
                    tracing::debug!(%error, "a terminal keeps its size");
                }
            }
        }
    }
    std::future::pending::<()>().await;
}

async fn write(to: &mut Option<impl AsyncWrite + Unpin>, bytes: &[u8]) {
    if let Some(stream) = to
        && let Err(error) = stream.write_all(bytes).await
    {
        tracing::debug!(%error, "a command takes no more input");
        *to = None;
    }
}
