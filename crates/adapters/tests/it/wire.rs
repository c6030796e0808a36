//! As much of HTTP/1.1's server side as the tests need.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// One request.
pub(crate) struct Request {
    pub(crate) path: String,
    /// Request line and headers, in lower case.
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

/// Reads the next request; `None` when the other side hung up.
pub(crate) async fn read(stream: &mut (impl AsyncRead + Unpin), buffer: &mut Vec<u8>) -> Option<Request> {
    let end = loop {
        if let Some(at) = buffer.windows(4).position(|w| w == b"\r\n\r\n") {
            break at + 4;
        }
        if stream.read_buf(buffer).await.unwrap_or(0) == 0 {
            return None;
        }
    };
    let head = String::from_utf8_lossy(&buffer[..end]).to_lowercase();
    let length = head
        .lines()
        .find_map(|l| l.strip_prefix("content-length: "))
        .map_or(0, |n| n.trim().parse().expect("a length"));
    while buffer.len() < end + length {
        if stream.read_buf(buffer).await.unwrap_or(0) == 0 {
            return None;
        }
    }
    let path = head.split_whitespace().nth(1).expect("a path").to_owned();
    let body = buffer[end..end + length].to_vec();
    buffer.drain(..end + length);
    Some(Request { path, head, body })
}

/// Writes the head of a response whose body comes in pieces.
pub(crate) async fn head(stream: &mut (impl AsyncWrite + Unpin), status: u16, kind: &str) -> io::Result<()> {
    let head = format!("HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\ntransfer-encoding: chunked\r\n\r\n");
    stream.write_all(head.as_bytes()).await
}

/// Writes a piece of the body; the empty one is its end.
pub(crate) async fn piece(stream: &mut (impl AsyncWrite + Unpin), piece: &[u8]) -> io::Result<()> {
    let chunk = [format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat();
    stream.write_all(&chunk).await
}
