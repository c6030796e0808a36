//! Speaking with the shim of one instance.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clawfarm_model::{ClawId, Code, Error, Result};
use clawfarm_shim::layout::{RUN_DIR, SOCKET_FILE, TOKEN_FILE};
use clawfarm_shim::protocol::{Hello, HelloOk, MAX_LINE_BYTES, Reply, Request, ShimStatus};
use rustix::fs::{Mode, OFlags};
use serde::de::DeserializeOwned;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

/// How long a shim may take to answer something that it can answer at once. It is a small
/// process that does nothing else; on a machine too busy for this, "can't see" is the truth.
pub const LIMIT: Duration = Duration::from_secs(5);

/// A connection on which the shim has said hello.
#[derive(Debug)]
pub struct Shim {
    stream: BufReader<UnixStream>,
}

impl Shim {
    /// Connects and says hello.
    ///
    /// # Errors
    /// `Unavailable` when it does not answer.
    pub async fn connect(dir: &Path, id: &ClawId) -> Result<Self> {
        limited(LIMIT, id, async {
            let token = read_token(dir).map_err(|e| silent(id, e))?;
            let stream = open_socket(dir).await.map_err(|e| silent(id, e))?;
            let mut shim = Self { stream: BufReader::new(stream) };
            shim.send(&Hello::new(&token)).await.map_err(|e| silent(id, e))?;
            let _: HelloOk = shim.next(id).await?.ok_or_else(|| silent(id, ended()))?;
            Ok(shim)
        })
        .await
    }

    /// Asks once, with a limit on the answer.
    ///
    /// # Errors
    /// What the shim answers; `Unavailable` when it does not.
    pub async fn ask<T: DeserializeOwned>(
        &mut self,
        id: &ClawId,
        request: &Request,
        limit: Duration,
    ) -> Result<T> {
        limited(limit, id, async {
            self.send(request).await.map_err(|e| silent(id, e))?;
            self.next(id).await?.ok_or_else(|| silent(id, ended()))
        })
        .await
    }

    /// What the claw is doing.
    ///
    /// # Errors
    /// As for [`Self::ask`].
    pub async fn status(&mut self, id: &ClawId) -> Result<ShimStatus> {
        self.ask(id, &Request::Status, LIMIT).await
    }

    /// The next answer; `None` when the shim has closed the connection.
    ///
    /// # Errors
    /// As for [`Self::ask`].
    pub async fn next<T: DeserializeOwned>(&mut self, id: &ClawId) -> Result<Option<T>> {
        let mut line = Vec::new();
        let mut reader = (&mut self.stream).take(MAX_LINE_BYTES as u64);
        reader.read_until(b'\n', &mut line).await.map_err(|e| silent(id, e))?;
        if line.is_empty() {
            return Ok(None);
        }
        let reply: Reply<T> = serde_json::from_slice(&line)
            .map_err(|e| silent(id, io::Error::new(io::ErrorKind::InvalidData, e)))?;
        reply.into_result().map(Some)
    }

    async fn send(&mut self, message: &impl serde::Serialize) -> io::Result<()> {
        let mut line = serde_json::to_vec(message)?;
        line.push(b'\n');
        self.stream.write_all(&line).await
    }

    /// The bare stream, after an `exec`; what was read ahead stays in the reader.
    #[must_use]
    pub fn into_stream(self) -> BufReader<UnixStream> {
        self.stream
    }
}

fn read_token(dir: &Path) -> io::Result<String> {
    Ok(std::fs::read_to_string(dir.join(RUN_DIR).join(TOKEN_FILE))?.trim().to_owned())
}

/// Connects by way of an open folder: a socket's address holds at most 107 bytes
/// (unix(7)), and a home may lie deeper than that.
async fn open_socket(dir: &Path) -> io::Result<UnixStream> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let run = File::from(rustix::fs::open(dir.join(RUN_DIR), flags, Mode::empty())?);
    let path = PathBuf::from(format!("/proc/self/fd/{}", run.as_raw_fd())).join(SOCKET_FILE);
    UnixStream::connect(path).await
}

async fn limited<T>(limit: Duration, id: &ClawId, work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(limit, work).await.unwrap_or_else(|_| {
        Err(Error::new(
            Code::Unavailable,
            format!("the keeper (shim) of '{id}' did not answer within {} seconds", limit.as_secs()),
        )
        .fix("the machine may be overloaded; look with `clawfarm doctor`, then try again"))
    })
}

fn silent(id: &ClawId, error: io::Error) -> Error {
    Error::new(Code::Unavailable, format!("the keeper (shim) of '{id}' does not answer: {error}"))
        .fix("try again; if it goes on, end the instance with `clawfarm kill`")
        .source(error)
}

fn ended() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "it closed the connection")
}
