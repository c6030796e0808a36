//! One client.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use clawfarm_model::{Code, Error, Result};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::unistd::geteuid;
use serde::Serialize;

use super::Keeper;
use super::session::Session;
use crate::protocol::{Frame, HELLO_TIMEOUT, MAX_CONNECTIONS, MAX_LINE_BYTES, Reply};
use crate::tree;

/// How much is kept for a client that does not read, before its command or its watch waits.
const ROOM: usize = 256 * 1024;
/// A watcher that has this much unread is gone for all we can tell.
const TOO_MUCH: usize = 1024 * 1024;
/// How long a client may take to read the last words to it.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);

/// What a client may do next.
#[derive(Debug)]
pub(super) enum Mode {
    /// Say hello.
    Hello,
    /// Ask.
    Asking,
    /// Nothing, until the claw has ended.
    AwaitingEnd,
    /// Nothing; it is told of changes.
    Watching,
    /// Send frames to a command.
    Exec(Session),
    /// Read what is left for it.
    Leaving(Instant),
}

/// One client.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) id: u64,
    pub(super) mode: Mode,
    stream: UnixStream,
    opened: Instant,
    input: Vec<u8>,
    output: Vec<u8>,
    /// The client has closed its side, or broke a rule.
    gone: bool,
}

impl Connection {
    fn new(id: u64, stream: UnixStream) -> Self {
        Self {
            id,
            mode: Mode::Hello,
            stream,
            opened: Instant::now(),
            input: Vec::new(),
            output: Vec::new(),
            gone: false,
        }
    }

    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    /// Whether to wait for something to read, and for room to write.
    pub(super) fn interest(&self) -> (bool, bool) {
        let read = match &self.mode {
            Mode::Exec(session) => session.has_room() && self.input.len() < ROOM,
            Mode::Leaving(_) => false,
            _ => self.input.len() <= MAX_LINE_BYTES,
        };
        (read && !self.gone, !self.output.is_empty())
    }

    /// Whether more may be put into its output.
    pub(super) fn has_room(&self) -> bool {
        self.output.len() < ROOM
    }

    pub(super) const fn session(&self) -> Option<&Session> {
        match &self.mode {
            Mode::Exec(session) => Some(session),
            _ => None,
        }
    }

    pub(super) const fn session_mut(&mut self) -> Option<&mut Session> {
        match &mut self.mode {
            Mode::Exec(session) => Some(session),
            _ => None,
        }
    }

    /// Its command, if that is this process.
    pub(super) fn session_of(&mut self, pid: u32) -> Option<&mut Session> {
        self.session_mut().filter(|session| session.pid == pid)
    }

    /// When it has to be looked at even if nothing happens.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match &self.mode {
            Mode::Hello => Some(self.opened + HELLO_TIMEOUT),
            Mode::Leaving(until) => Some(*until),
            Mode::Exec(session) => session.deadline(),
            _ => None,
        }
    }

    pub(super) fn check_deadline(&mut self, now: Instant) {
        match self.mode {
            Mode::Hello | Mode::Leaving(_) if self.deadline().is_some_and(|at| at <= now) => self.gone = true,
            Mode::Exec(_) => self.finish_session(),
            _ => {}
        }
    }

    /// Whether it can be forgotten.
    pub(super) fn is_closed(&self) -> bool {
        self.gone || (matches!(self.mode, Mode::Leaving(_)) && self.output.is_empty())
    }

    /// Nothing more is said after what was said already.
    pub(super) fn leave(&mut self) {
        self.input = Vec::new();
        self.mode = Mode::Leaving(Instant::now() + FLUSH_TIMEOUT);
    }

    /// Puts a reply into its output.
    pub(super) fn reply<T: Serialize>(&mut self, result: Result<T>) {
        let reply = Reply::from(result);
        match serde_json::to_vec(&reply) {
            Ok(line) => self.output.extend_from_slice(&line),
            Err(_) => self.gone = true,
        }
        self.output.push(b'\n');
        self.gone |= self.output.len() > TOO_MUCH;
        self.write();
    }

    /// Refuses what makes no sense, and says no more.
    pub(super) fn refuse(&mut self, error: Error) {
        self.reply::<()>(Err(error));
        self.leave();
    }

    /// Puts a frame into its output.
    pub(super) fn send(&mut self, frame: &Frame) {
        self.output.extend_from_slice(&frame.encode());
        self.write();
    }

    /// Takes what the client has sent.
    pub(super) fn read(&mut self) {
        let mut buffer = [0; 16 * 1024];
        match self.stream.read(&mut buffer) {
            Ok(0) => self.gone = true,
            Ok(n) => self.input.extend_from_slice(buffer.get(..n).unwrap_or_default()),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(_) => self.gone = true,
        }
    }

    /// Gives the client what it takes.
    pub(super) fn write(&mut self) {
        while !self.output.is_empty() {
            match self.stream.write(&self.output) {
                Ok(n) => drop(self.output.drain(..n)),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) => {
                    self.gone = true;
                    return;
                }
            }
        }
    }

    /// The next whole line, where lines are what the client may send.
    pub(super) fn next_line(&mut self) -> Option<Vec<u8>> {
        if !matches!(self.mode, Mode::Hello | Mode::Asking) {
            return None;
        }
        match self.input.iter().position(|&b| b == b'\n') {
            Some(end) if end <= MAX_LINE_BYTES => {
                let mut line: Vec<u8> = self.input.drain(..=end).collect();
                line.pop();
                Some(line)
            }
            None if self.input.len() <= MAX_LINE_BYTES => None,
            _ => {
                let what = format!("a line is longer than {MAX_LINE_BYTES} bytes");
                self.refuse(Error::invalid("request", what).fix("send shorter lines"));
                None
            }
        }
    }

    /// Hands the frames that have come to the command.
    pub(super) fn take_frames(&mut self) {
        while let Mode::Exec(session) = &mut self.mode {
            if !session.has_room() {
                return;
            }
            let Ok(decoded) = Frame::decode(&self.input) else { break };
            let Some((frame, length)) = decoded else { return };
            self.input.drain(..length);
            if !session.take(frame) {
                break;
            }
        }
        self.gone |= matches!(self.mode, Mode::Exec(_));
    }
}

impl Keeper {
    pub(super) fn connection(&mut self, id: u64) -> Option<&mut Connection> {
        self.connections.iter_mut().find(|connection| connection.id == id)
    }

    /// Takes every client that waits at the door.
    pub(super) fn accept(&mut self) {
        while let Ok((stream, _)) = self.listener.accept() {
            if stream.set_nonblocking(true).is_err() || !is_trusted(&stream) {
                continue;
            }
            self.next_id += 1;
            let mut connection = Connection::new(self.next_id, stream);
            if self.connections.len() >= MAX_CONNECTIONS && !self.drop_a_stranger() {
                let what = format!("the shim serves {MAX_CONNECTIONS} connections already");
                let fix = "close some, such as shells that are no longer used";
                connection.refuse(Error::new(Code::Overloaded, what).fix(fix));
                continue;
            }
            self.connections.push(connection);
        }
    }

    /// Hangs up on the client that has been silent for the longest without saying who it is, and
    /// says whether there was one. Who knows the token says so at once: a program that does not,
    /// such as the claw of another instance under the same user, keeps no place from the server.
    fn drop_a_stranger(&mut self) -> bool {
        let strangers = self.connections.iter().enumerate().filter(|(_, c)| matches!(c.mode, Mode::Hello));
        let oldest = strangers.min_by_key(|(_, connection)| connection.opened).map(|(index, _)| index);
        oldest.map(|index| self.connections.remove(index)).is_some()
    }

    /// Reads from and writes to a client.
    pub(super) fn serve(&mut self, id: u64, read: bool, write: bool) {
        let Some(connection) = self.connection(id) else { return };
        if write {
            connection.write();
        }
        if read && connection.interest().0 {
            connection.read();
        } else if read && matches!(connection.mode, Mode::Leaving(_)) {
            connection.write();
        }
        while let Some(line) = self.connection(id).and_then(Connection::next_line) {
            self.answer(id, &line);
        }
        if let Some(connection) = self.connection(id) {
            connection.take_frames();
            connection.feed_session();
        }
    }

    /// Forgets clients that are gone, and hangs their commands up.
    pub(super) fn drop_closed(&mut self) {
        for connection in self.connections.extract_if(.., |connection| connection.is_closed()) {
            if let Some(pid) = connection.session().and_then(Session::hang_up) {
                self.hung_up.push((pid, Instant::now() + crate::protocol::HANGUP_GRACE));
            }
        }
    }

    /// Tells those who watch.
    pub(super) fn announce(&mut self) {
        let status = self.status();
        for connection in self.connections.iter_mut().filter(|c| matches!(c.mode, Mode::Watching)) {
            connection.reply(Ok(&status));
        }
    }

    /// Serves what a command's streams are ready for.
    pub(super) fn pump(&mut self, id: u64, read: bool, write: bool) {
        let Some(connection) = self.connection(id) else { return };
        if read {
            connection.read_session();
        }
        if write {
            connection.feed_session();
            connection.take_frames();
        }
    }
}

/// Whether the kernel says that the client is the server's user, or root, and no process of
/// the claw. A claw under the server's own user id could otherwise use up the connections, or
/// try a token that it got hold of.
fn is_trusted(stream: &UnixStream) -> bool {
    let Ok(peer) = getsockopt(stream, PeerCredentials) else { return false };
    let known_user = peer.uid() == 0 || peer.uid() == geteuid().as_raw();
    known_user && tree::is_outside(peer.pid().cast_unsigned(), std::process::id())
}
