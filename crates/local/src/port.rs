//! Ports on the loopback device: who listens there.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use clawfarm_model::{Code, Error, Result};
use procfs::net::{TcpNetEntry, TcpState};
use procfs::process::{FDTarget, Process};

/// Refuses a port that something listens on.
///
/// # Errors
/// `Conflict` on `port`, with who holds it; `InvalidInput` when the server's user may not use it.
pub fn check_free(port: u16) -> Result<()> {
    bind(port).map_err(|error| match error.kind() {
        std::io::ErrorKind::AddrInUse => taken(port),
        std::io::ErrorKind::PermissionDenied => {
            Error::invalid("port", format!("the server's user may not use port {port}"))
                .fix("choose a port above 1023")
                .source(error)
        }
        _ => Error::internal(format!("port {port} could not be tried"), error).field("port"),
    })
}

/// Binds the port for an instant. Rust sets `SO_REUSEADDR`, so connections of an earlier
/// claw that are still closing do not count, but a listener does.
fn bind(port: u16) -> std::io::Result<()> {
    TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).map(drop)
}

/// The error about a port that someone else listens on, with who it is where that can be seen.
#[must_use]
pub fn taken(port: u16) -> Error {
    let holder = listeners(port)
        .ok()
        .and_then(|found| found.iter().find_map(|l| holder_of(l.inode)))
        .map_or_else(|| "another program".to_owned(), |(pid, name)| format!("process {pid} ({name})"));
    Error::new(Code::Conflict, format!("port {port} is held by {holder}"))
        .field("port")
        .fix("choose another port, or end that program")
}

/// A socket that listens where a connection to `127.0.0.1` would go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Which socket.
    pub inode: u64,
    /// Whose.
    pub uid: u32,
}

/// Everything that a connection to `127.0.0.1:port` could reach. More than one when someone
/// listens on the one address and someone else on all of them.
///
/// # Errors
/// `Internal` when the sockets can't be listed.
pub fn listeners(port: u16) -> Result<Vec<Listener>> {
    listeners_at(Ipv4Addr::LOCALHOST, port)
}

/// The same for another address of the loopback device.
///
/// # Errors
/// As for [`listeners`].
pub fn listeners_at(ip: Ipv4Addr, port: u16) -> Result<Vec<Listener>> {
    let unreadable = |e| Error::internal("the sockets of this machine could not be listed", e);
    let mut found: Vec<TcpNetEntry> = procfs::net::tcp().map_err(unreadable)?;
    // Without IPv6 there is no such file.
    found.extend(procfs::net::tcp6().unwrap_or_default());
    found.retain(|entry| {
        entry.state == TcpState::Listen
            && entry.local_address.port() == port
            && reached(ip, entry.local_address)
    });
    // The kernel prefers the exact address to "all of them".
    if found.iter().any(|entry| is_exact(ip, entry.local_address)) {
        found.retain(|entry| is_exact(ip, entry.local_address));
    }
    Ok(found.iter().map(|entry| Listener { inode: entry.inode, uid: entry.uid }).collect())
}

fn reached(ip: Ipv4Addr, address: SocketAddr) -> bool {
    address.ip().is_unspecified() || is_exact(ip, address)
}

fn is_exact(ip: Ipv4Addr, address: SocketAddr) -> bool {
    match address {
        SocketAddr::V4(v4) => *v4.ip() == ip,
        SocketAddr::V6(v6) => v6.ip().to_ipv4_mapped() == Some(ip),
    }
}

/// Whether one of these processes has the socket open.
#[must_use]
pub fn is_held_by(inode: u64, pids: &BTreeSet<i32>) -> bool {
    pids.iter().filter_map(|pid| Process::new(*pid).ok()).any(|process| has_socket(&process, inode))
}

/// A process that has the socket open, and its name.
fn holder_of(inode: u64) -> Option<(i32, String)> {
    let process =
        procfs::process::all_processes().ok()?.flatten().find(|process| has_socket(process, inode))?;
    let name: String = process.stat().ok()?.comm.chars().filter(|c| !c.is_control()).collect();
    Some((process.pid(), name))
}

fn has_socket(process: &Process, inode: u64) -> bool {
    let Ok(fds) = process.fd() else { return false };
    fds.flatten().any(|fd| matches!(fd.target, FDTarget::Socket(found) if found == inode))
}

/// A process and everything below it, by parent.
#[must_use]
pub fn tree_of(root: i32) -> BTreeSet<i32> {
    let mut children: std::collections::BTreeMap<i32, Vec<i32>> = std::collections::BTreeMap::new();
    for process in procfs::process::all_processes().into_iter().flatten().flatten() {
        if let Ok(stat) = process.stat() {
            children.entry(stat.ppid).or_default().push(stat.pid);
        }
    }
    let mut tree = BTreeSet::new();
    let mut next = vec![root];
    while let Some(pid) = next.pop() {
        if tree.insert(pid) {
            next.extend(children.get(&pid).into_iter().flatten());
        }
    }
    tree
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_names_its_holder() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let error = check_free(port).unwrap_err();
        assert_eq!((error.code(), error.field_name()), (Code::Conflict, Some("port")));
        assert!(error.message().contains(&format!("process {}", std::process::id())), "{error}");
        let found = listeners(port).unwrap();
        assert_eq!(found.len(), 1);
        let me = i32::try_from(std::process::id()).unwrap();
        assert!(is_held_by(found[0].inode, &tree_of(me)));
        assert!(!is_held_by(found[0].inode, &BTreeSet::from([1])));
        drop(listener);
        check_free(port).unwrap();
    }
}
