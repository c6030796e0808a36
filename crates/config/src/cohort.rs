//! Who gets a new configuration first.

use clawfarm_model::ClawId;
use sha2::{Digest as _, Sha256};

/// The order in which a configuration reaches its instances. It is the same for each revision, so
/// that it is always the same instances that go first, and another for each configuration, so
/// that nobody is always first.
#[derive(Clone, Debug)]
pub struct Cohort {
    seed: [u8; 32],
}

impl Cohort {
    /// The order of a configuration, by what names it for good.
    #[must_use]
    pub fn of(configuration: &str) -> Self {
        Self { seed: Sha256::digest(configuration.as_bytes()).into() }
    }

    /// An instance's place: those with a smaller one go first.
    #[must_use]
    pub fn place(&self, id: &ClawId) -> u64 {
        let digest: [u8; 32] =
            Sha256::new().chain_update(self.seed).chain_update(id.as_str().as_bytes()).finalize().into();
        digest.iter().take(8).fold(0, |all, byte| all << 8 | u64::from(*byte))
    }

    /// The instances in their order.
    #[must_use]
    pub fn order(&self, mut ids: Vec<ClawId>) -> Vec<ClawId> {
        // By id where two have one place, so that it is an order for any two.
        ids.sort_by_cached_key(|id| (self.place(id), id.clone()));
        ids
    }
}

/// How many of `all` are `percent` of them: never none of some, and all only for 100.
#[must_use]
pub fn share(all: usize, percent: u8) -> usize {
    match percent {
        0 => 0,
        100.. => all,
        percent => (all * usize::from(percent)).div_ceil(100).min(all.saturating_sub(1)).max(all.min(1)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(count: usize) -> Vec<ClawId> {
        (0..count).map(|n| format!("claw-{n:05}").parse().unwrap()).collect()
    }

    #[test]
    fn the_first_stay_the_first_when_others_come_and_go() {
        let cohort = Cohort::of("default/base");
        let all = cohort.order(ids(1_000));
        let mut fewer = ids(1_000);
        fewer.retain(|id| !cohort.place(id).is_multiple_of(3));
        let fewer = cohort.order(fewer);
        let kept: Vec<_> = all.iter().filter(|id| !cohort.place(id).is_multiple_of(3)).cloned().collect();
        assert_eq!(fewer, kept);
    }

    #[test]
    fn each_configuration_has_its_own_order() {
        let first = |name: &str| Cohort::of(name).order(ids(1_000)).into_iter().take(50).collect::<Vec<_>>();
        let (one, other) = (first("a"), first("b"));
        assert_eq!(one, first("a"));
        // Of 50 among 1,000, two and a half meet by chance.
        assert!(one.iter().filter(|id| other.contains(id)).count() < 20);
    }

    #[test]
    fn a_share_is_never_none_of_some() {
        assert_eq!([share(3, 1), share(1, 1), share(0, 50), share(3, 100), share(3, 99)], [1, 1, 0, 3, 2]);
        assert_eq!([share(10_000, 5), share(10, 0), share(200, 50)], [500, 0, 100]);
    }
}
