//! A server of its own, run in the foreground, whose simulated world outlives it.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clawfarm_client::{Client, Endpoint};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use secrecy::SecretString;
use tempfile::TempDir;

use crate::database::{Database, Kind};

/// How long the server may take to answer, and to end.
const LIMIT: Duration = Duration::from_secs(60);
/// Clock ticks a second, in which the kernel counts processor time: 100 on every Linux that
/// user space can see (`sysconf(_SC_CLK_TCK)`).
const TICKS: f64 = 100.0;

/// A server, ended and removed with its home and world when it is dropped.
pub(crate) struct Served {
    child: Child,
    home: TempDir,
    /// In memory where that is possible: what is measured is the server, not the simulation.
    _world: TempDir,
    _database: Database,
}

impl Served {
    pub(crate) async fn start(binary: &Path, kind: Kind) -> Result<Self> {
        let database = Database::new(kind);
        let home = TempDir::with_prefix("cfb")?;
        let memory = Path::new("/dev/shm");
        let world = if memory.is_dir() {
            TempDir::with_prefix_in("cfb", memory)?
        } else {
            TempDir::with_prefix("cfb")?
        };
        let log = std::fs::File::create(home.path().join("bench.log"))?;
        let mut command = Command::new(binary);
        command
            .args(["serve"])
            .env("CLAWFARM_HOME", home.path())
            .env("CLAWFARM_SIM_WORLD", world.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        database.configure(&mut command);
        let child = command.spawn().with_context(|| format!("{} can't be started", binary.display()))?;
        let mut served = Self { child, home, _world: world, _database: database };
        served.until_it_answers().await?;
        Ok(served)
    }

    /// A client with connections of its own.
    pub(crate) fn client(&self) -> Result<Client> {
        let token = std::fs::read_to_string(self.home.path().join("admin.token"))?;
        let endpoint = Endpoint::Unix(self.home.path().join("clawfarm.sock"));
        Ok(Client::new(endpoint, SecretString::from(token.trim().to_owned())))
    }

    async fn until_it_answers(&mut self) -> Result<()> {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                bail!("the server ended with {status}: {}", self.log());
            }
            match self.client() {
                Ok(client) if client.ready().await.is_ok() => return Ok(()),
                _ if begun.elapsed() > LIMIT => {
                    bail!("the server did not answer within {LIMIT:?}: {}", self.log())
                }
                _ => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }

    pub(crate) fn log(&self) -> String {
        let mut text = String::new();
        if let Ok(mut file) = std::fs::File::open(self.home.path().join("bench.log")) {
            let _ = file.read_to_string(&mut text);
        }
        let from = text.char_indices().rev().nth(4000).map_or(0, |(at, _)| at);
        text.split_off(from)
    }

    /// Resident memory, in MiB.
    pub(crate) fn memory_mib(&self) -> Result<f64> {
        let status = std::fs::read_to_string(self.proc("status"))?;
        let line = status.lines().find(|l| l.starts_with("VmRSS:")).context("resident memory")?;
        let kib: f64 = line.split_whitespace().nth(1).context("a figure")?.parse()?;
        Ok(kib / 1024.0)
    }

    /// Processor time that was used so far, in seconds.
    pub(crate) fn cpu_secs(&self) -> Result<f64> {
        let stat = std::fs::read_to_string(self.proc("stat"))?;
        // Behind the name, which is in brackets and may hold anything.
        let rest = stat.rsplit_once(')').context("a process's figures")?.1;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let ticks = |n: usize| -> Result<f64> { Ok(fields.get(n).context("a figure")?.parse()?) };
        // Fields 14 and 15 of proc(5), counted from 3 here.
        Ok((ticks(11)? + ticks(12)?) / TICKS)
    }

    fn proc(&self, file: &str) -> PathBuf {
        Path::new("/proc").join(self.child.id().to_string()).join(file)
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let Ok(pid) = i32::try_from(self.child.id()) else { return };
        let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        let begun = Instant::now();
        while begun.elapsed() < LIMIT {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::park_timeout(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
