//! What is due, and when: decided apart from being done.

use std::time::Duration;

use clawfarm_model::Timestamp;

use super::Timing;
use super::record::{Kept, Record, Wish};
use crate::Facts;

/// In which new names are counted.
const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);
/// How long an authority that refuses because of too many requests is left alone at least.
const RATE_LIMITED: Duration = Duration::from_secs(3600);

/// When an authority that does not say when to renew is asked again.
pub(super) const ASK_AGAIN: Duration = Duration::from_secs(24 * 3600);
/// The least and the most that an authority may ask for until it is asked again.
const ASK_BOUNDS: [Duration; 2] = [Duration::from_secs(60), Duration::from_secs(24 * 3600)];

/// When an authority wants a certificate renewed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    pub(super) from: Timestamp,
    pub(super) to: Timestamp,
    /// In how long to ask again.
    pub(super) again: Duration,
}

/// Takes what the authority said: a time within its window, when that is earlier than ours.
pub(super) fn asked(record: &mut Record, window: Option<Window>, now: Timestamp, random: u32) {
    record.says_when = window.is_some();
    let again = window.map_or(ASK_AGAIN, |window| window.again.clamp(ASK_BOUNDS[0], ASK_BOUNDS[1]));
    record.ask_at = Some(now.after(again));
    if let Some(window) = window {
        let within = window.from.after(window.to.since(window.from).mul_f64(fraction(random)));
        // A window that is over is one to renew in at once.
        record.renew_at = Some(record.renew_at.map_or(within, |ours| ours.min(within)));
    }
}

/// What to do about a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// A certificate is to be had.
    Get(String),
    /// The authority is to be asked when it wants one renewed.
    Ask(String),
}

/// What is due now, what people wait for first.
pub(super) fn due(
    kept: &Kept,
    base: &(String, Vec<String>),
    directory: &str,
    weekly: usize,
    now: Timestamp,
) -> Vec<Due> {
    let mut due = Vec::new();
    let may_begin = may_begin(kept, weekly, now);
    // The base domain is for all who come, and is counted but never held back.
    match kept.records.get(&base.0) {
        Some(record) if !wants(record, Some(&base.1), directory, kept.wishes.get(&base.0), now) => {}
        _ => due.push(Due::Get(base.0.clone())),
    }
    for (name, wish) in kept.wishes.iter().filter(|(name, _)| **name != base.0) {
        match kept.records.get(name) {
            None if may_begin && *wish == Wish::Have => due.push(Due::Get(name.clone())),
            None => {}
            Some(record) if wants(record, None, directory, Some(wish), now) => {
                due.push(Due::Get(name.clone()));
            }
            Some(_) => {}
        }
    }
    for (name, record) in &kept.records {
        let there = due.iter().any(|it| matches!(it, Due::Get(other) if other == name));
        if there {
            continue;
        }
        if *name != base.0 && wants(record, None, directory, None, now) {
            due.push(Due::Get(name.clone()));
        } else if record.chain.is_some() && record.ask_at.is_some_and(|at| at <= now) {
            due.push(Due::Ask(name.clone()));
        }
    }
    due
}

/// Whether another name may get its first certificate now.
pub(super) fn may_begin(kept: &Kept, weekly: usize, now: Timestamp) -> bool {
    kept.orders.iter().filter(|at| now.since(**at) < WEEK).count() < weekly
}

fn wants(
    record: &Record,
    names: Option<&Vec<String>>,
    directory: &str,
    wish: Option<&Wish>,
    now: Timestamp,
) -> bool {
    if wish == Some(&Wish::Renew) {
        return true;
    }
    if record.again_at.is_some_and(|at| at > now) {
        return false;
    }
    let other = names.is_some_and(|names| *names != record.names) || record.directory != directory;
    record.chain.is_none() || other || record.renew_at.is_some_and(|at| at <= now)
}

/// When a certificate is renewed: with a third of its time left, and up to a thirtieth of it
/// earlier, so that what began together does not go on so.
pub(super) fn renew_at(facts: &Facts, random: u32) -> Timestamp {
    let life = facts.not_after.since(facts.not_before);
    let early = (life / 30).mul_f64(fraction(random));
    before(facts.not_after, life / 3 + early)
}

/// When it is tried again after so many failures: each wait is four times the one before it, more
/// or less a fifth.
pub(super) fn again_at(
    timing: &Timing,
    failures: u32,
    limited: bool,
    now: Timestamp,
    random: u32,
) -> Timestamp {
    let times = 4_u32.saturating_pow(failures.saturating_sub(1).min(12));
    let mut wait = timing.again.saturating_mul(times).min(timing.again_max);
    if limited {
        wait = wait.max(RATE_LIMITED);
    }
    now.after(wait.mul_f64(0.8 + 0.4 * fraction(random)))
}

/// The orders that still count, with one more.
pub(super) fn counted(orders: &[Timestamp], now: Timestamp) -> Vec<Timestamp> {
    orders.iter().copied().filter(|at| now.since(*at) < WEEK).chain([now]).collect()
}

fn before(at: Timestamp, by: Duration) -> Timestamp {
    Timestamp::from_millis(at.as_millis().saturating_sub(i64::try_from(by.as_millis()).unwrap_or(i64::MAX)))
}

/// From nought to one.
pub(super) fn fraction(random: u32) -> f64 {
    f64::from(random) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn at(hours: i64) -> Timestamp {
        Timestamp::from_millis(1_000_000_000_000 + hours * 3_600_000)
    }

    fn base() -> (String, Vec<String>) {
        ("c.test".to_owned(), vec!["c.test".to_owned()])
    }

    fn good(name: &str, renew: i64) -> Record {
        let mut record = Record::new(vec![name.to_owned()], "d");
        record.chain = Some("chain".to_owned());
        record.renew_at = Some(at(renew));
        record
    }

    fn get(name: &str) -> Due {
        Due::Get(name.to_owned())
    }

    #[test]
    fn what_is_missing_or_near_its_end_is_due() {
        let mut kept = Kept::default();
        assert_eq!(due(&kept, &base(), "d", 5, at(0)), [get("c.test")]);
        kept.records.insert("c.test".into(), good("c.test", 10));
        kept.records.insert("a.c.test".into(), good("a.c.test", 5));
        assert_eq!(due(&kept, &base(), "d", 5, at(0)), []);
        assert_eq!(due(&kept, &base(), "d", 5, at(7)), [get("a.c.test")]);
        assert_eq!(due(&kept, &base(), "d", 5, at(10)), [get("c.test"), get("a.c.test")]);
        // Another authority, and other names.
        assert_eq!(due(&kept, &base(), "e", 5, at(0)).len(), 2);
        let wild = ("c.test".to_owned(), vec!["c.test".to_owned(), "*.c.test".to_owned()]);
        assert_eq!(due(&kept, &wild, "d", 5, at(0)), [get("c.test")]);
        kept.records.get_mut("a.c.test").unwrap().ask_at = Some(at(1));
        assert_eq!(due(&kept, &base(), "d", 5, at(1)), [Due::Ask("a.c.test".into())]);
    }

    #[test]
    fn what_failed_is_left_alone_for_a_while_unless_somebody_asks() {
        let mut kept = Kept::default();
        let mut failed = Record::new(vec!["c.test".to_owned()], "d");
        failed.again_at = Some(at(2));
        kept.records.insert("c.test".into(), failed);
        assert_eq!(due(&kept, &base(), "d", 5, at(1)), []);
        assert_eq!(due(&kept, &base(), "d", 5, at(2)), [get("c.test")]);
        kept.wishes.insert("c.test".into(), Wish::Have);
        assert_eq!(due(&kept, &base(), "d", 5, at(1)), []);
        kept.wishes.insert("c.test".into(), Wish::Renew);
        assert_eq!(due(&kept, &base(), "d", 5, at(1)), [get("c.test")]);
    }

    #[test]
    fn only_so_many_new_names_a_week() {
        let mut kept = Kept::default();
        kept.records.insert("c.test".into(), good("c.test", 1000));
        kept.wishes.insert("a.c.test".into(), Wish::Have);
        kept.orders = vec![at(0), at(1)];
        assert_eq!(due(&kept, &base(), "d", 2, at(2)), []);
        assert_eq!(due(&kept, &base(), "d", 3, at(2)), [get("a.c.test")]);
        assert_eq!(due(&kept, &base(), "d", 2, at(7 * 24 + 1)), [get("a.c.test")]);
        assert_eq!(counted(&kept.orders, at(7 * 24)), [at(1), at(7 * 24)]);
        // A renewal is not counted.
        kept.records.insert("a.c.test".into(), good("a.c.test", 1));
        assert_eq!(due(&kept, &base(), "d", 2, at(2)), [get("a.c.test")]);
    }

    #[test]
    fn the_authority_may_want_it_earlier_but_not_later() {
        let window = |from: i64, to: i64| Some(Window { from: at(from), to: at(to), again: HOUR });
        let mut record = good("c.test", 10);
        asked(&mut record, window(20, 30), at(0), 0);
        assert_eq!((record.renew_at, record.ask_at, record.says_when), (Some(at(10)), Some(at(1)), true));
        asked(&mut record, window(4, 8), at(0), u32::MAX / 2);
        assert!(record.renew_at > Some(at(5)) && record.renew_at < Some(at(6)).max(Some(at(7))));
        asked(&mut record, window(-9, -8), at(0), 0);
        assert!(record.renew_at < Some(at(0)));
        asked(&mut record, None, at(0), 0);
        assert_eq!((record.ask_at, record.says_when), (Some(at(24)), false));
    }

    #[test]
    fn times_are_within_their_bounds() {
        let facts = Facts {
            names: vec![],
            issuer: String::new(),
            serial: String::new(),
            not_before: at(0),
            not_after: at(90),
        };
        assert_eq!(renew_at(&facts, 0), at(60));
        assert_eq!(renew_at(&facts, u32::MAX), at(57));
        let timing = Timing { again: HOUR, again_max: HOUR * 10, ..Timing::default() };
        assert_eq!(
            again_at(&timing, 1, false, at(0), u32::MAX / 2).as_millis() / 1000,
            at(1).as_millis() / 1000 - 1
        );
        assert!(again_at(&timing, 2, false, at(0), 0) > at(3));
        assert!(again_at(&timing, 2, false, at(0), u32::MAX) < at(5));
        assert!(again_at(&timing, 60, false, at(0), u32::MAX) <= at(12));
        let quick = Timing { again: Duration::from_secs(1), ..Timing::default() };
        assert!(again_at(&quick, 1, true, at(0), 0) > at(0).after(HOUR / 2));
        // Let's Encrypt's five an hour.
        let usual = Timing::default();
        let mut now = at(0);
        let mut tries = 1;
        for failures in 1.. {
            now = again_at(&usual, failures, false, now, 0);
            if now > at(1) {
                break;
            }
            tries += 1;
        }
        assert!(tries <= 5, "{tries}");
    }
}
