//! Servers that share a database and a simulated world, each with a home of its own.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use clawfarm_api::ServerView;
use clawfarm_client::{Client, Endpoint};
use clawfarm_runtime_sim::World;
use clawfarm_test_postgres::{Database, Server as Postgres};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use secrecy::SecretString;

use crate::support::{Home, LIMIT};

/// What the servers have in common.
pub(super) struct Farm {
    pub(super) database: Database,
    /// Dropped after the database, which is in it.
    pub(super) postgres: Option<Postgres>,
    folder: tempfile::TempDir,
}

impl Farm {
    /// On the database server of this run.
    pub(super) fn new() -> Self {
        Self { database: Database::new(), postgres: None, folder: folder() }
    }

    /// On one that can be stopped.
    pub(super) fn with_postgres() -> Self {
        let postgres = Postgres::private();
        Self { database: postgres.database(), postgres: Some(postgres), folder: folder() }
    }

    pub(super) fn world_folder(&self) -> PathBuf {
        self.folder.path().join("world")
    }

    pub(super) fn world(&self) -> World {
        World::open(self.world_folder()).expect("a world")
    }

    /// Gives a home the key of the others, as an operator does.
    pub(super) fn share_key(&self, home: &Path) {
        let kept = self.folder.path().join("master.key");
        let own = home.join("master.key");
        if own.exists() {
            fs::copy(&own, &kept).expect("copied");
        } else if kept.exists() {
            fs::create_dir_all(home).expect("a folder");
            fs::copy(&kept, &own).expect("copied");
        }
    }
}

fn folder() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("cfm").tempdir().expect("a folder")
}

/// How a server is started.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Options {
    /// Without the simulated world: it reaches its own processes only.
    pub(super) blind: bool,
    /// Without an address.
    pub(super) deaf: bool,
    /// With the OpenClaw that was installed for the tests.
    pub(super) real: bool,
    /// The version it says it is.
    pub(super) version: Option<&'static str>,
}

/// One server.
pub(super) struct Node {
    pub(super) name: String,
    home: Home,
    options: Options,
    child: Option<Child>,
    pub(super) client: Option<Client>,
}

impl Node {
    /// Starts a server and waits until it serves.
    pub(super) async fn start(farm: &Farm, name: &str, options: Options) -> Self {
        let mut node = Self { name: name.to_owned(), home: Home::new(), options, child: None, client: None };
        node.run(farm).await;
        // What the first one made the others are given.
        farm.share_key(&node.home.farm());
        node
    }

    /// Starts its process, again.
    pub(super) async fn run(&mut self, farm: &Farm) {
        farm.share_key(&self.home.farm());
        let url = farm.database.url();
        let mut arguments = vec!["serve", "--database", &url, "--node", &self.name];
        if !self.options.deaf {
            arguments.extend(["--listen", "127.0.0.1:0"]);
        }
        let log = File::options().create(true).append(true).open(self.log()).expect("a log");
        let mut command = self.home.command(&arguments);
        command.env("CLAWFARM_SIM_WORLD", farm.world_folder()).stdout(Stdio::null()).stderr(log);
        if self.options.blind {
            command.env_remove("CLAWFARM_SIM_WORLD");
        }
        if self.options.real {
            let install = std::env::var_os("CLAWFARM_TEST_OPENCLAW").map(PathBuf::from);
            let install = install.expect("CLAWFARM_TEST_OPENCLAW names an installed OpenClaw");
            command.env("CLAWFARM_CACHE_DIR", install.ancestors().nth(2).expect("a cache around it"));
        }
        if let Some(version) = self.options.version {
            command.env("CLAWFARM_TEST_VERSION", version);
        }
        self.child = Some(command.spawn().expect("the program starts"));
        let begun = Instant::now();
        loop {
            if let Some(client) = self.connect()
                && client.ready().await.is_ok()
            {
                self.client = Some(client);
                return;
            }
            let ended = self.child.as_mut().and_then(|c| c.try_wait().expect("waited"));
            assert!(ended.is_none(), "server {} ended ({ended:?}): {}", self.name, self.said());
            assert!(begun.elapsed() < LIMIT, "server {} does not serve: {}", self.name, self.said());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub(super) fn set_version(&mut self, version: Option<&'static str>) {
        self.options.version = version;
    }

    fn connect(&self) -> Option<Client> {
        let token = fs::read_to_string(self.home.farm().join("admin.token")).ok()?;
        let socket = Endpoint::Unix(self.home.farm().join("clawfarm.sock"));
        Some(Client::new(socket, SecretString::from(token.trim())))
    }

    pub(super) fn client(&self) -> &Client {
        self.client.as_ref().expect("it was started")
    }

    /// A command of the program, for this server.
    pub(super) fn home(&self) -> &Home {
        &self.home
    }

    fn log(&self) -> PathBuf {
        self.home.path().join("log")
    }

    /// The end of its log.
    pub(super) fn said(&self) -> String {
        let text = fs::read_to_string(self.log()).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    pub(super) fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("it runs");
        kill(Pid::from_raw(i32::try_from(child.id()).expect("a pid")), signal).expect("sent");
    }

    /// Ends its process and waits for that.
    pub(super) async fn end(&mut self, signal: Signal) {
        self.signal(signal);
        let begun = Instant::now();
        while let Some(child) = &mut self.child {
            if child.try_wait().expect("waited").is_some() {
                self.child = None;
            } else {
                assert!(begun.elapsed() < LIMIT, "server {} does not end: {}", self.name, self.said());
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }

    /// One of its measurements.
    pub(super) async fn measured(&self, name: &str) -> f64 {
        let text = self.client().prometheus().await.expect("measurements");
        text.lines()
            .filter(|line| line.split(['{', ' ']).next() == Some(name))
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // Real claws outlive their server.
        let lives =
            self.child.as_mut().is_some_and(|child| child.try_wait().is_ok_and(|ended| ended.is_none()));
        if self.options.real && lives {
            let own = self.home.farm().join("claws");
            for entry in fs::read_dir(own).into_iter().flatten().flatten() {
                let id = entry.file_name().to_string_lossy().into_owned();
                let _ = self.home.command(&["rm", &id, "--purge", "--force"]).output();
            }
        }
        if let Some(child) = &mut self.child {
            // Also one that is frozen.
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            eprintln!("--- server {}:\n{}", self.name, self.said());
        }
    }
}

/// Waits until the servers are as expected, by what one of them says.
pub(super) async fn until_servers(node: &Node, what: &str, mut is: impl FnMut(&[ServerView]) -> bool) {
    let begun = Instant::now();
    loop {
        let servers = node.client().servers().await.map(|list| list.items);
        if servers.as_ref().is_ok_and(|servers| is(servers)) {
            return;
        }
        assert!(begun.elapsed() < LIMIT, "waited {LIMIT:?} until {what}: {servers:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// The leases of the simulated target that each live server holds, fewest first.
pub(super) fn shares(servers: &[ServerView]) -> Vec<u32> {
    // Each server's own targets, processes and virtual machines, are two more.
    let mut shares: Vec<u32> =
        servers.iter().filter(|s| s.server.live).map(|s| s.server.leases.saturating_sub(2)).collect();
    shares.sort_unstable();
    shares
}
