//! Commands beside a claw, in its container.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bollard::Docker;
use bollard::container::LogOutput;
use bollard::exec::{CreateExecOptions, ResizeExecOptions, StartExecOptions, StartExecResults};
use clawfarm_model::{ClawId, Code, Error, Observation, ObservedState, Result};
use clawfarm_runtime::{ExecInput, ExecOutput, ExecRequest, ExecSession, TermSize};
use futures::{Stream, StreamExt};
use rustix::process::{Pid, Signal};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::end::not_running;
use crate::fault::failed;
use crate::inner::Inner;
use crate::observe;
use crate::paths::WORKSPACE_IN;

/// How many pieces wait for a slow reader before the command has to.
const PIECES: usize = 16;
/// The best shell that there is: bash, else sh. Nothing of a person's is in it.
const SHELL: [&str; 3] =
    ["/bin/sh", "-c", "if command -v bash >/dev/null 2>&1; then exec bash; else exec sh; fi"];
/// When a terminal's size is told once more, from when it was wanted. Podman 4.3 answers well and
/// loses one that comes while it still makes the terminal. The size that is in force does nothing.
const RESIZE_AGAIN: [Duration; 3] =
    [Duration::from_millis(250), Duration::from_secs(1), Duration::from_secs(4)];
/// How often the engine is asked for the code of a command whose output has ended.
const POLL: Duration = Duration::from_millis(20);
/// How long the engine may take to know it.
const LIMIT: Duration = Duration::from_secs(10);

/// [`clawfarm_runtime::Exec::exec`].
pub(crate) async fn exec(inner: &Arc<Inner>, id: &ClawId, request: ExecRequest) -> Result<ExecSession> {
    match observe::observe(inner, id).await? {
        Observation { state: ObservedState::Running, .. } => {}
        Observation { state: ObservedState::Frozen, .. } => {
            return Err(Error::new(Code::Unavailable, format!("'{id}' is frozen"))
                .fix(format!("wake it with `clawfarm resume {id}`")));
        }
        _ => return Err(not_running(id)),
    }
    let client = inner.engine.docker().await?;
    let cannot = |e| failed(format!("run a command in '{id}'"), e);
    let argv = if request.argv.is_empty() {
        SHELL.iter().map(|&part| part.to_owned()).collect()
    } else {
        request.argv
    };
    let options = CreateExecOptions {
        attach_stdin: Some(true),
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        tty: Some(request.tty.is_some()),
        env: request.term.map(|term| vec![format!("TERM={term}")]),
        cmd: Some(argv.clone()),
        working_dir: Some(WORKSPACE_IN.to_owned()),
        ..CreateExecOptions::default()
    };
    let command = client.create_exec(&inner.container(id), options).await.map_err(cannot)?.id;
    let start = StartExecOptions { detach: false, tty: request.tty.is_some(), output_capacity: None };
    let begun = client.start_exec(&command, Some(start)).await.map_err(|e| not_there(&argv, cannot(e)))?;
    let StartExecResults::Attached { output, input } = begun else {
        return Err(Error::internal("a command was begun without its streams", command));
    };
    if let Some(size) = request.tty {
        resize(&client, &command, size).await;
    }
    Ok(session(Running { client, command }, request.tty, output, input))
}

/// An engine says in its own words that there is no such command.
fn not_there(argv: &[String], error: Error) -> Error {
    let lower = error.message().to_lowercase();
    if !lower.contains("executable file not found") && !lower.contains("no such file or directory") {
        return error;
    }
    let program = argv.first().map_or("", String::as_str);
    Error::new(Code::NotFound, format!("there is no command '{program}' in the instance"))
        .field("argv")
        .fix("check its name; a shell's own words need a shell: sh -c '...'")
        .source(error)
}

/// A command that runs.
struct Running {
    client: Docker,
    command: String,
}

type Output = Pin<Box<dyn Stream<Item = std::result::Result<LogOutput, bollard::errors::Error>> + Send>>;
type Input = Pin<Box<dyn AsyncWrite + Send>>;

fn session(running: Running, size: Option<TermSize>, mut from: Output, mut to: Input) -> ExecSession {
    let (input, mut from_caller) = mpsc::channel(PIECES);
    let (to_caller, output) = mpsc::channel(PIECES);
    tokio::spawn(async move {
        let writing = async {
            let (mut wanted, mut listens) = (Wanted::new(size), true);
            loop {
                let piece = tokio::select! {
                    piece = from_caller.recv(), if listens => piece,
                    size = wanted.again() => {
                        resize(&running.client, &running.command, size).await;
                        continue;
                    }
                };
                let Some(piece) = piece else {
                    // The caller only listens from here on.
                    listens = false;
                    continue;
                };
                let written = match piece {
                    ExecInput::Stdin(bytes) => match to.write_all(&bytes).await {
                        Ok(()) => to.flush().await,
                        broken => broken,
                    },
                    ExecInput::Eof => to.shutdown().await,
                    ExecInput::Resize(size) => {
                        wanted = Wanted::new(Some(size));
                        resize(&running.client, &running.command, size).await;
                        Ok(())
                    }
                };
                if let Err(error) = written {
                    tracing::debug!(%error, "a command takes no more input");
                }
            }
        };
        let reading = async {
            while let Some(piece) = from.next().await {
                let piece = match piece {
                    Ok(LogOutput::StdErr { message }) => ExecOutput::Stderr(message),
                    Ok(piece) => ExecOutput::Stdout(piece.into_bytes()),
                    Err(error) => {
                        tracing::debug!(%error, "the connection to a command broke");
                        break;
                    }
                };
                if to_caller.send(piece).await.is_err() {
                    return;
                }
            }
            if let Some(code) = running.code().await {
                let _ = to_caller.send(ExecOutput::Exit(code)).await;
            }
        };
        tokio::select! {
            () = reading => {}
            () = writing => {}
            () = to_caller.closed() => running.hang_up().await,
        }
    });
    ExecSession { input, output }
}

/// The size that a terminal is to have.
struct Wanted {
    size: Option<TermSize>,
    since: Instant,
    told: usize,
}

impl Wanted {
    fn new(size: Option<TermSize>) -> Self {
        Self { size, since: Instant::now(), told: 0 }
    }

    /// Comes when the size is to be told once more; never, where it was often enough.
    async fn again(&mut self) -> TermSize {
        let (Some(size), Some(after)) = (self.size, RESIZE_AGAIN.get(self.told)) else {
            return std::future::pending().await;
        };
        tokio::time::sleep_until(self.since + *after).await;
        self.told += 1;
        size
    }
}

async fn resize(client: &Docker, command: &str, size: TermSize) {
    let options = ResizeExecOptions { height: size.rows, width: size.cols };
    if let Err(error) = client.resize_exec(command, options).await {
        tracing::debug!(%error, "a terminal was not resized");
    }
}

impl Running {
    /// How it ended; `None` when the engine does not know within a while.
    async fn code(&self) -> Option<i32> {
        let known = async {
            loop {
                match self.client.inspect_exec(&self.command).await {
                    Ok(seen) if seen.running != Some(true) => {
                        return seen.exit_code.and_then(|code| i32::try_from(code).ok());
                    }
                    Ok(_) => tokio::time::sleep(POLL).await,
                    Err(error) => {
                        tracing::debug!(%error, "how a command ended is not known");
                        return None;
                    }
                }
            }
        };
        tokio::time::timeout(LIMIT, known).await.ok().flatten()
    }

    /// The engine lets a command go on whose caller went away. It has no verb to end one, but
    /// where it runs on this machine its processes are those of this machine.
    async fn hang_up(&self) {
        let Ok(seen) = self.client.inspect_exec(&self.command).await else { return };
        let (Some(pid), Some(container)) = (seen.pid, seen.container_id) else { return };
        let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return };
        // Another machine's number could be anybody's here.
        let groups = format!("/proc/{}/cgroup", pid.as_raw_nonzero());
        let in_container =
            tokio::fs::read_to_string(groups).await.is_ok_and(|text| text.contains(&container));
        if seen.running == Some(true) && in_container {
            // Gone already is what is wanted. Its own group too: a shell leads one.
            let _ = rustix::process::kill_process_group(pid, Signal::HUP);
            let _ = rustix::process::kill_process(pid, Signal::HUP);
        }
    }
}
