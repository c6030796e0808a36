//! Copies of simulated claws' data for archives, and data from them.

use std::fs;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use clawfarm_model::{ClawId, Code, Error, ObservedState, Result};
use clawfarm_runtime::Backup;

use crate::behaviour::Verb;
use crate::data::copy_tree;
use crate::disk::{broken, now, remove};
use crate::runtime::SimRuntime;
use crate::world::World;

/// What a claw has in its folder and in a copy alike; the workspace lies in the state there.
const STATE: &str = "state";
const WORKSPACE: &str = "workspace";

#[async_trait]
impl Backup for SimRuntime {
    fn room(&self) -> PathBuf {
        self.world.root().join("backups")
    }

    async fn copy_out(&self, id: &ClawId, to: &Path) -> Result<Vec<PathBuf>> {
        let (claw, to) = (id.clone(), to.to_owned());
        self.verb(Verb::CopyOut, Some(id), move |world| world.copy_out(&claw, &to)).await?;
        Ok(Vec::new())
    }

    async fn take_in(&self, id: &ClawId, from: &Path) -> Result<()> {
        let (claw, from) = (id.clone(), from.to_owned());
        self.verb(Verb::TakeIn, Some(id), move |world| world.take_in(&claw, &from)).await
    }
}

impl World {
    fn copy_out(&self, id: &ClawId, to: &Path) -> Result<()> {
        let seen = self.record(id)?.map(|record| record.observe(now()).state);
        if seen == Some(ObservedState::Running) {
            return Err(
                Error::new(Code::Conflict, format!("'{id}' is up: its data changes")).fix("freeze it first")
            );
        }
        let data = self.data_dir(id);
        for (part, place) in [(STATE, to.join(STATE)), (WORKSPACE, to.join(STATE).join(WORKSPACE))] {
            let from = data.join(part);
            if from.exists() {
                copy_tree(&from, &place).map_err(|e| broken(&place, "made", e))?;
            }
        }
        Ok(())
    }

    fn take_in(&self, id: &ClawId, from: &Path) -> Result<()> {
        let data = self.data_dir(id);
        let failed = |e| broken(&data, "made", e);
        if !from.exists() && !data.join(STATE).exists() {
            return Err(Error::new(
                Code::Gone,
                format!("the data that '{id}' was to begin with is not there any more"),
            ));
        }
        // The workspace first: without the state it is found that something is left to do.
        for (place, part) in [(from.join(STATE).join(WORKSPACE), WORKSPACE), (from.join(STATE), STATE)] {
            if !place.exists() {
                continue;
            }
            let to = data.join(part);
            fs::create_dir_all(&data).map_err(failed)?;
            match fs::remove_dir(&to) {
                Err(e) if e.kind() == std::io::ErrorKind::DirectoryNotEmpty => {
                    return Err(Error::new(Code::Conflict, format!("'{id}' has data of its own")));
                }
                _ => fs::rename(&place, &to).map_err(failed)?,
            }
        }
        remove(from, fs::remove_dir_all)
    }
}
