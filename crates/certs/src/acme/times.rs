//! When things are done again.
//!
//! Times are written by one server and read by all, each with its own clock. A time that can't have
//! been written by a clock that is right is taken for none: nothing waits for a clock that was
//! wrong.

use std::time::Duration;

use clawfarm_model::Timestamp;

use super::Timing;
use super::record::Record;
use crate::Facts;

pub(super) const HOUR: Duration = Duration::from_secs(3600);
pub(super) const DAY: Duration = Duration::from_secs(24 * 3600);
/// How far the clocks of servers may be apart. More is a clock that is wrong.
const SKEW: Duration = HOUR;
/// How long an authority that refuses because of too many requests is left alone at least.
const RATE_LIMITED: Duration = HOUR;
/// By how much a wait is longer or shorter by chance.
const CHANCE: f64 = 0.2;

/// When an authority that does not say when to renew is asked again.
pub(super) const ASK_AGAIN: Duration = DAY;
/// The least and the most that an authority may ask for until it is asked again.
const ASK_BOUNDS: [Duration; 2] = [Duration::from_secs(60), DAY];

/// Whether a time is still to come, that was written as no further away than `most`.
pub(super) fn is_ahead(at: Option<Timestamp>, most: Duration, now: Timestamp) -> bool {
    at.is_some_and(|at| at > now && at <= now.after(most.saturating_add(SKEW)))
}

/// Whether something was, not longer than `span` ago.
pub(super) fn lately(at: Timestamp, span: Duration, now: Timestamp) -> bool {
    at <= now.after(SKEW) && now.since(at) < span
}

/// Whether a name that failed is left alone for now.
pub(super) fn waits(record: &Record, timing: &Timing, now: Timestamp) -> bool {
    is_ahead(record.again_at, timing.again_max.max(RATE_LIMITED).mul_f64(1.0 + CHANCE), now)
}

/// How long it is left alone after so many failures: each wait is four times the one before it,
/// more or less a fifth.
pub(super) fn wait(timing: &Timing, failures: u32, limited: bool, random: u32) -> Duration {
    let times = 4_u32.saturating_pow(failures.saturating_sub(1).min(12));
    let mut wait = timing.again.saturating_mul(times).min(timing.again_max);
    if limited {
        wait = wait.max(RATE_LIMITED);
    }
    wait.mul_f64(1.0 - CHANCE + 2.0 * CHANCE * fraction(random))
}

/// Whether a certificate is so new that no other is got by itself. Clocks that are wrong, and
/// authorities, call new ones old.
pub(super) fn rests(record: &Record, now: Timestamp) -> bool {
    record.failures == 0 && is_ahead(record.rest_until, DAY, now)
}

/// Whether the authority is to be asked when it wants one renewed.
pub(super) fn asks(record: &Record, now: Timestamp) -> bool {
    record.chain.is_some() && record.ask_at.is_some() && !is_ahead(record.ask_at, ASK_BOUNDS[1], now)
}

/// Writes down what follows from a new certificate: it is renewed with a third of its time left, and
/// up to a thirtieth of it earlier, so that what began together does not go on so.
pub(super) fn got(record: &mut Record, facts: &Facts, now: Timestamp, random: u32) {
    let life = facts.not_after.since(facts.not_before);
    let early = (life / 30).mul_f64(fraction(random));
    record.renew_at = Some(before(facts.not_after, life / 3 + early));
    // Half of what is left then: who is to renew it has had its time.
    record.late_at = Some(before(facts.not_after, life / 6));
    record.rest_until = Some(now.after(DAY.min(life / 2)));
    record.ask_at = Some(now);
    record.tried_at = Some(now);
    record.again_at = None;
    record.error = None;
    record.failures = 0;
}

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

fn before(at: Timestamp, by: Duration) -> Timestamp {
    Timestamp::from_millis(at.as_millis().saturating_sub(i64::try_from(by.as_millis()).unwrap_or(i64::MAX)))
}

/// From nought to one.
fn fraction(random: u32) -> f64 {
    f64::from(random) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(hours: i64) -> Timestamp {
        Timestamp::from_millis(1_000_000_000_000 + hours * 3_600_000)
    }

    #[test]
    fn the_authority_may_want_it_earlier_but_not_later() {
        let window = |from: i64, to: i64| Some(Window { from: at(from), to: at(to), again: HOUR });
        let mut record = Record { renew_at: Some(at(10)), ..Record::default() };
        asked(&mut record, window(20, 30), at(0), 0);
        assert_eq!((record.renew_at, record.ask_at, record.says_when), (Some(at(10)), Some(at(1)), true));
        asked(&mut record, window(4, 8), at(0), u32::MAX / 2);
        assert!(record.renew_at > Some(at(5)) && record.renew_at < Some(at(7)));
        asked(&mut record, window(-9, -8), at(0), 0);
        assert!(record.renew_at < Some(at(0)));
        asked(&mut record, None, at(0), 0);
        assert_eq!((record.ask_at, record.says_when), (Some(at(24)), false));
    }

    #[test]
    fn what_was_written_by_a_wrong_clock_is_not_waited_for() {
        let year = 24 * 365;
        let timing = Timing::default();
        let mut record = Record { chain: Some("chain".to_owned()), ..Record::default() };
        for (hours, right) in [(1, true), (12, true), (24, false), (year, false)] {
            record.again_at = Some(at(hours));
            assert_eq!(waits(&record, &timing, at(0)), right, "{hours}");
        }
        for (hours, asked) in [(0, true), (1, false), (24, false), (48, true), (year, true)] {
            record.ask_at = Some(at(hours));
            assert_eq!(asks(&record, at(0)), asked, "{hours}");
        }
        for (hours, rested) in [(0, false), (24, true), (48, false), (year, false)] {
            record.rest_until = Some(at(hours));
            assert_eq!(rests(&record, at(0)), rested, "{hours}");
        }
        assert!(lately(at(-1), DAY, at(0)) && lately(at(0).after(HOUR / 2), DAY, at(0)));
        assert!(!lately(at(-24), DAY, at(0)) && !lately(at(2), DAY, at(0)));
    }

    #[test]
    fn times_are_within_their_bounds() {
        let facts = |life: i64| Facts {
            names: vec![],
            issuer: String::new(),
            serial: String::new(),
            not_before: at(0),
            not_after: at(life),
        };
        let mut record = Record { failures: 2, again_at: Some(at(9)), ..Record::default() };
        got(&mut record, &facts(90), at(1), 0);
        assert_eq!((record.renew_at, record.late_at), (Some(at(60)), Some(at(75))));
        assert_eq!((record.rest_until, record.again_at, record.failures), (Some(at(25)), None, 0));
        got(&mut record, &facts(90), at(1), u32::MAX);
        assert_eq!(record.renew_at, Some(at(57)));
        // One for a day is renewed within it.
        got(&mut record, &facts(24), at(0), 0);
        assert!(record.rest_until < record.renew_at);

        let timing = Timing { again: HOUR, again_max: HOUR * 10, ..Timing::default() };
        assert!(wait(&timing, 1, false, 0) < HOUR && wait(&timing, 1, false, u32::MAX) > HOUR);
        assert!(wait(&timing, 2, false, 0) > HOUR * 3 && wait(&timing, 2, false, u32::MAX) < HOUR * 5);
        let longest = wait(&timing, 60, false, u32::MAX);
        assert!(longest <= HOUR * 12);
        record.again_at = Some(at(0).after(longest));
        assert!(waits(&record, &timing, at(0)), "the longest wait is one");
        let quick = Timing { again: Duration::from_secs(1), ..Timing::default() };
        assert!(wait(&quick, 1, true, 0) > HOUR / 2);
    }

    #[test]
    fn a_name_fails_no_more_often_than_lets_encrypt_allows() {
        let mut now = at(0);
        let mut tries = 1;
        for failures in 1.. {
            now = now.after(wait(&Timing::default(), failures, false, 0));
            if now > at(1) {
                break;
            }
            tries += 1;
        }
        assert!(tries <= 5, "{tries}");
    }
}
