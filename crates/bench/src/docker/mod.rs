//! Claws in containers beside `docker run` and `docker exec` by hand, on one engine.
//!
//! Both get the same image, limits, mounts and network options, and both are waited for until
//! the claw answers its startup probe. A claw of busybox shows what clawfarm itself adds.

mod by_hand;
mod real;

use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clawfarm_test_docker::{Engine, TINY_CLAW, TINY_CLAW_VERSION};

use self::by_hand::{ByHand, Claw};
use crate::farm::Farm;
use crate::figures::{median, millis, row, seconds};

/// The memory of a claw of busybox, in MiB: the least that an instance may have.
const TINY_MIB: &str = "64";
/// How often a command is run inside.
const EXECS: usize = 20;

/// What is measured how often.
pub(crate) struct Plan {
    /// How many are made one after the other.
    pub(crate) rounds: usize,
    /// How many are made at once; 0 leaves that out.
    pub(crate) at_once: usize,
    /// How often a real OpenClaw is made; 0 leaves that out.
    pub(crate) real: usize,
}

pub(crate) fn run(plan: &Plan) -> Result<()> {
    if !Engine::possible() {
        bail!("a container engine of its own takes root");
    }
    let engine = Engine::shared();
    engine.with_tiny_claw();
    // Where the engine's published ports are; what is started from here on is there, too.
    engine.enter();
    let farm = Farm::new()?;
    let socket = engine.socket();
    let socket = socket.to_str().context("the socket has a UTF-8 name")?;
    farm.run(&["target", "add", "docker", "--socket", socket])?;
    let by_hand = ByHand::new(&engine)?;
    // One of each stays: the first instance of a tenant makes its network, which is there by
    // hand as well.
    farm.run(&new("stays", &[]))?;
    println!("| what | clawfarm | by hand | ratio |");
    println!("|---|---|---|---|");
    create(&farm, &by_hand, plan.rounds)?;
    exec(&farm, &by_hand)?;
    if plan.at_once > 0 {
        at_once(&farm, &by_hand, plan.at_once)?;
    }
    if plan.real > 0 {
        real::run(&farm, &engine, &by_hand, plan.real)?;
    }
    Ok(())
}

fn ratio(ours: Duration, beside: Duration) -> String {
    format!("{:.2}", ours.as_secs_f64() / beside.as_secs_f64())
}

fn tiny() -> Claw {
    Claw { image: TINY_CLAW.to_owned(), memory_mib: TINY_MIB.to_owned(), cpus: "1".to_owned() }
}

/// The arguments that make a claw of busybox.
fn new<'a>(name: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let mut all = vec!["new", "openclaw", name, "--runtime", "docker", "--version", TINY_CLAW_VERSION];
    all.extend(["--memory-mib", TINY_MIB, "--overcommit"]);
    all.extend(more);
    all
}

/// One after the other, until each answers.
fn create(farm: &Farm, by_hand: &ByHand, rounds: usize) -> Result<()> {
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    // The first of each does not count.
    for n in 0..=rounds {
        let begun = Instant::now();
        farm.run(&new(&format!("c{n}"), &[]))?;
        let took = begun.elapsed();
        farm.run(&["rm", "--purge", "--force", &format!("c{n}")])?;
        let begun = Instant::now();
        let one = by_hand.run(&tiny())?;
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
        &format!("`new` until it answers (p50 of {rounds})"),
        &millis(ours),
        &millis(theirs),
        &ratio(ours, theirs),
    );
    Ok(())
}

/// A command inside.
fn exec(farm: &Farm, by_hand: &ByHand) -> Result<()> {
    farm.run(&new("exec", &[]))?;
    let one = by_hand.run(&tiny())?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for n in 0..=EXECS {
        let begun = Instant::now();
        farm.run(&["exec", "exec", "--", "true"])?;
        let took = begun.elapsed();
        let begun = Instant::now();
        by_hand.exec(&one, &["true"])?;
        if n > 0 {
            ours.push(took);
            theirs.push(begun.elapsed());
        }
    }
    by_hand.remove(&one)?;
    farm.run(&["rm", "--purge", "--force", "exec"])?;
    let (ours, theirs) = (median(ours), median(theirs));
    row(&format!("`exec -- true` (p50 of {EXECS})"), &millis(ours), &millis(theirs), &ratio(ours, theirs));
    Ok(())
}

/// Many commands at the same time, until the last claw answers.
fn at_once(farm: &Farm, by_hand: &ByHand, many: usize) -> Result<()> {
    let names: Vec<String> = (0..many).map(|n| format!("m{n}")).collect();
    let begun = Instant::now();
    let mut children = Vec::new();
    for name in &names {
        children.push(farm.command(&new(name, &[])).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?);
    }
    let mut ready = 0;
    for child in children {
        let output = child.wait_with_output()?;
        if output.status.success() {
            ready += 1;
        } else {
            eprintln!("{}", String::from_utf8_lossy(&output.stderr).trim_end());
        }
    }
    let ours = begun.elapsed();
    let mut removal = vec!["rm", "--purge", "--force"];
    removal.extend(names.iter().map(String::as_str));
    farm.run(&removal)?;
    let begun = Instant::now();
    let (made, failed) = by_hand.run_at_once(&tiny(), many)?;
    for one in &made {
        by_hand.until_it_answers(one)?;
    }
    let theirs = begun.elapsed();
    for error in &failed {
        eprintln!("by hand: {error}");
    }
    for one in &made {
        by_hand.remove(one)?;
    }
    row(
        &format!("{many} made at once, until all answer"),
        &format!("{} ({ready} of {many})", seconds(ours)),
        &format!("{} ({} of {many})", seconds(theirs), made.len()),
        &ratio(ours, theirs),
    );
    Ok(())
}
