//! Two thousand operations on two dozen instances at once, while verbs, commits and calls fail
//! and take long by chance and the server is killed now and then. Chance comes from a seed;
//! `CLAWFARM_SEED` replays the one that a failure printed.

use std::collections::BTreeMap;
use std::io::Write;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clawfarm_failpoint::Chaos;
use clawfarm_model::error::Class;
use clawfarm_model::{Code, Desired, Phase};
use clawfarm_runtime_sim::{ClawBehaviour, Override};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

use super::home::{Server, folder};
use super::scenario::{BROKEN, Op, ended, perform};
use crate::fleet::owner;

/// Operations in all.
const OPERATIONS: u64 = 2_000;
/// Instances that they are done to, each by somebody of its own.
const NAMES: u64 = 24;
/// How long all of it may take. It takes 20 s on two cores that have nothing else to do.
const ALL: Duration = Duration::from_secs(110);
/// Beside errors and delays: how often of 100,000 points the server is killed.
const KILLS: u64 = 25;
const HOME: &str = "CLAWFARM_RANDOM_HOME";
const SEED: &str = "CLAWFARM_RANDOM_SEED";
const LIFE: &str = "CLAWFARM_RANDOM_LIFE";
const DONE: &str = "CLAWFARM_RANDOM_DONE";

/// What is known of one name: how many of its operations were answered, and what was wanted
/// last; `None` when an answer was lost that would tell.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    answered: u64,
    wanted: Wanted,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Wanted {
    #[default]
    Gone,
    Is(Desired),
    Unknown,
}

fn draw(seed: u64, name: u64, nth: u64) -> u64 {
    let mut z = seed ^ name.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ nth.wrapping_mul(0xD1B5_4A32_D192_ED03);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// The server and its users, as a process that is killed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "run by the test below as a process of its own"]
async fn life() {
    let Ok(home) = std::env::var(HOME) else { return };
    let number = |name: &str| std::env::var(name).unwrap().parse::<u64>().unwrap();
    let (seed, life) = (number(SEED), number(LIFE));
    let done: Vec<u64> = std::env::var(DONE).unwrap().split(' ').map(|n| n.parse().unwrap()).collect();
    clawfarm_failpoint::hurry(50);
    let server = Arc::new(Server::begin(home.as_ref()).await);
    let crash = ClawBehaviour { crash_after_ms: Some((1, 1)), ..ClawBehaviour::default() };
    let broken = vec![Override::of_version(BROKEN, crash)];
    server.world.change_behaviour(|behaviour| behaviour.overrides = broken).unwrap();
    clawfarm_failpoint::chaos(Chaos { seed: draw(seed, 999, life), fails: 8, delays: 20, kills: KILLS });
    let mut users = tokio::task::JoinSet::new();
    for (name, done) in (0..NAMES).zip(done) {
        let server = Arc::clone(&server);
        users.spawn(async move {
            for nth in done..OPERATIONS / NAMES {
                user(&server, seed, name, nth, nth == done && life > 0).await;
            }
        });
    }
    users.join_all().await;
    say("finished");
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    // One write, and so one line, however many say something at once.
    out.write_all(format!("\n{line}\n").as_bytes()).unwrap();
    out.flush().unwrap();
}

/// One operation of somebody who asks again until there is an answer.
async fn user(server: &Server, seed: u64, name: u64, nth: u64, mut again: bool) {
    let (chance, text) = (draw(seed, name, nth), format!("claw{name:02}"));
    let begun = Instant::now();
    loop {
        let phase = match server.control.get(&owner(), &text).await {
            Ok(it) => Some(it.phase),
            Err(error) if error.code() == Code::NotFound => None,
            Err(error) => panic!("{text}: {error:?}"),
        };
        let op = choose(phase, chance);
        match perform(server, op, &text, nth).await {
            Ok(operation) => {
                say(&format!("answered {name} {}", word(wanted(op))));
                if let Some(operation) = operation.filter(|_| chance >> 40 & 1 == 0) {
                    ended(server, &operation).await.unwrap();
                }
                return;
            }
            Err(error) if error.code().class() == Class::Retryable && begun.elapsed() < ALL => again = true,
            // Refused: nothing was changed, unless by an attempt whose answer was lost.
            Err(_) => {
                say(&format!("answered {name} {}", if again { "unknown" } else { "same" }));
                return;
            }
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

fn choose(phase: Option<Phase>, chance: u64) -> Op {
    let of = |ops: &[Op]| ops[usize::try_from(chance % ops.len() as u64).unwrap()];
    match phase {
        None => of(&[Op::New, Op::New, Op::Import, Op::NewOfDataset, Op::RemoveDataset]),
        Some(Phase::Suspended | Phase::Warm) => {
            of(&[Op::Resume, Op::Send, Op::Stop, Op::Remove, Op::Start, Op::Relabel])
        }
        Some(Phase::Stopped | Phase::Failed | Phase::Exited) => {
            of(&[Op::Start, Op::Start, Op::Restart, Op::Purge, Op::Change, Op::RotateToken])
        }
        Some(_) => of(&[
            Op::Stop,
            Op::Kill,
            Op::Update,
            Op::UpdateToBroken,
            Op::Restart,
            Op::Suspend,
            Op::Warm,
            Op::Change,
            Op::Relabel,
            Op::RotateToken,
            Op::SetSecret,
            Op::Remove,
            Op::Purge,
            Op::Send,
            Op::Start,
        ]),
    }
}

fn wanted(op: Op) -> Option<Wanted> {
    Some(match op {
        Op::New | Op::NewOfDataset | Op::Import | Op::Start | Op::Restart | Op::Resume => {
            Wanted::Is(Desired::Running)
        }
        Op::Stop | Op::Kill => Wanted::Is(Desired::Stopped),
        Op::Suspend => Wanted::Is(Desired::Suspended),
        Op::Warm | Op::Idle => Wanted::Is(Desired::Warm),
        // It wakes what sleeps; what is up stays so.
        Op::Send => Wanted::Is(Desired::Running),
        Op::Remove | Op::Purge => Wanted::Gone,
        Op::Update
        | Op::UpdateToBroken
        | Op::Change
        | Op::Relabel
        | Op::RotateToken
        | Op::SetSecret
        | Op::RemoveDataset
        | Op::Backup
        | Op::Restore
        | Op::Publish
        | Op::PublishBroken
        | Op::ChangeMany
        | Op::ChangeManyBroken
        | Op::Begin => {
            return None;
        }
    })
}

fn word(wanted: Option<Wanted>) -> &'static str {
    match wanted {
        None => "same",
        Some(Wanted::Gone) => "gone",
        Some(Wanted::Unknown) => "unknown",
        Some(Wanted::Is(Desired::Running)) => "running",
        Some(Wanted::Is(Desired::Stopped)) => "stopped",
        Some(Wanted::Is(Desired::Suspended)) => "suspended",
        Some(Wanted::Is(_)) => "warm",
    }
}

fn learn(known: &mut Known, word: &str) {
    known.answered += 1;
    known.wanted = match word {
        "same" => return,
        "gone" => Wanted::Gone,
        "running" => Wanted::Is(Desired::Running),
        "stopped" => Wanted::Is(Desired::Stopped),
        "suspended" => Wanted::Is(Desired::Suspended),
        "warm" => Wanted::Is(Desired::Warm),
        _ => Wanted::Unknown,
    };
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_thousand_operations_with_kills_delays_and_errors() {
    let seed = match std::env::var("CLAWFARM_SEED") {
        Ok(text) => text.parse().expect("CLAWFARM_SEED is a number"),
        Err(_) => {
            let mut bytes = [0; 8];
            getrandom::fill(&mut bytes).unwrap();
            u64::from_le_bytes(bytes)
        }
    };
    // Shown when the test fails.
    println!("replay with CLAWFARM_SEED={seed}");
    let home = folder();
    let begun = Instant::now();
    let mut known: BTreeMap<u64, Known> = (0..NAMES).map(|name| (name, Known::default())).collect();
    let mut lives = 0;
    while !one_life(home.path(), seed, lives, &mut known).await {
        lives += 1;
        assert!(begun.elapsed() < ALL, "seed {seed}: {lives} lives did not do it: {known:?}");
    }
    println!("{lives} servers were killed, in {:?}", begun.elapsed());
    assert!(lives >= 3, "seed {seed}: hardly a server was killed");

    let server = Server::begin(home.path()).await;
    server.settles(&format!("seed {seed}")).await;
    for (name, known) in known {
        let text = format!("claw{name:02}");
        let found = server.by_name(&text).await.map(|it| it.intent.desired);
        let right = match known.wanted {
            Wanted::Unknown => true,
            Wanted::Gone => found.is_none(),
            Wanted::Is(wanted) => found == Some(wanted),
        };
        assert!(right, "seed {seed}: {text} was wanted {:?} and is {found:?}", known.wanted);
        let same = server.instances(false).await.iter().filter(|i| i.name.as_str() == text).count();
        assert!(same <= 1, "seed {seed}: {text} was made {same} times");
    }
    server.end().await;
}

/// Runs until the server is killed; whether it came to its end.
async fn one_life(home: &std::path::Path, seed: u64, life: u64, known: &mut BTreeMap<u64, Known>) -> bool {
    let done: Vec<String> = known.values().map(|k| k.answered.to_string()).collect();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "faults::random::life", "--ignored", "--nocapture"])
        .env(HOME, home)
        .env(SEED, seed.to_string())
        .env(LIFE, life.to_string())
        .env(DONE, done.join(" "))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut finished = false;
    let reading = async {
        while let Some(line) = lines.next_line().await.unwrap() {
            match line.split(' ').collect::<Vec<_>>().as_slice() {
                ["answered", name, word] => learn(known.get_mut(&name.parse().unwrap()).unwrap(), word),
                ["finished"] => finished = true,
                _ => {}
            }
        }
        child.wait().await.unwrap()
    };
    let status = tokio::time::timeout(ALL, reading).await.expect("a server that is not stuck");
    use std::os::unix::process::ExitStatusExt;
    assert!(finished || status.signal() == Some(9), "seed {seed}, life {life}: {status}");
    finished
}
