//! The terminal that this command was typed in: its size, raw mode, its keys.

use std::io::{self, BufRead, IsTerminal, Write};
use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use nix::sys::termios::{self, LocalFlags, SetArg, SpecialCharacterIndices, Termios};
use tokio::sync::{Mutex, mpsc};

/// A terminal's size, in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Size {
    /// Columns.
    pub(crate) cols: u16,
    /// Rows.
    pub(crate) rows: u16,
}

/// The size of the terminal that standard output is, if it is one that has a size.
pub(crate) fn size() -> Option<Size> {
    let size = rustix::termios::tcgetwinsize(io::stdout()).ok()?;
    (size.ws_col > 0 && size.ws_row > 0).then_some(Size { cols: size.ws_col, rows: size.ws_row })
}

/// The terminal that standard input is, in other modes than before. Dropping it (also by a
/// panic) restores them.
pub(crate) struct Modes {
    before: Termios,
}

impl Modes {
    /// Raw: each key goes to the other side as it is, Ctrl-C too.
    pub(crate) fn raw() -> io::Result<Self> {
        Self::change(termios::cfmakeraw)
    }

    /// Lines without an echo. Ctrl-C ends the line instead of the program, which would leave
    /// the echo off.
    fn hidden() -> io::Result<Self> {
        Self::change(|modes| {
            modes.local_flags.remove(LocalFlags::ECHO | LocalFlags::ISIG);
            modes.control_chars[SpecialCharacterIndices::VEOL as usize] = CTRL_C;
        })
    }

    /// Without the `^C` that is shown when Ctrl-C is typed: it would wrap below what is drawn on
    /// the last line, which is then no longer found to be taken away. `None` where this is not
    /// the terminal's foreground job, which alone may change its modes.
    pub(crate) fn without_caret() -> Option<Self> {
        let foreground = rustix::termios::tcgetpgrp(io::stdin()).ok()?;
        if foreground != rustix::process::getpgrp() {
            return None;
        }
        Self::change(|modes| modes.local_flags.remove(LocalFlags::ECHOCTL)).ok()
    }

    fn change(change: impl FnOnce(&mut Termios)) -> io::Result<Self> {
        let stdin = io::stdin();
        let before = termios::tcgetattr(&stdin)?;
        let mut modes = before.clone();
        change(&mut modes);
        termios::tcsetattr(&stdin, SetArg::TCSADRAIN, &modes)?;
        Ok(Self { before })
    }
}

impl Drop for Modes {
    fn drop(&mut self) {
        // Nothing is left to do when the terminal itself has gone.
        let _ = termios::tcsetattr(io::stdin(), SetArg::TCSADRAIN, &self.before);
    }
}

const CTRL_C: u8 = 3;

/// Asks on standard error for a line that is not shown while it is typed; at most `most` bytes
/// of it are read. `None` for Ctrl-C and the input's end.
///
/// The echo is off before the question is asked: whoever answers at once is not shown either.
pub(crate) fn ask_hidden(question: &str, most: u64) -> io::Result<Option<String>> {
    let modes = Modes::hidden()?;
    let mut err = io::stderr().lock();
    err.write_all(question.as_bytes())?;
    err.flush()?;
    let mut bytes = Vec::new();
    let mut line = io::Read::take(io::stdin().lock(), most);
    // Returned as it was typed so far when Ctrl-C ends it, and asked for more.
    let cancelled = loop {
        let piece = line.fill_buf()?;
        if piece.is_empty() {
            break bytes.is_empty();
        }
        let end = piece.iter().position(|byte| matches!(*byte, b'\n' | CTRL_C));
        let taken = end.map_or(piece.len(), |end| end + 1);
        bytes.extend_from_slice(&piece[..taken]);
        line.consume(taken);
        if end.is_some() {
            break bytes.pop() == Some(CTRL_C);
        }
    };
    drop(modes);
    err.write_all(b"\n")?;
    if cancelled {
        return Ok(None);
    }
    String::from_utf8(bytes)
        .map(Some)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "no UTF-8 text"))
}

/// What takes back the modes that a full-screen program leaves on when it was cut off:
/// alternate screen, mouse, focus and paste reporting, hidden cursor, colours.
pub(crate) const RESET_MODES: &[u8] =
    b"\x1b[?1049l\x1b[?1000l\x1b[?1002l\x1b[?1003l\x1b[?1006l\x1b[?1004l\x1b[?2004l\x1b[?25h\x1b[0m";

/// Whether standard input is a terminal.
pub(crate) fn stdin_is_terminal() -> bool {
    io::stdin().is_terminal()
}

/// What arrives on standard input, for one who reads it at a time.
pub(crate) type Keys = Arc<Mutex<mpsc::Receiver<Bytes>>>;

/// What arrives on standard input, as it arrives; ends at its end. A thread of its own reads:
/// making the descriptor non-blocking would do so to the shell's as well, and a read through
/// the async runtime would hold up the end of the program. It is the same for all who ask: a second
/// thread would take every other key away from the first.
pub(crate) fn stdin_pieces() -> Keys {
    static KEYS: LazyLock<Keys> = LazyLock::new(|| Arc::new(Mutex::new(begin_to_read())));
    Arc::clone(&KEYS)
}

/// Asks on standard error for a line, shown as it is typed; without its end. `None` at the
/// input's end. What was typed before the question is no answer to it.
pub(crate) async fn ask_line(question: &str) -> io::Result<Option<String>> {
    let keys = stdin_pieces();
    let mut keys = keys.lock().await;
    while keys.try_recv().is_ok() {}
    {
        let mut err = io::stderr().lock();
        err.write_all(question.as_bytes())?;
        err.flush()?;
    }
    let mut line = Vec::new();
    while let Some(piece) = keys.recv().await {
        line.extend_from_slice(&piece);
        if let Some(end) = line.iter().position(|byte| *byte == b'\n') {
            line.truncate(end);
            return Ok(Some(String::from_utf8_lossy(&line).into_owned()));
        }
    }
    Ok(None)
}

fn begin_to_read() -> mpsc::Receiver<Bytes> {
    let (sender, receiver) = mpsc::channel(16);
    std::thread::spawn(move || {
        let mut buffer = vec![0_u8; 16 << 10];
        loop {
            match rustix::io::read(io::stdin(), &mut buffer) {
                Ok(0) => return,
                Ok(n) => {
                    if sender.blocking_send(Bytes::copy_from_slice(&buffer[..n])).is_err() {
                        return;
                    }
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => return,
            }
        }
    });
    receiver
}
