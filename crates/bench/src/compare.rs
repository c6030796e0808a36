//! `clawfarm-bench compare A B`: two servers, measured in turn in one run.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use crate::database::Kind;
use crate::scale::{Figures, Plan, measure};

/// How big the fleet is.
pub(crate) struct Settings {
    pub(crate) rounds: usize,
    pub(crate) size: usize,
    pub(crate) plan: Plan,
}

/// What is compared: its name, and where it stands in the figures.
type Row = (&'static str, fn(&Figures) -> f64);

const ROWS: &[Row] = &[
    ("one creation accepted, ms", |f| 1000.0 / f.creates_per_sec),
    ("all ready, s", |f| f.all_ready.as_secs_f64()),
    ("get p50, ms", |f| millis(f.load.get.percentile(50))),
    ("get p95, ms", |f| millis(f.load.get.percentile(95))),
    ("list p50, ms", |f| millis(f.load.list.percentile(50))),
    ("list p95, ms", |f| millis(f.load.list.percentile(95))),
    ("patch p50, ms", |f| millis(f.load.patch.percentile(50))),
    ("patch p95, ms", |f| millis(f.load.patch.percentile(95))),
    ("memory at rest, MiB", |f| f.memory_mib),
    ("processor at rest, %", |f| f.rest_cpu_percent),
];

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// Measures both in turn (A, B, B, A, A, B …, so that neither always comes first), and prints
/// the medians and their ratio: below 1, B needs less.
pub(crate) async fn run(a: &Path, b: &Path, database: Kind, settings: &Settings) -> Result<()> {
    let (mut of_a, mut of_b) = (Vec::new(), Vec::new());
    for round in 0..settings.rounds {
        let mut turns = [(a, &mut of_a), (b, &mut of_b)];
        if round % 2 == 1 {
            turns.reverse();
        }
        for (binary, figures) in turns {
            figures.push(measure(binary, database, settings.size, &settings.plan).await?);
        }
    }
    println!("| {} instances, {} | A | B | B / A |", settings.size, database.name());
    println!("|---|---|---|---|");
    for (what, figure) in ROWS {
        let (of_a, of_b) = (median(&of_a, *figure), median(&of_b, *figure));
        println!("| {what} | {of_a:.2} | {of_b:.2} | {:.2} |", of_b / of_a);
    }
    Ok(())
}

fn median(all: &[Figures], figure: fn(&Figures) -> f64) -> f64 {
    let mut values: Vec<f64> = all.iter().map(figure).collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}
