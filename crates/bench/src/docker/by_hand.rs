//! The same containers by Docker's own command line.

use std::cell::Cell;
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::chown;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clawfarm_test_docker::Engine;
use tempfile::TempDir;

/// How long a claw may take until it answers.
const LIMIT: Duration = Duration::from_secs(180);
/// How often one that does not answer yet is asked: as often as a person's loop would.
const AGAIN: Duration = Duration::from_millis(10);
/// The user of OpenClaw's image.
const NODE_USER: u32 = 1000;
/// The network of those that are made by hand.
const NETWORK: &str = "clawfarm-bench";

/// What a container is made of.
pub(crate) struct Claw {
    pub(crate) image: String,
    pub(crate) memory_mib: String,
    pub(crate) cpus: String,
}

/// A container made by hand.
pub(crate) struct Made {
    name: String,
    port: u16,
}

/// Makes containers by hand; what it made goes with it.
pub(crate) struct ByHand {
    socket: PathBuf,
    folder: TempDir,
    count: Cell<usize>,
}

impl ByHand {
    pub(crate) fn new(engine: &Engine) -> Result<Self> {
        let made =
            Self { socket: engine.socket(), folder: TempDir::with_prefix("cfd")?, count: Cell::new(0) };
        made.docker(&["network", "create", "--opt", "com.docker.network.bridge.enable_icc=false", NETWORK])?;
        Ok(made)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("docker");
        command.arg("--host").arg(format!("unix://{}", self.socket.display())).args(arguments);
        command.stdin(Stdio::null());
        command
    }

    fn docker(&self, arguments: &[&str]) -> Result<()> {
        let output = self.command(arguments).output()?;
        if !output.status.success() {
            bail!("docker {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(())
    }

    /// Folders, and the arguments that make a container with them: what clawfarm gives one.
    fn prepare(&self, claw: &Claw) -> Result<(Made, Vec<String>)> {
        let number = self.count.replace(self.count.get() + 1);
        let name = format!("clawfarm-bench-{}-{number}", std::process::id());
        let folder = self.folder.path().join(&name);
        let mut mounts = Vec::new();
        for (part, at) in
            [("config", ".openclaw"), ("workspace", ".openclaw/workspace"), ("dot-config", ".config")]
        {
            let part = folder.join(part);
            fs::create_dir_all(&part)?;
            chown(&part, Some(NODE_USER), Some(NODE_USER))?;
            mounts.push(format!("--mount=type=bind,src={},dst=/home/node/{at}", part.display()));
        }
        fs::write(
            folder.join("config/.env"),
            "OPENCLAW_GATEWAY_TOKEN=by-hand-0123456789abcdef0123456789abcdef\n",
        )?;
        let port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
        let mut arguments: Vec<String> =
            ["run", "--detach", "--init", "--read-only", "--user=1000:1000"].map(str::to_owned).to_vec();
        arguments.extend([
            format!("--name={name}"),
            format!("--memory={}m", claw.memory_mib),
            format!("--memory-swap={}m", claw.memory_mib),
            format!("--cpus={}", claw.cpus),
            "--pids-limit=512".to_owned(),
            "--cap-drop=ALL".to_owned(),
            "--security-opt=no-new-privileges".to_owned(),
            "--restart=unless-stopped".to_owned(),
            "--tmpfs=/tmp:rw,exec,nosuid,nodev,mode=1777,size=256m".to_owned(),
            "--tmpfs=/home/node:rw,exec,nosuid,nodev,mode=0755,uid=1000,gid=1000,size=64m".to_owned(),
            format!("--network={NETWORK}"),
            format!("--publish=127.0.0.1:{port}:18789"),
            "--env=HOME=/home/node".to_owned(),
            "--env=PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned(),
        ]);
        arguments.extend(mounts);
        arguments.push(claw.image.clone());
        arguments.extend(
            [
                "node",
                "--env-file=/home/node/.openclaw/.env",
                "/app/openclaw.mjs",
                "gateway",
                "--port",
                "18789",
            ]
            .map(str::to_owned),
        );
        arguments.extend(["--bind", "lan", "--allow-unconfigured"].map(str::to_owned));
        Ok((Made { name, port }, arguments))
    }

    /// Makes and starts one.
    pub(crate) fn run(&self, claw: &Claw) -> Result<Made> {
        let (made, arguments) = self.prepare(claw)?;
        self.docker(&arguments.iter().map(String::as_str).collect::<Vec<_>>())?;
        Ok(made)
    }

    /// Makes and starts many by as many commands at the same time; those that were made, and what
    /// the others said.
    pub(crate) fn run_at_once(&self, claw: &Claw, many: usize) -> Result<(Vec<Made>, Vec<String>)> {
        let mut children = Vec::new();
        for _ in 0..many {
            let (made, arguments) = self.prepare(claw)?;
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            let mut command = self.command(&arguments);
            children.push((made, command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?));
        }
        let (mut all, mut failed) = (Vec::new(), Vec::new());
        for (made, child) in children {
            let output = child.wait_with_output()?;
            if output.status.success() {
                all.push(made);
            } else {
                failed.push(String::from_utf8_lossy(&output.stderr).trim_end().to_owned());
            }
        }
        Ok((all, failed))
    }

    pub(crate) fn exec(&self, made: &Made, argv: &[&str]) -> Result<()> {
        let mut arguments = vec!["exec", &made.name];
        arguments.extend(argv);
        self.docker(&arguments)
    }

    pub(crate) fn remove(&self, made: &Made) -> Result<()> {
        self.docker(&["rm", "--force", "--volumes", &made.name])
    }

    pub(crate) fn until_it_answers(&self, made: &Made) -> Result<()> {
        until(&format!("{} has started", made.name), || {
            get(made.port, "/startupz").is_ok_and(|text| text.contains("\"started\""))
        })
    }
}

impl Drop for ByHand {
    fn drop(&mut self) {
        let mine = format!("name=clawfarm-bench-{}-", std::process::id());
        if let Ok(left) = self.command(&["ps", "-aq", "--filter", &mine]).output() {
            for id in String::from_utf8_lossy(&left.stdout).lines() {
                let _ = self.docker(&["rm", "--force", "--volumes", id]);
            }
        }
        let _ = self.docker(&["network", "rm", NETWORK]);
    }
}

fn until(what: &str, is: impl Fn() -> bool) -> Result<()> {
    let begun = Instant::now();
    while !is() {
        if begun.elapsed() > LIMIT {
            bail!("waited {LIMIT:?} until {what}");
        }
        std::thread::park_timeout(AGAIN);
    }
    Ok(())
}

/// What is answered at a port of this machine.
pub(crate) fn get(port: u16, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut text = Vec::new();
    stream.read_to_end(&mut text)?;
    String::from_utf8(text).context("the answer is text")
}
