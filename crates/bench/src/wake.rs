//! Waking by a request at the edge, beside starting by hand; and what sleepers cost.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clawfarm_api::SuspendRequest;
use serde_json::Value;

use crate::by_hand;
use crate::database::Kind;
use crate::farm::Farm;
use crate::figures::{median, millis, row, seconds};
use crate::scale::fleet;
use crate::served::Served;

/// How long the fleet's cost is looked at.
const LOOK: Duration = Duration::from_secs(20);
/// How long one may take to fall asleep, and to answer.
const LIMIT: Duration = Duration::from_secs(180);

/// The aims are in the design's table: a warm one in 200 ms, a stopped one in 1.1 times what it
/// takes by hand.
pub(crate) fn run(rounds: usize) -> Result<()> {
    let farm = Farm::new()?;
    let simulated = one(&farm, "simulated", &["--target", "sim"])?;
    let real = one(&farm, "real", &[])?;
    let config: Value = {
        let text = farm.run(&["exec", &real.id, "--", "sh", "-c", "cat \"$OPENCLAW_CONFIG_PATH\""])?;
        serde_json::from_str(&text).context("its openclaw.json is JSON")?
    };
    by_hand::start(&config)?;
    let mut took = [const { Vec::new() }; 5];
    for _ in 0..rounds {
        took[0].push(woken(&farm, &simulated, true)?);
        took[1].push(woken(&farm, &simulated, false)?);
        took[2].push(woken(&farm, &real, true)?);
        took[3].push(woken(&farm, &real, false)?);
        // Asleep meanwhile: it must not take the processor from the one that is started by hand.
        asleep(&farm, &real.id, false)?;
        took[4].push(by_hand::start(&config)?);
    }
    let [sim_warm, sim, warm, suspended, hand] = took.map(median);
    row("a warm simulated claw, request to first byte", &millis(sim_warm), "", "");
    row("a suspended simulated claw, request to first byte", &millis(sim), "", "");
    row("a warm OpenClaw, request to first byte", &millis(warm), "", "aim: under 200 ms");
    let ratio = suspended.as_secs_f64() / hand.as_secs_f64();
    row(
        "a suspended OpenClaw, request to first byte",
        &seconds(suspended),
        &format!("started by hand: {}", seconds(hand)),
        &format!("{ratio:.2} (aim: 1.10)"),
    );
    Ok(())
}

struct Claw {
    id: String,
    token: String,
    port: u16,
}

fn one(farm: &Farm, name: &str, more: &[&str]) -> Result<Claw> {
    let cores = std::thread::available_parallelism()?.to_string();
    let mut arguments = vec!["new", "openclaw", name, "--cpus", &cores, "--overcommit", "--json"];
    arguments.extend(more);
    let made = farm.json(&arguments)?;
    let id = made["instance"]["id"].as_str().or(made["id"].as_str()).context("an id")?.to_owned();
    let token =
        farm.json(&["token", "reveal", &id, "--json"])?["token"].as_str().context("a token")?.to_owned();
    let address = farm.run(&["open", &id, "--json"])?;
    let port =
        address.split(".localhost:").nth(1).and_then(|rest| rest.split('/').next()).context("an address")?;
    Ok(Claw { port: port.parse()?, id, token })
}

fn asleep(farm: &Farm, id: &str, warm: bool) -> Result<()> {
    let begun = Instant::now();
    let arguments: &[&str] = if warm { &["suspend", "--warm", id] } else { &["suspend", id] };
    loop {
        match farm.run(arguments) {
            Ok(_) => return Ok(()),
            Err(error) if begun.elapsed() > LIMIT => return Err(error),
            // It is still at what it does after its start.
            Err(_) => std::thread::park_timeout(Duration::from_millis(200)),
        }
    }
}

/// Puts it to sleep, and takes the time from a request to the first byte of its answer.
fn woken(farm: &Farm, claw: &Claw, warm: bool) -> Result<Duration> {
    asleep(farm, &claw.id, warm)?;
    let begun = Instant::now();
    let mut stream = TcpStream::connect(("127.0.0.1", claw.port))?;
    stream.set_read_timeout(Some(LIMIT))?;
    write!(
        stream,
        "GET /v1/models HTTP/1.1\r\nHost: {}.localhost:{}\r\nAuthorization: Bearer {}\r\nConnection: close\r\n\r\n",
        claw.id, claw.port, claw.token
    )?;
    let mut first = [0_u8; 1];
    stream.read_exact(&mut first)?;
    let took = begun.elapsed();
    let mut rest = String::new();
    stream.read_to_string(&mut rest)?;
    if !rest.starts_with("TTP/1.1 200") {
        bail!("it answers {:?}", rest.lines().next());
    }
    Ok(took)
}

/// What a fleet of suspended simulated claws costs its server.
pub(crate) async fn cost(binary: &Path, size: usize) -> Result<()> {
    let served = Served::start(binary, Kind::Sqlite).await?;
    let empty = served.memory_mib()?;
    let made = fleet::make(&served, size).await?;
    let client = served.client()?;
    for id in &made.ids {
        client.suspend(id, SuspendRequest { warm: false, force: true }).await?;
    }
    fleet::until(&client, "suspended", size).await?;
    let (cpu, begun) = (served.cpu_secs()?, Instant::now());
    tokio::time::sleep(LOOK).await;
    let share = (served.cpu_secs()? - cpu) / begun.elapsed().as_secs_f64() * 100.0;
    row(
        &format!("{size} suspended simulated claws"),
        &format!("{:.1} MiB, {share:.2} % of a core", served.memory_mib()?),
        &format!("none: {empty:.1} MiB"),
        "",
    );
    Ok(())
}
