//! `make bench`: the figures of `docs/benchmarks.md`.
//!
//! Timings on shared machines are noisy, so what is compared runs in turn in one run (A, B,
//! A, B …), and the ratio of the medians is what counts.

mod by_hand;
mod compare;
mod database;
mod docker;
mod edge;
mod farm;
mod figures;
mod rollout;
mod scale;
mod served;
mod sizes;
mod start;
mod vm;
mod wake;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};

use crate::database::Kind;

/// The figures of docs/benchmarks.md.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// A real OpenClaw: made, woken, beside the same by hand
    Start {
        /// How often each is measured
        #[arg(default_value_t = 3)]
        rounds: usize,
    },
    /// Waking by a request, beside starting by hand; and what sleepers cost
    Wake {
        /// How often each is measured
        #[arg(default_value_t = 3)]
        rounds: usize,
        /// How many sleepers the cost is measured with
        #[arg(long, default_value_t = 200)]
        sleepers: usize,
    },
    /// Fleets of simulated claws under load
    Scale {
        /// How many instances, for each row
        #[arg(long, value_delimiter = ',', default_value = "100,1000,10000")]
        sizes: Vec<usize>,
        /// On which databases
        #[arg(long, value_delimiter = ',', default_value = "sqlite,postgres")]
        databases: Vec<Kind>,
        /// For how many seconds each fleet is under load
        #[arg(long, default_value_t = 20)]
        seconds: u64,
        /// Requests a second
        #[arg(long, default_value_t = 200)]
        rate: u32,
        /// Event streams that are open meanwhile
        #[arg(long, default_value_t = 500)]
        streams: usize,
    },
    /// A new revision to fleets of simulated claws
    Rollout {
        /// How many instances, for each row
        #[arg(long, value_delimiter = ',', default_value = "1000,10000")]
        sizes: Vec<usize>,
        /// On which databases
        #[arg(long, value_delimiter = ',', default_value = "sqlite,postgres")]
        databases: Vec<Kind>,
    },
    /// Containers beside `docker run` and `docker exec` by hand, on an engine of its own
    Docker {
        /// How many are made one after the other
        #[arg(long, default_value_t = 10)]
        rounds: usize,
        /// How many are made at once
        #[arg(long, default_value_t = 50)]
        at_once: usize,
        /// How often a real OpenClaw is made
        #[arg(long, default_value_t = 2)]
        real: usize,
    },
    /// Virtual machines beside QEMU by hand
    Vm {
        /// How often each is measured
        #[arg(default_value_t = 3)]
        rounds: usize,
    },
    /// The edge beside nginx
    Edge {
        /// How often each is measured
        #[arg(long, default_value_t = 3)]
        rounds: usize,
        /// For how many seconds each time
        #[arg(long, default_value_t = 5)]
        seconds: u64,
        /// Connections at a time
        #[arg(long, default_value_t = 32)]
        connections: u32,
        /// WebSockets that are open and idle
        #[arg(long, default_value_t = 1000)]
        sockets: usize,
    },
    /// An edge before an upstream; 'edge' starts it
    #[command(hide = true)]
    EdgeServe {
        /// What stands for a claw
        upstream: SocketAddr,
        /// A certificate
        certificate: PathBuf,
        /// Its key
        key: PathBuf,
    },
    /// Two binaries in turn, and the ratio of what they need
    Compare {
        /// The binary to compare with
        a: PathBuf,
        /// The binary to judge
        b: PathBuf,
        /// How often each is measured
        #[arg(long, default_value_t = 5)]
        rounds: usize,
        /// How many instances
        #[arg(long, default_value_t = 300)]
        size: usize,
        /// On which database
        #[arg(long, default_value = "sqlite")]
        database: Kind,
    },
}

fn main() -> Result<()> {
    match Arguments::parse().what {
        What::Start { rounds } => {
            println!("| what | figure | beside it | ratio |");
            println!("|---|---|---|---|");
            sizes::run()?;
            start::run(rounds)
        }
        What::Wake { rounds, sleepers } => {
            println!("| what | figure | beside it | ratio |");
            println!("|---|---|---|---|");
            block_on(wake::cost(&binary()?, sleepers))?;
            wake::run(rounds)
        }
        What::Scale { sizes, databases, seconds, rate, streams } => {
            let plan = scale::Plan { rate, length: Duration::from_secs(seconds), streams };
            let binary = binary()?;
            block_on(async {
                for database in databases {
                    scale::run(&binary, database, &sizes, &plan).await?;
                }
                Ok(())
            })
        }
        What::Rollout { sizes, databases } => {
            println!("| what | figure | beside it | ratio |");
            println!("|---|---|---|---|");
            block_on(rollout::run(&binary()?, &sizes, &databases))
        }
        What::Docker { rounds, at_once, real } => docker::run(&docker::Plan { rounds, at_once, real }),
        What::Vm { rounds } => {
            println!("| what | figure | beside it | ratio |");
            println!("|---|---|---|---|");
            vm::run(rounds)
        }
        What::Edge { rounds, seconds, connections, sockets } => {
            edge::run(&edge::Plan { rounds, seconds, connections, sockets })
        }
        What::EdgeServe { upstream, certificate, key } => edge::serve(upstream, &certificate, &key),
        What::Compare { a, b, rounds, size, database } => {
            let plan = scale::Plan { rate: 200, length: Duration::from_secs(5), streams: 50 };
            let settings = compare::Settings { rounds, size, plan };
            block_on(compare::run(&a, &b, database, &settings))
        }
    }
}

fn block_on<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    // One thread: the load should leave the server as much of the machine as it can.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(work)
}

/// The server that is measured.
fn binary() -> Result<PathBuf> {
    let path =
        std::env::var_os("CLAWFARM_BIN").context("CLAWFARM_BIN names the binary; `make bench` sets it")?;
    Ok(path.into())
}
