//! `clawfarm-bench scale`: what a fleet of simulated claws costs the server, at several sizes.
//!
//! The load comes from this process on the same two cores: what is told is what a server has
//! that shares its machine with its clients.

pub(crate) mod fleet;
mod load;

use std::path::Path;
use std::time::Duration;

use anyhow::Result;

pub(crate) use load::Plan;

use crate::database::Kind;
use crate::served::Served;

/// How long the server is left alone before its rest is measured: what the load began is over.
const SETTLE: Duration = Duration::from_secs(5);
/// How long its rest is measured.
const REST: Duration = Duration::from_secs(30);

/// What one size came to.
pub(crate) struct Figures {
    pub(crate) creates_per_sec: f64,
    pub(crate) all_ready: Duration,
    pub(crate) load: load::Outcome,
    pub(crate) memory_mib: f64,
    pub(crate) memory_loaded_mib: f64,
    pub(crate) rest_cpu_percent: f64,
}

/// Measures each size on a server of its own, and prints a row for each.
pub(crate) async fn run(binary: &Path, database: Kind, sizes: &[usize], plan: &Plan) -> Result<()> {
    println!(
        "\n{}; {} requests/s (6 get : 2 list of 50 : 2 patch) for {} s with {} event streams\n",
        database.name(),
        plan.rate,
        plan.length.as_secs(),
        plan.streams
    );
    println!(
        "| instances | created /s | all ready | get p50 / p95 / p99 | list p50 / p95 / p99 | patch p50 / p95 / p99 | refused | late | events told | memory at rest | with load | CPU at rest |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|---|");
    for size in sizes {
        let figures = measure(binary, database, *size, plan).await?;
        println!(
            "| {size} | {:.0} | {:.1} s | {} | {} | {} | {} | {} | {} | {:.0} MiB | {:.0} MiB | {:.2} % |",
            figures.creates_per_sec,
            figures.all_ready.as_secs_f64(),
            figures.load.get,
            figures.load.list,
            figures.load.patch,
            figures.load.refused,
            figures.load.late,
            figures.load.events,
            figures.memory_mib,
            figures.memory_loaded_mib,
            figures.rest_cpu_percent,
        );
    }
    Ok(())
}

pub(crate) async fn measure(binary: &Path, database: Kind, size: usize, plan: &Plan) -> Result<Figures> {
    let served = Served::start(binary, database).await?;
    let fleet = fleet::make(&served, size).await?;
    let load = load::run(&served, &fleet.ids, plan).await?;
    let memory_loaded_mib = served.memory_mib()?;
    tokio::time::sleep(SETTLE).await;
    let before = served.cpu_secs()?;
    tokio::time::sleep(REST).await;
    let rest_cpu_percent = (served.cpu_secs()? - before) / REST.as_secs_f64() * 100.0;
    Ok(Figures {
        creates_per_sec: fleet.creates_per_sec,
        all_ready: fleet.all_ready,
        load,
        memory_mib: served.memory_mib()?,
        memory_loaded_mib,
        rest_cpu_percent,
    })
}
