//! A simple client of a shim, for tests and small tools. It blocks; the server has its own.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use clawfarm_model::resources::Usage;
use clawfarm_model::{Code, Error, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::layout::{RUN_DIR, SOCKET_FILE, TOKEN_FILE};
use crate::protocol::{ExecRequest, ExecStarted, Frame, Hello, HelloOk, Reply, Request, ShimStatus};

/// A connection to a shim that has said hello.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<UnixStream>,
    /// What the shim said of itself.
    pub hello: HelloOk,
}

impl Client {
    /// Connects to the shim of an instance's folder, with the token that is in there.
    ///
    /// # Errors
    /// `Gone` when no shim listens; `Unauthenticated` and `Unsupported` when it refuses.
    pub fn connect(dir: &Path, timeout: Duration) -> Result<Self> {
        let token = std::fs::read_to_string(dir.join(RUN_DIR).join(TOKEN_FILE)).map_err(gone)?;
        Self::connect_with(dir, &Hello::new(&token), timeout)
    }

    /// Connects and says what it is told to.
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub fn connect_with(dir: &Path, hello: &Hello, timeout: Duration) -> Result<Self> {
        // A socket's address has 108 bytes; through the open folder any path fits.
        let folder = File::open(dir.join(RUN_DIR)).map_err(gone)?;
        let path = format!("/proc/self/fd/{}/{SOCKET_FILE}", folder.as_raw_fd());
        let stream = UnixStream::connect(path).map_err(gone)?;
        stream.set_read_timeout(Some(timeout)).map_err(broken)?;
        let placeholder = HelloOk { version: 0, software: String::new(), run: 0, shim_pid: 0 };
        let mut client = Self { stream: BufReader::new(stream), hello: placeholder };
        client.send(hello)?;
        client.hello = client.receive()?;
        Ok(client)
    }

    /// Asks for anything that is answered with a status.
    ///
    /// # Errors
    /// What the shim answers; `Unavailable` when the connection breaks.
    pub fn ask(&mut self, request: &Request) -> Result<ShimStatus> {
        self.send(request)?;
        self.receive()
    }

    /// Waits for the next status, after [`Request::Watch`].
    ///
    /// # Errors
    /// `Unavailable` when the connection breaks.
    pub fn next_status(&mut self) -> Result<ShimStatus> {
        self.receive()
    }

    /// Asks for what the claw uses.
    ///
    /// # Errors
    /// As [`Client::ask`].
    pub fn usage(&mut self) -> Result<Usage> {
        self.send(&Request::Usage)?;
        self.receive()
    }

    /// Runs a command; the connection is for its frames then.
    ///
    /// # Errors
    /// As [`Client::ask`].
    pub fn exec(mut self, request: ExecRequest) -> Result<ExecClient> {
        self.send(&Request::Exec(request))?;
        let started: ExecStarted = self.receive()?;
        Ok(ExecClient { pid: started.pid, stream: self.stream, input: Vec::new() })
    }

    /// Sends one line.
    ///
    /// # Errors
    /// `Unavailable` when the connection breaks.
    pub fn send<T: Serialize>(&mut self, line: &T) -> Result<()> {
        let mut text = serde_json::to_vec(line).map_err(|error| Error::internal("no JSON", error))?;
        text.push(b'\n');
        self.stream.get_mut().write_all(&text).map_err(broken)
    }

    fn receive<T: DeserializeOwned>(&mut self) -> Result<T> {
        let mut line = Vec::new();
        if self.stream.read_until(b'\n', &mut line).map_err(broken)? == 0 {
            return Err(Error::new(Code::Unavailable, "the shim has closed the connection"));
        }
        let reply: Reply<T> = serde_json::from_slice(&line)
            .map_err(|error| Error::internal("the shim's answer is odd", error))?;
        reply.into_result()
    }
}

/// A command beside the claw.
#[derive(Debug)]
pub struct ExecClient {
    /// Its process.
    pub pid: u32,
    stream: BufReader<UnixStream>,
    input: Vec<u8>,
}

impl ExecClient {
    /// Sends a frame.
    ///
    /// # Errors
    /// `Unavailable` when the connection breaks.
    pub fn send(&mut self, frame: &Frame) -> Result<()> {
        self.stream.get_mut().write_all(&frame.encode()).map_err(broken)
    }

    /// The next frame; `None` at the end.
    ///
    /// # Errors
    /// `Unavailable` when the connection breaks or nothing comes in time.
    pub fn receive(&mut self) -> Result<Option<Frame>> {
        loop {
            if let Some((frame, length)) = Frame::decode(&self.input)? {
                self.input.drain(..length);
                return Ok(Some(frame));
            }
            let mut buffer = [0; 4096];
            match self.stream.read(&mut buffer).map_err(broken)? {
                0 => return Ok(None),
                n => self.input.extend_from_slice(buffer.get(..n).unwrap_or_default()),
            }
        }
    }
}

fn gone(error: std::io::Error) -> Error {
    Error::new(Code::Gone, "no shim keeps this instance").source(error)
}

fn broken(error: std::io::Error) -> Error {
    Error::new(Code::Unavailable, format!("the connection to the shim broke: {error}")).source(error)
}
