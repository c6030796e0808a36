//! Other versions of simulated claws. Any version there is can be had; what one does otherwise
//! than another is an override in `sim.json`.
//!
//! Each start adds a line with the version to the claw's state, which stands for what a version
//! does to its data.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use clawfarm_model::launch::ImageRecipe;
use clawfarm_model::{ClawId, Code, Error, Result, Software};
use clawfarm_runtime::{Progress, Upgrade};

use crate::behaviour::Verb;
use crate::data::copy_tree;
use crate::disk::{broken, now, remove, replace};
use crate::runtime::SimRuntime;
use crate::world::World;

/// The file of a claw's state with a line for each start: the version that was started.
pub const VERSIONS: &str = "sim-versions";
/// Marks a copy as whole, with its number in it.
const NUMBER: &str = "number";
const STATE: &str = "state";

#[async_trait]
impl Upgrade for SimRuntime {
    async fn install(
        &self,
        software: &Software,
        _recipe: Option<&ImageRecipe>,
        progress: &dyn Progress,
    ) -> Result<()> {
        progress.step("install", &format!("installing simulated {}", software.version), None, "");
        self.verb(Verb::Install, None, |_| Ok(())).await
    }

    async fn software_file(&self, software: &Software, path: &Path, _limit: u64) -> Result<Option<Vec<u8>>> {
        let version = software.version.clone();
        if path != Path::new("package.json") {
            return Ok(None);
        }
        self.verb(Verb::SoftwareFile, None, move |world| {
            let package = world.behaviour()?.packages.get(&version).cloned();
            Ok(package.map(|package| package.to_string().into_bytes()))
        })
        .await
    }

    async fn copy_data(&self, id: &ClawId, copy: i64, progress: &dyn Progress) -> Result<u64> {
        progress.step("copy", "copying its data", None, "bytes");
        let claw = id.clone();
        self.verb(Verb::CopyData, Some(id), move |world| world.copy_data(&claw, copy)).await
    }

    async fn put_back(&self, id: &ClawId, copy: i64) -> Result<()> {
        let claw = id.clone();
        self.verb(Verb::PutBack, Some(id), move |world| world.put_back(&claw, copy)).await
    }

    async fn remove_copy(&self, id: &ClawId) -> Result<()> {
        let claw = id.clone();
        self.verb(Verb::RemoveCopy, Some(id), move |world| remove(&world.copy_dir(&claw), fs::remove_dir_all))
            .await
    }
}

impl World {
    /// Whether a copy of a claw's data is kept.
    #[must_use]
    pub fn has_copy(&self, id: &ClawId) -> bool {
        self.copy_dir(id).exists()
    }

    /// The versions that were started on the data that a claw has now, oldest first.
    ///
    /// # Errors
    /// When the world can't be read.
    pub fn versions(&self, id: &ClawId) -> Result<Vec<String>> {
        let path = self.data_dir(id).join(STATE).join(VERSIONS);
        match fs::read_to_string(&path) {
            Ok(text) => Ok(text.lines().map(str::to_owned).collect()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(e) => Err(broken(&path, "read", e)),
        }
    }

    pub(crate) fn note_version(&self, id: &ClawId, version: &str) -> Result<()> {
        let state = self.data_dir(id).join(STATE);
        let path = state.join(VERSIONS);
        let write = || {
            fs::create_dir_all(&state)?;
            OpenOptions::new()
                .append(true)
                .create(true)
                .open(&path)?
                .write_all(format!("{version}\n").as_bytes())
        };
        write().map_err(|e| broken(&path, "written", e))
    }

    pub(crate) fn copy_dir(&self, id: &ClawId) -> PathBuf {
        self.data_dir(id).join("copy")
    }

    fn copy_number(&self, id: &ClawId) -> Option<i64> {
        fs::read_to_string(self.copy_dir(id).join(NUMBER)).ok()?.trim().parse().ok()
    }

    fn must_be_down(&self, id: &ClawId) -> Result<()> {
        if self.record(id)?.is_some_and(|record| record.is_up(now())) {
            return Err(Error::new(Code::Conflict, format!("'{id}' is up")).fix("stop it first"));
        }
        Ok(())
    }

    fn copy_data(&self, id: &ClawId, number: i64) -> Result<u64> {
        self.must_be_down(id)?;
        if self.copy_number(id) == Some(number) {
            return Ok(0);
        }
        let copy = self.copy_dir(id);
        remove(&copy, fs::remove_dir_all)?;
        let failed = |e| broken(&copy, "made", e);
        fs::create_dir_all(&copy).map_err(failed)?;
        let state = self.data_dir(id).join(STATE);
        let bytes = if state.exists() { copy_tree(&state, &copy.join(STATE)).map_err(failed)? } else { 0 };
        replace(&copy.join(NUMBER), number.to_string().as_bytes(), 0o600).map_err(failed)?;
        Ok(bytes)
    }

    fn put_back(&self, id: &ClawId, number: i64) -> Result<()> {
        self.must_be_down(id)?;
        if self.copy_number(id) != Some(number) {
            return Err(Error::not_found("copy of the data", id)
                .field("copy")
                .fix("the data stays as it is"));
        }
        let (state, kept) = (self.data_dir(id).join(STATE), self.copy_dir(id).join(STATE));
        if kept.exists() {
            remove(&state, fs::remove_dir_all)?;
            fs::rename(&kept, &state).map_err(|e| broken(&state, "made", e))?;
        }
        Ok(())
    }
}
