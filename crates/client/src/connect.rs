//! Opens the byte stream to a server.

use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clawfarm_model::{Code, Error, Result};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use crate::endpoint::Endpoint;
use crate::{CONNECT_TIMEOUT, tls};

/// How long a server's machine may be silent on a connection: longer than a network needs to find
/// another way.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// A byte stream to a server.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin + std::fmt::Debug {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin + std::fmt::Debug> Io for T {}

/// The longest path the kernel takes in a socket address: 108 bytes with the ending NUL
/// (`sun_path` in unix(7)).
const SUN_PATH_MAX: usize = 107;

/// Connects within [`CONNECT_TIMEOUT`]: TCP, and TLS where the endpoint says so.
///
/// # Errors
/// `Unavailable` when nobody answers there.
pub async fn connect(endpoint: &Endpoint) -> Result<Box<dyn Io>> {
    match tokio::time::timeout(CONNECT_TIMEOUT, open(endpoint)).await {
        Ok(result) => result,
        Err(_) => Err(Error::new(
            Code::Unavailable,
            format!("the server at {endpoint} did not accept a connection within {CONNECT_TIMEOUT:?}"),
        )
        .fix(fix(endpoint))),
    }
}

async fn open(endpoint: &Endpoint) -> Result<Box<dyn Io>> {
    let refused = |error| unreachable(endpoint, error);
    match endpoint {
        Endpoint::Unix(path) => Ok(Box::new(connect_unix(path).await.map_err(refused)?)),
        Endpoint::Http { host, port } => Ok(Box::new(tcp(host, *port).await.map_err(refused)?)),
        Endpoint::Https { host, port, ca } => {
            let stream = tcp(host, *port).await.map_err(refused)?;
            Ok(Box::new(tls::wrap(stream, host, ca.as_deref()).await.map_err(|e| e.fix(fix(endpoint)))?))
        }
    }
}

async fn tcp(host: &str, port: u16) -> io::Result<TcpStream> {
    let stream = TcpStream::connect((host, port)).await?;
    stream.set_nodelay(true)?;
    notice_silence(&stream)?;
    Ok(stream)
}

/// Has the kernel break a connection whose other machine says nothing for about [`SILENCE_MAX`],
/// be it idle (keepalive) or with something sent that was not received (tcp(7)).
fn notice_silence(stream: &TcpStream) -> io::Result<()> {
    use rustix::net::sockopt;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, SILENCE_MAX / 2)?;
    sockopt::set_tcp_keepintvl(stream, SILENCE_MAX / 6)?;
    sockopt::set_tcp_keepcnt(stream, 3)?;
    let millis = u32::try_from(SILENCE_MAX.as_millis()).unwrap_or(u32::MAX);
    sockopt::set_tcp_user_timeout(stream, millis)?;
    Ok(())
}

/// Connects to a unix socket, also when its path is longer than a socket address holds: then
/// its folder is opened, and the socket reached through `/proc/self/fd`.
///
/// # Errors
/// Those of `open` and `connect`.
pub async fn connect_unix(path: &Path) -> io::Result<UnixStream> {
    if path.as_os_str().len() <= SUN_PATH_MAX {
        return UnixStream::connect(path).await;
    }
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the path names no socket"));
    };
    let folder = std::fs::File::open(parent)?;
    let short = PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd())).join(name);
    UnixStream::connect(short).await
}

fn unreachable(endpoint: &Endpoint, error: io::Error) -> Error {
    let what = match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => "no server listens at".to_owned(),
        io::ErrorKind::PermissionDenied => "access is denied to the server at".to_owned(),
        kind => format!("can't connect ({kind}) to the server at"),
    };
    Error::new(Code::Unavailable, format!("{what} {endpoint}")).fix(fix(endpoint)).source(error)
}

fn fix(endpoint: &Endpoint) -> &'static str {
    match endpoint {
        Endpoint::Unix(_) => "start one with 'clawfarm serve'",
        Endpoint::Http { .. } | Endpoint::Https { .. } => {
            "check the address, and that 'clawfarm serve --listen' runs there"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn nobody_there_is_unavailable_with_a_fix() {
        let home = tempfile::tempdir().unwrap();
        let endpoint = Endpoint::Unix(home.path().join("x.sock"));
        let error = connect(&endpoint).await.expect_err("nothing listens");
        assert_eq!(error.code(), Code::Unavailable);
        assert!(error.message().contains("no server listens"), "{error}");
        assert!(error.fix_text().is_some());
    }

    #[tokio::test]
    async fn a_socket_in_a_deep_folder_is_reached() {
        let home = tempfile::tempdir().unwrap();
        let deep = home.path().join("d".repeat(100)).join("e".repeat(100));
        std::fs::create_dir_all(&deep).unwrap();
        // Bound from within its folder, because bind has the same limit as connect.
        let folder = std::fs::File::open(&deep).unwrap();
        let short = format!("/proc/self/fd/{}/s.sock", folder.as_raw_fd());
        let _listener = tokio::net::UnixListener::bind(short).unwrap();
        connect(&Endpoint::Unix(deep.join("s.sock"))).await.expect("reached over the folder");
    }

    #[tokio::test]
    async fn the_kernel_notices_a_machine_that_is_silent() {
        use rustix::net::sockopt;
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = tcp("127.0.0.1", listener.local_addr().unwrap().port()).await.unwrap();
        assert!(sockopt::socket_keepalive(&stream).unwrap());
        assert_eq!(sockopt::tcp_keepidle(&stream).unwrap(), Duration::from_secs(30));
        assert_eq!(sockopt::tcp_user_timeout(&stream).unwrap(), 60_000);
    }
}
