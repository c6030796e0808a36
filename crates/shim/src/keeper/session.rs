//! One command run beside the claw, with its streams.

use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use clawfarm_model::{Code, Error, Result};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::pty::{Winsize, openpty};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::{Gid, Pid, Uid, fchown, pipe2, read, write};

use super::Keeper;
use super::connection::{Connection, Mode};
use crate::process;
use crate::protocol::{ExecRequest, ExecStarted, Frame, TtySize};
use crate::spawner::{Order, Program};

/// How much is kept for a command that does not read, before its client waits.
const ROOM: usize = 256 * 1024;
/// How long the output of a command that has ended is waited for, when something that it
/// left behind holds its streams open.
const DRAIN: Duration = Duration::from_millis(300);
/// The byte by which a terminal is told of the end of input (Ctrl-D).
const END_OF_TRANSMISSION: u8 = 4;

/// A command and our ends of its streams.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) pid: u32,
    tty: bool,
    input: Option<OwnedFd>,
    output: [Option<OwnedFd>; 2],
    pending: Vec<u8>,
    eof: bool,
    exit: Option<(i32, Instant)>,
}

impl Session {
    /// The streams it may print to.
    pub(super) fn outputs(&self) -> impl Iterator<Item = &OwnedFd> {
        self.output.iter().flatten()
    }

    /// Its standard input, when something waits to be written there.
    pub(super) fn wants_to_write(&self) -> Option<&OwnedFd> {
        self.input.as_ref().filter(|_| !self.pending.is_empty())
    }

    pub(super) fn has_room(&self) -> bool {
        self.pending.len() < ROOM
    }

    /// When its end is told even though its streams are still open.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.exit.map(|(_, at)| at + DRAIN)
    }

    /// How it ended, if it has.
    pub(super) fn exit_code(&self) -> Option<i32> {
        self.exit.map(|(code, _)| code)
    }

    /// It has ended.
    pub(super) fn note_end(&mut self, code: i32) {
        self.exit = Some((code, Instant::now()));
    }

    /// Takes a frame of the client's; `false` when a client must not send such a frame.
    pub(super) fn take(&mut self, frame: Frame) -> bool {
        match frame {
            Frame::Stdin(bytes) if self.input.is_some() && !self.eof => self.pending.extend(bytes),
            Frame::Stdin(_) => {}
            Frame::Eof if self.tty => self.pending.push(END_OF_TRANSMISSION),
            Frame::Eof => self.eof = true,
            Frame::Resize(size) => self.resize(size),
            Frame::Stdout(_) | Frame::Stderr(_) | Frame::Exit(_) => return false,
        }
        true
    }

    fn resize(&self, size: TtySize) {
        if let Some(terminal) = self.input.as_ref().filter(|_| self.tty) {
            let size = winsize(size);
            // SAFETY: the terminal is open and the pointer is to a size, as the request wants it.
            unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
        }
    }

    /// Writes what waits for its standard input.
    fn feed(&mut self) {
        while let Some(input) = &self.input
            && !self.pending.is_empty()
        {
            match write(input, &self.pending) {
                Ok(n) => drop(self.pending.drain(..n)),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return,
                Err(_) => self.input = None,
            }
        }
        if self.input.is_none() {
            self.pending = Vec::new();
        } else if self.eof {
            self.input = None;
        }
    }

    /// Reads once from each stream that has something.
    fn read(&mut self) -> Vec<Frame> {
        let mut frames = Vec::new();
        let mut buffer = [0; 16 * 1024];
        for (index, slot) in self.output.iter_mut().enumerate() {
            let Some(stream) = slot else { continue };
            match read(stream, &mut buffer) {
                // A terminal whose last process has gone answers EIO.
                Ok(0) | Err(Errno::EIO) => *slot = None,
                Ok(n) => {
                    let bytes = buffer.get(..n).unwrap_or_default().to_vec();
                    frames.push(if index == 0 { Frame::Stdout(bytes) } else { Frame::Stderr(bytes) });
                }
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                Err(_) => *slot = None,
            }
        }
        frames
    }

    /// Tells it that nobody listens any more. Answers its process, if it has not ended.
    pub(super) fn hang_up(&self) -> Option<u32> {
        if self.exit.is_some() {
            return None;
        }
        let group = Pid::from_raw(self.pid.cast_signed());
        let _ = killpg(group, Signal::SIGHUP);
        let _ = killpg(group, Signal::SIGCONT);
        Some(self.pid)
    }
}

impl Connection {
    /// Hands on what the command has printed.
    pub(super) fn read_session(&mut self) {
        let frames = self.session_mut().map(Session::read).unwrap_or_default();
        for frame in frames {
            self.send(&frame);
        }
        self.finish_session();
    }

    /// Hands the command what waits for it.
    pub(super) fn feed_session(&mut self) {
        if let Some(session) = self.session_mut() {
            session.feed();
        }
    }

    /// Tells the command's end, when it has ended and everything it printed is told.
    pub(super) fn finish_session(&mut self) {
        let Some((code, at)) = self.session().and_then(|session| session.exit) else { return };
        let open = self.session().is_some_and(|session| session.outputs().next().is_some());
        if !open || (at.elapsed() >= DRAIN && self.has_room()) {
            self.end_session(code);
        }
    }

    /// Tells what is left and the end.
    pub(super) fn end_session(&mut self, code: i32) {
        while let Some(frames) = self.session_mut().map(Session::read).filter(|frames| !frames.is_empty()) {
            for frame in frames {
                self.send(&frame);
            }
            if !self.has_room() {
                break;
            }
        }
        self.send(&Frame::Exit(code));
        self.leave();
    }
}

/// The far ends of the streams, for the command, and ours.
struct Streams {
    theirs: [OwnedFd; 3],
    input: OwnedFd,
    output: [Option<OwnedFd>; 2],
}

impl Streams {
    fn pipes() -> nix::Result<Self> {
        let (stdin, input) = pipe2(OFlag::O_CLOEXEC)?;
        let (out, stdout) = pipe2(OFlag::O_CLOEXEC)?;
        let (err, stderr) = pipe2(OFlag::O_CLOEXEC)?;
        Ok(Self { theirs: [stdin, stdout, stderr], input, output: [Some(out), Some(err)] })
    }

    fn terminal(size: TtySize, user: Option<crate::spec::User>) -> std::io::Result<Self> {
        let pty = openpty(Some(&winsize(size)), None)?;
        if let Some(user) = user {
            // As login(1) does it, so that programs can open their own terminal.
            fchown(&pty.slave, Some(Uid::from_raw(user.uid)), Some(Gid::from_raw(user.gid)))?;
        }
        let theirs = [pty.slave.try_clone()?, pty.slave.try_clone()?, pty.slave];
        Ok(Self { theirs, input: pty.master.try_clone()?, output: [Some(pty.master), None] })
    }

    fn make(tty: Option<TtySize>, user: Option<crate::spec::User>) -> std::io::Result<Self> {
        let streams = match tty {
            Some(size) => Self::terminal(size, user)?,
            None => Self::pipes()?,
        };
        process::set_nonblocking(&streams.input)?;
        for fd in streams.output.iter().flatten() {
            process::set_nonblocking(fd)?;
        }
        Ok(streams)
    }
}

const fn winsize(size: TtySize) -> Winsize {
    Winsize { ws_row: size.rows, ws_col: size.cols, ws_xpixel: 0, ws_ypixel: 0 }
}

impl Keeper {
    /// Runs a command for a client, whose connection then belongs to it.
    pub(super) fn exec(&mut self, id: u64, request: ExecRequest) {
        let started = self.start_session(request);
        let Some(connection) = self.connection(id) else { return };
        match started {
            Ok(session) => {
                connection.reply(Ok(ExecStarted { pid: session.pid }));
                connection.mode = Mode::Exec(session);
            }
            Err(error) => connection.reply::<ExecStarted>(Err(error)),
        }
    }

    fn start_session(&mut self, request: ExecRequest) -> Result<Session> {
        if self.frozen {
            return Err(Error::new(Code::Conflict, "the claw is frozen, so nothing can be run beside it")
                .fix("wake it first with `clawfarm resume`"));
        }
        if request.argv.iter().any(|arg| arg.contains('\0'))
            || request.argv.first().is_some_and(String::is_empty)
        {
            return Err(Error::invalid("argv", "can't be executed").fix("give a program, and no NUL bytes"));
        }
        let streams = Streams::make(request.tty, self.user)
            .map_err(|error| Error::internal("the command's streams could not be made", error))?;
        let program = if request.argv.is_empty() { Program::Shell } else { Program::Command(request.argv) };
        let default_term = || request.tty.map(|_| "xterm-256color".to_owned());
        let term = request.term.filter(|term| !term.contains('\0')).or_else(default_term);
        let pid = self.spawn(&Order { program, tty: request.tty.is_some(), term }, &streams.theirs)?;
        Ok(Session {
            pid,
            tty: request.tty.is_some(),
            input: Some(streams.input),
            output: streams.output,
            pending: Vec::new(),
            eof: false,
            exit: None,
        })
    }

    /// Makes a process in the claw's confinement and cgroups.
    fn spawn(&mut self, order: &Order, stdio: &[OwnedFd; 3]) -> Result<u32> {
        let Some(spawner) = &self.spawner else {
            return Err(Error::new(Code::Unavailable, "nothing can be run beside the claw any more")
                .fix("restart the instance with `clawfarm restart`"));
        };
        let waiting = spawner.spawn(order, stdio.each_ref());
        if waiting.as_ref().is_err_and(|error| error.code() == Code::Unavailable) {
            // Its answers no longer fit our questions.
            let _ = kill(Pid::from_raw(spawner.pid.cast_signed()), Signal::SIGKILL);
            self.spawner = None;
        }
        let waiting = waiting?;
        let pid = waiting.pid;
        // A waiting process ends by itself when its pipe is dropped.
        self.cgroups.place(pid).map_err(|reason| Error::new(Code::Internal, reason).field("cgroup"))?;
        waiting.execute()?;
        Ok(pid)
    }
}
