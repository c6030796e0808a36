//! Claws in containers through a whole server: engine, runtime, server and command are the real
//! ones, and something small stands in for OpenClaw. Needs root, for the engine; does nothing
//! without.

mod faults;
mod podman;
mod update;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clawfarm_test_docker::{Engine, StandIn};
use serde_json::Value;

use crate::support::{Done, Home, finish_within, pause};

/// How long one command may take, on a busy machine and with servers and engines that are killed.
const PATIENCE: Duration = Duration::from_secs(180);

const OLD: StandIn = StandIn { version: "2026.1.2-standin", schema: 17, broken: false };
const NEW: StandIn = StandIn { version: "2026.1.3-standin", schema: 18, broken: false };
const BROKEN: StandIn = StandIn { version: "2026.1.4-standin", schema: 18, broken: true };

/// A server's home with the engine as its target `docker`.
struct Farm {
    home: Home,
    engine: Engine,
}

impl Farm {
    fn on(engine: Engine) -> Self {
        for it in [OLD, NEW, BROKEN] {
            engine.with(it);
        }
        // The server is where the engine is, as on any machine: in its network.
        engine.enter();
        let farm = Self { home: Home::new(), engine };
        let socket = farm.engine.socket();
        farm.run(&["target", "add", "docker", "--socket", socket.to_str().expect("UTF-8")]).ends(0);
        farm
    }

    fn run(&self, arguments: &[&str]) -> Done {
        finish_within(self.home.command(arguments).spawn().expect("the program starts"), PATIENCE)
    }

    /// A new claw of the old version that is ready; its id.
    fn new_claw(&self, name: &str) -> String {
        let made = self
            .run(&[
                "new",
                "openclaw",
                name,
                "--runtime",
                "docker",
                "--version",
                OLD.version,
                "--overcommit",
                "--memory-mib=64",
                "--json",
            ])
            .ends(0)
            .json();
        made["instance"]["id"].as_str().expect("an id").to_owned()
    }

    /// An instance, as far as a server tells it just now.
    fn status(&self, id: &str) -> Option<Value> {
        let done = self.run(&["status", id, "--json"]);
        (done.code == Some(0)).then(|| done.json()["instance"].clone())
    }

    /// Waits until an instance is ready, and no update of it is under way.
    fn until_ready(&self, id: &str) {
        until(&format!("{id} is ready"), || {
            let Some(status) = self.status(id) else { return Err(Value::Null) };
            let ready = status["phase"] == "ready" && status["update"].is_null();
            if ready { Ok(()) } else { Err(status) }
        });
    }

    /// The version that an instance is said to run.
    fn version(&self, id: &str) -> String {
        let status = self.status(id).expect("a server answers");
        let image = status["image"].as_str().expect("an image");
        image.rsplit_once(':').expect("a version").1.to_owned()
    }

    /// The versions that were started on the data that an instance has now, each once in a row:
    /// an engine or a server that was killed starts again what ran.
    fn versions(&self, id: &str) -> Vec<String> {
        let text = std::fs::read_to_string(self.claw_folder(id).join("config/versions")).unwrap_or_default();
        let mut all: Vec<String> = text.lines().map(str::to_owned).collect();
        all.dedup();
        all
    }

    fn claw_folder(&self, id: &str) -> PathBuf {
        self.home.farm().join("claws").join(id)
    }

    /// The names of this server's containers, running or not, those that it only looked into too.
    fn containers(&self) -> Vec<String> {
        let label = format!("label=io.clawfarm.server={}", self.label());
        let names = self.engine.docker(&["ps", "-a", "--filter", &label, "--format", "{{.Names}}"]);
        names.lines().map(str::to_owned).collect()
    }

    /// What tells this server's things from others'.
    fn label(&self) -> String {
        use sha2::{Digest, Sha256};
        let home = self.home.farm().canonicalize().expect("it is there");
        let digest = Sha256::digest(home.to_str().expect("UTF-8").as_bytes());
        digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect()
    }
}

impl Drop for Farm {
    fn drop(&mut self) {
        if !self.home.farm().join("clawfarm.sock").exists() {
            return;
        }
        for id in self.home.run(&["ps", "-q"]).out.lines() {
            let _ = self.home.run(&["rm", id, "--purge", "--force"]);
        }
    }
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
