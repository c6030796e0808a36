//! Medians, and rows of a table.

use std::time::Duration;

/// The middle one.
pub(crate) fn median(mut all: Vec<Duration>) -> Duration {
    all.sort_unstable();
    all.get(all.len() / 2).copied().unwrap_or_default()
}

pub(crate) fn row(what: &str, figure: &str, beside: &str, ratio: &str) {
    println!("| {what} | {figure} | {beside} | {ratio} |");
}

pub(crate) fn seconds(time: Duration) -> String {
    format!("{:.2} s", time.as_secs_f64())
}

pub(crate) fn millis(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1000.0)
}
