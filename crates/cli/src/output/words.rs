//! Figures in the form people read them.

use std::time::Duration;

use clawfarm_model::Timestamp;

/// A point in time without its fraction, in UTC: `2026-11-21 07:36:40`.
pub(crate) fn clock(at: Timestamp) -> String {
    let text = at.to_string();
    // RFC 3339 as `Timestamp` writes it: 19 characters to the second.
    text.get(..19).unwrap_or(&text).replace('T', " ")
}

/// A span: `0.4 s`, `31.2 s`, `4 min 10 s`, `2 h 5 min`, `3 d 4 h`.
pub(crate) fn duration(span: Duration) -> String {
    let secs = span.as_secs();
    match secs {
        0..=99 => format!("{:.1} s", span.as_secs_f64()),
        100..=5_999 => format!("{} min {} s", secs / 60, secs % 60),
        6_000..=172_799 => format!("{} h {} min", secs / 3_600, secs % 3_600 / 60),
        _ => format!("{} d {} h", secs / 86_400, secs % 86_400 / 3_600),
    }
}

/// How long ago something was.
pub(crate) fn passed(at: Timestamp) -> String {
    duration(Timestamp::now().since(at))
}

/// An amount of memory or disk: `812 B`, `4.0 KiB`, `1.2 GiB`.
pub(crate) fn bytes(amount: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    if amount < 1024 {
        return format!("{amount} B");
    }
    #[expect(clippy::cast_precision_loss, reason = "one decimal is shown")]
    let mut value = amount as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit < UNITS.len() - 1 {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_read_well() {
        assert_eq!(clock(Timestamp::from_millis(1_795_228_885_109)), "2026-11-21 02:41:25");
        assert_eq!(duration(Duration::from_millis(430)), "0.4 s");
        assert_eq!(duration(Duration::from_secs(250)), "4 min 10 s");
        assert_eq!(duration(Duration::from_secs(7_500)), "2 h 5 min");
        assert_eq!(duration(Duration::from_secs(273_600)), "3 d 4 h");
        assert_eq!(bytes(812), "812 B");
        assert_eq!(bytes(1_288_490_188), "1.2 GiB");
    }
}
