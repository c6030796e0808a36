//! At which hours of the day a claw is usually used, by its own past.
//!
//! Simple on purpose: for each hour of the day (UTC) the number of days on which it was used in
//! it. An hour counts as usual when that was so on half of the days, of which there must be three.

use clawfarm_model::Timestamp;
use serde::{Deserialize, Serialize};

const HOUR: i64 = 3_600_000;
const DAY: i64 = 24 * HOUR;
/// Days before anything is taken for a habit.
const DAYS_LEAST: u32 = 3;
/// Days after which the past counts half: a new habit is taken on within two weeks.
const DAYS_MOST: u32 = 28;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Habit {
    /// The day, counted from 1970, that is being gathered.
    day: i64,
    /// The hours of it with use, as bits.
    hours: u32,
    /// Days before it.
    days: u32,
    /// On how many of those it was used, by hour.
    used: [u32; 24],
}

impl Habit {
    /// It was used at this time.
    pub(super) fn used(&mut self, at: Timestamp) {
        let (day, hour) = (at.as_millis().div_euclid(DAY), at.as_millis().rem_euclid(DAY) / HOUR);
        if day > self.day {
            self.close(day);
        }
        if day == self.day {
            self.hours |= 1 << hour;
        }
    }

    /// Ends the day that is being gathered; days on which nobody came count as well.
    fn close(&mut self, day: i64) {
        if self.day > 0 {
            for (hour, used) in self.used.iter_mut().enumerate() {
                *used += (self.hours >> hour) & 1;
            }
            let passed = u32::try_from(day - self.day).unwrap_or(u32::MAX).min(DAYS_MOST);
            self.days += passed;
        }
        while self.days > DAYS_MOST {
            self.days = self.days.div_ceil(2);
            for used in &mut self.used {
                *used /= 2;
            }
        }
        (self.day, self.hours) = (day, 0);
    }

    /// When the next hour begins in which it is usually used.
    pub(super) fn next(&self, after: Timestamp) -> Option<Timestamp> {
        if self.days < DAYS_LEAST {
            return None;
        }
        let hour = after.as_millis().div_euclid(HOUR);
        (1..=24).map(|ahead| hour + ahead).find_map(|hour| {
            let of_day = usize::try_from(hour.rem_euclid(24)).ok()?;
            (self.used[of_day] * 2 >= self.days).then(|| Timestamp::from_millis(hour * HOUR))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(day: i64, hour: i64) -> Timestamp {
        Timestamp::from_millis((20_000 + day) * DAY + hour * HOUR + 1_000)
    }

    #[test]
    fn a_habit_is_taken_on_after_three_days_and_left_in_time() {
        let mut habit = Habit::default();
        for day in 0..3 {
            assert_eq!(habit.next(at(day, 12)), None, "too early to tell");
            habit.used(at(day, 9));
            habit.used(at(day, 9));
        }
        habit.used(at(3, 15));
        assert_eq!(habit.next(at(3, 8)), Some(Timestamp::from_millis(at(3, 9).as_millis() - 1_000)));
        assert_eq!(habit.next(at(3, 9)), Some(Timestamp::from_millis(at(4, 9).as_millis() - 1_000)));
        // Days on which nobody came at nine.
        for day in 4..12 {
            habit.used(at(day, 20));
        }
        assert_eq!(habit.next(at(12, 8)), Some(Timestamp::from_millis(at(12, 20).as_millis() - 1_000)));
    }

    #[test]
    fn a_long_absence_and_a_clock_set_back_do_no_harm() {
        let mut habit = Habit::default();
        (0..5).for_each(|day| habit.used(at(day, 9)));
        habit.used(at(4_000, 9));
        assert_eq!(habit.next(at(4_000, 1)), None);
        let before = habit.clone();
        habit.used(at(3, 9));
        assert_eq!(habit, before);
    }
}
