//! Commands beside a claw: frames of the shim's protocol on one side, channels on the other.

use bytes::Bytes;
use clawfarm_model::{ClawId, Result};
use clawfarm_runtime::{ExecInput, ExecOutput, ExecRequest, ExecSession, TermSize};
use clawfarm_shim::protocol::{self, ExecStarted, Frame, MAX_FRAME_BYTES, Request, TtySize};
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;

use crate::client::LIMIT;
use crate::inner::Inner;
use crate::observe;

/// How many pieces wait for a slow reader before the command has to.
const PIECES: usize = 16;

/// [`clawfarm_runtime::Exec::exec`].
pub(crate) async fn exec(inner: &Inner, id: &ClawId, request: ExecRequest) -> Result<ExecSession> {
    let mut shim = observe::running_shim(inner, id).await?;
    let request = Request::Exec(protocol::ExecRequest {
        argv: request.argv,
        tty: request.tty.map(size),
        term: request.term,
    });
    let _: ExecStarted = shim.ask(id, &request, LIMIT * 2).await?;
    Ok(session(shim.into_stream()))
}

const fn size(size: TermSize) -> TtySize {
    TtySize { cols: size.cols, rows: size.rows }
}

fn session(stream: BufReader<UnixStream>) -> ExecSession {
    // What the reader had read ahead comes before the rest of the stream.
    let ahead = stream.buffer().to_vec();
    let (read, write) = stream.into_inner().into_split();
    let (input, from_caller) = mpsc::channel(PIECES);
    let (to_caller, output) = mpsc::channel(PIECES);
    tokio::spawn(async move {
        // Whichever ends first ends the other: a command that exited wants no input, and
        // a caller that went away drops the connection, on which the shim hangs up.
        let reading = read_frames(read, ahead, &to_caller);
        let writing = write_frames(write, from_caller);
        tokio::pin!(writing);
        let gone = to_caller.closed();
        tokio::select! {
            () = reading => {}
            () = gone => {}
            () = async { (&mut writing).await; std::future::pending::<()>().await } => {}
        }
    });
    ExecSession { input, output }
}

async fn write_frames(mut write: OwnedWriteHalf, mut input: mpsc::Receiver<ExecInput>) {
    while let Some(piece) = input.recv().await {
        let written = match piece {
            ExecInput::Stdin(bytes) => write_split(&mut write, &bytes).await,
            ExecInput::Eof => write.write_all(&Frame::Eof.encode()).await,
            ExecInput::Resize(new) => write.write_all(&Frame::Resize(size(new)).encode()).await,
        };
        if let Err(error) = written {
            tracing::debug!(%error, "a command takes no more input");
            return;
        }
    }
    // The caller only listens from here on: the connection must stay, or the shim would hang up.
    std::future::pending::<()>().await;
}

async fn write_split(write: &mut OwnedWriteHalf, bytes: &Bytes) -> std::io::Result<()> {
    for part in bytes.chunks(MAX_FRAME_BYTES) {
        write.write_all(&Frame::Stdin(part.to_vec()).encode()).await?;
    }
    Ok(())
}

async fn read_frames(mut read: OwnedReadHalf, mut bytes: Vec<u8>, output: &mpsc::Sender<ExecOutput>) {
    loop {
        match Frame::decode(&bytes) {
            Ok(Some((frame, taken))) => {
                bytes.drain(..taken);
                let Some(piece) = piece(frame) else { continue };
                let last = matches!(piece, ExecOutput::Exit(_));
                if output.send(piece).await.is_err() || last {
                    return;
                }
            }
            Ok(None) => match read.read_buf(&mut bytes).await {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) => {
                    tracing::debug!(%error, "the connection to a command broke");
                    return;
                }
            },
            Err(error) => {
                tracing::warn!(%error, "a shim sent a frame that makes no sense");
                return;
            }
        }
    }
}

fn piece(frame: Frame) -> Option<ExecOutput> {
    match frame {
        Frame::Stdout(bytes) => Some(ExecOutput::Stdout(bytes.into())),
        Frame::Stderr(bytes) => Some(ExecOutput::Stderr(bytes.into())),
        Frame::Exit(code) => Some(ExecOutput::Exit(code)),
        Frame::Stdin(_) | Frame::Resize(_) | Frame::Eof => None,
    }
}
