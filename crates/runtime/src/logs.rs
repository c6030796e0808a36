//! What an instance printed, line by line.

use clawfarm_model::{Result, Timestamp};
use futures::stream::BoxStream;
use serde::{Deserialize, Serialize};

/// Which lines are wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogQuery {
    /// Only lines printed at or after this time.
    pub since: Option<Timestamp>,
    /// Only this many of the last lines.
    pub tail: Option<usize>,
    /// Go on with lines as they are printed.
    pub follow: bool,
}

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// When it was printed.
    pub at: Timestamp,
    /// Where to.
    pub stream: OutputStream,
    /// The line, without its end; bytes that are no UTF-8 are replaced.
    pub text: String,
}

/// Where a line was printed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OutputStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// Lines, oldest first.
pub type LogStream = BoxStream<'static, Result<LogLine>>;
