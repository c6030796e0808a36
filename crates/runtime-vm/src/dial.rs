//! Connecting to a machine's port, and to nobody else.
//!
//! QEMU listens on this machine's 127.0.0.1 for the guest. Whoever may open sockets here may
//! listen there while the machine is down; so before a connection is used, what listens must be
//! its QEMU, and after it is made, still be that.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use clawfarm_files::blocking;
use clawfarm_local::keeper;
use clawfarm_local::port::{Listener, taken};
use clawfarm_model::{ClawId, Code, Error, Result};
use clawfarm_runtime::Connection;
use clawfarm_shim::ShimState;
use tokio::net::TcpStream;

use crate::inner::Inner;
use crate::machine::{SSH, forwards};
use crate::record::MachineRecord;
use crate::{base, boot, ports};

/// How long a connection over the loopback device may take: only a full backlog delays it.
const CONNECT: Duration = Duration::from_secs(5);

/// [`clawfarm_runtime::Runtime::dial`], by the guest's port. Its SSH answers once it has booted,
/// as far as anybody who asks here is concerned.
pub(crate) async fn dial(inner: &Arc<Inner>, id: &ClawId, port: u16) -> Result<Box<dyn Connection>> {
    let up = keeper::is_up(&inner.dir(id)).await?;
    let (this, claw) = (Arc::clone(inner), id.clone());
    let (host, before) = blocking(move || look(&this, &claw, up, port)).await?;
    let connected = tokio::time::timeout(CONNECT, TcpStream::connect((Ipv4Addr::LOCALHOST, host))).await;
    let stream = connected.map_err(|_| nobody(id, port))?.map_err(|e| nobody(id, port).source(e))?;
    let now = blocking(move || ports::listening(host)).await?;
    if now.is_empty() || now.iter().any(|listener| !before.contains(listener)) {
        return Err(nobody(id, port));
    }
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%id, %error, "a connection goes on without TCP_NODELAY");
    }
    Ok(Box::new(stream))
}

/// The port of this machine that leads there, and who listens on it: the instance's QEMU alone.
fn look(inner: &Inner, id: &ClawId, up: bool, port: u16) -> Result<(u16, Vec<Listener>)> {
    let state = ShimState::read(&inner.dir(id))?.filter(|state| up && state.active);
    let Some(state) = state else {
        return Err(Error::new(Code::Unavailable, format!("'{id}' does not run"))
            .fix(format!("start it with `clawfarm start {id}`")));
    };
    let record = inner.record(id)?;
    base::check(&record)?;
    if port == SSH {
        boot::check(&record)?;
    } else if port == record.port && record.installed.is_some() {
        boot::check_folders(&record)?;
    }
    let host = leads_to(&record, port).ok_or_else(|| {
        Error::new(Code::Unavailable, format!("port {port} of '{id}' leads nowhere"))
            .field("port")
            .fix(format!("publish it when the machine is made: --publish HOST:{port}"))
    })?;
    let found = ports::listening(host)?;
    if found.is_empty() {
        return Err(nobody(id, port));
    }
    if !ports::is_own(&state, &found) {
        return Err(taken(host));
    }
    Ok((host, found))
}

fn leads_to(record: &MachineRecord, port: u16) -> Option<u16> {
    forwards(record).iter().find(|forward| forward.guest == port).map(|forward| forward.host)
}

fn nobody(id: &ClawId, port: u16) -> Error {
    Error::new(Code::Unavailable, format!("'{id}' does not listen on port {port} yet"))
        .field("port")
        .fix(format!("wait until it is ready, or look at its output with `clawfarm logs {id}`"))
}
