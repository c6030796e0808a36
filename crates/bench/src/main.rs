//! `make bench`: the figures of `docs/benchmarks.md`.
//!
//! Timings on shared machines are noisy, so what is compared runs in turn in one run (A, B,
//! A, B …), and the ratio of the medians is what counts.

mod by_hand;
mod farm;
mod figures;
mod sizes;
mod start;

use anyhow::{Context, Result};

fn main() -> Result<()> {
    let rounds: usize = match std::env::args().nth(1) {
        Some(text) => text.parse().context("the number of rounds is a number, such as 3")?,
        None => 3,
    };
    println!("| what | figure | beside it | ratio |");
    println!("|---|---|---|---|");
    sizes::run()?;
    start::run(rounds)
}
