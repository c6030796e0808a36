//! Random operations on containers through a server and an engine that are both killed between
//! and during them. Chance comes from a seed; `CLAWFARM_SEED` replays the one that a failure
//! printed.

use std::collections::BTreeMap;
use std::process::Child;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{Farm, PATIENCE, made_of, until};
use crate::support::{Done, eventually, finish_within, pause};

const OPERATIONS: u64 = 20;
const NAMES: [&str; 3] = ["ann", "ben", "cy"];

/// What somebody wants of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    Gone,
    Up,
    Stopped,
}

struct Chance {
    seed: u64,
    drawn: u64,
}

impl Chance {
    fn draw(&mut self, below: u64) -> u64 {
        self.drawn += 1;
        let mut z = self.seed.wrapping_add(self.drawn.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % below
    }
}

/// What is killed some time after an operation began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Killed {
    Nobody,
    Server,
    Daemon,
    Both,
}

#[test]
fn twenty_random_operations_with_a_server_and_an_engine_that_are_killed_lose_and_leave_nothing() {
    let Some(farm) = Farm::private() else { return };
    let seed = match std::env::var("CLAWFARM_SEED") {
        Ok(text) => text.parse().expect("CLAWFARM_SEED is a number"),
        Err(_) => u64::from(std::process::id()) ^ clawfarm_model::Timestamp::now().as_millis().unsigned_abs(),
    };
    println!("CLAWFARM_SEED={seed} replays it");
    let mut chance = Chance { seed, drawn: 0 };
    let mut wanted: BTreeMap<&str, Wanted> = NAMES.map(|name| (name, Wanted::Gone)).into();
    for _ in 0..OPERATIONS {
        let name = NAMES[usize::try_from(chance.draw(NAMES.len() as u64)).expect("small")];
        let now = operate(&farm, &mut chance, name, wanted[name]);
        wanted.insert(name, now);
    }
    reached(&farm, &wanted);
    audit(&farm);
    farm.clear();
}

/// Does something to a name until it is answered. What was cut off is looked at before it is
/// asked for again, as people do.
fn operate(farm: &Farm, chance: &mut Chance, name: &'static str, now: Wanted) -> Wanted {
    let create = made_of(name);
    let choices: &[(&[&str], Wanted)] = match now {
        Wanted::Gone => &[(&create, Wanted::Up)],
        _ => &[
            (&["stop", name], Wanted::Stopped),
            (&["kill", name], Wanted::Stopped),
            (&["start", name], Wanted::Up),
            (&["restart", name], Wanted::Up),
            (&["rm", name, "--purge"], Wanted::Gone),
        ],
    };
    let (arguments, then) = choices[usize::try_from(chance.draw(choices.len() as u64)).expect("small")];
    let begun = Instant::now();
    loop {
        // The daemon takes seconds to come back, so it goes less often.
        let killed = match chance.draw(8) {
            0..=2 => Killed::Nobody,
            3..=5 => Killed::Server,
            6 => Killed::Daemon,
            _ => Killed::Both,
        };
        println!("{}: {killed:?} killed", arguments[..3.min(arguments.len())].join(" "));
        let mut child = farm.start(arguments);
        if killed != Killed::Nobody {
            let (told, wait) = (Instant::now(), Duration::from_millis(chance.draw(900)));
            while told.elapsed() < wait && child.try_wait().expect("waited").is_none() {
                pause();
            }
        }
        if matches!(killed, Killed::Daemon | Killed::Both) {
            farm.engine.crash();
        }
        if matches!(killed, Killed::Server | Killed::Both) {
            farm.kill_server();
        }
        if matches!(killed, Killed::Daemon | Killed::Both) {
            farm.engine.revive();
        }
        let done = ended(farm, child, name);
        println!("  ended with {:?}: {}", done.code, done.err.lines().last().unwrap_or_default());
        let there = instances(farm).iter().any(|item| item["name"] == name);
        let over = match then {
            // One that is on its way must not be made a second time.
            Wanted::Up if now == Wanted::Gone => there,
            Wanted::Gone => done.code == Some(0) || !there,
            _ => done.code == Some(0),
        };
        if over {
            return then;
        }
        assert_eq!(done.code, Some(5), "{arguments:?}: what was cut off may be tried again: {done:?}");
        assert!(begun.elapsed() < PATIENCE, "{arguments:?} is not answered: {done:?}");
    }
}

/// What a command came to; one that does not end is told with all that is known of what it waits for.
fn ended(farm: &Farm, mut child: Child, name: &str) -> Done {
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE && child.try_wait().expect("waited").is_none() {
        pause();
    }
    if child.try_wait().expect("waited").is_none() {
        println!("{}", farm.run(&["status", name]).out);
        println!("{}", farm.run(&["events", name]).out);
        let log = std::fs::read_to_string(farm.home.farm().join("server.log")).unwrap_or_default();
        let last: Vec<_> = log.lines().rev().take(60).collect();
        println!("{}", last.into_iter().rev().collect::<Vec<_>>().join("\n"));
    }
    finish_within(child, Duration::from_secs(1))
}

fn instances(farm: &Farm) -> Vec<Value> {
    let list = eventually("the list", || {
        let done = farm.run(&["ps", "--json"]);
        (done.code == Some(0)).then(|| done.json())
    });
    list["items"].as_array().expect("a list").clone()
}

/// Each name is as it is wanted, once.
fn reached(farm: &Farm, wanted: &BTreeMap<&str, Wanted>) {
    until(&format!("{wanted:?} is reached"), || {
        let instances = instances(farm);
        let right = wanted.iter().all(|(name, wanted)| {
            let of: Vec<_> = instances.iter().filter(|item| item["name"] == *name).collect();
            match wanted {
                Wanted::Gone => of.is_empty(),
                Wanted::Up => of.len() == 1 && of[0]["phase"] == "ready" && of[0]["unknown_since"].is_null(),
                Wanted::Stopped => of.len() == 1 && of[0]["phase"] == "stopped",
            }
        });
        if right { Ok(()) } else { Err(instances) }
    });
}

/// What must hold whatever happened.
fn audit(farm: &Farm) {
    let mut ids = Vec::new();
    for item in instances(farm) {
        let id = item["id"].as_str().expect("an id");
        let up = item["phase"] == "ready";
        assert_eq!(farm.inspect(id, ".State.Running"), up.to_string(), "{item}");
        assert!(!up || farm.answers(&item), "{item}");
        assert!(!up || farm.runs(id) > 0, "{id} has lost what its claw wrote");
        ids.push(id.to_owned());
    }
    ids.sort();
    assert_eq!(farm.containers(), ids, "as many containers as instances");
    assert_eq!(farm.folders("claws"), ids.into_iter().collect(), "each folder is somebody's");
    assert_eq!(farm.folders("datasets").len(), 0);
    let operations = crate::faults::asked(&farm.home, "GET", "/api/v1/operations?limit=500");
    assert!(operations.starts_with("http/1.1 200 ") && !operations.contains("\"running\""), "{operations}");
}
