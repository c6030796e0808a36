//! Saving memory to an open file, and restoring it.

use std::os::fd::OwnedFd;
use std::time::Duration;

use clawfarm_model::{Code, Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Qmp, RunState};
use crate::text::tame;

/// The set of open files that the memory's is in, and its name in a QEMU before 8.2.
const FILE_SET: u32 = 1;
const FILE_NAME: &str = "clawfarm-memory";

/// How often a migration is asked how far it is.
const LOOK: Duration = Duration::from_millis(20);

/// How bytes lie in the file. The same must be said when it is restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stream {
    /// Each page of memory has its place, zero pages are holes: as large as the memory, and
    /// mostly empty.
    MappedRam,
    /// One after the other.
    Plain,
}

/// How far a migration is.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Migration {
    /// Where it stands; `None` before the first.
    pub status: Option<MigrationState>,
    /// How much there is.
    pub ram: Option<Progress>,
    /// Why it failed.
    pub error_desc: Option<String>,
}

/// How much of the memory is done, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Progress {
    /// The machine's memory.
    pub total: u64,
    /// What is left to look at.
    pub remaining: u64,
}

/// Where a migration stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MigrationState {
    /// There is none.
    None,
    /// It is done.
    Completed,
    /// It failed; the machine is as it was.
    Failed,
    /// It was called off; the machine is as it was.
    Cancelled,
    /// It goes on.
    #[serde(other)]
    Active,
}

impl Qmp {
    /// How this machine's memory is saved: by the QEMU that runs it, not by the installed one.
    #[must_use]
    pub fn stream(&self) -> Stream {
        if self.version().maps_ram() { Stream::MappedRam } else { Stream::Plain }
    }

    /// How far the migration is.
    ///
    /// # Errors
    /// As for [`Self::execute`].
    pub async fn migration(&self) -> Result<Migration> {
        self.read("query-migrate").await
    }

    /// Saves the memory of a stopped machine to an open, empty file. `advance` hears how many
    /// bytes of how many are done. The machine is left stopped, and can be let go on.
    ///
    /// One connection serves the whole of it: with one for each command, saving failed now and
    /// then with `Bad address` (QEMU 10.0).
    ///
    /// # Errors
    /// `Timeout` when it is not done within `limit` (it is called off), `Insufficient` when the
    /// disk is full; else what QEMU says. The machine is as it was.
    pub async fn save_memory(
        &self,
        file: &OwnedFd,
        stream: Stream,
        limit: Duration,
        mut advance: impl FnMut(u64, u64) + Send,
    ) -> Result<()> {
        self.end_migration().await?;
        self.set_stream(stream).await?;
        // QEMU holds back for a network by default: 128 MiB/s.
        self.execute("migrate-set-parameters", &json!({"max-bandwidth": i64::MAX})).await?;
        let target = self.hand_over(file).await?;
        let done = async {
            self.execute("migrate", &target).await?;
            loop {
                let migration = self.migration().await?;
                if let Some(ram) = migration.ram {
                    advance(ram.total.saturating_sub(ram.remaining), ram.total);
                }
                match migration.status {
                    Some(MigrationState::Completed) => return Ok(()),
                    Some(MigrationState::Failed | MigrationState::Cancelled) => {
                        return Err(failed("save", migration.error_desc));
                    }
                    _ => tokio::time::sleep(LOOK).await,
                }
            }
        };
        let saved = match tokio::time::timeout(limit, done).await {
            Ok(saved) => saved,
            Err(_) => {
                self.call_off().await;
                Err(Error::new(Code::Timeout, format!("the memory was not saved within {limit:?}"))
                    .fix("see how busy the disk is, then try again"))
            }
        };
        self.take_back().await;
        saved
    }

    /// Restores memory into a machine that was started to wait for it ([`crate::Machine::incoming`]).
    /// It is stopped afterwards, and has not run.
    ///
    /// # Errors
    /// `Timeout`, or what QEMU says: a machine that failed to restore has ended or is of no use.
    pub async fn restore_memory(&self, file: &OwnedFd, stream: Stream, limit: Duration) -> Result<()> {
        self.set_stream(stream).await?;
        let source = self.hand_over(file).await?;
        let done = async {
            self.execute("migrate-incoming", &source).await?;
            loop {
                let migration = self.migration().await?;
                if migration.status == Some(MigrationState::Failed) {
                    return Err(failed("restore", migration.error_desc));
                }
                match self.run_state().await? {
                    RunState::Inmigrate => tokio::time::sleep(LOOK).await,
                    RunState::Paused | RunState::Prelaunch | RunState::Postmigrate => return Ok(()),
                    state => {
                        return Err(failed("restore", Some(format!("the machine is in state {state:?}"))));
                    }
                }
            }
        };
        let restored = tokio::time::timeout(limit, done).await.map_err(|_| {
            Error::new(Code::Timeout, format!("the memory was not restored within {limit:?}"))
                .fix("see how busy the disk is, then try again")
        })?;
        if restored.is_ok() {
            self.take_back().await;
        }
        restored
    }

    /// Calls off a migration that still goes on: of a server that was ended in the middle.
    ///
    /// # Errors
    /// As for [`Self::execute`].
    pub async fn end_migration(&self) -> Result<()> {
        if self.migration().await?.status == Some(MigrationState::Active) {
            self.call_off().await;
        }
        Ok(())
    }

    async fn set_stream(&self, stream: Stream) -> Result<()> {
        // An older one does not know the word, and refuses it also when it is off.
        let capability: &[Value] = if self.version().maps_ram() {
            &[json!({"capability": "mapped-ram", "state": stream == Stream::MappedRam})]
        } else {
            &[]
        };
        self.execute("migrate-set-capabilities", &json!({"capabilities": capability})).await.map(drop)
    }

    /// Gives QEMU the open file, so that it needs no right to any folder. Returns what
    /// `migrate` and `migrate-incoming` call it.
    async fn hand_over(&self, file: &OwnedFd) -> Result<Value> {
        if !self.version().saves_to_file() {
            self.execute_with("getfd", &json!({"fdname": FILE_NAME}), file).await?;
            return Ok(json!({"uri": format!("fd:{FILE_NAME}")}));
        }
        // One that a server left which was ended in the middle would be taken instead.
        self.take_back().await;
        self.execute_with("add-fd", &json!({"fdset-id": FILE_SET}), file).await?;
        let file = json!({"transport": "file", "filename": format!("/dev/fdset/{FILE_SET}"), "offset": 0});
        Ok(json!({"channels": [{"channel-type": "main", "addr": file}]}))
    }

    /// Lets QEMU close the file. There was none is a success, and a file that stays open does
    /// no harm.
    async fn take_back(&self) {
        if self.version().saves_to_file() {
            let _ = self.execute("remove-fd", &json!({"fdset-id": FILE_SET})).await;
        }
    }

    async fn call_off(&self) {
        if let Err(error) = self.execute("migrate_cancel", &Value::Null).await {
            tracing::warn!(%error, "a migration that takes too long could not be called off");
            return;
        }
        let over = async {
            while !matches!(
                self.migration().await.map(|m| m.status),
                Ok(Some(MigrationState::Cancelled | MigrationState::Failed | MigrationState::Completed))
                    | Err(_)
            ) {
                tokio::time::sleep(LOOK).await;
            }
        };
        if tokio::time::timeout(super::LIMIT, over).await.is_err() {
            tracing::warn!("a migration that was called off goes on");
        }
    }
}

fn failed(what: &str, why: Option<String>) -> Error {
    let why = why.map_or_else(|| "QEMU does not say why".to_owned(), |why| tame(&why));
    if why.contains("No space left") || why.contains("quota") {
        return Error::new(Code::Insufficient, format!("could not {what} the memory: {why}"))
            .fix("free some disk space (`df -h` shows what is full), then try again");
    }
    Error::new(Code::Unavailable, format!("could not {what} the memory: {why}"))
}
