//! Commands inside an instance: a ticket by POST, then a WebSocket.
//!
//! `POST /instances/{id}/console` answers with a ticket that is good once and for a short
//! while; `GET /consoles/{ticket}` upgrades to a WebSocket, so that a browser, which can
//! not send a bearer token there, can open one too. On it go binary messages: one byte
//! that says what follows, then the bytes.

use clawfarm_model::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `POST /instances/{id}/console`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ConsoleRequest {
    /// The program and its arguments; no shell is put in between. Empty: an interactive shell.
    #[schema(schema_with = clawfarm_model::schema::argv)]
    pub argv: Vec<String>,
    /// Run one of the commands that set its machine up, counted from 0, instead of `argv`. How it
    /// ends is written down, and it is not run again by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(maximum = 63)]
    pub setup: Option<u32>,
    /// Give it a terminal.
    pub tty: bool,
    /// The terminal's columns.
    #[schema(minimum = 1, maximum = 1000)]
    pub cols: Option<u16>,
    /// The terminal's rows.
    #[schema(minimum = 1, maximum = 1000)]
    pub rows: Option<u16>,
    /// The terminal's type, as in `TERM`.
    #[schema(min_length = 1, max_length = 64, pattern = "^[A-Za-z0-9+._-]+$")]
    pub term: Option<String>,
}

/// A ticket to a console.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ConsoleTicket {
    /// The path to open the WebSocket at.
    pub path: String,
    /// The ticket is good once, until then.
    pub expires_at: Timestamp,
}

/// The first byte of a binary message on a console's WebSocket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ConsoleFrame {
    /// To the command: bytes for its standard input.
    Stdin = 0,
    /// From it: bytes of its standard output.
    Stdout = 1,
    /// From it: bytes of its standard error.
    Stderr = 2,
    /// To it: columns and rows, two bytes each, big-endian.
    Resize = 3,
    /// To it: no more standard input.
    Eof = 4,
    /// From it, last: its exit code, four bytes, big-endian.
    Exit = 5,
    /// From the server, last: the console broke; the text of the error.
    Error = 6,
}

impl ConsoleFrame {
    /// The frame of a first byte.
    #[must_use]
    pub const fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            0 => Self::Stdin,
            1 => Self::Stdout,
            2 => Self::Stderr,
            3 => Self::Resize,
            4 => Self::Eof,
            5 => Self::Exit,
            6 => Self::Error,
            _ => return None,
        })
    }
}
