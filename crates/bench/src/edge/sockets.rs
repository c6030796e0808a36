//! WebSockets that are open and say nothing.

use anyhow::{Result, bail};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::fronts::Front;
use super::serve::{CLAW, DOMAIN, TOKEN};

/// Opens so many; they end when they are dropped.
pub(crate) async fn open(front: &Front, count: usize) -> Result<Vec<TcpStream>> {
    let request = format!(
        "GET /ws HTTP/1.1\r\nhost: {CLAW}.{DOMAIN}\r\nauthorization: Bearer {TOKEN}\r\nconnection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    let mut open = Vec::with_capacity(count);
    for _ in 0..count {
        let mut stream = TcpStream::connect(front.plain).await?;
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            answer.push(stream.read_u8().await?);
        }
        if !answer.starts_with(b"HTTP/1.1 101") {
            bail!("no WebSocket: {}", String::from_utf8_lossy(&answer));
        }
        // Something has gone both ways, so that all that is needed for that is there.
        stream.write_all(b"x").await?;
        stream.read_u8().await?;
        open.push(stream);
    }
    Ok(open)
}
