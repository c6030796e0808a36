//! What every part of the runtime shares.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use clawfarm_model::launch::Software;
use clawfarm_model::{ClawId, Code, Error, Place, Result};
use sha2::{Digest, Sha256};
use tokio::sync::OwnedMutexGuard;

use crate::config::ProcessConfig;
use crate::dial::Verified;
use crate::paths::{CLAW_LOGS, Paths, STATE, TMP, WORKSPACE};
use crate::record::{self, InstanceRecord};
use clawfarm_files::Owner;
use clawfarm_install::{Installation, Npm, Places};
use clawfarm_local::watch::{Instances, Watch};

/// The state of one runtime.
pub(crate) struct Inner {
    pub(crate) paths: Paths,
    pub(crate) config: ProcessConfig,
    pub(crate) claw_port: AtomicU16,
    /// One verb that changes an instance's files at a time.
    verbs: Mutex<HashMap<ClawId, Arc<tokio::sync::Mutex<()>>>>,
    /// Held while a user id is chosen and written down.
    pub(crate) choosing: Mutex<()>,
    /// Held while what a killed shim left is ended.
    pub(crate) settling: Mutex<()>,
    pub(crate) watch: Arc<Watch>,
    pub(crate) verified: Mutex<HashMap<ClawId, Verified>>,
}

struct Folders(Paths);

impl Instances for Folders {
    fn ids(&self) -> Result<Vec<ClawId>> {
        record::ids(&self.0)
    }

    fn dir(&self, id: &ClawId) -> PathBuf {
        self.0.claw(id)
    }
}

impl Inner {
    pub(crate) fn new(config: ProcessConfig) -> Self {
        let paths = Paths { home: config.home.clone(), cache: config.cache_dir.clone() };
        Self {
            watch: Watch::new(Folders(paths.clone())),
            paths,
            claw_port: AtomicU16::new(config.claw_port),
            config,
            verbs: Mutex::default(),
            choosing: Mutex::default(),
            settling: Mutex::default(),
            verified: Mutex::default(),
        }
    }

    /// Keeps other verbs away from an instance.
    pub(crate) async fn lock(&self, id: &ClawId) -> OwnedMutexGuard<()> {
        let lock = guard(&self.verbs).entry(id.clone()).or_default().clone();
        lock.lock_owned().await
    }

    pub(crate) fn forget(&self, id: &ClawId) {
        guard(&self.verified).remove(id);
        self.watch.forget(id);
        // A verb that waits for this lock keeps its own share of it.
        guard(&self.verbs).retain(|other, lock| other != id || Arc::strong_count(lock) > 2);
    }

    pub(crate) fn tell(&self, id: &ClawId) {
        self.watch.tell(id);
    }

    pub(crate) fn dir(&self, id: &ClawId) -> PathBuf {
        self.paths.claw(id)
    }

    pub(crate) fn npm(&self) -> Npm {
        Npm { program: self.config.npm.clone(), time_limit: self.config.npm_time_limit }
    }

    pub(crate) fn install(&self, software: &Software) -> Result<Installation> {
        let places = Places { home: self.paths.home.clone(), cache: self.paths.cache.clone() };
        Installation::of(software, &places)
    }

    /// The record of an instance, which must exist.
    pub(crate) fn record(&self, id: &ClawId) -> Result<InstanceRecord> {
        InstanceRecord::read(&self.dir(id))?.ok_or_else(|| Error::not_found("instance", id))
    }

    pub(crate) fn host_url(&self) -> Result<String> {
        match self.claw_port.load(Ordering::Relaxed) {
            0 => Err(Error::new(Code::Unavailable, "the server's listener for claws is not up yet")
                .fix("try again in a moment")),
            port => Ok(format!("http://127.0.0.1:{port}")),
        }
    }

    pub(crate) fn place(&self, record: &InstanceRecord, install_dir: PathBuf) -> Result<Place> {
        let dir = self.dir(&record.id);
        let state_dir = dir.join(STATE);
        Ok(Place {
            install_dir,
            layout: clawfarm_model::launch::Layout::Npm,
            workspace_dir: state_dir.join(WORKSPACE),
            state_dir,
            log_dir: dir.join(CLAW_LOGS),
            tmp_dir: dir.join(TMP),
            port: record.port,
            listen_on_all: false,
            server_addresses: clawfarm_model::Place::loopback(),
            host_url: self.host_url()?,
            memory_enforced: crate::host::memory_cgroup(),
        })
    }

    /// A short name for this home, the same after every start.
    pub(crate) fn home_hash(&self) -> String {
        use std::os::unix::ffi::OsStrExt;
        let digest = Sha256::digest(self.paths.home.as_os_str().as_bytes());
        digest.iter().take(6).fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
    }
}

/// Locks; a thread that panicked with the lock left nothing half-done in these maps.
pub(crate) fn guard<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The owner of an instance's files, when it has a user of its own.
pub(crate) fn owner(record: &InstanceRecord) -> Option<Owner> {
    record.uid.map(Owner::alone)
}
