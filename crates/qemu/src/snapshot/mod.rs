//! A machine's memory on disk: whole, or not there.
//!
//! A snapshot is a folder of two files, the memory and what it says of itself. It is written as
//! `NAME.part` and renamed when both are on the disk. From then on the snapshot is the machine,
//! and the process has only to end; until then the process is the machine, and the half is
//! removed. On the way back the snapshot is removed after the memory is in the new process, and
//! before that runs for the first time: once it runs it changes its disk, and a memory that does
//! not know of that would destroy the file systems on it.
//!
//! So there is at no instant a way to run one machine twice, and whoever finds a process and a
//! snapshot side by side knows what to do ([`Snapshot::settle`]).

mod about;

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clawfarm_failpoint::point;
use clawfarm_files::{Folder, NewFile, blocking, io_error};
use clawfarm_model::{Code, Error, Result};

use crate::machine::Shape;
use crate::qmp::{Qmp, RunState};
pub use about::About;

const MEMORY: &str = "memory";
const ABOUT: &str = "about.json";
/// A description has some hundred bytes.
const ABOUT_LIMIT: u64 = 64 * 1024;

/// How long a process may take to end after it was told to. Its disks are written by then, and
/// whoever has the snapshot may kill it.
const QUIT_LIMIT: Duration = Duration::from_secs(15);

/// Where a machine's snapshot is, or would be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The folder it is in: the instance's, which only the server can write to.
    folder: PathBuf,
    name: String,
}

/// What [`Snapshot::settle`] found, and made so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    /// The process is the machine, in this state.
    Process(RunState),
    /// The snapshot is the machine; the process was told to end, and may be killed.
    Snapshot,
}

/// Limits for the parts that depend on the size of the memory and the speed of the disk.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// For writing the memory.
    pub save: Duration,
    /// For reading it.
    pub restore: Duration,
}

impl Limits {
    /// For a machine of so much memory: a minute, and a second for each 20 MiB, which is slower
    /// than any disk that is not broken.
    #[must_use]
    pub fn of(memory_mib: u32) -> Self {
        let limit = Duration::from_secs(60 + u64::from(memory_mib) / 20);
        Self { save: limit, restore: limit }
    }
}

impl Snapshot {
    /// The snapshot `name` in `folder`.
    ///
    /// # Errors
    /// `InvalidInput` when the name is no plain one.
    pub fn at(folder: &Path, name: &str) -> Result<Self> {
        let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        if !plain || name.is_empty() || name.len() > 64 {
            return Err(Error::invalid("snapshot", format!("'{}' can't be its name", name.escape_default()))
                .fix("use letters, digits and '-'"));
        }
        Ok(Self { folder: folder.to_owned(), name: name.to_owned() })
    }

    fn half(&self) -> String {
        format!("{}.part", self.name)
    }

    /// Saves a machine and ends its process: afterwards there is the snapshot, or an error and
    /// the machine as it was before, running or stopped. `advance` hears how many bytes of how
    /// many are done. `Ok` is the snapshot's description.
    ///
    /// Cut off by the end of our own process, or with a process that does not end when it should,
    /// it is brought to its end by [`Self::settle`].
    ///
    /// # Errors
    /// `Conflict` when there is a snapshot, or the guest has ended; `Insufficient` when the disk
    /// is full, `Timeout`, `Unavailable` when QEMU ended in between: then the machine is lost as
    /// in a power cut.
    pub async fn save(
        &self,
        qmp: &Qmp,
        shape: &Shape,
        limits: Limits,
        advance: impl FnMut(u64, u64) + Send,
    ) -> Result<About> {
        let before = qmp.run_state().await?;
        match self.write(qmp, shape, limits, advance).await {
            Ok(about) => {
                self.end(qmp).await?;
                Ok(about)
            }
            Err(error) => {
                if let Err(left) = self.remove_half().await {
                    tracing::warn!(error = %left, "half a snapshot is removed at the next attempt");
                }
                // Only what ran goes on, and only while nothing whole is there.
                if before == RunState::Running
                    && matches!(self.about().await, Ok(None))
                    && let Err(lost) = qmp.cont().await
                {
                    tracing::warn!(error = %lost, "a machine that could not be saved does not go on");
                }
                Err(error)
            }
        }
    }

    async fn write(
        &self,
        qmp: &Qmp,
        shape: &Shape,
        limits: Limits,
        advance: impl FnMut(u64, u64) + Send,
    ) -> Result<About> {
        if self.about().await?.is_some() {
            return Err(Error::new(Code::Conflict, "there is a snapshot of this machine already")
                .field("snapshot")
                .fix("resume it, or remove it"));
        }
        self.remove_half().await?;
        match qmp.run_state().await? {
            RunState::Running | RunState::Paused => {}
            // Saved before, and what was saved is gone: its disks have to be taken up again.
            RunState::Postmigrate => qmp.cont().await?,
            state => {
                return Err(Error::new(
                    Code::Conflict,
                    format!("the machine can't be saved in its state ({state:?})"),
                )
                .fix("stop it and start it again"));
            }
        }
        qmp.stop().await?;
        point!(GuestStopped);
        let file = self.in_folder(make_memory).await?;
        let stream = qmp.stream();
        qmp.save_memory(&file, stream, limits.save, advance).await?;
        point!(MemoryWritten);
        let (version, shape) = (qmp.version(), shape.clone());
        let about = self
            .in_folder(move |folder, half| {
                let file = std::fs::File::from(file);
                file.sync_all()?;
                // What the guest wrote to folders of this machine, too, as far as they are on this disk: it
                // goes on with a memory that takes it for written.
                folder.sync_file_system()?;
                let about = About::new(version, stream, shape, file.metadata()?.len());
                let text = serde_json::to_vec_pretty(&about)?;
                let new = NewFile { mode: 0o600, owner: None, folder_owner: None };
                folder.folder(Path::new(half))?.write(Path::new(ABOUT), &text, new)?;
                Ok(about)
            })
            .await?;
        point!(SnapshotDescribed);
        let name = self.name.clone();
        self.in_folder(move |folder, half| folder.move_to(half.as_ref(), folder, name.as_ref())).await?;
        point!(SnapshotWhole);
        Ok(about)
    }

    /// Ends the process of a machine that is saved.
    async fn end(&self, qmp: &Qmp) -> Result<()> {
        match tokio::time::timeout(QUIT_LIMIT, qmp.quit()).await {
            Ok(told) => told?,
            // It may be about to: that is what is waited for.
            Err(_) => return qmp.until_gone(Duration::ZERO).await,
        }
        qmp.until_gone(QUIT_LIMIT).await
    }

    /// What the snapshot says of itself; `None` when there is none.
    ///
    /// # Errors
    /// `Internal` when it can't be read.
    pub async fn about(&self) -> Result<Option<About>> {
        let name = self.name.clone();
        let text = self
            .in_folder(move |folder, _| match folder.folder(Path::new(&name)) {
                Ok(snapshot) => snapshot.read(Path::new(ABOUT), ABOUT_LIMIT),
                Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
                Err(e) => Err(e),
            })
            .await?;
        text.map(|text| {
            serde_json::from_slice(&text).map_err(|e| {
                Error::internal("what the saved memory says of itself can't be read", e)
                    .field("snapshot")
                    .fix("remove it: the machine is started anew then")
            })
        })
        .transpose()
    }

    /// Restores into a process that was started for it ([`crate::Machine::incoming`]) with the
    /// same shape, removes the snapshot, and lets the machine go on when `go_on` says so.
    ///
    /// # Errors
    /// `NotFound` without a snapshot, `Unsupported` when it does not fit, or what QEMU says. As
    /// long as [`Self::about`] finds it, it can be tried again with a new process.
    pub async fn restore(&self, qmp: &Qmp, shape: &Shape, limits: Limits, go_on: bool) -> Result<()> {
        let Some(about) = self.about().await? else {
            return Err(Error::not_found("snapshot", &self.name).field("snapshot"));
        };
        about.fits(qmp.version(), shape)?;
        let name = self.name.clone();
        let file = self
            .in_folder(move |folder, _| {
                let file = folder.folder(Path::new(&name))?.open_file(Path::new(MEMORY))?;
                let file = file.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
                // A snapshot is written whole or not at all: a shorter file is a broken disk.
                if file.metadata()?.len() == about.bytes {
                    Ok(OwnedFd::from(file))
                } else {
                    let why = "it has another size than it was written with";
                    Err(io::Error::new(io::ErrorKind::InvalidData, why))
                }
            })
            .await?;
        qmp.restore_memory(&file, about.stream, limits.restore).await?;
        point!(MemoryRestored);
        self.remove().await?;
        point!(SnapshotUsed);
        if go_on { qmp.cont().await } else { Ok(()) }
    }

    /// Makes one machine of a process and whatever of a snapshot was found beside it, after a
    /// save or a restore was cut off. Done twice, it finds all settled.
    ///
    /// # Errors
    /// As for [`Qmp::execute`], or when something can't be removed.
    pub async fn settle(&self, qmp: &Qmp) -> Result<Settled> {
        qmp.end_migration().await?;
        let state = qmp.run_state().await?;
        if self.about().await?.is_none() {
            self.remove_half().await?;
            return Ok(Settled::Process(state));
        }
        match state {
            // It was saved, and had only to end; or waited for its memory: the snapshot is still
            // the machine, and nothing of this process is.
            RunState::Postmigrate
            | RunState::FinishMigrate
            | RunState::Inmigrate
            | RunState::Paused
            | RunState::Prelaunch => {
                // One that does not end must not keep the snapshot from being the machine.
                if let Err(error) = self.end(qmp).await {
                    tracing::warn!(%error, "the process of a saved machine does not end by itself");
                }
                Ok(Settled::Snapshot)
            }
            // It ran since, and its disk is another one now.
            _ => {
                self.remove().await?;
                Ok(Settled::Process(state))
            }
        }
    }

    /// Removes the snapshot, so that it can't be used any more. Gone already is a success.
    ///
    /// # Errors
    /// When it can't be removed.
    pub async fn remove(&self) -> Result<()> {
        let name = self.name.clone();
        self.in_folder(move |folder, half| {
            folder.remove(half.as_ref())?;
            // Its name goes in one step; its gigabytes may take longer.
            match folder.move_to(name.as_ref(), folder, half.as_ref()) {
                Ok(()) => folder.remove(half.as_ref()),
                Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
                Err(e) => Err(e),
            }
        })
        .await
    }

    async fn remove_half(&self) -> Result<()> {
        self.in_folder(|folder, half| folder.remove(half.as_ref())).await
    }

    async fn in_folder<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Folder, &str) -> io::Result<T> + Send + 'static,
    ) -> Result<T> {
        let (path, half) = (self.folder.clone(), self.half());
        blocking(move || {
            let done = Folder::open(&path).and_then(|folder| work(&folder, &half));
            done.map_err(|e| io_error(format!("use the saved memory in '{}'", path.display()), e))
        })
        .await
    }
}

/// A new file for the memory, in a new half.
fn make_memory(folder: &Folder, half: &str) -> io::Result<OwnedFd> {
    let half = folder.make_folder(Path::new(half), None)?;
    Ok(half.create(MEMORY.as_ref(), 0o600)?.into())
}
