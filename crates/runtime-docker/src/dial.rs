//! Connecting to a claw, and to nobody else.
//!
//! The gateway is published on a loopback port that the engine holds for as long as the
//! container runs; that it does, and on which port, is asked before each connection. Other
//! ports are reached at the container's own address.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bollard::models::{ContainerInspectResponse, ContainerStateStatusEnum as Status};
use clawfarm_model::{ClawId, Code, Error, Result};
use clawfarm_runtime::Connection;
use tokio::net::TcpStream;

use crate::inner::Inner;
use crate::observe;
use crate::paths::PORT_IN;

/// How long a connection within this machine may take.
const CONNECT: Duration = Duration::from_secs(5);

/// [`clawfarm_runtime::Runtime::dial`].
pub(crate) async fn dial(inner: &Arc<Inner>, id: &ClawId, port: u16) -> Result<Box<dyn Connection>> {
    let found = observe::container(inner, id).await?;
    let running =
        found.filter(|found| found.state.as_ref().and_then(|state| state.status) == Some(Status::RUNNING));
    let Some(running) = running else {
        return Err(Error::new(Code::Unavailable, format!("'{id}' does not run"))
            .fix(format!("start it with `clawfarm start {id}`")));
    };
    let at = if published(&running) == Some(port) {
        SocketAddr::from((Ipv4Addr::LOCALHOST, port))
    } else {
        address(&running).map(|address| SocketAddr::from((address, port))).ok_or_else(|| nobody(id, port))?
    };
    let connected = tokio::time::timeout(CONNECT, TcpStream::connect(at)).await;
    let stream = connected.map_err(|_| nobody(id, port))?.map_err(|e| nobody(id, port).source(e))?;
    // Requests are written as a whole; waiting for more only delays them.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%id, %error, "a connection goes on without TCP_NODELAY");
    }
    Ok(Box::new(stream))
}

/// The port of this machine that the gateway is published on.
fn published(container: &ContainerInspectResponse) -> Option<u16> {
    let ports = container.network_settings.as_ref()?.ports.as_ref()?;
    let all = ports.get(&format!("{PORT_IN}/tcp"))?.as_ref()?;
    all.iter().find_map(|binding| binding.host_port.as_deref()?.parse().ok())
}

fn address(container: &ContainerInspectResponse) -> Option<Ipv4Addr> {
    let networks = container.network_settings.as_ref()?.networks.as_ref()?;
    networks.values().find_map(|network| network.ip_address.as_deref()?.parse().ok())
}

fn nobody(id: &ClawId, port: u16) -> Error {
    Error::new(Code::Unavailable, format!("'{id}' does not listen on port {port} yet"))
        .field("port")
        .fix(format!("wait until it is ready, or look at its output with `clawfarm logs {id}`"))
}
