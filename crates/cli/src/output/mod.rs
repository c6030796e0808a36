//! What a command prints: results on standard output, everything else on standard error.

mod bars;
mod clean;
mod colour;
mod meter;
mod progress;
mod table;
mod words;

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};

use serde::Serialize;

use crate::errors::Failure;

pub(crate) use bars::Steps;
pub(crate) use clean::{Cleaner, clean_block, clean_line};
pub(crate) use colour::{ColourMode, Paint};
pub(crate) use meter::Meter;
pub(crate) use progress::Progress;
pub(crate) use table::{Column, Table};
pub(crate) use words::{bytes, clock, duration, passed};

/// Where and how this command prints.
#[derive(Clone, Debug)]
pub(crate) struct Ui {
    /// Documents for programs instead of text for people.
    pub(crate) json: bool,
    /// Colours of standard output.
    pub(crate) out: Paint,
    /// Colours of standard error.
    pub(crate) err: Paint,
    /// Standard output is a terminal.
    pub(crate) out_is_terminal: bool,
    /// Standard error is a terminal.
    pub(crate) err_is_terminal: bool,
}

impl Ui {
    /// Looks at the terminal and the environment.
    pub(crate) fn new(json: bool, mode: ColourMode) -> Self {
        let out_is_terminal = io::stdout().is_terminal();
        let err_is_terminal = io::stderr().is_terminal();
        Self {
            json,
            out: Paint::new(mode.on(out_is_terminal)),
            err: Paint::new(mode.on(err_is_terminal)),
            out_is_terminal,
            err_is_terminal,
        }
    }

    /// Text without colours, as into a file.
    #[cfg(test)]
    pub(crate) fn plain() -> Self {
        Self {
            json: false,
            out: Paint::new(false),
            err: Paint::new(false),
            out_is_terminal: false,
            err_is_terminal: false,
        }
    }

    /// One line on standard output.
    pub(crate) fn line(&self, text: impl Display) -> Result<(), Failure> {
        let mut out = io::stdout().lock();
        writeln!(out, "{text}")?;
        Ok(())
    }

    /// Text as it is on standard output, at once.
    pub(crate) fn raw(&self, bytes: &[u8]) -> Result<(), Failure> {
        let mut out = io::stdout().lock();
        out.write_all(bytes)?;
        out.flush()?;
        Ok(())
    }

    /// Bytes as they are on standard error, at once.
    pub(crate) fn raw_err(&self, bytes: &[u8]) {
        // Nothing is left to tell it to when standard error is gone.
        let _ = io::stderr().lock().write_all(bytes);
    }

    /// One line on standard error: progress, hints, warnings.
    pub(crate) fn note(&self, text: impl Display) {
        let _ = writeln!(io::stderr().lock(), "{text}");
    }

    /// A warning on standard error.
    pub(crate) fn warn(&self, text: impl Display) {
        self.note(format_args!("{} {text}", self.err.yellow("warning:")));
    }

    /// A document on standard output, for programs.
    pub(crate) fn document<T: Serialize + ?Sized>(&self, value: &T) -> Result<(), Failure> {
        let mut text = serde_json::to_string_pretty(value).map_err(io::Error::other)?;
        text.push('\n');
        self.raw(text.as_bytes())
    }

    /// A document on one line of standard output, for streams of them.
    pub(crate) fn document_line<T: Serialize + ?Sized>(&self, value: &T) -> Result<(), Failure> {
        let mut text = serde_json::to_string(value).map_err(io::Error::other)?;
        text.push('\n');
        self.raw(text.as_bytes())
    }

    /// Columns of the terminal that standard output is, if it is one.
    pub(crate) fn width(&self) -> Option<u16> {
        if !self.out_is_terminal {
            return None;
        }
        crate::terminal::size().map(|size| size.cols)
    }
}
