//! The way from a tenant's network to the server.
//!
//! The server's listener for claws is on loopback, where no container gets. So for each network
//! there is a listener on its gateway address, which is this machine's own, that passes
//! connections on. It takes those of the network's own addresses only.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use clawfarm_model::{Code, Error, Result};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::engine::Kind;
use crate::inner::{Inner, guard};

/// How long after a failed accept the next is tried: as a rule files are short.
const AGAIN: Duration = Duration::from_millis(100);

/// How many connections may wait until they are taken.
const WAITING: u32 = 1024;

/// A way that is open until this is dropped.
pub(crate) struct Relay {
    _open: DropGuard,
}

/// The addresses of a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Subnet {
    /// This machine's address in it.
    pub(crate) gateway: IpAddr,
    network: IpAddr,
    bits: u32,
}

impl Subnet {
    /// Of `172.18.0.0/16` and `172.18.0.1`; `None` when they make no sense.
    pub(crate) fn parse(subnet: &str, gateway: &str) -> Option<Self> {
        let (network, bits) = subnet.split_once('/')?;
        // Some engines say the gateway with the length of its network.
        let gateway = gateway.split('/').next()?.parse().ok()?;
        Some(Self { gateway, network: network.parse().ok()?, bits: bits.parse().ok()? })
    }

    fn has(&self, address: IpAddr) -> bool {
        match (self.network, address) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                let mask = u32::MAX.checked_shl(32_u32.saturating_sub(self.bits)).unwrap_or(0);
                network.to_bits() & mask == address.to_bits() & mask
            }
            _ => false,
        }
    }
}

/// Makes sure that there is a way from a network to the server.
pub(crate) async fn ensure(inner: &Inner, subnet: Subnet) -> Result<()> {
    let port = inner.config.claw_port;
    if port == 0 || guard(&inner.relays).contains_key(&subnet.gateway) {
        return Ok(());
    }
    let address = SocketAddr::new(subnet.gateway, port);
    let listener = match listen(address, inner.engine.kind().await?) {
        Ok(listener) => listener,
        // Another call was quicker.
        Err(_) if guard(&inner.relays).contains_key(&subnet.gateway) => return Ok(()),
        Err(error) => {
            return Err(Error::new(
                Code::Unavailable,
                format!("containers get no way to the server: can't listen on {address}: {error}"),
            )
            .fix("the container engine must run on this machine, in its network")
            .source(error));
        }
    };
    let open = CancellationToken::new();
    tokio::spawn(serve(listener, subnet, port, open.clone(), inner.ending.clone()));
    guard(&inner.relays).insert(subnet.gateway, Relay { _open: open.drop_guard() });
    Ok(())
}

/// As a listener is bound as a rule; but Podman gives this machine its address in a network
/// only while a container runs in it.
fn listen(address: SocketAddr, kind: Kind) -> std::io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    if kind == Kind::Podman {
        rustix::net::sockopt::set_ip_freebind(&socket, true)?;
    }
    socket.bind(address)?;
    socket.listen(WAITING)
}

/// Closes the way from a network that is no more.
pub(crate) fn end(inner: &Inner, gateway: IpAddr) {
    guard(&inner.relays).remove(&gateway);
}

async fn serve(
    listener: TcpListener,
    subnet: Subnet,
    port: u16,
    open: CancellationToken,
    ending: CancellationToken,
) {
    loop {
        let accepted = tokio::select! {
            () = open.cancelled() => return,
            () = ending.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, from)) if subnet.has(from.ip()) => {
                let open = open.clone();
                tokio::spawn(async move {
                    tokio::select! {
                        () = open.cancelled() => {}
                        () = pass_on(stream, port) => {}
                    }
                });
            }
            Ok((_, from)) => tracing::warn!(%from, "refused a connection from outside a tenant's network"),
            Err(error) => {
                tracing::warn!(%error, "a container's connection could not be taken");
                tokio::time::sleep(AGAIN).await;
            }
        }
    }
}

async fn pass_on(mut from: TcpStream, port: u16) {
    let passed = async {
        let mut to = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
        to.set_nodelay(true)?;
        from.set_nodelay(true)?;
        tokio::io::copy_bidirectional(&mut from, &mut to).await
    };
    if let Err(error) = passed.await {
        tracing::debug!(%error, "a container's connection to the server broke");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_in_its_subnet_alone() {
        let subnet = Subnet::parse("172.18.0.0/16", "172.18.0.1").unwrap();
        for (address, inside) in
            [("172.18.9.9", true), ("172.19.0.1", false), ("127.0.0.1", false), ("::1", false)]
        {
            assert_eq!(subnet.has(address.parse().unwrap()), inside, "{address}");
        }
        assert!(Subnet::parse("0.0.0.0/0", "1.2.3.4/8").unwrap().has("9.9.9.9".parse().unwrap()));
        for (subnet, gateway) in [("", ""), ("172.18.0.0", "172.18.0.1"), ("x/16", "172.18.0.1")] {
            assert_eq!(Subnet::parse(subnet, gateway), None);
        }
    }
}
