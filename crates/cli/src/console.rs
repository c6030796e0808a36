//! A command inside an instance, with this terminal or these pipes as its own.

use bytes::Bytes;
use clawfarm_api::ConsoleRequest;
use clawfarm_client::{Console, ConsoleInput, ConsoleOutput, ConsoleReader, ConsoleWriter};
use clawfarm_model::{Code, Error};
use futures::StreamExt;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::app::App;
use crate::errors::{FAILED, Failure, Outcome};
use crate::terminal::{self, Keys, Modes};

/// Where a command's output goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum To {
    /// To our own outputs, as it is.
    Outputs,
    /// To standard output, a document for each piece.
    Documents,
    /// To standard error, where standard output has a document of its own.
    Errors,
}

/// Runs a command inside an instance and returns its exit code.
pub(crate) async fn run(app: &App, id: &str, request: ConsoleRequest, interactive: bool) -> Outcome {
    let to = if app.ui.json { To::Documents } else { To::Outputs };
    run_to(app, id, request, interactive, to).await
}

/// Runs a command that sets a machine up, counted from 0, and returns its exit code. With a
/// terminal where ours is one, so that what it asks can be answered; else without any input.
pub(crate) async fn run_setup(app: &App, id: &str, at: u32) -> Outcome {
    let tty = app.ui.out_is_terminal && terminal::stdin_is_terminal() && !app.ui.json;
    let request = ConsoleRequest { setup: Some(at), tty, ..ConsoleRequest::default() };
    let to = if app.ui.json { To::Errors } else { To::Outputs };
    run_to(app, id, request, tty, to).await
}

async fn run_to(app: &App, id: &str, mut request: ConsoleRequest, interactive: bool, to: To) -> Outcome {
    if request.tty && app.ui.json {
        return Err(Error::invalid("--tty", "a terminal's output is no document")
            .fix("leave out --tty")
            .into());
    }
    if request.tty && interactive && !terminal::stdin_is_terminal() {
        return Err(Error::invalid("--tty", "standard input is no terminal")
            .fix("leave out --tty to pass a pipe on")
            .into());
    }
    if request.tty {
        let size = terminal::size();
        request.cols = size.map(|s| s.cols.clamp(1, 1000));
        request.rows = size.map(|s| s.rows.clamp(1, 1000));
        request.term = std::env::var("TERM").ok().filter(|term| !term.is_empty());
    }
    let client = app.client().await?;
    let ticket = client.console_ticket(id, &request).await?;
    let console = client.console(&ticket).await?;
    // From here on keys go to the other side. The guard restores the terminal on every way
    // out of this function, a panic and a signal included.
    let raw = if request.tty && interactive { Some(Modes::raw()?) } else { None };
    let outcome = attend(app, console, request.tty, interactive, to).await;
    if raw.is_some() && outcome.is_err() {
        app.ui.raw_err(terminal::RESET_MODES);
    }
    drop(raw);
    if matches!(outcome, Err(Failure::Error(_))) && request.tty {
        app.ui.note("");
    }
    outcome
}

/// What ends the program, and must restore the terminal first.
struct Ends {
    hung_up: Signal,
    interrupted: Signal,
    quit: Signal,
    terminated: Signal,
}

impl Ends {
    fn watch() -> std::io::Result<Self> {
        Ok(Self {
            hung_up: signal(SignalKind::hangup())?,
            interrupted: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
            terminated: signal(SignalKind::terminate())?,
        })
    }

    /// The number of the signal that came, as signal(7) has it.
    async fn any(&mut self) -> u8 {
        tokio::select! {
            _ = self.hung_up.recv() => 1,
            _ = self.interrupted.recv() => 2,
            _ = self.quit.recv() => 3,
            _ = self.terminated.recv() => 15,
        }
    }
}

/// Carries bytes both ways until the command ends.
async fn attend(app: &App, console: Console, tty: bool, interactive: bool, to: To) -> Outcome {
    let mut ends = Ends::watch()?;
    let mut resized = signal(SignalKind::window_change())?;
    let Console { mut input, output } = console;
    let keys = interactive.then(terminal::stdin_pieces);
    if !interactive && !tty {
        input.send(ConsoleInput::Eof).await.ok();
    }
    let typing = type_in(&mut input, keys, tty.then_some(&mut resized));
    tokio::select! {
        outcome = print(app, output, to) => outcome,
        Err(error) = typing => Err(error.into()),
        number = ends.any() => Err(Failure::Told(128 + number)),
    }
}

/// Passes keys and sizes on; never returns but with an error.
async fn type_in(
    input: &mut ConsoleWriter,
    mut keys: Option<Keys>,
    mut resized: Option<&mut Signal>,
) -> Result<(), Error> {
    loop {
        let next = tokio::select! {
            bytes = next_keys(&mut keys) => match bytes {
                Some(bytes) => ConsoleInput::Stdin(bytes),
                None => {
                    keys = None;
                    ConsoleInput::Eof
                }
            },
            () = next_size(&mut resized) => match terminal::size() {
                Some(size) => ConsoleInput::Resize { cols: size.cols, rows: size.rows },
                None => continue,
            },
        };
        if input.send(next).await.is_err() {
            // The command has ended, or the connection broke: what comes from there says which.
            std::future::pending::<()>().await;
        }
    }
}

async fn next_keys(keys: &mut Option<Keys>) -> Option<Bytes> {
    match keys {
        Some(keys) => keys.lock().await.recv().await,
        None => std::future::pending().await,
    }
}

async fn next_size(resized: &mut Option<&mut Signal>) {
    match resized {
        Some(signal) => {
            signal.recv().await;
        }
        None => std::future::pending().await,
    }
}

async fn print(app: &App, mut output: ConsoleReader, to: To) -> Outcome {
    while let Some(piece) = output.next().await {
        let piece = piece?;
        if to == To::Documents {
            app.ui.document_line(&document(&piece))?;
        }
        match piece {
            ConsoleOutput::Exit(code) => return Ok(u8::try_from(code).unwrap_or(FAILED)),
            _ if to == To::Documents => {}
            ConsoleOutput::Stdout(bytes) if to == To::Outputs => app.ui.raw(&bytes)?,
            ConsoleOutput::Stdout(bytes) => app.ui.raw_err(&bytes),
            ConsoleOutput::Stderr(bytes) => app.ui.raw_err(&bytes),
        }
    }
    Err(Error::new(Code::Unavailable, "the connection ended before the command did")
        .fix("see 'clawfarm status': has the instance or the server been stopped?")
        .into())
}

fn document(piece: &ConsoleOutput) -> serde_json::Value {
    match piece {
        ConsoleOutput::Stdout(bytes) => {
            serde_json::json!({ "stream": "stdout", "text": String::from_utf8_lossy(bytes) })
        }
        ConsoleOutput::Stderr(bytes) => {
            serde_json::json!({ "stream": "stderr", "text": String::from_utf8_lossy(bytes) })
        }
        ConsoleOutput::Exit(code) => serde_json::json!({ "exit": code }),
    }
}
