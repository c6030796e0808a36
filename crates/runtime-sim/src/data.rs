//! What a simulated claw leaves on disk: the files of its launch, what it printed, and the
//! datasets that were set aside.

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Component, Path, PathBuf};

use clawfarm_model::launch::{DataFate, Launch, Place, Placement};
use clawfarm_model::{ClawId, Code, Error, Result, Timestamp};
use clawfarm_runtime::{LogLine, OutputStream, Progress};
use secrecy::ExposeSecret;

use crate::disk::{broken, remove, replace};
use crate::world::World;

impl World {
    /// Its place. Nothing of it exists before something is written there.
    pub(crate) fn place(&self, placement: &Placement, host_url: String) -> Place {
        let data = self.data_dir(&placement.id);
        Place {
            install_dir: self.root().join("install"),
            layout: clawfarm_model::launch::Layout::Npm,
            state_dir: data.join("state"),
            workspace_dir: data.join("workspace"),
            log_dir: data.join("logs"),
            tmp_dir: data.join("tmp"),
            port: placement.port,
            listen_on_all: false,
            server_addresses: clawfarm_model::Place::loopback(),
            host_url,
            memory_enforced: true,
        }
    }

    /// Moves the dataset in that the instance is to begin with, unless it has data.
    pub(crate) fn adopt_dataset(&self, placement: &Placement) -> Result<()> {
        let Some(dataset) = &placement.dataset else { return Ok(()) };
        let data = self.data_dir(&placement.id);
        if data.exists() {
            return Ok(());
        }
        make_parent(&data)?;
        match fs::rename(self.dataset_dir(dataset), &data) {
            Ok(()) => Ok(()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                Err(Error::not_found("simulated dataset", dataset).field("dataset"))
            }
            Err(e) => Err(broken(&data, "made", e)),
        }
    }

    /// Sets its data aside, or removes it. Returns the size of what is set aside.
    pub(crate) fn part_with_data(&self, id: &ClawId, fate: DataFate, known: bool) -> Result<u64> {
        let (data, dataset) = (self.data_dir(id), self.dataset_dir(id));
        remove(&self.copy_dir(id), fs::remove_dir_all)?;
        match fate {
            DataFate::Purge => {
                remove(&data, fs::remove_dir_all)?;
                Ok(0)
            }
            DataFate::Keep => {
                if data.exists() {
                    fs::rename(&data, &dataset).map_err(|e| broken(&dataset, "made", e))?;
                } else if known {
                    // It never wrote anything: an empty dataset is still one to be listed.
                    fs::create_dir_all(&dataset).map_err(|e| broken(&dataset, "made", e))?;
                }
                Ok(size(&dataset))
            }
        }
    }

    /// Removes data that was set aside.
    pub(crate) fn remove_dataset(&self, id: &ClawId) -> Result<()> {
        remove(&self.dataset_dir(id), fs::remove_dir_all)
    }

    /// Writes the files of a launch.
    pub(crate) fn write_launch(&self, launch: &Launch) -> Result<()> {
        for file in &launch.files {
            let path = self.state_path(&launch.id, &file.path)?;
            let contents = file.contents.expose_secret().as_bytes();
            // Most starts write what is there: then nothing is.
            if fs::read(&path).is_ok_and(|present| present == contents) {
                continue;
            }
            make_parent(&path)?;
            let mode = if file.read_only { 0o400 } else { 0o600 };
            replace(&path, contents, mode).map_err(|e| broken(&path, "written", e))?;
        }
        Ok(())
    }

    /// Reads a file of a claw's state.
    pub(crate) fn read_file(&self, id: &ClawId, path: &Path, limit: u64) -> Result<Option<Vec<u8>>> {
        let path = self.state_path(id, path)?;
        let file = match fs::File::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(broken(&path, "read", e)),
        };
        let mut contents = Vec::new();
        file.take(limit.saturating_add(1))
            .read_to_end(&mut contents)
            .map_err(|e| broken(&path, "read", e))?;
        if contents.len() as u64 > limit {
            return Err(Error::new(
                Code::Insufficient,
                format!("the file is larger than the {limit} bytes that may be read"),
            )
            .field("path")
            .fix("read it in the claw itself"));
        }
        Ok(Some(contents))
    }

    /// Writes a file of a claw's state.
    pub(crate) fn write_file(
        &self,
        id: &ClawId,
        path: &Path,
        contents: &[u8],
        read_only: bool,
    ) -> Result<()> {
        let path = self.state_path(id, path)?;
        make_parent(&path)?;
        replace(&path, contents, if read_only { 0o400 } else { 0o600 })
            .map_err(|e| broken(&path, "written", e))
    }

    /// Copies a folder in as a claw's state.
    pub(crate) fn import(&self, id: &ClawId, from: &Path) -> Result<u64> {
        let state = self.data_dir(id).join("state");
        if state.exists() {
            return Err(Error::new(Code::Conflict, format!("'{id}' has state already"))
                .fix("import into a new instance"));
        }
        if !from.is_dir() {
            return Err(Error::not_found("folder", from.display()).field("import"));
        }
        // Whole or not at all: what an import that was cut off left is begun anew.
        let half = self.data_dir(id).join(".import");
        remove(&half, fs::remove_dir_all)?;
        let bytes = copy_tree(from, &half).map_err(|e| broken(&half, "copied", e))?;
        fs::rename(&half, &state).map_err(|e| broken(&state, "made", e))?;
        Ok(bytes)
    }

    /// Writes down a line that a claw printed. Only a log: a full disk must not keep a claw
    /// from being stopped.
    pub(crate) fn print(&self, id: &ClawId, text: &str) {
        let line = LogLine { at: Timestamp::now(), stream: OutputStream::Stdout, text: text.to_owned() };
        let path = self.log_path(id);
        let written = make_parent(&path).map_err(|e| e.to_string()).and_then(|()| {
            let mut bytes = serde_json::to_vec(&line).map_err(|e| e.to_string())?;
            bytes.push(b'\n');
            let mut open = OpenOptions::new();
            let mut file =
                open.append(true).create(true).mode(0o600).open(&path).map_err(|e| e.to_string())?;
            file.write_all(&bytes).map_err(|e| e.to_string())
        });
        if let Err(error) = written {
            tracing::warn!(%id, %error, "a simulated claw's line was lost");
        }
    }

    pub(crate) fn log_path(&self, id: &ClawId) -> PathBuf {
        self.data_dir(id).join("log")
    }

    fn state_path(&self, id: &ClawId, path: &Path) -> Result<PathBuf> {
        let plain = path.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
        if !plain || path.file_name().is_none() {
            return Err(Error::invalid("path", format!("'{}' leaves the claw's folder", path.display()))
                .fix("give a path below it, without '..'"));
        }
        Ok(self.data_dir(id).join("state").join(path))
    }
}

/// Says that an import is under way.
pub(crate) fn tell_import(progress: &dyn Progress) {
    progress.step("import", "copying the existing home", None, "bytes");
}

fn make_parent(path: &Path) -> Result<()> {
    let parent = path.parent().unwrap_or(path);
    fs::create_dir_all(parent).map_err(|e| broken(parent, "made", e))
}

/// Copies files and folders; links, sockets and devices stay behind.
pub(crate) fn copy_tree(from: &Path, to: &Path) -> io::Result<u64> {
    fs::create_dir_all(to)?;
    let mut bytes = 0;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        let target = to.join(entry.file_name());
        if kind.is_dir() {
            bytes += copy_tree(&entry.path(), &target)?;
        } else if kind.is_file() {
            bytes += fs::copy(entry.path(), target)?;
        }
    }
    Ok(bytes)
}

/// What a folder takes itself, in bytes: a block, so that an empty one is not taken for none.
const FOLDER: u64 = 4096;

/// The bytes that a folder takes; what vanishes meanwhile counts nothing.
fn size(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    let below: u64 = entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(meta) if meta.is_dir() => size(&entry.path()),
            Ok(meta) => meta.len(),
            Err(_) => 0,
        })
        .sum();
    FOLDER + below
}
