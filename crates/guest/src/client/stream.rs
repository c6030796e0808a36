//! One conversation, as the host sees it.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};
use tokio::sync::Notify;

use super::{GuestError, Open};
use crate::frame::{Frame, Kind, MAX_BODY};
use crate::message::{Exit, Refusal, Size, body};
use crate::window::{Held, WINDOW, Window};

/// What came of a stream and was not taken yet.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(super) number: u32,
    window: Window,
    held: Held,
    came: Mutex<Came>,
    news: Notify,
}

#[derive(Debug, Default)]
struct Came {
    answer: Option<Result<Bytes, GuestError>>,
    /// What was written, of both kinds one after the other, and how much of which kind each time:
    /// a guest that writes byte by byte, now here and now there, takes a few times the window.
    bytes: BytesMut,
    pieces: VecDeque<(Kind, u32)>,
    /// What was taken and not given back to the sender yet.
    owed: usize,
    exit: Option<Result<Exit, GuestError>>,
}

impl Stream {
    pub(super) fn new(number: u32) -> Self {
        Self {
            number,
            window: Window::new(),
            held: Held::default(),
            came: Mutex::default(),
            news: Notify::new(),
        }
    }

    fn came(&self) -> MutexGuard<'_, Came> {
        self.came.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn take(&self, frame: Frame) -> Result<(), String> {
        let mut came = self.came();
        match frame.kind {
            Kind::Answer if came.answer.is_none() => came.answer = Some(Ok(frame.body)),
            Kind::Refused if came.answer.is_none() => {
                let refusal: Refusal = serde_json::from_slice(&frame.body)
                    .map_err(|e| format!("a refusal that is none: {e}"))?;
                came.answer = Some(Err(GuestError::Refused(refusal)));
            }
            Kind::Output | Kind::Errors => {
                let length = frame.body.len();
                if length == 0 {
                    return Err("it sends pieces with nothing in them".to_owned());
                }
                if !self.held.came(length) {
                    return Err("it sends more than it may".to_owned());
                }
                came.bytes.extend_from_slice(&frame.body);
                // At most the window.
                let length = u32::try_from(length).unwrap_or(u32::MAX);
                match came.pieces.back_mut() {
                    Some((kind, piece)) if *kind == frame.kind => *piece += length,
                    _ => came.pieces.push_back((frame.kind, length)),
                }
            }
            Kind::Exit if came.exit.is_none() => {
                let exit =
                    serde_json::from_slice(&frame.body).map_err(|e| format!("an end that is none: {e}"))?;
                came.exit = Some(Ok(exit));
                self.window.close();
            }
            Kind::Credit => {
                let bytes = serde_json::from_slice(&frame.body).map_err(|e| format!("no number: {e}"))?;
                self.window.give(bytes);
            }
            // Said twice, or nothing that a guest says.
            _ => {}
        }
        drop(came);
        self.news.notify_waiters();
        Ok(())
    }

    /// The line has ended.
    pub(super) fn gone(&self, why: &str) {
        let mut came = self.came();
        let gone = GuestError::Gone(why.to_owned());
        came.answer.get_or_insert_with(|| Err(gone.clone()));
        came.exit.get_or_insert(Err(gone));
        drop(came);
        self.window.close();
        self.news.notify_waiters();
    }

    /// `bytes` more were taken: what is to be given back now. A quarter of the window at a time, so
    /// that many small pieces are not answered by as many frames.
    fn owes(&self, bytes: usize) -> Option<usize> {
        let mut came = self.came();
        came.owed += bytes;
        (came.owed >= WINDOW / 4).then(|| std::mem::take(&mut came.owed))
    }

    /// Whether nothing more will come of it.
    pub(super) fn is_over(&self) -> bool {
        let came = self.came();
        // What asks for no command has its answer alone.
        came.exit.is_some() || matches!(came.answer, Some(Err(_)))
    }

    pub(super) async fn answer(&self) -> Result<Bytes, GuestError> {
        loop {
            let news = self.news.notified();
            let mut news = std::pin::pin!(news);
            news.as_mut().enable();
            if let Some(answer) = self.came().answer.clone() {
                return answer;
            }
            news.await;
        }
    }

    async fn next(&self) -> Result<Event, GuestError> {
        loop {
            let news = self.news.notified();
            let mut news = std::pin::pin!(news);
            news.as_mut().enable();
            {
                let mut came = self.came();
                if let Some((kind, length)) = came.pieces.pop_front() {
                    let piece = came.bytes.split_to(length as usize).freeze();
                    return Ok(if kind == Kind::Errors {
                        Event::Errors(piece)
                    } else {
                        Event::Output(piece)
                    });
                }
                if let Some(exit) = came.exit.clone() {
                    return exit.map(Event::Exit);
                }
            }
            news.await;
        }
    }
}

/// What a command does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// It wrote to standard output, or to its terminal.
    Output(Bytes),
    /// It wrote to standard error.
    Errors(Bytes),
    /// It has ended; nothing more comes.
    Exit(Exit),
}

/// What a command reads.
pub struct Input(Arc<Open>);

/// What a command writes.
pub struct Output(Arc<Open>);

impl fmt::Debug for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Input").field(&self.0.stream.number).finish()
    }
}

impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Output").field(&self.0.stream.number).finish()
    }
}

impl Input {
    pub(super) const fn of(open: Arc<Open>) -> Self {
        Self(open)
    }

    /// Gives it something to read; waits while it has not read what it was given.
    ///
    /// # Errors
    /// `Gone` when the line or the command has ended.
    pub async fn write(&self, bytes: &[u8]) -> Result<(), GuestError> {
        for piece in bytes.chunks(MAX_BODY) {
            if !self.0.stream.window.take(piece.len()).await {
                return Err(GuestError::Gone("the command has ended".to_owned()));
            }
            self.0.input(Kind::Input, piece.to_vec()).await?;
        }
        Ok(())
    }

    /// There is nothing more to read: its input is closed, or control-D is typed at its terminal.
    ///
    /// # Errors
    /// `Gone` when the line has ended.
    pub async fn end(&self) -> Result<(), GuestError> {
        self.0.input(Kind::InputEnd, Vec::new()).await
    }

    /// Its terminal has another size.
    ///
    /// # Errors
    /// `Gone` when the line has ended.
    pub fn resize(&self, size: Size) -> Result<(), GuestError> {
        self.0.send(Kind::Resize, body(&size))
    }

    /// Sends it, and all that it started, the signal of this number.
    ///
    /// # Errors
    /// `Gone` when the line has ended.
    pub fn signal(&self, signal: i32) -> Result<(), GuestError> {
        self.0.send(Kind::Signal, body(&signal))
    }
}

impl Output {
    pub(super) const fn of(open: Arc<Open>) -> Self {
        Self(open)
    }

    /// What it does next. Nothing is lost when this is given up before its end.
    ///
    /// # Errors
    /// `Gone` when the line ended before the command did.
    pub async fn next(&mut self) -> Result<Event, GuestError> {
        let event = self.0.stream.next().await?;
        if let Event::Output(piece) | Event::Errors(piece) = &event {
            self.0.stream.held.taken(piece.len());
            if let Some(bytes) = self.0.stream.owes(piece.len()) {
                // Of a line that has ended, the rest is told all the same.
                let _ = self.0.send(Kind::Credit, body(&bytes));
            }
        }
        Ok(event)
    }
}
