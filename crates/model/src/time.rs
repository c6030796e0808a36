//! Points in time, in UTC, to the millisecond (what the store keeps).

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::{PartialSchema, ToSchema};

/// A point in time: milliseconds since the Unix epoch, shown as RFC 3339 in UTC.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    /// Now, by this machine's clock.
    #[must_use]
    pub fn now() -> Self {
        Self(jiff::Timestamp::now().as_millisecond())
    }

    /// From milliseconds since the epoch, as the store keeps it. Times outside of what a
    /// calendar can show are brought to its edge.
    #[must_use]
    pub fn from_millis(millis: i64) -> Self {
        Self(millis.clamp(jiff::Timestamp::MIN.as_millisecond(), jiff::Timestamp::MAX.as_millisecond()))
    }

    /// Milliseconds since the epoch.
    #[must_use]
    pub const fn as_millis(self) -> i64 {
        self.0
    }

    /// This time and `duration` more.
    #[must_use]
    pub fn after(self, duration: Duration) -> Self {
        Self::from_millis(self.0.saturating_add(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)))
    }

    /// The time from `earlier` to this; zero when `earlier` is later (a clock stepped back).
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// Parses RFC 3339.
    ///
    /// # Errors
    /// When the text is no time with an offset.
    pub fn parse(text: &str) -> Result<Self, String> {
        text.parse::<jiff::Timestamp>()
            .map(|t| Self(t.as_millisecond()))
            .map_err(|_| format!("'{text}' is no RFC 3339 time such as 2026-11-21T07:36:40Z"))
    }

    pub(crate) fn to_jiff(self) -> jiff::Timestamp {
        let edge = if self.0 < 0 { jiff::Timestamp::MIN } else { jiff::Timestamp::MAX };
        // At the very edge the library does not take its own milliseconds back.
        jiff::Timestamp::from_millisecond(self.0).unwrap_or(edge)
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3}", self.to_jiff())
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Timestamp {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

impl PartialSchema for Timestamp {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        utoipa::openapi::ObjectBuilder::new()
            .schema_type(utoipa::openapi::schema::Type::String)
            .format(Some(utoipa::openapi::SchemaFormat::KnownFormat(utoipa::openapi::KnownFormat::DateTime)))
            .description(Some("RFC 3339, UTC, to the millisecond"))
            .into()
    }
}

impl ToSchema for Timestamp {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_and_reads_rfc_3339() {
        let t = Timestamp::from_millis(1_795_228_885_109);
        assert_eq!(t.to_string(), "2026-11-21T02:41:25.109Z");
        assert_eq!(Timestamp::parse("2026-11-21T02:41:25.109Z"), Ok(t));
        assert_eq!(Timestamp::parse("2026-11-21T03:41:25.109+01:00"), Ok(t));
        assert!(Timestamp::parse("yesterday").is_err());
    }

    #[test]
    fn a_clock_stepped_back_makes_no_negative_time() {
        let t = Timestamp::from_millis(1000);
        assert_eq!(t.since(t.after(Duration::from_secs(5))), Duration::ZERO);
        assert!(Timestamp::from_millis(i64::MAX).to_string().starts_with("9999"));
    }

    #[test]
    fn fuzz_times() {
        let seeds = ["2026-11-21T02:41:25.109Z", "2026-11-21T03:41:25+01:00", "-009999-01-02T01:59:59Z"];
        clawfarm_fuzz::fuzz_text(&seeds, |text| {
            if let Ok(time) = Timestamp::parse(text) {
                assert_eq!(Timestamp::parse(&time.to_string()), Ok(time), "{text:?}");
            }
        });
    }
}
