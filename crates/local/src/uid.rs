//! A user id of each instance's own.
//!
//! The range is one that systemd documents as unused ("Users, Groups, UIDs and GIDs on
//! systemd Systems": 1879048192..2147483647, `0x70000000`-`0x7FFFFFFF`), so no person, no
//! service, no container and no dynamic user has one of these. Ids above it are trouble for
//! programs that keep a user id in a signed number.

use std::collections::BTreeSet;
use std::path::Path;

use clawfarm_model::{ClawId, Code, Error, Result};
use sha2::{Digest, Sha256};

/// The first id that is given out.
pub const FIRST_UID: u32 = 1_879_048_192;
/// The last id that is given out.
pub const LAST_UID: u32 = 2_147_483_647;

const COUNT: u64 = (LAST_UID - FIRST_UID) as u64 + 1;

/// Whether a user id is one of those that clawfarm gives to instances.
#[must_use]
pub const fn is_ours(uid: u32) -> bool {
    FIRST_UID <= uid && uid <= LAST_UID
}

/// The user id for a new instance: derived from home and id, so that two servers with
/// different homes on one machine hardly ever meet, and moved on past the ids that are `taken`.
///
/// # Errors
/// `Insufficient` when all are taken.
pub fn choose(home: &Path, id: &ClawId, taken: &BTreeSet<u32>) -> Result<u32> {
    use std::os::unix::ffi::OsStrExt;
    let mut hash = Sha256::new();
    hash.update(home.as_os_str().as_bytes());
    hash.update([0]);
    hash.update(id.as_str());
    let digest = hash.finalize();
    let mut first = [0_u8; 8];
    first.copy_from_slice(&digest[..8]);
    let start = u64::from_be_bytes(first) % COUNT;
    (0..COUNT)
        .map(|step| FIRST_UID + u32::try_from((start + step) % COUNT).unwrap_or(0))
        .find(|uid| !taken.contains(uid))
        .ok_or_else(|| Error::new(Code::Insufficient, "every user id for instances is taken"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_stable_and_its_neighbour_is_taken_when_it_is_gone() {
        let (home, id) = (Path::new("/srv/farm"), ClawId::new("alice-x7k2").unwrap());
        let uid = choose(home, &id, &BTreeSet::new()).unwrap();
        assert!(is_ours(uid));
        assert_eq!(choose(home, &id, &BTreeSet::new()).unwrap(), uid);
        let next = choose(home, &id, &BTreeSet::from([uid])).unwrap();
        assert_eq!(next, if uid == LAST_UID { FIRST_UID } else { uid + 1 });
        assert_ne!(choose(Path::new("/srv/other"), &id, &BTreeSet::new()).unwrap(), uid);
    }
}
