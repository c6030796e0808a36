//! A real OpenClaw in a container.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clawfarm_test_docker::{DEBIAN, Engine};

use super::by_hand::{ByHand, Claw, get};
use super::ratio;
use crate::farm::Farm;
use crate::figures::{median, row, seconds};

/// What document 003 asks for, from `new` until the dashboard answers.
const AIM: Duration = Duration::from_secs(60);
/// What OpenClaw wants.
const MEMORY_MIB: &str = "2048";

pub(super) fn run(farm: &Farm, engine: &Engine, by_hand: &ByHand, rounds: usize) -> Result<()> {
    engine.with_debian();
    // Not a part of the time: the image is there, as document 003 has it.
    let image = farm.json(&["image", "build", "openclaw", "--base", DEBIAN, "--json"])?;
    let image = image["reference"].as_str().context("a reference")?.to_owned();
    let cores = std::thread::available_parallelism()?.to_string();
    let claw = Claw { image, memory_mib: MEMORY_MIB.to_owned(), cpus: cores.clone() };
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for n in 0..=rounds {
        let begun = Instant::now();
        let name = format!("real{n}");
        let options =
            ["--runtime", "docker", "--memory-mib", MEMORY_MIB, "--cpus", &cores, "--overcommit", "--json"];
        let mut arguments = vec!["new", "openclaw", &name];
        arguments.extend(options);
        let made = farm.json(&arguments)?;
        let port = made["instance"]["port"].as_u64().context("a port")?;
        let page = get(u16::try_from(port)?, "/")?;
        let took = begun.elapsed();
        if !page.starts_with("HTTP/1.1 200") || !page.to_lowercase().contains("<!doctype html") {
            bail!("its dashboard answers {:?}", page.lines().next());
        }
        farm.run(&["rm", "--purge", "--force", &name])?;
        let begun = Instant::now();
        let one = by_hand.run(&claw)?;
        by_hand.until_it_answers(&one)?;
        let taken = begun.elapsed();
        by_hand.remove(&one)?;
        if n > 0 {
            ours.push(took);
            theirs.push(taken);
        }
    }
    let (ours, theirs) = (median(ours), median(theirs));
    row(
        &format!("`new` of an OpenClaw until its dashboard answers (p50 of {rounds})"),
        &format!("{} (aim: under {} s)", seconds(ours), AIM.as_secs()),
        &seconds(theirs),
        &ratio(ours, theirs),
    );
    Ok(())
}
