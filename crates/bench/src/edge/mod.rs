//! `clawfarm-bench edge`: the edge beside nginx before the same upstream, in turn in one run.

mod by_wrk;
mod fronts;
mod latency;
mod serve;
mod sockets;
mod upstream;

use std::time::Duration;

use anyhow::{Context, Result};

pub(crate) use serve::serve;

use by_wrk::{Asked, Load};
use fronts::{Front, Kind};
use upstream::Upstream;

/// How much is measured.
pub(crate) struct Plan {
    /// How often each is.
    pub(crate) rounds: usize,
    /// How long wrk asks each time.
    pub(crate) seconds: u64,
    /// Connections that wrk holds.
    pub(crate) connections: u32,
    /// WebSockets that are open and idle.
    pub(crate) sockets: usize,
}

/// What is asked for, and how.
const LOADS: [(&str, Load); 4] = [
    ("small answer", Load { path: "/small", tls: false }),
    ("small answer, TLS", Load { path: "/small", tls: true }),
    ("1 MiB answer", Load { path: "/big", tls: false }),
    ("1 MiB answer, TLS", Load { path: "/big", tls: true }),
];

/// Measures, and prints the tables of docs/benchmarks.md.
pub(crate) fn run(plan: &Plan) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let upstream = runtime.block_on(Upstream::start())?;
    println!("| {} connections | edge | nginx | edge / nginx |", plan.connections);
    println!("|---|---|---|---|");
    for (name, load) in LOADS {
        let fronts =
            [Front::start(Kind::Edge, upstream.address)?, Front::start(Kind::Nginx, upstream.address)?];
        let mut asked: [Vec<Asked>; 2] = [Vec::new(), Vec::new()];
        // The first round warms up, and counts not.
        for round in 0..=plan.rounds {
            let mut turn = [0, 1];
            if round % 2 == 1 {
                turn.reverse();
            }
            for it in turn {
                let seconds = if round == 0 { 1 } else { plan.seconds };
                let figures = by_wrk::ask(&fronts[it], &load, plan.connections, seconds)?;
                if round > 0 {
                    asked[it].push(figures);
                }
            }
        }
        let [edge, nginx] = &asked;
        row(&format!("{name}, requests /s"), edge, nginx, |it| it.per_second);
        row(&format!("{name}, p50 ms"), edge, nginx, |it| millis(it.p50));
        row(&format!("{name}, p99 ms"), edge, nginx, |it| millis(it.p99));
        row(&format!("{name}, processor µs a request"), edge, nginx, |it| it.cpu_micros);
    }
    runtime.block_on(idle(plan, &upstream))?;
    runtime.block_on(one_by_one(plan, &upstream))
}

/// Memory, at rest after load and with WebSockets that say nothing.
async fn idle(plan: &Plan, upstream: &Upstream) -> Result<()> {
    let mut rows: [Vec<f64>; 2] = [Vec::new(), Vec::new()];
    for (at, kind) in [(0, Kind::Edge), (1, Kind::Nginx)] {
        let front = Front::start(kind, upstream.address)?;
        by_wrk::ask(&front, &LOADS[0].1, plan.connections, 2)?;
        let before = front.memory_kib()?;
        let open = sockets::open(&front, plan.sockets).await?;
        let after = front.memory_kib()?;
        drop(open);
        rows[at].extend([before / 1024.0, (after - before) / to_float(plan.sockets)]);
    }
    let [edge, nginx] = rows;
    for (at, what) in [
        (0, "memory after load, MiB".to_owned()),
        (1, format!("memory of each of {} idle WebSockets, KiB", plan.sockets)),
    ] {
        println!("| {what} | {:.1} | {:.1} | {:.2} |", edge[at], nginx[at], edge[at] / nginx[at]);
    }
    Ok(())
}

/// What a warm request takes longer than straight to the claw.
async fn one_by_one(plan: &Plan, upstream: &Upstream) -> Result<()> {
    let edge = Front::start(Kind::Edge, upstream.address)?;
    let nginx = Front::start(Kind::Nginx, upstream.address)?;
    let ways = [("straight", upstream.address), ("edge", edge.plain), ("nginx", nginx.plain)];
    let mut all: [Vec<Duration>; 3] = Default::default();
    for round in 0..=plan.rounds * 2 {
        for (times, (_, address)) in all.iter_mut().zip(ways) {
            let taken = latency::one_after_another(address, 500).await?;
            if round > 0 {
                times.extend(taken);
            }
        }
    }
    let p50 = |times: &mut Vec<Duration>| {
        times.sort_unstable();
        times.get(times.len() / 2).copied().map(millis).context("nothing was measured")
    };
    let [straight, edge, nginx] = &mut all;
    let (straight, edge, nginx) = (p50(straight)?, p50(edge)?, p50(nginx)?);
    println!(
        "\nOne request after another on one connection, p50: straight to the upstream {straight:.3} ms, through the edge {edge:.3} ms ({:+.3}), through nginx {nginx:.3} ms ({:+.3}).",
        edge - straight,
        nginx - straight
    );
    Ok(())
}

fn row(what: &str, edge: &[Asked], nginx: &[Asked], figure: fn(&Asked) -> f64) {
    let (edge, nginx) = (median(edge, figure), median(nginx, figure));
    println!("| {what} | {edge:.2} | {nginx:.2} | {:.2} |", edge / nginx);
}

fn median(all: &[Asked], figure: fn(&Asked) -> f64) -> f64 {
    let mut values: Vec<f64> = all.iter().map(figure).collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// Counts here are small.
#[expect(clippy::cast_precision_loss, reason = "thousands")]
const fn to_float(count: usize) -> f64 {
    count as f64
}
