//! What the server holds and how long a list takes.

use std::process::Stdio;
use std::time::Instant;

use anyhow::{Context, Result};

use crate::farm::Farm;
use crate::figures::{median, millis, row};

/// How often the list is asked for.
const LISTS: usize = 40;
/// Simulated claws on the farm that is listed.
const CLAWS: usize = 100;

pub(crate) fn run() -> Result<()> {
    let farm = Farm::new()?;
    farm.run(&["ps"])?;
    let pid = farm.json(&["version", "--json"])?["server"]["pid"].as_u64().context("a pid")?;
    let (resident, shared) = memory(pid)?;
    row(
        "server's memory, no instances",
        &format!("{resident:.1} MiB resident"),
        &format!("{shared:.1} MiB of it files shared"),
        "aim: under 60 MiB",
    );
    list(&farm, "`clawfarm ps`, no instances")?;
    for n in 0..CLAWS {
        farm.run(&["new", "openclaw", &format!("s{n}"), "--runtime", "sim", "--detach", "--json"])?;
    }
    list(&farm, &format!("`clawfarm ps`, {CLAWS} simulated instances"))
}

fn list(farm: &Farm, what: &str) -> Result<()> {
    let mut times = Vec::new();
    for _ in 0..LISTS {
        let mut command = farm.command(&["ps"]);
        let begun = Instant::now();
        command.stdout(Stdio::null()).stderr(Stdio::null()).status()?;
        times.push(begun.elapsed());
    }
    // What starting any program costs here.
    let mut nothing = Vec::new();
    for _ in 0..LISTS {
        let begun = Instant::now();
        std::process::Command::new("true").status()?;
        nothing.push(begun.elapsed());
    }
    let (time, nothing) = (median(times), median(nothing));
    row(what, &millis(time), &format!("`true`: {}", millis(nothing)), "aim: under 50 ms");
    Ok(())
}

/// Resident memory, and the part of it that is files (the binary itself), in MiB.
fn memory(pid: u64) -> Result<(f64, f64)> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let field = |name: &str| -> Result<f64> {
        let line = status.lines().find(|l| l.starts_with(name)).context("a field of /proc")?;
        let kib: f64 = line.split_whitespace().nth(1).context("a figure")?.parse()?;
        Ok(kib / 1024.0)
    };
    Ok((field("VmRSS:")?, field("RssFile:")?))
}
