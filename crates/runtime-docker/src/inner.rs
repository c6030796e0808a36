//! What every part of the runtime shares.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use clawfarm_files::Owner;
use clawfarm_model::name::TenantName;
use clawfarm_model::{ClawId, Error, Result};
use sha2::{Digest, Sha256};
use tokio::sync::{OwnedMutexGuard, RwLock, broadcast};
use tokio_util::sync::CancellationToken;

use crate::config::DockerConfig;
use crate::engine::{Engine, Kind};
use crate::image::Contents;
use crate::paths::Paths;
use crate::record::ContainerRecord;
use crate::relay::Relay;

/// How many ids a receiver may be behind before it has to look at everything.
const WATCH_BUFFER: usize = 1024;
/// The user of OpenClaw's own image.
const NODE_USER: u32 = 1000;

/// The state of one runtime.
pub(crate) struct Inner {
    pub(crate) config: DockerConfig,
    pub(crate) paths: Paths,
    pub(crate) engine: Engine,
    /// One verb that changes an instance at a time.
    verbs: Mutex<HashMap<ClawId, Arc<tokio::sync::Mutex<()>>>>,
    /// Held while a record is read, changed and written.
    pub(crate) writing: Mutex<()>,
    /// One build of an image at a time.
    pub(crate) building: tokio::sync::Mutex<()>,
    /// One look into an image at a time.
    pub(crate) looking: tokio::sync::Mutex<()>,
    /// What was found in images, by their digests.
    pub(crate) known: Mutex<HashMap<String, Contents>>,
    /// Held while the list of pulled images is read, changed and written.
    pub(crate) pulled: Arc<Mutex<()>>,
    /// Held to write while a network is removed, to read while one is put to use.
    pub(crate) networks: RwLock<()>,
    /// The ways from the networks to the server, by their address.
    pub(crate) relays: Mutex<HashMap<IpAddr, Relay>>,
    pub(crate) events: broadcast::Sender<ClawId>,
    /// Ends the background tasks.
    pub(crate) ending: CancellationToken,
}

impl Inner {
    pub(crate) fn new(config: DockerConfig) -> Self {
        Self {
            paths: Paths { home: config.home.clone() },
            engine: Engine::new(config.socket.clone()),
            config,
            verbs: Mutex::default(),
            writing: Mutex::default(),
            building: tokio::sync::Mutex::default(),
            looking: tokio::sync::Mutex::default(),
            known: Mutex::default(),
            pulled: Arc::default(),
            networks: RwLock::default(),
            relays: Mutex::default(),
            events: broadcast::Sender::new(WATCH_BUFFER),
            ending: CancellationToken::new(),
        }
    }

    /// Keeps other verbs away from an instance.
    pub(crate) async fn lock(&self, id: &ClawId) -> OwnedMutexGuard<()> {
        let lock = guard(&self.verbs).entry(id.clone()).or_default().clone();
        lock.lock_owned().await
    }

    pub(crate) fn forget(&self, id: &ClawId) {
        // A verb that waits for this lock keeps its own share of it.
        guard(&self.verbs).retain(|other, lock| other != id || Arc::strong_count(lock) > 2);
    }

    pub(crate) fn tell(&self, id: &ClawId) {
        // Nobody listening is fine.
        let _ = self.events.send(id.clone());
    }

    pub(crate) fn dir(&self, id: &ClawId) -> PathBuf {
        self.paths.claw(id)
    }

    /// The record of an instance, which must exist.
    pub(crate) fn record(&self, id: &ClawId) -> Result<ContainerRecord> {
        ContainerRecord::read(&self.dir(id))?.ok_or_else(|| Error::not_found("instance", id))
    }

    /// Changes the record of an instance, if it has one; returns what it is then.
    pub(crate) fn change_record(
        &self,
        id: &ClawId,
        change: impl FnOnce(&mut ContainerRecord),
    ) -> Result<Option<ContainerRecord>> {
        let _writing = guard(&self.writing);
        let Some(old) = ContainerRecord::read(&self.dir(id))? else { return Ok(None) };
        let mut new = old.clone();
        change(&mut new);
        if new != old {
            new.write(&self.dir(id))?;
        }
        Ok(Some(new))
    }

    /// What tells this server's containers and networks from those of others on the same
    /// engine: a name for its home, the same after every start.
    pub(crate) fn server(&self) -> String {
        use std::os::unix::ffi::OsStrExt;
        hex(&Sha256::digest(self.paths.home.as_os_str().as_bytes())[..6])
    }

    /// The name of an instance's container.
    pub(crate) fn container(&self, id: &ClawId) -> String {
        format!("clawfarm-{id}")
    }

    /// The name of an instance's network: its tenant's, where the engine keeps the containers of
    /// a network apart. Podman only keeps networks apart, so there it is the instance's own.
    pub(crate) fn network(&self, kind: Kind, tenant: &TenantName, id: &ClawId) -> String {
        match kind {
            Kind::Docker => format!("clawfarm-{}-{tenant}", self.server()),
            Kind::Podman => format!("clawfarm-{}-{id}", self.server()),
        }
    }

    /// Whether a network of this name is one of this server's.
    pub(crate) fn is_own_network(&self, name: &str) -> bool {
        name.strip_prefix("clawfarm-").is_some_and(|rest| rest.starts_with(&format!("{}-", self.server())))
    }

    /// Whom containers run as: the user of OpenClaw's own image, or the server's own where the
    /// server may not give files away.
    pub(crate) fn user(&self) -> Owner {
        let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
        if uid.is_root() { Owner::alone(NODE_USER) } else { Owner { uid: uid.as_raw(), gid: gid.as_raw() } }
    }
}

/// Bytes as hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

/// Locks; a thread that panicked with the lock left nothing half-done in these maps.
pub(crate) fn guard<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
