//! Virtual machines beside the same by hand.

mod by_hand;

use std::time::{Duration, Instant};

use anyhow::Result;
use tempfile::TempDir;

use crate::farm::Farm;
use crate::figures::{median, millis, row, seconds};
use by_hand::Machine;

/// The image: the one that can be made without a download.
const IMAGE: &str = "debian:12";
/// What each machine has.
const CPUS: u32 = 2;
const MEMORY_MIB: u32 = 1024;
/// How many commands are run in each round.
const COMMANDS: usize = 10;

/// What is compared, both ways.
#[derive(Default)]
struct Both {
    ours: Vec<Duration>,
    by_hand: Vec<Duration>,
}

impl Both {
    fn tell(self, what: &str, aim: &str, show: fn(Duration) -> String) {
        let (ours, by_hand) = (median(self.ours), median(self.by_hand));
        let ratio = ours.as_secs_f64() / by_hand.as_secs_f64();
        row(what, &show(ours), &format!("by hand {}", show(by_hand)), &format!("{ratio:.2}{aim}"));
    }
}

/// `new` until a command was run, `suspend`, `resume` until one was run again, and commands.
pub(crate) fn run(rounds: usize) -> Result<()> {
    // Made once, and not measured.
    let farm = Farm::of_machines(IMAGE)?;
    let image = farm.image(IMAGE).join("image.img");
    // So does a server start with the first command.
    farm.run(&["ps"])?;
    let (cpus, memory) = (CPUS.to_string(), MEMORY_MIB.to_string());
    farm.run(&["image", "warm", IMAGE, "--cpus", &cpus, "--memory-mib", &memory])?;
    let mut from_base = Vec::new();
    let (mut new, mut suspend, mut resume, mut exec) =
        (Both::default(), Both::default(), Both::default(), Both::default());
    for round in 0..rounds {
        let name = format!("bench-{round}");
        let (cpus, memory) = (CPUS.to_string(), MEMORY_MIB.to_string());
        let made = ["new", IMAGE, "--name", &name, "--cpus", &cpus, "--memory-mib", &memory, "--run", "true"];
        new.ours.push(timed(|| farm.run(&made))?);
        for _ in 0..COMMANDS {
            exec.ours.push(timed(|| farm.run(&["exec", &name, "--", "true"]))?);
        }
        suspend.ours.push(timed(|| farm.run(&["suspend", &name]))?);
        resume.ours.push(timed(|| {
            farm.run(&["resume", &name])?;
            farm.run(&["exec", &name, "--", "true"])
        })?);
        farm.run(&["rm", "--purge", "--force", &name])?;
        let made = ["new", IMAGE, "--name", &name, "--from-snapshot", "--run", "true"];
        from_base.push(timed(|| farm.run(&made))?);
        farm.run(&["rm", "--purge", "--force", &name])?;

        let folder = TempDir::with_prefix("cfb")?;
        let begun = Instant::now();
        let mut machine = Machine::boot(folder.path(), &image)?;
        machine.ssh("true")?;
        new.by_hand.push(begun.elapsed());
        for _ in 0..COMMANDS {
            exec.by_hand.push(timed(|| machine.ssh("true"))?);
        }
        suspend.by_hand.push(timed(|| machine.suspend())?);
        resume.by_hand.push(timed(|| machine.resume())?);
    }
    let (restored, booted) = (median(from_base), median(new.ours.clone()));
    new.tell("a virtual machine, until a command was run", " (aim 1.05)", seconds);
    let ratio = booted.as_secs_f64() / restored.as_secs_f64();
    row(
        "from a base snapshot",
        &seconds(restored),
        &format!("booted {}", seconds(booted)),
        &format!("{ratio:.1} times faster (aim 10)"),
    );
    suspend.tell("suspended", "", seconds);
    resume.tell("resumed, until a command was run", " (aim 1.20)", seconds);
    exec.tell("a command, by the agent; by hand over SSH", "", millis);
    Ok(())
}

fn timed<T>(what: impl FnOnce() -> Result<T>) -> Result<Duration> {
    let begun = Instant::now();
    what()?;
    Ok(begun.elapsed())
}
