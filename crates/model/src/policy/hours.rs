//! The hours of the day in which a claw is up, by the clock of its person.

use std::fmt;
use std::str::FromStr;

use jiff::civil::{Date, Time, Weekday};
use jiff::tz::TimeZone;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use utoipa::openapi::schema::{ObjectBuilder, Type};
use utoipa::{PartialSchema, ToSchema};

use crate::error::{Code, Error, Result};
use crate::time::Timestamp;

/// The most windows that one policy may have.
const WINDOWS_MAX: usize = 32;

/// Hours in which a claw is up: it is not put to sleep in them, and one that sleeps is woken when
/// they begin. No windows: no such hours.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AwakeHours {
    /// The time zone, by its name in the IANA database.
    #[serde(default = "AwakeHours::utc")]
    #[schema(example = "Europe/Berlin", pattern = "^[A-Za-z0-9_+/-]{1,64}$")]
    pub zone: String,
    /// The windows.
    #[serde(default)]
    #[schema(max_items = 32)]
    pub windows: Vec<Window>,
}

impl Default for AwakeHours {
    fn default() -> Self {
        Self { zone: Self::utc(), windows: Vec::new() }
    }
}

impl AwakeHours {
    fn utc() -> String {
        "UTC".to_owned()
    }

    /// The zone, by the database that is part of the program: several servers agree on it.
    fn time_zone(&self) -> Result<TimeZone> {
        let plausible = (1..=64).contains(&self.zone.len())
            && self.zone.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '+' | '/' | '-'));
        let found = plausible.then(|| TimeZone::get(&self.zone).ok()).flatten();
        found.ok_or_else(|| {
            let shown: String = self.zone.chars().take(60).flat_map(char::escape_default).collect();
            // Which names there are is the database's, and another one's tomorrow.
            let code = if plausible { Code::Unsupported } else { Code::InvalidInput };
            Error::new(code, format!("'{shown}' is no time zone that is known here"))
                .field("hours.zone")
                .fix("give a name of the IANA database, such as Europe/Berlin or UTC")
        })
    }

    /// Checks the zone and the number of windows.
    ///
    /// # Errors
    /// Names the field.
    pub fn check(&self) -> Result<()> {
        if self.windows.len() > WINDOWS_MAX {
            return Err(Error::invalid(
                "hours.windows",
                format!("{} windows are too many", self.windows.len()),
            )
            .fix(format!("give at most {WINDOWS_MAX}")));
        }
        self.time_zone().map(drop)
    }

    /// When the window that `now` is in ends; of several the last.
    #[must_use]
    pub fn until(&self, now: Timestamp) -> Option<Timestamp> {
        self.spans(now).filter(|(start, end)| *start <= now && now < *end).map(|(_, end)| end).max()
    }

    /// When the next window begins after `after`.
    #[must_use]
    pub fn next_start(&self, after: Timestamp) -> Option<Timestamp> {
        self.spans(after).map(|(start, _)| start).filter(|start| *start > after).min()
    }

    /// The windows from the day before `around` to the eighth day after it, as times. A window
    /// that begins in an hour which its day leaves out (the clocks go forward) begins an hour
    /// later, as jiff's "compatible" rule says.
    fn spans(&self, around: Timestamp) -> impl Iterator<Item = (Timestamp, Timestamp)> {
        let zone = if self.windows.is_empty() { None } else { self.time_zone().ok() };
        let today = zone.as_ref().map(|zone| around.to_jiff().to_zoned(zone.clone()).date());
        let mut spans = Vec::new();
        if let (Some(zone), Some(mut day)) = (zone, today.and_then(|today| today.yesterday().ok())) {
            for _ in 0..10 {
                let of_day = self.windows.iter().filter(|window| window.days.has(day.weekday()));
                spans.extend(of_day.filter_map(|window| window.on(day, &zone)));
                let Ok(next) = day.tomorrow() else { break };
                day = next;
            }
        }
        spans.into_iter()
    }
}

/// Days of the week, as bits from Monday on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Days(u8);

const NAMES: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

impl Days {
    const ALL: Self = Self(0x7f);

    fn has(self, day: Weekday) -> bool {
        self.0 & (1 << day.to_monday_zero_offset()) != 0
    }

    fn parse(text: &str) -> Option<Self> {
        let day = |name: &str| NAMES.iter().position(|it| it.eq_ignore_ascii_case(name));
        let mut bits = 0_u8;
        for part in text.split(',') {
            match part.split_once('-') {
                Some((first, last)) => {
                    let (mut at, last) = (day(first)?, day(last)?);
                    loop {
                        bits |= 1 << at;
                        if at == last {
                            break;
                        }
                        at = (at + 1) % 7;
                    }
                }
                None => bits |= 1 << day(part)?,
            }
        }
        Some(Self(bits))
    }
}

/// The name of a day between each two of the pieces of a pattern.
macro_rules! days {
    ($first:literal $(, $then:literal)*) => {
        concat!(
            $first
            $(,
                "([Mm][Oo][Nn]|[Tt][Uu][Ee]|[Ww][Ee][Dd]|[Tt][Hh][Uu]|[Ff][Rr][Ii]|[Ss][Aa][Tt]|[Ss][Uu][Nn])",
                $then
            )*
        )
    };
}

/// A span of hours on some days of the week: `mon-fri 09:00-18:00`, `sat,sun 10:00-14:00`, or
/// `22:00-06:00` for every day, until the next morning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    days: Days,
    /// Minutes from midnight.
    from: u16,
    /// Minutes from midnight, up to 24:00. Not after `from`: of the next day; the same: a whole day.
    to: u16,
}

impl Window {
    /// What its text may look like.
    pub const PATTERN: &'static str = concat!(
        days!("^(", "(-", ")?(,", "(-", ")?)* )?"),
        "([01][0-9]|2[0-3]):[0-5][0-9]-(([01][0-9]|2[0-3]):[0-5][0-9]|24:00)$",
    );

    fn on(self, day: Date, zone: &TimeZone) -> Option<(Timestamp, Timestamp)> {
        let last = if self.to > self.from { day } else { day.tomorrow().ok()? };
        Some((at(day, self.from, zone)?, at(last, self.to, zone)?))
    }
}

fn at(day: Date, minutes: u16, zone: &TimeZone) -> Option<Timestamp> {
    // 24:00 is the next day's 00:00.
    let day = if minutes == 24 * 60 { day.tomorrow().ok()? } else { day };
    let minutes = minutes % (24 * 60);
    let time = Time::new(i8::try_from(minutes / 60).ok()?, i8::try_from(minutes % 60).ok()?, 0, 0).ok()?;
    let zoned = day.to_datetime(time).to_zoned(zone.clone()).ok()?;
    Some(Timestamp::from_millis(zoned.timestamp().as_millisecond()))
}

fn minutes(text: &str) -> Option<u16> {
    let (hours, minutes) = text.split_once(':')?;
    if hours.len() != 2 || minutes.len() != 2 {
        return None;
    }
    let digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit()).then(|| part.parse::<u16>().ok())?;
    let (hours, minutes) = (digits(hours)?, digits(minutes)?);
    (minutes < 60 && hours * 60 + minutes <= 24 * 60).then_some(hours * 60 + minutes)
}

impl FromStr for Window {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (days, hours) = match text.split_once(' ') {
            Some((days, hours)) => (Days::parse(days), hours),
            None => (Some(Days::ALL), text),
        };
        let span = hours.split_once('-').and_then(|(from, to)| Some((minutes(from)?, minutes(to)?)));
        match (days, span) {
            (Some(days), Some((from, to))) if from < 24 * 60 => Ok(Self { days, from, to }),
            _ => {
                let shown: String = text.chars().take(60).flat_map(char::escape_default).collect();
                Err(Error::invalid("hours.windows", format!("'{shown}' is no span of hours"))
                    .fix("write it as 'mon-fri 09:00-18:00', or '09:00-18:00' for every day"))
            }
        }
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.days != Days::ALL {
            let days: Vec<_> =
                (0..7).filter(|day| self.days.0 & (1 << day) != 0).map(|day| NAMES[day]).collect();
            write!(f, "{} ", days.join(","))?;
        }
        let (from, to) = (self.from, self.to);
        write!(f, "{:02}:{:02}-{:02}:{:02}", from / 60, from % 60, to / 60, to % 60)
    }
}

impl Serialize for Window {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Window {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(|error: Error| {
            serde::de::Error::custom(format!("{}; {}", error.message(), error.fix_text().unwrap_or_default()))
        })
    }
}

impl PartialSchema for Window {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        ObjectBuilder::new()
            .schema_type(Type::String)
            .pattern(Some(Self::PATTERN))
            .description(Some("Hours on some days of the week, or on every day; an end that is not after the beginning is the next day's."))
            .examples([serde_json::json!("mon-fri 09:00-18:00")])
            .into()
    }
}

impl ToSchema for Window {}

#[cfg(test)]
mod tests {
    use super::*;

    fn hours(zone: &str, windows: &[&str]) -> AwakeHours {
        AwakeHours { zone: zone.into(), windows: windows.iter().map(|text| text.parse().unwrap()).collect() }
    }

    fn time(text: &str) -> Timestamp {
        Timestamp::parse(text).unwrap()
    }

    #[test]
    fn windows_are_read_and_shown() {
        for (text, shown) in [
            ("09:00-18:00", "09:00-18:00"),
            ("mon-fri 09:00-18:00", "mon,tue,wed,thu,fri 09:00-18:00"),
            ("Sat,SUN 10:30-24:00", "sat,sun 10:30-24:00"),
            ("sat-mon 22:00-06:00", "mon,sat,sun 22:00-06:00"),
            ("mon-sun 00:00-12:00", "00:00-12:00"),
            ("09:00-09:00", "09:00-09:00"),
        ] {
            let window: Window = text.parse().unwrap();
            assert_eq!(window.to_string(), shown);
            assert_eq!(shown.parse::<Window>().unwrap(), window);
        }
        for text in [
            "",
            "9-18",
            "09:00",
            "mon-tue-wed 09:00-10:00",
            "25:00-26:00",
            "24:00-06:00",
            "mon 09:00",
            "xyz 09:00-10:00",
            "09:60-10:00",
            "mon- 09:00-10:00",
            "+9:00-10:00",
        ] {
            let error = text.parse::<Window>().unwrap_err();
            assert_eq!(error.field_name(), Some("hours.windows"), "{text}");
        }
    }

    #[test]
    fn a_zone_that_is_none_is_said_so() {
        assert!(hours("Europe/Berlin", &[]).check().is_ok());
        for zone in ["", "Berlin/Europe", "../../etc/localtime", "Europe/Berlin\n"] {
            assert_eq!(hours(zone, &[]).check().unwrap_err().field_name(), Some("hours.zone"), "{zone:?}");
        }
    }

    #[test]
    fn office_hours_in_berlin() {
        // 2026-11-20 is a Friday; Berlin is an hour ahead of UTC.
        let office = hours("Europe/Berlin", &["mon-fri 09:00-18:00"]);
        assert_eq!(office.until(time("2026-11-20T09:00:00Z")), Some(time("2026-11-20T17:00:00Z")));
        assert_eq!(office.until(time("2026-11-20T07:59:59Z")), None);
        assert_eq!(office.until(time("2026-11-20T17:00:00Z")), None);
        assert_eq!(office.next_start(time("2026-11-20T07:00:00Z")), Some(time("2026-11-20T08:00:00Z")));
        assert_eq!(
            office.next_start(time("2026-11-20T08:00:00Z")),
            Some(time("2026-11-23T08:00:00Z")),
            "over the weekend"
        );
        assert_eq!(hours("UTC", &[]).next_start(time("2026-11-20T08:00:00Z")), None);
    }

    #[test]
    fn a_night_goes_over_midnight_and_over_a_change_of_the_clocks() {
        let night = hours("Europe/Berlin", &["22:00-06:00"]);
        assert_eq!(night.until(time("2026-11-20T23:30:00Z")), Some(time("2026-11-21T05:00:00Z")));
        assert_eq!(night.until(time("2026-11-21T04:00:00Z")), Some(time("2026-11-21T05:00:00Z")));
        // On 2026-03-29 the clocks go from 02:00 to 03:00: the night is an hour shorter.
        assert_eq!(night.until(time("2026-03-28T21:30:00Z")), Some(time("2026-03-29T04:00:00Z")));
        // A window that begins in the hour that is left out begins an hour later.
        let odd = hours("Europe/Berlin", &["02:30-05:00"]);
        assert_eq!(odd.next_start(time("2026-03-28T23:00:00Z")), Some(time("2026-03-29T01:30:00Z")));
    }

    #[test]
    fn an_end_at_the_beginning_is_a_day_later() {
        let day = hours("UTC", &["fri 09:00-09:00"]);
        assert_eq!(day.until(time("2026-11-20T09:00:00Z")), Some(time("2026-11-21T09:00:00Z")));
        assert_eq!(day.until(time("2026-11-20T08:59:00Z")), None);
    }

    #[test]
    fn windows_that_follow_each_other() {
        let both = hours("UTC", &["09:00-12:00", "11:00-18:00"]);
        assert_eq!(both.until(time("2026-11-20T11:30:00Z")), Some(time("2026-11-20T18:00:00Z")));
        assert_eq!(both.next_start(time("2026-11-20T09:30:00Z")), Some(time("2026-11-20T11:00:00Z")));
    }
}
