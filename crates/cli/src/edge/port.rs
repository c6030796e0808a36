//! The edge's port when nobody chose one: the same at every start, so that addresses stay.

use std::fs;
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use clawfarm_edge::{EdgeTls, Listener};
use clawfarm_model::{Code, Result};

/// Where the port is remembered, in the home.
const FILE: &str = "edge.port";

/// Binds the port of the last time, or the usual one, or any.
pub(super) async fn bind(home: &Path, tls: Option<EdgeTls>) -> Result<Listener> {
    let path = home.join(FILE);
    let last = fs::read_to_string(&path).ok().and_then(|text| text.trim().parse::<u16>().ok());
    let local = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    for address in [last.map_or_else(super::usual, local), super::usual()] {
        match Listener::bind(address, tls.clone()).await {
            Ok(listener) => return Ok(remembered(&path, last, listener)),
            Err(error) if error.code() == Code::Conflict => {}
            Err(error) => return Err(error),
        }
    }
    Ok(remembered(&path, last, Listener::bind(local(0), tls).await?))
}

/// A port that can't be written down is another the next time, no more.
fn remembered(path: &Path, last: Option<u16>, listener: Listener) -> Listener {
    let port = listener.address().map(|address| address.port());
    if port != last
        && let Some(port) = port
        && let Err(error) = write(path, port)
    {
        tracing::warn!(%error, "the edge's port could not be written down");
    }
    listener
}

fn write(path: &Path, port: u16) -> std::io::Result<()> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    writeln!(options.open(path)?, "{port}")
}
