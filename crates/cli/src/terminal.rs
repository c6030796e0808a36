//! The terminal that this command was typed in: its size, raw mode, its keys.

use std::io::{self, IsTerminal};

use bytes::Bytes;
use nix::sys::termios::{self, SetArg, Termios};
use tokio::sync::mpsc;

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

/// The terminal in raw mode: each key goes to the other side as it is, Ctrl-C too. Dropping
/// it (also by a panic) restores the terminal.
pub(crate) struct RawMode {
    before: Termios,
}

impl RawMode {
    /// Puts the terminal that standard input is into raw mode.
    pub(crate) fn enter() -> io::Result<Self> {
        let stdin = io::stdin();
        let before = termios::tcgetattr(&stdin)?;
        let mut raw = before.clone();
        termios::cfmakeraw(&mut raw);
        termios::tcsetattr(&stdin, SetArg::TCSADRAIN, &raw)?;
        Ok(Self { before })
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // Nothing is left to do when the terminal itself has gone.
        let _ = termios::tcsetattr(io::stdin(), SetArg::TCSADRAIN, &self.before);
    }
}

/// What takes back the modes that a full-screen program leaves on when it was cut off:
/// alternate screen, mouse, focus and paste reporting, hidden cursor, colours.
pub(crate) const RESET_MODES: &[u8] =
    b"\x1b[?1049l\x1b[?1000l\x1b[?1002l\x1b[?1003l\x1b[?1006l\x1b[?1004l\x1b[?2004l\x1b[?25h\x1b[0m";

/// Whether standard input is a terminal.
pub(crate) fn stdin_is_terminal() -> bool {
    io::stdin().is_terminal()
}

/// What arrives on standard input, as it arrives; ends at its end. A thread of its own reads:
/// making the descriptor non-blocking would do so to the shell's as well, and a read through
/// the async runtime would hold up the end of the program.
pub(crate) fn stdin_pieces() -> mpsc::Receiver<Bytes> {
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
