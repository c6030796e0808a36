//! `clawfarm new` beside starting the same OpenClaw by hand; waking beside starting.

use std::time::Instant;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::by_hand;
use crate::farm::Farm;
use crate::figures::{median, millis, row, seconds};

pub(crate) fn run(rounds: usize) -> Result<()> {
    let farm = Farm::new()?;
    // One round that does not count: it warms the page cache for both.
    let id = new(&farm, "warmup")?;
    let config = config(&farm, &id)?;
    by_hand::start(&config)?;
    remove(&farm, &id)?;
    let (mut ours, mut by_hand, mut wakes, mut thaws) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for n in 0..rounds {
        let begun = Instant::now();
        let id = new(&farm, &format!("r{n}"))?;
        ours.push(begun.elapsed());
        asleep(&farm, &["suspend", "--warm", &id])?;
        let begun = Instant::now();
        farm.run(&["resume", &id])?;
        thaws.push(begun.elapsed());
        asleep(&farm, &["suspend", &id])?;
        let begun = Instant::now();
        farm.run(&["resume", &id])?;
        wakes.push(begun.elapsed());
        remove(&farm, &id)?;
        by_hand.push(by_hand::start(&config)?);
    }
    let (ours, by_hand) = (median(ours), median(by_hand));
    let ratio = |time: std::time::Duration| format!("{:.2}", time.as_secs_f64() / by_hand.as_secs_f64());
    row(
        "`clawfarm new` to ready",
        &seconds(ours),
        &format!("by hand: {}", seconds(by_hand)),
        &format!("{} (aim: 1.10)", ratio(ours)),
    );
    let wakes = median(wakes);
    row(
        "wake of a suspended OpenClaw (`resume`)",
        &seconds(wakes),
        &format!("by hand: {}", seconds(by_hand)),
        &format!("{} (aim: 1.10)", ratio(wakes)),
    );
    let thaws = median(thaws);
    row("wake of a warm OpenClaw (`resume`, whole command)", &millis(thaws), "", "aim: under 200 ms");
    Ok(())
}

/// Puts it to sleep, once it has finished what it does after its start.
fn asleep(farm: &Farm, arguments: &[&str]) -> Result<()> {
    let begun = Instant::now();
    loop {
        match farm.run(arguments) {
            Ok(_) => return Ok(()),
            Err(error) if begun.elapsed().as_secs() > 60 => return Err(error),
            Err(_) => {}
        }
    }
}

fn new(farm: &Farm, name: &str) -> Result<String> {
    // As many cores as by hand: an instance's own limit would be what is measured.
    let cores = std::thread::available_parallelism()?.to_string();
    let made = farm.json(&["new", "openclaw", name, "--cpus", &cores, "--overcommit", "--json"])?;
    Ok(made["instance"]["id"].as_str().or(made["id"].as_str()).context("an id")?.to_owned())
}

fn remove(farm: &Farm, id: &str) -> Result<()> {
    farm.run(&["rm", "--purge", "--force", id]).map(drop)
}

/// The configuration that clawfarm wrote, for the same claw by hand.
fn config(farm: &Farm, id: &str) -> Result<Value> {
    let text = farm.run(&["exec", id, "--", "sh", "-c", "cat \"$OPENCLAW_CONFIG_PATH\""])?;
    serde_json::from_str(&text).context("its openclaw.json is JSON")
}
