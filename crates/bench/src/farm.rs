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
    /// Whether its images are in its home, as a person's are, and not in the cache of the tests.
    own_images: bool,
}

impl Farm {
    pub(crate) fn new() -> Result<Self> {
        let binary = std::env::var_os("CLAWFARM_BIN")
            .context("CLAWFARM_BIN names the binary; `make bench` sets it")?;
        Ok(Self {
            folder: TempDir::with_prefix("cfb")?,
            binary: binary.into(),
            cache: cache()?,
            own_images: false,
        })
    }

    /// One that has an image for virtual machines in its home: what is kept there may be leaned on by
    /// disks, while a cache may be emptied. It is made where the tests have not made it yet.
    pub(crate) fn of_machines(image: &str) -> Result<Self> {
        let mut farm = Self::new()?;
        farm.run(&["image", "build", image])?;
        farm.run(&["down"])?;
        let (from, to) = (farm.cache.join("images").join(image), farm.image(image));
        std::fs::create_dir_all(to.join("pins"))?;
        for name in ["image.img", "image.json"] {
            std::fs::copy(from.join(name), to.join(name))?;
        }
        farm.own_images = true;
        Ok(farm)
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command
            .args(arguments)
            .env("CLAWFARM_HOME", self.folder.path())
            .env("CLAWFARM_CACHE_DIR", &self.cache)
            .env("CLAWFARM_SIM_WORLD", self.folder.path().join("world"))
            .stdin(Stdio::null());
        if self.own_images {
            // By hand it is the emulator, too.
            command.env_remove("CLAWFARM_CACHE_DIR").env("CLAWFARM_VM_ACCELERATOR", "tcg");
        }
        command
    }

    /// The folder of an image for virtual machines.
    pub(crate) fn image(&self, image: &str) -> PathBuf {
        self.folder.path().join("images").join(image)
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
