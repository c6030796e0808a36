//! Who may act on what, when several servers share one database: shards, and the numbers
//! that keep a server which lost its share from writing or acting.
//!
//! The instances of a target are divided into shards; a server holds the lease on a shard
//! and reconciles its instances. Each time a lease changes hands its **epoch** grows. A write
//! of the reconciler carries the epoch it was decided under, and the store refuses an older
//! one than the lease's; a runtime that can keep the epoch beside its instances refuses acts
//! of an older one.

use std::fmt;

use crate::clawid::ClawId;
use crate::error::{Code, Error};
use crate::name::TargetName;
use crate::target::Target;

/// Shards of a target that any server reaches. Enough for an even share among a dozen
/// servers, few enough that all leases are read at every heartbeat. Servers of two versions
/// work side by side only while they agree on it, so it never changes.
pub const SHARDS: u32 = 64;

/// The right to reconcile one shard of a target, as it was given out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fence {
    /// The target.
    pub target: TargetName,
    /// Which shard of it.
    pub shard: u32,
    /// How often, by its number, the lease had changed hands: grows with each change.
    pub epoch: i64,
}

impl Fence {
    /// The error of a write or an act under a lease that is no longer held. It is told apart
    /// by [`is_fenced`]; whoever gets it drops what it was doing.
    #[must_use]
    pub fn refused(&self) -> Error {
        Error::new(
            Code::Conflict,
            format!(
                "the lease on shard {} of target '{}' is another server's by now",
                self.shard, self.target
            ),
        )
        .field("lease")
        .fix("nothing is to be done: the server that holds it goes on")
        .source(Fenced { epoch: self.epoch })
    }
}

#[derive(Debug)]
struct Fenced {
    epoch: i64,
}

impl fmt::Display for Fenced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "epoch {} is over", self.epoch)
    }
}

impl std::error::Error for Fenced {}

/// Whether an error says that a lease was lost ([`Fence::refused`]).
#[must_use]
pub fn is_fenced(error: &Error) -> bool {
    std::error::Error::source(error).is_some_and(<dyn std::error::Error>::is::<Fenced>)
}

impl Target {
    /// Into how many shards its instances are divided: one where a single server reaches it,
    /// [`SHARDS`] where any does.
    #[must_use]
    pub const fn shards(&self) -> u32 {
        if self.reachable_from.is_some() { 1 } else { SHARDS }
    }
}

impl ClawId {
    /// Which of `shards` shards it belongs to, the same on every server and in every version:
    /// FNV-1a of its text (<http://www.isthe.com/chongo/tech/comp/fnv>), mixed once more as
    /// MurmurHash3 does at its end, because ids differ in their last characters only.
    #[must_use]
    pub fn shard(&self, shards: u32) -> u32 {
        let hash = self
            .as_str()
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
        let mixed = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
        let mixed = mixed ^ (mixed >> 33);
        u32::try_from(mixed % u64::from(shards.max(1))).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_are_even_and_never_change() {
        let ids = (0..6400).map(|n| ClawId::new(format!("load-{n:05}")).unwrap());
        let mut counts = [0; SHARDS as usize];
        for id in ids {
            counts[id.shard(SHARDS) as usize] += 1;
        }
        assert!(counts.iter().all(|n| (60..=150).contains(n)), "{counts:?}");
        // Golden: another version must put an instance into the same shard.
        let shard = |text: &str| ClawId::new(text).unwrap().shard(SHARDS);
        assert_eq!([shard("alice-x7k2m"), shard("bob-22222"), shard("a")], GOLDEN);
        assert_eq!(ClawId::new("alice-x7k2m").unwrap().shard(1), 0);
    }

    const GOLDEN: [u32; 3] = [0, 32, 13];

    #[test]
    fn a_lost_lease_is_told_apart_from_other_conflicts() {
        let fence = Fence { target: TargetName::new("sim").unwrap(), shard: 3, epoch: 7 };
        assert!(is_fenced(&fence.refused()));
        assert!(!is_fenced(&Error::new(Code::Conflict, "x").field("lease")));
        assert!(!is_fenced(&Error::new(Code::Conflict, "x").source(std::io::Error::other("y"))));
    }
}
