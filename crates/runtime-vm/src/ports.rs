//! Ports of this machine that lead into a virtual one.

use std::collections::{BTreeMap, BTreeSet};

use clawfarm_local::port::{Listener, check_free, is_held_by, listeners, tree_of};
use clawfarm_model::vm::VmSpec;
use clawfarm_model::{ClawId, Code, Error, Result};
use clawfarm_runtime::{PORTS, pick_port};
use clawfarm_shim::ShimState;

use crate::inner::Inner;
use crate::machine::forwards;
use crate::record::{self, MachineRecord};

/// What others than root may listen on begins here, unless the kernel says otherwise.
const UNPRIVILEGED: u16 = 1024;
const FIRST: &str = "/proc/sys/net/ipv4/ip_unprivileged_port_start";

/// The ports of this machine that lead to instances.
pub(crate) fn of_all(inner: &Inner) -> Result<impl Iterator<Item = u16>> {
    Ok(of_others(inner, None)?.into_keys())
}

/// The same with whose each is, without one's.
fn of_others(inner: &Inner, except: Option<&ClawId>) -> Result<BTreeMap<u16, ClawId>> {
    let mut taken = BTreeMap::new();
    for id in record::ids(&inner.paths)?.into_iter().filter(|id| Some(id) != except) {
        // What a damaged one has is seen when it is tried.
        if let Ok(Some(other)) = MachineRecord::read(&inner.dir(&id)) {
            taken.extend(forwards(&other).iter().map(|forward| (forward.host, id.clone())));
        }
    }
    Ok(taken)
}

/// A port for an instance's SSH that none of the others has, and itself for nothing else.
pub(crate) fn pick_ssh(inner: &Inner, id: &ClawId, own: &[u16]) -> Result<u16> {
    let mut taken: BTreeSet<u16> = of_others(inner, Some(id))?.into_keys().collect();
    taken.extend(own);
    pick_port(&PORTS, &taken)
}

/// The ports that somebody chose for a machine.
pub(crate) fn chosen(vm: &VmSpec, gateway: u16) -> Vec<u16> {
    vm.publish.iter().map(|port| port.host).chain([gateway]).collect()
}

/// Refuses the ports of a new machine that it could never have: those that only root may listen
/// on, which no QEMU is, and those of other machines, also while these are down. To be called by
/// whoever holds what ports are chosen under.
pub(crate) fn check_new(inner: &Inner, id: Option<&ClawId>, vm: &VmSpec, gateway: Option<u16>) -> Result<()> {
    let first = std::fs::read_to_string(FIRST).ok();
    let first = first.and_then(|text| text.trim().parse().ok()).unwrap_or(UNPRIVILEGED);
    let others = of_others(inner, id)?;
    let published = vm.publish.iter().enumerate();
    let published = published.map(|(number, port)| (port.host, format!("vm.publish[{number}].host")));
    for (port, field) in published.chain(gateway.map(|port| (port, "port".to_owned()))) {
        if port < first {
            return Err(Error::invalid(&field, format!("port {port} of this machine is for root's programs, and QEMU is none"))
                .fix(format!(
                    "choose one from {first} on (a server such as nginx can pass {port} on to it), or give more ports to all users: sysctl net.ipv4.ip_unprivileged_port_start={port}"
                )));
        }
        if let Some(other) = others.get(&port) {
            return Err(Error::new(
                Code::Conflict,
                format!("port {port} of this machine leads to '{other}'"),
            )
            .field(&field)
            .fix(format!("choose another one, or remove '{other}'")));
        }
    }
    Ok(())
}

/// Refuses what something listens on: the gateway's port by the name that lets another be
/// chosen, a published one by its own.
pub(crate) fn check(record: &MachineRecord) -> Result<()> {
    for (number, port) in record.vm.publish.iter().enumerate() {
        check_free(port.host).map_err(|error| named(&error, &format!("vm.publish[{number}].host")))?;
    }
    check_free(record.port)
}

fn named(error: &Error, field: &str) -> Error {
    let text = error.message().to_owned();
    Error::new(error.code(), text)
        .field(field)
        .fix("end the program that listens there, then start it again; or make it anew with another port")
}

/// Whether something listens on a port.
pub(crate) fn is_free(port: u16) -> bool {
    check_free(port).is_ok()
}

/// Whether all that listens on a port is this instance's QEMU.
pub(crate) fn is_own(state: &ShimState, found: &[Listener]) -> bool {
    let own = |listener: &Listener| {
        if let Some(uid) = state.uid {
            return listener.uid == uid;
        }
        i32::try_from(state.shim_pid).is_ok_and(|shim| is_held_by(listener.inode, &tree_of(shim)))
    };
    !found.is_empty() && found.iter().all(own)
}

/// Who listens on a port.
pub(crate) fn listening(port: u16) -> Result<Vec<Listener>> {
    listeners(port)
}
