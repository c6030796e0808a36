//! A farm of its own, with the release binary.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;
use tempfile::TempDir;

/// A home with a server, removed with its claws at the end.
pub(crate) struct Farm {
    folder: TempDir,
    binary: PathBuf,
    cache: PathBuf,
}

impl Farm {
    pub(crate) fn new() -> Result<Self> {
        let binary = std::env::var_os("CLAWFARM_BIN")
            .context("CLAWFARM_BIN names the binary; `make bench` sets it")?;
        Ok(Self { folder: TempDir::with_prefix("cfb")?, binary: binary.into(), cache: cache()? })
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command
            .args(arguments)
            .env("CLAWFARM_HOME", self.folder.path())
            .env("CLAWFARM_CACHE_DIR", &self.cache)
            .env("CLAWFARM_SIM_WORLD", self.folder.path().join("world"))
            .stdin(Stdio::null());
        command
    }

    /// Where it has images of virtual machines.
    pub(crate) fn images(&self) -> PathBuf {
        self.cache.clone()
    }

    /// Runs it to its end; its standard output.
    pub(crate) fn run(&self, arguments: &[&str]) -> Result<String> {
        let output = self.command(arguments).output()?;
        if !output.status.success() {
            bail!("clawfarm {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(String::from_utf8(output.stdout)?)
    }

    pub(crate) fn json(&self, arguments: &[&str]) -> Result<Value> {
        Ok(serde_json::from_str(&self.run(arguments)?)?)
    }
}

impl Drop for Farm {
    fn drop(&mut self) {
        let claws = self.run(&["ps", "-q"]).unwrap_or_default();
        for id in claws.lines() {
            let _ = self.command(&["rm", "--purge", "--force", id]).output();
        }
        let _ = self.command(&["down"]).output();
    }
}

/// The folder with node and openclaw, as `make test` sets it up.
pub(crate) fn install() -> Result<PathBuf> {
    let folder = std::env::var_os("CLAWFARM_TEST_OPENCLAW")
        .context("CLAWFARM_TEST_OPENCLAW names an installed OpenClaw; `make bench` sets it")?;
    Ok(folder.into())
}

fn cache() -> Result<PathBuf> {
    let install = install()?;
    install.ancestors().nth(2).map(Path::to_owned).context("an installation lies in a cache")
}
