//! An agent at the other end of a line.

use std::sync::Arc;
use std::time::Duration;

use clawfarm_guest::agent::{Frozen, Options, serve};
use clawfarm_guest::client::{Client, Event, Running};
use clawfarm_guest::message::{Exec, Exit};
use tokio::io::DuplexStream;

/// How long anything may take before a test gives up.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

pub(crate) fn options() -> Options {
    let nothing = std::env::temp_dir().join("clawfarm-guest-no-hooks");
    Options { frozen: Frozen::new(Arc::new(NoDisks), nothing), home: "/tmp".to_owned() }
}

struct NoDisks;

impl clawfarm_guest::agent::Disks for NoDisks {
    fn freeze(&self) -> std::io::Result<()> {
        Ok(())
    }
    fn thaw(&self) -> std::io::Result<()> {
        Ok(())
    }
}

/// An agent, and the host's end of the line to it, which holds so few bytes that both wait for
/// each other now and then.
pub(crate) fn line() -> DuplexStream {
    let (host, guest) = tokio::io::duplex(700);
    tokio::spawn(async move { serve(guest, &options()).await });
    host
}

pub(crate) async fn agent() -> Client {
    Client::connect(line(), LIMIT).await.unwrap()
}

pub(crate) fn sh(text: &str) -> Exec {
    Exec { argv: vec!["sh".into(), "-c".into(), text.into()], ..Exec::default() }
}

/// What it wrote on both, and how it ended.
pub(crate) async fn all_of(mut running: Running) -> (String, String, Exit) {
    let (mut output, mut errors) = (Vec::new(), Vec::new());
    let over = async {
        loop {
            match running.output.next().await.unwrap() {
                Event::Output(bytes) => output.extend_from_slice(&bytes),
                Event::Errors(bytes) => errors.extend_from_slice(&bytes),
                Event::Exit(exit) => return exit,
            }
        }
    };
    let exit = tokio::time::timeout(LIMIT, over).await.expect("the command's end");
    (String::from_utf8(output).unwrap(), String::from_utf8(errors).unwrap(), exit)
}

/// Waits until the process is gone.
pub(crate) async fn gone(pid: u32) {
    let is_there =
        || std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "));
    let over = async {
        while is_there() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(LIMIT, over).await.unwrap_or_else(|_| panic!("process {pid} did not end"));
}
