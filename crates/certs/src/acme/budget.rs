//! How many names may get their first certificate: authorities count them, and strangers ask for
//! them.

use std::time::Duration;

use clawfarm_model::Timestamp;
use serde::{Deserialize, Serialize};

use super::record::Kept;
use super::times::{DAY, HOUR, lately};
use super::{Owner, Timing};

/// In which first certificates are counted (Let's Encrypt: new certificates of a registered domain).
const WEEK: Duration = DAY.saturating_mul(7);

/// Something that is counted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Counted {
    pub(super) at: Timestamp,
    /// The tenant it was for; none for the base domain.
    #[serde(default)]
    pub(super) tenant: Option<String>,
}

/// Whether a claw's name may get its first certificate now.
pub(super) fn may_begin(kept: &Kept, owner: Option<&Owner>, timing: &Timing, now: Timestamp) -> bool {
    has_room(&kept.issued, WEEK, timing.weekly, owner, now)
        && has_room(&kept.tried, HOUR, timing.hourly, owner, now)
}

/// Whether all that there may be within seven days have been.
pub(super) fn is_used_up(kept: &Kept, timing: &Timing, now: Timestamp) -> bool {
    !has_room(&kept.issued, WEEK, timing.weekly, None, now)
}

/// Of several tenants none may have more than half.
fn has_room(counted: &[Counted], span: Duration, most: usize, owner: Option<&Owner>, now: Timestamp) -> bool {
    let recent = || counted.iter().filter(|it| lately(it.at, span, now));
    let shared = owner.filter(|owner| !owner.alone);
    recent().count() < most
        && shared.is_none_or(|owner| {
            recent().filter(|it| it.tenant.as_ref() == Some(&owner.tenant)).count() < most.div_ceil(2)
        })
}

/// The first certificates that still count, with one more.
pub(super) fn issued(counted: &[Counted], owner: Option<&Owner>, now: Timestamp) -> Vec<Counted> {
    with(counted, WEEK, owner, now)
}

/// The tries that still count, with one more.
pub(super) fn tried(counted: &[Counted], owner: Option<&Owner>, now: Timestamp) -> Vec<Counted> {
    with(counted, HOUR, owner, now)
}

fn with(counted: &[Counted], span: Duration, owner: Option<&Owner>, now: Timestamp) -> Vec<Counted> {
    let one = Counted { at: now, tenant: owner.map(|owner| owner.tenant.clone()) };
    counted.iter().filter(|it| lately(it.at, span, now)).cloned().chain([one]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(hours: i64) -> Timestamp {
        Timestamp::from_millis(1_000_000_000_000 + hours * 3_600_000)
    }

    fn of(tenant: &str) -> Owner {
        Owner { tenant: tenant.to_owned(), alone: false }
    }

    #[test]
    fn so_many_a_week_and_tries_an_hour() {
        let timing = Timing { weekly: 2, hourly: 2, ..Timing::default() };
        let alone = Owner { alone: true, ..of("a") };
        let may = |kept: &Kept, now| may_begin(kept, Some(&alone), &timing, now);
        let mut kept = Kept { issued: issued(&[], Some(&alone), at(0)), ..Kept::default() };
        assert!(may(&kept, at(1)));
        kept.issued = issued(&kept.issued, Some(&alone), at(1));
        assert!(!may(&kept, at(1)) && is_used_up(&kept, &timing, at(1)));
        assert!(may(&kept, at(24 * 7)), "the first counts no more");
        assert_eq!(issued(&kept.issued, None, at(24 * 7)).len(), 2);
        let mut kept = Kept::default();
        for _ in 0..2 {
            assert!(may(&kept, at(1)));
            kept.tried = tried(&kept.tried, Some(&alone), at(1));
        }
        assert!(!may(&kept, at(1)) && may(&kept, at(2)));
    }

    #[test]
    fn one_tenant_leaves_half_to_the_others() {
        let timing = Timing { weekly: 4, ..Timing::default() };
        let mut kept = Kept::default();
        for _ in 0..2 {
            assert!(may_begin(&kept, Some(&of("a")), &timing, at(0)));
            kept.issued = issued(&kept.issued, Some(&of("a")), at(0));
        }
        assert!(!may_begin(&kept, Some(&of("a")), &timing, at(0)));
        assert!(may_begin(&kept, Some(&of("b")), &timing, at(0)));
        assert!(!is_used_up(&kept, &timing, at(0)));
        let alone = Owner { alone: true, ..of("a") };
        assert!(may_begin(&kept, Some(&alone), &timing, at(0)), "nobody is there to leave it to");
    }

    #[test]
    fn what_a_wrong_clock_counted_does_not_count() {
        let timing = Timing { weekly: 1, ..Timing::default() };
        let kept = Kept { issued: issued(&[], None, at(24 * 365)), ..Kept::default() };
        assert!(may_begin(&kept, None, &timing, at(0)));
        assert_eq!(issued(&kept.issued, None, at(0)).len(), 1);
    }
}
