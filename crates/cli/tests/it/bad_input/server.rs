//! A real server with the simulated runtime, and what of it must not change.

use std::process::{Child, Stdio};

use serde_json::Value;

use super::http::{Request, ask};
use crate::support::{Home, eventually};

/// A server with two claws, a secret, and an address on loopback.
pub(super) struct Server {
    pub(super) home: Home,
    pub(super) address: String,
    pub(super) token: String,
    /// The ids of its claws.
    pub(super) claws: Vec<String>,
    process: Child,
}

impl Server {
    /// Starts it, with `claws` claws that are ready.
    pub(super) fn start(claws: usize) -> Self {
        let home = Home::new();
        std::fs::create_dir_all(home.path()).expect("a folder");
        let log = std::fs::File::create(home.path().join("log")).expect("a log");
        let process = home
            .command(&["serve", "--listen", "127.0.0.1:0"])
            // No npm, no claw but simulated ones, whatever is asked for.
            .env("PATH", "/nonexistent")
            .env("CLAWFARM_LOG", "info")
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("the server starts");
        let address = eventually("the server", || {
            let version = home.run(&["version", "--json"]);
            let info: Value = serde_json::from_str(&version.out).ok()?;
            info["server"]["listen"].as_str().map(str::to_owned)
        });
        let token = std::fs::read_to_string(home.farm().join("admin.token")).expect("a token");
        let mut server = Self { home, address, token: token.trim().to_owned(), claws: Vec::new(), process };
        for n in 0..claws {
            let name = format!("claw{n}");
            let made =
                server.home.run(&["--json", "new", "openclaw", &name, "--target", "sim"]).ends(0).json();
            server.claws.push(made["instance"]["id"].as_str().expect("an id").to_owned());
        }
        server.home.run_with_input(&["secret", "set", "kept"], "value").ends(0);
        server
    }

    /// A document of the API.
    pub(super) fn get(&self, path: &str) -> Value {
        let answer = ask(&self.address, &Request::get(path).bytes(&self.token));
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        serde_json::from_slice(&answer.body).expect("a document")
    }

    /// Everything that is written down.
    pub(super) fn state(&self) -> Vec<Value> {
        [
            "/api/v1/instances?include_destroyed=true&limit=500",
            "/api/v1/operations?limit=500",
            "/api/v1/secrets",
            "/api/v1/datasets",
            "/api/v1/events?after=0&limit=500",
        ]
        .map(|path| self.get(path))
        .to_vec()
    }

    /// What the server has said so far.
    pub(super) fn log(&self) -> String {
        std::fs::read_to_string(self.home.path().join("log")).expect("a log")
    }

    /// Checks that it goes on, changed nothing, and never broke.
    #[track_caller]
    pub(super) fn is_as_before(&mut self, before: &[Value]) {
        assert_eq!(self.process.try_wait().expect("looked"), None, "the server has ended:\n{}", self.log());
        for (then, now) in before.iter().zip(self.state()) {
            assert_eq!(*then, now, "it was changed");
        }
        self.is_whole();
    }

    /// Checks that nothing in it broke.
    #[track_caller]
    pub(super) fn is_whole(&self) {
        let log = self.log();
        assert!(!log.contains("panicked"), "{log}");
        assert!(!log.contains("defect"), "{log}");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.home.command(&["down", "--all"]).output();
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
