//! How a server and a shim talk, over the unix socket `run/shim.sock` of the instance.
//!
//! # Conversation
//! Every message is one line of JSON, at most [`MAX_LINE_BYTES`] long.
//!
//! 1. The client sends a [`Hello`]; the shim answers with a [`Reply`] of [`HelloOk`] or an
//!    error, after which it hangs up. Nothing else is answered before.
//! 2. The client sends [`Request`]s, one a line; each gets one line, in order:
//!    a [`Reply`] of [`Usage`](clawfarm_model::resources::Usage) for `usage`, of [`ExecStarted`] for `exec`, of
//!    [`ShimStatus`] for every other.
//! 3. After the answer to `watch` the connection carries a `Reply<ShimStatus>` line for
//!    every change, until it is closed. After the answer to `exec` it carries [`Frame`]s,
//!    both ways. Nothing else can be asked on such a connection.
//!
//! When the claw has ended, the shim writes the exit to `state.json`, answers everyone who
//! waits, and ends; the server then sees the end of the stream and reads `state.json`.
//!
//! # Versions
//! Claws outlive servers, so a server meets shims that were started by older servers. It
//! says in [`Hello`] which versions it speaks (`oldest..=version`), and the shim chooses the
//! newest that both speak; without one it answers `unsupported`. Within a version, fields
//! are only ever added, they are optional, and unknown ones are ignored. An unknown verb is
//! answered with `unsupported` and the conversation goes on, so that a server can ask an
//! old shim for something new and take no for an answer.
//!
//! # Limits
//! At most [`MAX_CONNECTIONS`] at a time, of which those that have said hello keep theirs; a client that says no valid hello within
//! [`HELLO_TIMEOUT`] is disconnected, and so is one that sends a line or frame that is too
//! long or makes no sense.

use std::time::Duration;

use clawfarm_model::error::ErrorReport;
use clawfarm_model::observed::{Confinement, Exit};
use clawfarm_model::{Error, ObservedState, Result, Timestamp};
use serde::{Deserialize, Serialize};

/// The newest version of the protocol this build speaks.
pub const PROTOCOL_VERSION: u32 = 1;
/// The oldest version of the protocol this build still speaks.
pub const OLDEST_VERSION: u32 = 1;
/// The longest line either side may send, in bytes. A command's arguments must fit in.
pub const MAX_LINE_BYTES: usize = 256 * 1024;
/// The longest payload of a [`Frame`], in bytes.
pub const MAX_FRAME_BYTES: usize = 64 * 1024;
/// The most connections a shim serves at a time.
pub const MAX_CONNECTIONS: usize = 64;
/// How long a client may take to say a valid hello.
pub const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a command whose connection was dropped may take to end after SIGHUP.
pub const HANGUP_GRACE: Duration = Duration::from_secs(5);

/// The first line of a client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The newest version it speaks.
    pub version: u32,
    /// The oldest version it speaks; the same as `version` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oldest: Option<u32>,
    /// The contents of `run/shim.token`.
    pub token: String,
}

impl Hello {
    /// A hello of this build.
    #[must_use]
    pub fn new(token: &str) -> Self {
        Self { version: PROTOCOL_VERSION, oldest: Some(OLDEST_VERSION), token: token.to_owned() }
    }

    /// The version to speak with this client.
    ///
    /// # Errors
    /// `Unsupported` when no version is common.
    pub fn agree(&self) -> Result<u32> {
        let common = self.version.min(PROTOCOL_VERSION);
        if common >= OLDEST_VERSION && common >= self.oldest.unwrap_or(self.version) {
            return Ok(common);
        }
        Err(Error::new(
            clawfarm_model::Code::Unsupported,
            format!(
                "this shim speaks versions {OLDEST_VERSION} to {PROTOCOL_VERSION} of the protocol, the server {} to {}",
                self.oldest.unwrap_or(self.version),
                self.version
            ),
        )
        .field("version")
        .fix("restart the instance with `clawfarm restart`, so that it gets a shim of the server's version"))
    }
}

/// The shim's answer to a good [`Hello`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HelloOk {
    /// The version spoken from here on.
    pub version: u32,
    /// The version of the clawfarm that the shim is part of.
    #[serde(default)]
    pub software: String,
    /// The launch that it keeps.
    pub run: i64,
    /// Its own process.
    pub shim_pid: u32,
}

/// An answer: `{"ok": …}` or `{"error": …}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply<T> {
    /// It was done.
    Ok(T),
    /// It was not; what happened and what to do.
    Error(ErrorReport),
}

impl<T> Reply<T> {
    /// As a result.
    ///
    /// # Errors
    /// The error that was answered.
    pub fn into_result(self) -> Result<T> {
        match self {
            Self::Ok(value) => Ok(value),
            Self::Error(report) => Err(report.into()),
        }
    }
}

impl<T> From<Result<T>> for Reply<T> {
    fn from(result: Result<T>) -> Self {
        match result {
            Ok(value) => Self::Ok(value),
            Err(error) => Self::Error(error.report()),
        }
    }
}

/// What a shim can be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "snake_case")]
pub enum Request {
    /// What the claw is doing.
    Status,
    /// Thaw it if it is frozen, send SIGTERM to its main process, and kill everything when
    /// the grace is over. Answered when it is down. A second stop may shorten the grace.
    Stop {
        /// The grace in milliseconds.
        grace_ms: u64,
    },
    /// Kill everything at once. Answered when it is down.
    Kill,
    /// Freeze everything of it. Frozen already is a success.
    Freeze,
    /// Let it go on. Going on already is a success.
    Thaw,
    /// What it uses.
    Usage,
    /// The status now, and at every change.
    Watch,
    /// Run a command beside the claw, under the same confinement.
    Exec(ExecRequest),
}

/// A command to run beside the claw.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecRequest {
    /// The program and its arguments; empty for an interactive shell.
    #[serde(default)]
    pub argv: Vec<String>,
    /// The terminal to give it; `None` for three pipes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tty: Option<TtySize>,
    /// The value of `TERM`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub term: Option<String>,
}

/// The size of a terminal, in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TtySize {
    /// Columns.
    pub cols: u16,
    /// Rows.
    pub rows: u16,
}

/// A command was started; frames follow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecStarted {
    /// Its process.
    pub pid: u32,
}

/// What the claw is doing, as its shim sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShimStatus {
    /// The launch it belongs to.
    pub run: i64,
    /// `Running`, `Frozen` or `Exited`.
    pub state: ObservedState,
    /// Its main process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// When it was executed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// How it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit: Option<Exit>,
    /// What confines it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confinement: Option<Confinement>,
    /// It was asked to stop and is still up.
    #[serde(default)]
    pub stopping: bool,
    /// Those of its helpers that ended although it is up.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lost: Vec<String>,
}

/// What flows on a connection after `exec`: one byte of kind, the payload's length as a
/// big-endian `u32`, the payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// Kind 0, to the command: bytes for its standard input.
    Stdin(Vec<u8>),
    /// Kind 1, from the command: bytes of its standard output, or of its terminal.
    Stdout(Vec<u8>),
    /// Kind 2, from the command: bytes of its standard error.
    Stderr(Vec<u8>),
    /// Kind 3, to the command: its terminal's new size, columns and rows as big-endian `u16`.
    Resize(TtySize),
    /// Kind 4, to the command: its standard input is at its end.
    Eof,
    /// Kind 5, from the command, the last one: its exit code as a big-endian `i32`, or 128
    /// and the number of the signal that ended it.
    Exit(i32),
}

impl Frame {
    /// How many bytes come before the payload.
    pub const HEADER_BYTES: usize = 5;

    /// The bytes of this frame. Payloads over [`MAX_FRAME_BYTES`] must be split before.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let (kind, payload): (u8, &[u8]) = match self {
            Self::Stdin(bytes) => (0, bytes),
            Self::Stdout(bytes) => (1, bytes),
            Self::Stderr(bytes) => (2, bytes),
            Self::Resize(size) => {
                let [a, b] = size.cols.to_be_bytes();
                let [c, d] = size.rows.to_be_bytes();
                return vec![3, 0, 0, 0, 4, a, b, c, d];
            }
            Self::Eof => (4, &[]),
            Self::Exit(code) => (5, &code.to_be_bytes()),
        };
        let mut bytes = Vec::with_capacity(Self::HEADER_BYTES + payload.len());
        bytes.push(kind);
        bytes.extend_from_slice(&u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes());
        bytes.extend_from_slice(payload);
        bytes
    }

    /// Takes the first frame off `bytes`: the frame and how many bytes it took, or `None`
    /// when more bytes are needed.
    ///
    /// # Errors
    /// `InvalidInput` for an unknown kind or a wrong length; the stream is of no use then.
    pub fn decode(bytes: &[u8]) -> Result<Option<(Self, usize)>> {
        let Some((header, rest)) = bytes.split_first_chunk::<{ Self::HEADER_BYTES }>() else {
            return Ok(None);
        };
        let [kind, a, b, c, d] = *header;
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        if length > MAX_FRAME_BYTES {
            return Err(Error::invalid("frame", format!("{length} bytes are too many for one frame")));
        }
        let Some(payload) = rest.get(..length) else { return Ok(None) };
        let frame = match (kind, payload) {
            (0, bytes) => Self::Stdin(bytes.to_vec()),
            (1, bytes) => Self::Stdout(bytes.to_vec()),
            (2, bytes) => Self::Stderr(bytes.to_vec()),
            (3, &[a, b, c, d]) => {
                Self::Resize(TtySize { cols: u16::from_be_bytes([a, b]), rows: u16::from_be_bytes([c, d]) })
            }
            (4, []) => Self::Eof,
            (5, &[a, b, c, d]) => Self::Exit(i32::from_be_bytes([a, b, c, d])),
            _ => return Err(Error::invalid("frame", format!("no frame has kind {kind} and {length} bytes"))),
        };
        Ok(Some((frame, Self::HEADER_BYTES + length)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_survive_and_wait_for_their_last_byte() {
        let frames = [
            Frame::Stdin(b"a\n".to_vec()),
            Frame::Stdout(vec![0; MAX_FRAME_BYTES]),
            Frame::Stderr(Vec::new()),
            Frame::Resize(TtySize { cols: 300, rows: 2 }),
            Frame::Eof,
            Frame::Exit(-1),
        ];
        for frame in frames {
            let bytes = frame.encode();
            assert_eq!(Frame::decode(&bytes[..bytes.len() - 1]).unwrap(), None);
            assert_eq!(Frame::decode(&bytes).unwrap(), Some((frame, bytes.len())));
        }
    }

    #[test]
    fn nonsense_is_refused() {
        assert!(Frame::decode(&[9, 0, 0, 0, 0]).is_err());
        assert!(Frame::decode(&[3, 0, 0, 0, 1, 7]).is_err());
        assert!(Frame::decode(&[0, 255, 255, 255, 255]).is_err());
    }

    #[test]
    fn versions_meet_at_the_newest_both_speak() {
        let hello = |version, oldest| Hello { version, oldest, token: String::new() };
        assert_eq!(hello(1, None).agree().unwrap(), 1);
        assert_eq!(hello(9, Some(1)).agree().unwrap(), 1);
        let error = hello(9, Some(8)).agree().unwrap_err();
        assert!(error.message().contains("8 to 9"), "{error}");
        assert!(hello(0, None).agree().is_err());
    }

    #[test]
    fn requests_look_as_documented() {
        let json = serde_json::to_string(&Request::Stop { grace_ms: 5 }).unwrap();
        assert_eq!(json, r#"{"verb":"stop","grace_ms":5}"#);
        let request: Request =
            serde_json::from_str(r#"{"verb":"exec","argv":["ls"],"tty":{"cols":80,"rows":24},"later":1}"#)
                .unwrap();
        let Request::Exec(exec) = request else { panic!("not an exec") };
        assert_eq!((exec.argv.len(), exec.tty), (1, Some(TtySize { cols: 80, rows: 24 })));
    }

    #[test]
    fn fuzz_frames() {
        let seeds = [
            Frame::Stdin(b"ab".to_vec()),
            Frame::Resize(TtySize { cols: 80, rows: 24 }),
            Frame::Eof,
            Frame::Exit(7),
        ];
        let seeds: Vec<Vec<u8>> = seeds.iter().map(Frame::encode).collect();
        let seeds: Vec<&[u8]> = seeds.iter().map(Vec::as_slice).collect();
        clawfarm_fuzz::fuzz(&seeds, |bytes| {
            if let Ok(Some((frame, length))) = Frame::decode(bytes) {
                assert_eq!(frame.encode(), bytes[..length]);
            }
        });
    }
}
