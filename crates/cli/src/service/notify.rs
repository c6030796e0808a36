//! What the server tells systemd (sd_notify(3)): that it is ready, that it lives, that it ends.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use clawfarm_client::Client;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

/// How often a server that begins is asked whether it answers.
const POLL: Duration = Duration::from_millis(20);

/// A service manager that waits to be told.
pub(crate) struct Manager {
    socket: OsString,
    /// Between two signs of life, when it wants them: half of what it waits for.
    every: Option<Duration>,
}

impl Manager {
    /// The one that started this process, if one did and wants to be told.
    pub(crate) fn from_environment() -> Option<Self> {
        let socket = std::env::var_os("NOTIFY_SOCKET").filter(|socket| !socket.is_empty())?;
        let number = |name| std::env::var(name).ok()?.parse::<u64>().ok();
        // Another process's watchdog is none of ours (sd_watchdog_enabled(3)).
        let ours = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        let every = number("WATCHDOG_USEC").filter(|micros| ours && *micros > 0);
        Some(Self { socket, every: every.map(|micros| Duration::from_micros(micros) / 2) })
    }

    fn tell(&self, what: &str) {
        if let Err(error) = send(&self.socket, what) {
            tracing::warn!(%error, what, "the service manager can't be told");
        }
    }

    /// Tells what there is to tell until the server ends. `client` is one of the server itself:
    /// it is ready when it answers that it is, and it lives as long as it answers at all.
    pub(crate) async fn attend(self, client: Client, stopping: CancellationToken) {
        tokio::select! {
            () = self.alive(client) => {}
            () = stopping.cancelled() => {}
        }
        self.tell("STOPPING=1");
    }

    async fn alive(&self, client: Client) {
        while client.ready().await.is_err() {
            sleep(POLL).await;
        }
        self.tell("READY=1\nSTATUS=Serving");
        let Some(every) = self.every else { return std::future::pending().await };
        loop {
            // An answer that comes later than this is none: the manager ends what hangs.
            if timeout(every, client.alive()).await.is_ok_and(|answer| answer.is_ok()) {
                self.tell("WATCHDOG=1");
                sleep(every / 2).await;
            } else {
                tracing::warn!("the server does not answer itself");
                sleep(POLL).await;
            }
        }
    }
}

fn send(socket: &OsStr, what: &str) -> io::Result<()> {
    let bytes = socket.as_bytes();
    // An '@' stands for the NUL that the names of the abstract namespace begin with.
    let address = match bytes.strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(socket)?,
    };
    let sender = UnixDatagram::unbound()?;
    sender.set_write_timeout(Some(Duration::from_secs(1)))?;
    sender.send_to_addr(what.as_bytes(), &address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_of_sockets_are_reached() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("notify");
        let name = format!("clawfarm-test-{}", std::process::id());
        let listeners = [
            (path.as_os_str().to_owned(), UnixDatagram::bind(&path).expect("bound")),
            (
                OsString::from(format!("@{name}")),
                UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(name.as_bytes()).expect("a name"))
                    .expect("bound"),
            ),
        ];
        for (socket, listener) in listeners {
            send(&socket, "READY=1").expect("sent");
            let mut buffer = [0; 64];
            let read = listener.recv(&mut buffer).expect("received");
            assert_eq!(&buffer[..read], b"READY=1");
        }
        assert!(send(OsStr::new("/nothing/here"), "x").is_err());
    }
}
