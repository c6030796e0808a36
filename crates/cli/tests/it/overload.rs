//! Ten times the load that a server takes: what it costs, and that it is over with the load.

use std::collections::BTreeMap;
use std::fs;
use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{Home, LIMIT, eventually, finish};

/// Plain requests at a time, as `clawfarm-server` has it.
const PLACES: usize = 256;
/// Requests at the same moment beside those that hold all places. With them it is seven times
/// what it takes, and below the connections that it accepts; each round is more than ten times.
const MORE: usize = 1_500;
/// What all of it may cost: 1,756 connections with buffers of 8 KiB and a task each are about
/// 40 MiB in an unoptimised build; a server that kept what it refuses would need more each round.
const COST_MIB: f64 = 160.0;

/// The resident memory of a process, in MiB.
fn resident_mib(pid: i64) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a line");
    line.trim().trim_end_matches(" kB").parse::<f64>().expect("a number") / 1024.0
}

/// Asks, and answers with the status.
async fn status(address: &str, token: &str) -> u16 {
    let mut stream = TcpStream::connect(address).await.expect("connected");
    let request = format!(
        "GET /api/v1/instances HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer {token}\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = Vec::new();
    tokio::time::timeout(LIMIT, stream.read_to_end(&mut answer)).await.expect("an answer").expect("read");
    let text = String::from_utf8_lossy(&answer);
    text.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_else(|| panic!("{text}"))
}

/// A request whose body never comes: it holds its place.
async fn hold(address: &str, token: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.expect("connected");
    let head = format!(
        "POST /api/v1/instances HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{{"
    );
    stream.write_all(head.as_bytes()).await.expect("sent");
    stream
}

async fn all(address: &str, token: &str, count: usize) -> BTreeMap<u16, usize> {
    let asked = (0..count).map(|_| status(address, token));
    let mut counts = BTreeMap::new();
    for status in futures::future::join_all(asked).await {
        *counts.entry(status).or_default() += 1;
    }
    counts
}

async fn until_served(address: &str, token: &str) {
    let begun = Instant::now();
    while status(address, token).await != 200 {
        assert!(begun.elapsed() < LIMIT, "it does not recover");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_times_the_load_costs_a_bounded_memory_and_is_over_with_it() {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).expect("read");
    setrlimit(Resource::RLIMIT_NOFILE, most.min(8_192), most).expect("raised");
    let home = Home::new();
    let mut command = home.command(&["serve", "--listen", "127.0.0.1:0"]);
    // Nobody reads its log here: a full pipe would be in its way.
    let server = command.stderr(Stdio::null()).spawn().expect("starts");
    let address = eventually("the server to listen", || {
        let version = home.run(&["version", "--json"]).json();
        version["server"]["listen"].as_str().map(str::to_owned)
    });
    let pid = i64::from(server.id());
    let token = fs::read_to_string(home.farm().join("admin.token")).expect("a token").trim().to_owned();
    // What it needs for its work at all.
    assert_eq!(all(&address, &token, PLACES / 4).await, BTreeMap::from([(200, PLACES / 4)]));
    let before = resident_mib(pid);
    let mut afterwards = Vec::new();
    for round in 0..3 {
        let mut held = futures::future::join_all((0..PLACES).map(|_| hold(&address, &token))).await;
        // They have their places when there is none left. Some were refused, when those of the
        // round before had not all been noticed to be gone.
        let begun = Instant::now();
        while status(&address, &token).await != 429 {
            assert!(begun.elapsed() < LIMIT, "it takes more than it can");
            held.push(hold(&address, &token).await);
        }
        let mut counts = all(&address, &token, MORE).await;
        let under = resident_mib(pid);
        for (status, count) in all(&address, &token, MORE).await {
            *counts.entry(status).or_default() += count;
        }
        // On a slow machine those that hold the places are ended by their own limit meanwhile.
        assert!(counts.keys().all(|status| [200, 429].contains(status)), "{counts:?}");
        assert!(counts.get(&429).is_some_and(|count| *count >= PLACES), "{counts:?}");
        assert!(under < before + COST_MIB, "round {round}: {before:.0} MiB before, {under:.0} MiB under it");
        drop(held);
        until_served(&address, &token).await;
        assert_eq!(home.run(&["ps", "-q"]).ends(0).out, "");
        afterwards.push(resident_mib(pid));
        eprintln!(
            "round {round}: {before:.0} MiB before, {under:.0} under load, {:.0} after",
            afterwards[round]
        );
    }
    // What the allocator keeps for the next time it keeps once.
    assert!(
        afterwards[2] < afterwards[0] * 1.5,
        "it grows with each round: {before:.0}, {afterwards:.0?} MiB"
    );
    kill(Pid::from_raw(i32::try_from(server.id()).expect("a pid")), Signal::SIGTERM).expect("sent");
    finish(server).ends(0);
}
