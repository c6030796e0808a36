//! Instances in containers, and what goes wrong with them, through a whole server: the engine, the
//! runtime, the server and the command are the real ones, and something small stands in for
//! OpenClaw. Needs root, for the engine; does nothing without.

mod daemon;
mod drift;
mod full;
mod life;
mod new;
mod points;
mod proxy;
mod random;
mod recover;
mod slow;

use std::collections::BTreeSet;
use std::process::Child;
use std::time::{Duration, Instant};

use clawfarm_test_docker::{Engine, STAND_IN_VERSION};
use serde_json::Value;

use crate::support::{Done, Home, finish_within, pause};

/// How long one command may take, on a busy machine and with an engine that is started anew.
const PATIENCE: Duration = Duration::from_secs(180);
/// No image can be built on this one, which nobody has to be asked about far away.
const NO_BASE: &str = "localhost:1/none:1";

/// A server's home with the engine as its target `docker`.
struct Farm {
    home: Home,
    engine: Engine,
}

impl Farm {
    fn shared() -> Option<Self> {
        Engine::possible().then(|| Self::on(Engine::shared()))
    }

    /// On an engine of its own, to be ended by the test.
    fn private() -> Option<Self> {
        Engine::possible().then(|| Self::on(Engine::private()))
    }

    fn on(engine: Engine) -> Self {
        let farm = Self::without_target(engine);
        farm.add_target(&farm.socket());
        farm
    }

    fn without_target(engine: Engine) -> Self {
        engine.with_stand_in();
        // The server is where the engine is, as on any machine: in its network.
        engine.enter();
        Self { home: Home::new(), engine }
    }

    fn socket(&self) -> String {
        self.engine.socket().to_str().expect("UTF-8").to_owned()
    }

    fn add_target(&self, socket: &str) {
        self.run(&["target", "add", "docker", "--socket", socket, "--base-image", NO_BASE]).ends(0);
    }

    fn start(&self, arguments: &[&str]) -> Child {
        self.home.command(arguments).spawn().expect("the program starts")
    }

    fn run(&self, arguments: &[&str]) -> Done {
        finish_within(self.start(arguments), PATIENCE)
    }

    /// A new claw that is ready; its id.
    fn new_claw(&self, name: &str, more: &[&str]) -> String {
        let mut all = made_of(name).to_vec();
        all.push("--json");
        all.extend(more);
        let made = self.run(&all).ends(0).json();
        made["instance"]["id"].as_str().expect("an id").to_owned()
    }

    fn status(&self, id: &str) -> Value {
        self.run(&["status", id, "--json"]).ends(0).json()["instance"].clone()
    }

    fn until_ready(&self, id: &str) -> Value {
        until(&format!("{id} is ready"), || {
            let status = self.status(id);
            let ready = status["phase"] == "ready" && status["unknown_since"].is_null();
            if ready { Ok(status) } else { Err(status) }
        })
    }

    fn claw_folder(&self, id: &str) -> std::path::PathBuf {
        self.home.farm().join("claws").join(id)
    }

    /// How often the claw was begun.
    fn runs(&self, id: &str) -> usize {
        std::fs::read_to_string(self.claw_folder(id).join("config/runs")).unwrap_or_default().lines().count()
    }

    /// What the engine says of a container, in one of its words.
    fn inspect(&self, id: &str, what: &str) -> String {
        self.engine.docker(&["inspect", "-f", &format!("{{{{{what}}}}}"), &format!("clawfarm-{id}")])
    }

    /// This server's containers, running or not, by what instance each is of.
    fn containers(&self) -> Vec<String> {
        let label = format!("label=io.clawfarm.server={}", self.label());
        let format = "{{.Label \"io.clawfarm.instance\"}}";
        let names = self.engine.docker(&["ps", "-a", "--filter", &label, "--format", format]);
        let mut names: Vec<String> = names.lines().map(str::to_owned).collect();
        names.sort();
        names
    }

    /// This server's networks.
    fn networks(&self) -> Vec<String> {
        let label = format!("label=io.clawfarm.server={}", self.label());
        let names = self.engine.docker(&["network", "ls", "--filter", &label, "--format", "{{.Name}}"]);
        names.lines().map(str::to_owned).collect()
    }

    /// What tells this server's things from others'.
    fn label(&self) -> String {
        use sha2::{Digest, Sha256};
        let home = self.home.farm().canonicalize().expect("it is there");
        let digest = Sha256::digest(home.to_str().expect("UTF-8").as_bytes());
        digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect()
    }

    /// The ids of the folders in a folder of the home.
    fn folders(&self, what: &str) -> BTreeSet<String> {
        let entries = std::fs::read_dir(self.home.farm().join(what)).into_iter().flatten().flatten();
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    }

    /// Ends the server as a crash would; the next command starts another.
    fn kill_server(&self) -> bool {
        let lock = self.home.farm().join("server.lock");
        let pid = std::fs::read_to_string(&lock).ok().and_then(|text| text.trim().parse::<i32>().ok());
        let Some(pid) = pid else { return false };
        // The number may be an old one's, and somebody else's by now.
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let home = self.home.farm().display().to_string();
        let ours = line.windows(home.len()).any(|window| window == home.as_bytes());
        ours && nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL)
            .is_ok()
    }

    /// All is removed, and nothing is left of it.
    fn clear(self) {
        for id in self.run(&["ps", "-q"]).ends(0).out.lines() {
            self.run(&["rm", id, "--purge", "--force"]).ends(0);
        }
        assert_eq!((self.containers(), self.networks()), (Vec::new(), Vec::new()));
        assert_eq!(self.folders("claws"), BTreeSet::new());
    }
}

impl Drop for Farm {
    fn drop(&mut self) {
        // What a failed test leaves on the shared engine.
        if std::thread::panicking() && self.home.farm().join("clawfarm.sock").exists() {
            let listed = self.home.run(&["ps", "-q"]).out;
            for id in listed.lines() {
                let _ = self.home.run(&["rm", id, "--purge", "--force", "--detach"]);
            }
        }
    }
}

/// The arguments for a new claw of the stand-in.
fn made_of(name: &str) -> [&str; 9] {
    made_of_version(name, STAND_IN_VERSION)
}

fn made_of_version<'a>(name: &'a str, version: &'a str) -> [&'a str; 9] {
    let small = "--memory-mib=64";
    ["new", "openclaw", name, "--runtime", "docker", "--version", version, "--overcommit", small]
}

/// Waits until `look` finds something; says what it saw last.
fn until<T, S: std::fmt::Debug>(what: &str, look: impl Fn() -> Result<T, S>) -> T {
    let begun = Instant::now();
    loop {
        match look() {
            Ok(found) => return found,
            Err(seen) => assert!(begun.elapsed() < PATIENCE, "waited {PATIENCE:?} until {what}: {seen:?}"),
        }
        pause();
    }
}

impl Farm {
    /// Which container it is and since when it runs; `None` while there is none.
    fn life(&self, id: &str) -> Option<String> {
        let inspected = std::process::Command::new("docker")
            .args(["--host", &format!("unix://{}", self.socket()), "inspect", "-f"])
            .args(["{{.Id}} {{.State.Status}} {{.State.StartedAt}}", &format!("clawfarm-{id}")])
            .output()
            .expect("docker runs");
        let text = String::from_utf8_lossy(&inspected.stdout).trim_end().to_owned();
        inspected.status.success().then_some(text)
    }

    /// Whether its gateway answers at the port that it is published on.
    fn answers(&self, status: &Value) -> bool {
        use std::io::{Read, Write};
        let Some(port) = status["port"].as_u64().and_then(|port| u16::try_from(port).ok()) else {
            return false;
        };
        let asked = || -> std::io::Result<String> {
            let mut stream = std::net::TcpStream::connect(("127.0.0.1", port))?;
            stream.set_read_timeout(Some(Duration::from_secs(10)))?;
            stream.write_all(b"GET /healthz HTTP/1.0\r\n\r\n")?;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            Ok(text)
        };
        asked().is_ok_and(|text| text.contains("\"live\""))
    }
}
