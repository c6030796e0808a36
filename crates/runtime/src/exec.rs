//! A command inside an instance, with its streams.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

/// A command to run inside an instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecRequest {
    /// The program and its arguments; no shell is put in between. Empty: an interactive
    /// shell, the best the instance has.
    pub argv: Vec<String>,
    /// The terminal to give it; `None` for three pipes.
    pub tty: Option<TermSize>,
    /// The value of `TERM`, with a terminal.
    pub term: Option<String>,
}

/// The size of a terminal, in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TermSize {
    /// Columns.
    pub cols: u16,
    /// Rows.
    pub rows: u16,
}

/// What goes to the command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExecInput {
    /// Bytes for its standard input.
    Stdin(Bytes),
    /// No more of them.
    Eof,
    /// The terminal has a new size.
    Resize(TermSize),
}

/// What comes from the command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExecOutput {
    /// Bytes from its standard output (from its terminal, when it has one).
    Stdout(Bytes),
    /// Bytes from its standard error.
    Stderr(Bytes),
    /// It ended: its code, or 128 and the number of the signal that ended it, as shells say it.
    Exit(i32),
}

/// A running command. Dropping it hangs up: the command gets SIGHUP.
#[derive(Debug)]
pub struct ExecSession {
    /// To the command. Bounded: a slow command makes its writer wait.
    pub input: mpsc::Sender<ExecInput>,
    /// From the command; ends after [`ExecOutput::Exit`].
    pub output: mpsc::Receiver<ExecOutput>,
}
