//! Measurements, in Prometheus' text format.

use std::sync::OnceLock;
use std::time::Duration;

use clawfarm_model::Phase;
use http::{Method, StatusCode};
use metrics::{Unit, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

const DURATION: &str = "clawfarm_http_request_duration_seconds";
const INSTANCES: &str = "clawfarm_instances";
const QUEUE: &str = "clawfarm_reconcile_queue_length";
const STARTS: &str = "clawfarm_starts_waiting";
const WAKE: &str = "clawfarm_wake_seconds";
const PREWAKES: &str = "clawfarm_prewakes_total";
const BUILD: &str = "clawfarm_build_info";

/// From what a request over the socket takes to the limit of a plain one.
const BUCKETS: [f64; 11] = [0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0];

/// From what thawing takes to a slow start on a busy machine.
const WAKE_BUCKETS: [f64; 13] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0];

/// The process's recorder is global, so one is installed, however many servers a process has.
static HANDLE: OnceLock<Option<PrometheusHandle>> = OnceLock::new();

/// From taking a message of a service in until its claw had it.
const INBOX_DELAY: &str = "clawfarm_inbox_delay_seconds";
/// From a claw that was just awake again to one that was down for hours.
const DELAYS: [f64; 12] = [0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 300.0, 1800.0, 7200.0];

/// The measurements of this process.
pub(crate) struct Metrics {
    handle: Option<&'static PrometheusHandle>,
}

impl Metrics {
    /// Installs the process's recorder, if it has none yet. Where something else has put in
    /// another one, `/metrics` has nothing to show, and says so.
    pub(crate) fn install() -> Self {
        let handle = HANDLE
            .get_or_init(|| {
                PrometheusBuilder::new()
                    .set_buckets_for_metric(Matcher::Full(DURATION.to_owned()), &BUCKETS)
                    .and_then(|it| it.set_buckets_for_metric(Matcher::Full(WAKE.to_owned()), &WAKE_BUCKETS))
                    .and_then(|it| it.set_buckets_for_metric(Matcher::Full(INBOX_DELAY.to_owned()), &DELAYS))
                    .and_then(PrometheusBuilder::install_recorder)
                    .inspect_err(
                        |error| tracing::warn!(%error, "no measurements: another recorder is in place"),
                    )
                    .ok()
            })
            .as_ref();
        describe_histogram!(DURATION, Unit::Seconds, "Requests by route, method and status");
        describe_histogram!(INBOX_DELAY, Unit::Seconds, "From taking a message in until its claw had it");
        describe_gauge!(INSTANCES, "Live instances by phase");
        describe_gauge!(QUEUE, "Instances waiting for the reconciler");
        describe_gauge!(STARTS, "Instances waiting for their turn to start");
        describe_histogram!(WAKE, Unit::Seconds, "Parts of wakes");
        describe_counter!(PREWAKES, "Wakes by habit, by whether somebody came");
        describe_gauge!(BUILD, "1, labelled with the version that runs");
        gauge!(BUILD, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
        Self { handle }
    }

    /// Everything measured, as text.
    pub(crate) fn render(&self, phases: &[(Phase, u64)], queue: usize, starts: usize) -> Option<String> {
        let handle = self.handle?;
        for phase in Phase::ALL {
            let count = phases.iter().find(|(p, _)| *p == phase).map_or(0, |(_, count)| *count);
            gauge!(INSTANCES, "phase" => phase.as_str()).set(lossless(count));
        }
        gauge!(QUEUE).set(lossless(queue as u64));
        gauge!(STARTS).set(lossless(starts as u64));
        handle.run_upkeep();
        Some(in_order(&handle.render()))
    }
}

/// The same measurements, by name and then by labels: the recorder gives them in another order
/// each time, which is of no use to who compares two of them. A series of a histogram stays
/// together, with its buckets in the order they were in.
fn in_order(text: &str) -> String {
    let mut families: Vec<(&str, Vec<&str>, Vec<&str>)> = Vec::new();
    for line in text.lines().filter(|line| !line.is_empty()) {
        let about = line.strip_prefix("# HELP ").or_else(|| line.strip_prefix("# TYPE "));
        let name = about.map(|rest| rest.split(' ').next().unwrap_or(rest));
        if let Some(name) = name
            && families.last().is_none_or(|(last, ..)| *last != name)
        {
            families.push((name, Vec::new(), Vec::new()));
        }
        if families.is_empty() {
            families.push(("", Vec::new(), Vec::new()));
        }
        if let Some((_, heads, series)) = families.last_mut() {
            if name.is_some() { heads.push(line) } else { series.push(line) }
        }
    }
    families.sort_by_key(|(name, ..)| *name);
    let mut sorted = String::with_capacity(text.len());
    for (_, heads, mut series) in families {
        series.sort_by_key(|line| labels(line));
        for line in heads.into_iter().chain(series) {
            sorted.push_str(line);
            sorted.push('\n');
        }
        sorted.push('\n');
    }
    sorted
}

/// The labels of a line, without the bound of a bucket, which stands last.
fn labels(line: &str) -> &str {
    let within = line.split_once('{').and_then(|(_, rest)| rest.rsplit_once('}')).map_or("", |(l, _)| l);
    match within.rfind("le=\"") {
        Some(at) if at == 0 || within.as_bytes()[at - 1] == b',' => within[..at].trim_end_matches(','),
        _ => within,
    }
}

/// Counts here stay far below 2^52, up to which a float holds whole numbers.
#[allow(clippy::cast_precision_loss)]
const fn lossless(count: u64) -> f64 {
    count as f64
}

/// Records one request, by the template of its route so that ids make no series.
pub(crate) fn request(route: &str, method: &Method, status: StatusCode, took: Duration) {
    histogram!(
        DURATION,
        "route" => route.to_owned(),
        "method" => known(method),
        "status" => status.as_str().to_owned()
    )
    .record(took.as_secs_f64());
}

/// Anyone can invent methods; each must not become a series.
fn known(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        Method::HEAD => "HEAD",
        Method::OPTIONS => "OPTIONS",
        Method::PATCH => "PATCH",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn measurements_come_in_one_order() {
        let given = "# HELP z Z.\n# TYPE z gauge\nz{phase=\"warm\"} 0\nz{phase=\"booting\"} 2\n\n\
            # TYPE a histogram\na_bucket{r=\"/b\",le=\"0.5\"} 1\na_bucket{r=\"/b\",le=\"+Inf\"} 1\n\
            a_sum{r=\"/b\"} 3\na_count{r=\"/b\"} 1\na_bucket{r=\"/a\",le=\"0.5\"} 7\n\
            a_bucket{r=\"/a\",le=\"+Inf\"} 8\na_sum{r=\"/a\"} 9\na_count{r=\"/a\"} 8\n";
        let wanted = "# TYPE a histogram\na_bucket{r=\"/a\",le=\"0.5\"} 7\na_bucket{r=\"/a\",le=\"+Inf\"} 8\n\
            a_sum{r=\"/a\"} 9\na_count{r=\"/a\"} 8\na_bucket{r=\"/b\",le=\"0.5\"} 1\n\
            a_bucket{r=\"/b\",le=\"+Inf\"} 1\na_sum{r=\"/b\"} 3\na_count{r=\"/b\"} 1\n\n\
            # HELP z Z.\n# TYPE z gauge\nz{phase=\"booting\"} 2\nz{phase=\"warm\"} 0\n\n";
        assert_eq!(in_order(given), wanted);
        assert_eq!(in_order(wanted), wanted);
    }
}
