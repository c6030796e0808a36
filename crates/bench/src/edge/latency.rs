//! One request after another on one connection.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::serve::{CLAW, DOMAIN, TOKEN};

/// How long each took.
pub(crate) async fn one_after_another(address: SocketAddr, count: usize) -> Result<Vec<Duration>> {
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let request =
        format!("GET /small HTTP/1.1\r\nhost: {CLAW}.{DOMAIN}\r\nauthorization: Bearer {TOKEN}\r\n\r\n");
    let mut taken = Vec::with_capacity(count);
    let mut answer = vec![0; 4096];
    for _ in 0..count {
        let begun = Instant::now();
        stream.write_all(request.as_bytes()).await?;
        let mut read = 0;
        // The body is "ok" and a line's end, also where it comes as a chunk.
        while !answer[..read].windows(3).any(|it| it == b"ok\n") {
            match stream.read(&mut answer[read..]).await? {
                0 => bail!("{address} ended the connection"),
                more => read += more,
            }
        }
        if !answer.starts_with(b"HTTP/1.1 200") {
            bail!("{address}: {}", String::from_utf8_lossy(&answer[..read]));
        }
        taken.push(begun.elapsed());
        // The end of the chunks may still be on its way; it must not be taken for the next answer.
        if answer[..read].windows(7).any(|it| it.eq_ignore_ascii_case(b"chunked")) {
            while !answer[..read].ends_with(b"0\r\n\r\n") {
                read += stream.read(&mut answer[read..]).await?;
            }
        }
    }
    Ok(taken)
}
