//! Where things are in an instance's folder, and its `state.json`.
//!
//! ```text
//! <instance-dir>/         0700, the server's user's
//!   instance.flock        locked by the shim for as long as it lives
//!   state.json            ShimState: what runs, and how the last launch ended
//!   run/                  0700
//!     shim.sock           the shim's socket, while it lives
//!     shim.token          0600, what a connection must present
//!   logs/output.log       what the claw printed (see `output`), and output.log.1 ...
//! ```

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use clawfarm_model::observed::{Confinement, Exit};
use clawfarm_model::{ClawId, Error, Result, Timestamp};
use serde::{Deserialize, Serialize};

/// The file whose lock says that a shim lives.
pub const LOCK_FILE: &str = "instance.flock";
/// The file that says what runs.
pub const STATE_FILE: &str = "state.json";
/// The folder of socket and token.
pub const RUN_DIR: &str = "run";
/// The socket, in [`RUN_DIR`].
pub const SOCKET_FILE: &str = "shim.sock";
/// The token, in [`RUN_DIR`].
pub const TOKEN_FILE: &str = "shim.token";
/// The folder of the output.
pub const LOG_DIR: &str = "logs";
/// The newest output, in [`LOG_DIR`]; `output.log.1` is the next older.
pub const LOG_FILE: &str = "output.log";

/// What a shim leaves in `state.json`: before the claw is executed, when it has started, and
/// when it has ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShimState {
    /// The claw was started and its end was not seen. Only true as long as the lock is held
    /// and `boot_id` is the machine's.
    pub active: bool,
    /// The claw's main process.
    pub pid: u32,
    /// When that process was made, in clock ticks since boot (field 22 of
    /// `/proc/<pid>/stat`): tells it from a later process of the same number.
    pub start_ticks: u64,
    /// The shim's process.
    pub shim_pid: u32,
    /// When the claw was executed.
    pub started_at: Timestamp,
    /// The boot it was started in (`/proc/sys/kernel/random/boot_id`).
    pub boot_id: String,
    /// The launch it belongs to.
    pub run: i64,
    /// Who wrote this: `shim`, or `sweep` when a shim died and someone cleaned up after it.
    pub source: String,
    /// The instance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<ClawId>,
    /// The user id of the claw's own, when it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// Its cgroup folders.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cgroups: Vec<PathBuf>,
    /// How it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit: Option<Exit>,
    /// What confined it.
    #[serde(default)]
    pub confinement: Confinement,
}

impl ShimState {
    /// Reads `state.json` of an instance's folder; `None` when nothing was ever started.
    ///
    /// # Errors
    /// `Internal` when it can't be read or makes no sense.
    pub fn read(dir: &Path) -> Result<Option<Self>> {
        let path = dir.join(STATE_FILE);
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                return Err(Error::internal(format!("{} could not be read", path.display()), error));
            }
        };
        Self::parse(&text, &path).map(Some)
    }

    fn parse(text: &[u8], path: &Path) -> Result<Self> {
        serde_json::from_slice(text).map_err(|error| {
            Error::internal(format!("{} is damaged", path.display()), error)
                .fix("remove the file once you are sure that the instance does not run")
        })
    }

    /// Replaces `state.json` as a whole: after a kill or on a full disk there is the old one
    /// or the new one.
    ///
    /// # Errors
    /// `Internal` when it can't be written.
    pub fn write(&self, dir: &Path) -> Result<()> {
        let text = serde_json::to_vec(self)
            .map_err(|error| Error::internal("the state could not be put into JSON", error))?;
        write_atomic(&dir.join(STATE_FILE), &text)
    }
}

/// Writes a 0600 file as a whole or not at all.
///
/// # Errors
/// `Internal`, naming the path.
pub(crate) fn write_atomic(path: &Path, contents: &[u8]) -> Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let temporary = PathBuf::from(temporary);
    let written = (|| {
        let mut file =
            File::options().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(contents)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)?;
        File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
    })();
    written.map_err(|error: std::io::Error| {
        Error::internal(format!("{} could not be written: {error}", path.display()), error)
            .fix("check that the disk has space and that the folder belongs to the server's user")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fuzz_state_json() {
        let exit = r#"{"active":true,"pid":7,"start_ticks":8,"shim_pid":9,"started_at":"2026-11-21T00:00:00Z","boot_id":"b","run":2,"source":"shim","id":"alice-x7k2b","uid":100000,"cgroups":["/sys/fs/cgroup/x"],"exit":null,"confinement":{}}"#;
        let state = ShimState {
            active: true,
            pid: 7,
            start_ticks: 8,
            shim_pid: 9,
            started_at: Timestamp::from_millis(1),
            boot_id: "b".into(),
            run: 2,
            source: "shim".into(),
            id: None,
            uid: Some(100_000),
            cgroups: vec!["/sys/fs/cgroup/x/y".into()],
            exit: None,
            confinement: Confinement::default(),
        };
        let whole = serde_json::to_vec(&state).unwrap();
        let path = Path::new(STATE_FILE);
        assert_eq!(ShimState::parse(&whole, path).unwrap(), state);
        clawfarm_fuzz::fuzz(&[&whole, exit.as_bytes(), b"{}"], |bytes| match ShimState::parse(bytes, path) {
            Ok(state) => {
                let again = serde_json::to_vec(&state).unwrap();
                assert_eq!(ShimState::parse(&again, path).unwrap(), state);
            }
            Err(error) => assert!(error.message().contains("damaged") && error.fix_text().is_some()),
        });
    }

    #[test]
    fn state_survives_and_its_absence_is_no_error() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(ShimState::read(dir.path()).unwrap(), None);
        let state = ShimState {
            active: true,
            pid: 7,
            start_ticks: 8,
            shim_pid: 9,
            started_at: Timestamp::from_millis(1),
            boot_id: "b".into(),
            run: 2,
            source: "shim".into(),
            id: None,
            uid: None,
            cgroups: vec!["/sys/fs/cgroup/x/y".into()],
            exit: None,
            confinement: Confinement::default(),
        };
        state.write(dir.path()).unwrap();
        assert_eq!(ShimState::read(dir.path()).unwrap(), Some(state));
        std::fs::write(dir.path().join(STATE_FILE), "{").unwrap();
        assert!(ShimState::read(dir.path()).unwrap_err().message().contains("damaged"));
    }
}
