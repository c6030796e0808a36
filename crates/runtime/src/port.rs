//! Choosing a port of this machine.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, TcpListener};
use std::ops::RangeInclusive;

use clawfarm_model::{Code, Error, Result};

/// Where gateways' ports are chosen from: below 32768, where Linux begins to give ports to
/// outgoing connections (`ip_local_port_range`), so that none of those sits on a claw's port.
pub const PORTS: RangeInclusive<u16> = 20_000..=29_999;

/// A port of `ports` that is not in `taken` and that can be bound on the loopback device
/// now. Begins at a random one, so that two servers on a machine seldom meet; who meets all
/// the same is told by the start, and picks again.
///
/// # Errors
/// `Insufficient` when none is left.
pub fn pick(ports: &RangeInclusive<u16>, taken: &BTreeSet<u16>) -> Result<u16> {
    let count = u32::from(ports.end() - ports.start()) + 1;
    let mut bytes = [0_u8; 4];
    getrandom::fill(&mut bytes).map_err(|e| Error::internal("no random bytes can be had", e.to_string()))?;
    let begin = u32::from_le_bytes(bytes) % count;
    (0..count)
        .filter_map(|n| u16::try_from((begin + n) % count).ok().map(|offset| ports.start() + offset))
        .find(|port| !taken.contains(port) && TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok())
        .ok_or_else(|| {
            Error::new(
                Code::Insufficient,
                format!("no port from {} to {} is free on this machine", ports.start(), ports.end()),
            )
            .field("port")
            .fix("remove instances that are no longer needed, or give one with --port")
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_picks_what_is_taken_or_bound() {
        let held = TcpListener::bind((Ipv4Addr::LOCALHOST, pick(&PORTS, &BTreeSet::new()).unwrap())).unwrap();
        let bound = held.local_addr().unwrap().port();
        // All but the bound port and one other are taken.
        let mut taken: BTreeSet<u16> = PORTS.collect();
        taken.remove(&bound);
        assert_eq!(pick(&PORTS, &taken).unwrap_err().code(), Code::Insufficient);
        let free = (*PORTS.start()..)
            .find(|p| *p != bound && TcpListener::bind((Ipv4Addr::LOCALHOST, *p)).is_ok())
            .unwrap();
        taken.remove(&free);
        assert_eq!(pick(&PORTS, &taken).unwrap(), free);
    }
}
