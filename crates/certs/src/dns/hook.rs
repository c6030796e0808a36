//! A command of the operator's that puts records into the DNS.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use async_trait::async_trait;
use clawfarm_model::{Code, Error, Result};
use tokio::process::Command;
use tokio::time::timeout;

use super::{Provider, Record};

/// How long it may take. Providers' interfaces are slow now and then.
const LIMIT: Duration = Duration::from_secs(120);
/// How much of what it says is told.
const SAID_MAX: usize = 500;

/// Runs a program with the argument `present` or `cleanup`; no shell. The record is in its
/// environment: `CLAWFARM_DNS_DOMAIN`, `CLAWFARM_DNS_NAME` and `CLAWFARM_DNS_VALUE`.
pub struct Hook {
    /// The program's file.
    pub program: PathBuf,
}

impl Hook {
    async fn run(&self, verb: &str, record: &Record) -> Result<()> {
        let name = self.program.display();
        let failed = |why: String| {
            Error::new(Code::Unavailable, format!("the DNS hook '{name} {verb}' {why}"))
                .fix("run it by hand with CLAWFARM_DNS_DOMAIN, CLAWFARM_DNS_NAME and CLAWFARM_DNS_VALUE set")
        };
        let child = Command::new(&self.program)
            .arg(verb)
            .env("CLAWFARM_DNS_DOMAIN", &record.domain)
            .env("CLAWFARM_DNS_NAME", &record.name)
            .env("CLAWFARM_DNS_VALUE", &record.value)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| failed(format!("can't be started: {error}")))?;
        let ended = timeout(LIMIT, child.wait_with_output())
            .await
            .map_err(|_| failed(format!("did not end within {} s", LIMIT.as_secs())))?
            .map_err(|error| failed(format!("failed: {error}")))?;
        if ended.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&ended.stderr);
        let said: String =
            said.trim().chars().take(SAID_MAX).map(|c| if c.is_control() { ' ' } else { c }).collect();
        Err(failed(format!("ended with {}: {said}", ended.status)))
    }
}

#[async_trait]
impl Provider for Hook {
    async fn present(&self, record: &Record) -> Result<()> {
        self.run("present", record).await
    }

    async fn clean_up(&self, record: &Record) -> Result<()> {
        self.run("cleanup", record).await
    }
}
