//! Ports of this machine that lead into a virtual one.

use std::collections::BTreeSet;

use clawfarm_local::port::{Listener, check_free, is_held_by, listeners, tree_of};
use clawfarm_model::{ClawId, Error, Result};
use clawfarm_runtime::{PORTS, pick_port};
use clawfarm_shim::ShimState;

use crate::inner::Inner;
use crate::machine::forwards;
use crate::record::{self, MachineRecord};

/// A port for an instance's SSH that none of the others has.
pub(crate) fn pick_ssh(inner: &Inner, except: &ClawId, gateway: u16) -> Result<u16> {
    let mut taken = BTreeSet::from([gateway]);
    for id in record::ids(&inner.paths)?.iter().filter(|id| *id != except) {
        // What a damaged one has is seen when it is tried.
        if let Ok(Some(other)) = MachineRecord::read(&inner.dir(id)) {
            taken.extend(forwards(&other).iter().map(|forward| forward.host));
        }
    }
    pick_port(&PORTS, &taken)
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
