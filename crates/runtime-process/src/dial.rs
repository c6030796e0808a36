//! Connecting to a claw, and to nobody else.
//!
//! Whoever may open sockets on this machine may listen on a claw's port while the claw does
//! not: another claw, to be sent the gateway's token. So before a connection is used, the
//! socket that listens there must belong to a process of the claw. Who owns it is found out
//! once for each launch and socket, and looked at again after a second. A claw can end at any
//! moment, and another take its port in the next: so after each connection, and before a byte
//! is sent over it, the socket that listens must still be that one.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clawfarm_model::{ClawId, Code, Error, Result};
use clawfarm_runtime::Connection;
use clawfarm_shim::ShimState;
use tokio::net::TcpStream;

use crate::inner::{Inner, guard};
use crate::observe;
use crate::port::{self, Listener};
use clawfarm_files::blocking;

/// How long the owner of a port is taken for granted.
const FRESH: Duration = Duration::from_secs(1);
/// How long a connection over the loopback device may take: only a full backlog delays it.
const CONNECT: Duration = Duration::from_secs(5);

/// A port that was found to be the claw's.
#[derive(Clone, Debug)]
pub(crate) struct Verified {
    run: i64,
    port: u16,
    listeners: Vec<Listener>,
    at: Instant,
}

/// [`clawfarm_runtime::Runtime::dial`].
pub(crate) async fn dial(inner: &Arc<Inner>, id: &ClawId, port: u16) -> Result<Box<dyn Connection>> {
    // Once more for a claw that was started anew since its port was looked at.
    for _ in 0..2 {
        let fresh = guard(&inner.verified)
            .get(id)
            .filter(|known| known.port == port && known.at.elapsed() < FRESH)
            .cloned();
        let known = match fresh {
            Some(known) => known,
            None => verify(inner, id, port).await?,
        };
        let connected = tokio::time::timeout(CONNECT, TcpStream::connect((Ipv4Addr::LOCALHOST, port))).await;
        let stream = connected.map_err(|_| nobody(id, port))?.map_err(|e| {
            guard(&inner.verified).remove(id);
            nobody(id, port).source(e)
        })?;
        let now = blocking(move || port::listeners(port)).await?;
        if now.is_empty() || now.iter().any(|listener| !known.listeners.contains(listener)) {
            guard(&inner.verified).remove(id);
            continue;
        }
        // Requests are written as a whole; waiting for more only delays them.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%id, %error, "a connection goes on without TCP_NODELAY");
        }
        return Ok(Box::new(stream));
    }
    Err(nobody(id, port))
}

/// [`clawfarm_runtime::Runtime::dial_at`]: who listens is looked at for each connection, of which
/// there are few.
pub(crate) async fn dial_at(
    inner: &Arc<Inner>,
    id: &ClawId,
    address: SocketAddr,
) -> Result<Box<dyn Connection>> {
    let port = address.port();
    let SocketAddr::V4(v4) = address else { return Err(nobody(id, port)) };
    let ip = *v4.ip();
    if ip == Ipv4Addr::LOCALHOST {
        return dial(inner, id, port).await;
    }
    let up = observe::is_up(inner, id).await?;
    let look = |this: Arc<Inner>, claw: ClawId| move || owned(&this, &claw, up, ip, port);
    let before = blocking(look(Arc::clone(inner), id.clone())).await?;
    let connected = tokio::time::timeout(CONNECT, TcpStream::connect(address)).await;
    let stream = connected.map_err(|_| nobody(id, port))?.map_err(|e| nobody(id, port).source(e))?;
    // Before a byte is sent, the socket that listens must still be that one.
    let now = blocking(move || port::listeners_at(ip, port)).await?;
    if now.is_empty() || now.iter().any(|listener| !before.contains(listener)) {
        return Err(nobody(id, port));
    }
    Ok(Box::new(stream))
}

/// The sockets that listen at an address, all of them the claw's.
fn owned(inner: &Inner, id: &ClawId, up: bool, ip: Ipv4Addr, port: u16) -> Result<Vec<Listener>> {
    let state = ShimState::read(&inner.dir(id))?.filter(|state| up && state.active);
    let Some(state) = state else {
        return Err(Error::new(Code::Unavailable, format!("'{id}' does not run"))
            .fix(format!("start it with `clawfarm start {id}`")));
    };
    let listeners = port::listeners_at(ip, port)?;
    if listeners.is_empty() {
        return Err(nobody(id, port));
    }
    if listeners.iter().any(|listener| !is_of(&state, *listener)) {
        return Err(port::taken(port));
    }
    Ok(listeners)
}

async fn verify(inner: &Arc<Inner>, id: &ClawId, port: u16) -> Result<Verified> {
    let known = guard(&inner.verified).get(id).cloned();
    let (this, claw) = (Arc::clone(inner), id.clone());
    let up = observe::is_up(inner, id).await?;
    let verified = blocking(move || {
        let state = ShimState::read(&this.dir(&claw))?.filter(|state| up && state.active);
        let Some(state) = state else {
            return Err(Error::new(Code::Unavailable, format!("'{claw}' does not run"))
                .fix(format!("start it with `clawfarm start {claw}`")));
        };
        check(&claw, &state, port, known)
    })
    .await;
    match verified {
        Ok(found) => {
            guard(&inner.verified).insert(id.clone(), found.clone());
            Ok(found)
        }
        Err(error) => {
            guard(&inner.verified).remove(id);
            Err(error)
        }
    }
}

fn check(id: &ClawId, state: &ShimState, port: u16, known: Option<Verified>) -> Result<Verified> {
    let listeners = port::listeners(port)?;
    if listeners.is_empty() {
        return Err(nobody(id, port));
    }
    let same = known.filter(|known| known.run == state.run && known.port == port);
    for listener in &listeners {
        if same.as_ref().is_some_and(|known| known.listeners.contains(listener)) || is_of(state, *listener) {
            // With several listeners on one address the kernel chooses: all must be its own.
            continue;
        }
        return Err(port::taken(port));
    }
    Ok(Verified { run: state.run, port, listeners, at: Instant::now() })
}

/// Whether a listening socket belongs to the claw: to its own user, or else to a process
/// below its shim.
fn is_of(state: &ShimState, listener: Listener) -> bool {
    if let Some(uid) = state.uid {
        return listener.uid == uid;
    }
    let Ok(shim) = i32::try_from(state.shim_pid) else { return false };
    port::is_held_by(listener.inode, &port::tree_of(shim))
}

fn nobody(id: &ClawId, port: u16) -> Error {
    Error::new(Code::Unavailable, format!("'{id}' does not listen on port {port} yet"))
        .field("port")
        .fix(format!("wait until it is ready, or look at its output with `clawfarm logs {id}`"))
}
