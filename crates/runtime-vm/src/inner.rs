//! What every part of the runtime shares.

use std::collections::{HashMap, HashSet};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use clawfarm_local::watch::{Instances, Watch};
use clawfarm_model::{ClawId, Code, Error, Result};
use clawfarm_qemu::probe::{RunAs, kvm_group};
use clawfarm_qemu::{Accelerator, Probed, Qemu, Qmp, Snapshot, VirtiofsdProgram};
use clawfarm_vm_images::Images;
use sha2::{Digest, Sha256};
use tokio::sync::OwnedMutexGuard;

use crate::agent::Agents;
use crate::config::VmConfig;
use crate::machine;
use crate::paths::{Paths, SUSPENDED};
use crate::record::{self, MachineRecord};
use crate::talks::{self, Talks};

/// How long QEMU may take to greet one who asks what it does: it does so in milliseconds.
const GREETING: Duration = Duration::from_secs(10);

/// The state of one runtime.
pub(crate) struct Inner {
    pub(crate) paths: Paths,
    pub(crate) config: VmConfig,
    pub(crate) images: Images,
    pub(crate) claw_port: AtomicU16,
    pub(crate) watch: Arc<Watch>,
    /// One verb that changes an instance at a time.
    verbs: Mutex<HashMap<ClawId, Arc<tokio::sync::Mutex<()>>>>,
    /// Held while a record is changed, and while a user id or a port is chosen.
    pub(crate) choosing: Mutex<()>,
    /// Held while what a killed shim left is ended.
    pub(crate) settling: Mutex<()>,
    /// The conversations with machines that run.
    talks: Talks,
    /// Since when QEMU does not answer, of machines that run.
    pub(crate) silent: Mutex<HashMap<ClawId, Instant>>,
    /// The machines that somebody tries to let go on.
    pub(crate) mending: Mutex<HashSet<ClawId>>,
    /// The lines to agents in machines that run.
    pub(crate) agents: Agents,
    /// The boots that somebody waits for.
    pub(crate) booting: Mutex<HashMap<ClawId, i64>>,
    /// Held while KVM is tried.
    probing: tokio::sync::Mutex<()>,
    /// QEMU, as it was when its file was changed then.
    qemu: tokio::sync::Mutex<Option<(SystemTime, Qemu)>>,
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
    pub(crate) fn new(config: VmConfig, images: Images) -> Self {
        let paths = Paths { home: config.home.clone() };
        Self {
            watch: Watch::new(Folders(paths.clone())),
            paths,
            claw_port: AtomicU16::new(config.claw_port),
            config,
            images,
            verbs: Mutex::default(),
            choosing: Mutex::default(),
            settling: Mutex::default(),
            talks: Talks::default(),
            silent: Mutex::default(),
            mending: Mutex::default(),
            agents: Agents::default(),
            booting: Mutex::default(),
            probing: tokio::sync::Mutex::default(),
            qemu: tokio::sync::Mutex::default(),
        }
    }

    /// Keeps other verbs away from an instance.
    pub(crate) async fn lock(&self, id: &ClawId) -> OwnedMutexGuard<()> {
        let lock = guard(&self.verbs).entry(id.clone()).or_default().clone();
        lock.lock_owned().await
    }

    /// Whether a verb is under way that changes an instance.
    pub(crate) fn is_busy(&self, id: &ClawId) -> bool {
        guard(&self.verbs).get(id).is_some_and(|lock| lock.try_lock().is_err())
    }

    pub(crate) async fn forget(&self, id: &ClawId) {
        self.watch.forget(id);
        self.hang_up(id);
        guard(&self.booting).remove(id);
        // A verb that waits for this lock keeps its own share of it.
        guard(&self.verbs).retain(|other, lock| other != id || Arc::strong_count(lock) > 2);
    }

    pub(crate) fn dir(&self, id: &ClawId) -> PathBuf {
        self.paths.claw(id)
    }

    /// The record of an instance, which must exist.
    pub(crate) fn record(&self, id: &ClawId) -> Result<MachineRecord> {
        MachineRecord::read(&self.dir(id))?.ok_or_else(|| Error::not_found("instance", id))
    }

    /// Changes the record of an instance, which must exist.
    pub(crate) fn change(
        &self,
        id: &ClawId,
        change: impl FnOnce(&mut MachineRecord),
    ) -> Result<MachineRecord> {
        let _choosing = guard(&self.choosing);
        let old = self.record(id)?;
        let mut new = old.clone();
        change(&mut new);
        if new != old {
            new.write(&self.dir(id))?;
        }
        Ok(new)
    }

    pub(crate) fn snapshot(&self, id: &ClawId) -> Result<Snapshot> {
        Snapshot::at(&self.dir(id), SUSPENDED)
    }

    /// The conversation with a machine that runs.
    pub(crate) async fn qmp(self: &Arc<Self>, id: &ClawId) -> Result<Arc<Qmp>> {
        self.qmp_within(id, GREETING).await
    }

    pub(crate) async fn qmp_within(self: &Arc<Self>, id: &ClawId, limit: Duration) -> Result<Arc<Qmp>> {
        let (qmp, begun) = self.talks.with(id, &machine::qmp_socket(&self.dir(id)), limit).await?;
        if begun {
            talks::listen(Arc::downgrade(self), id.clone(), qmp.events());
        }
        Ok(qmp)
    }

    /// Ends the conversations, if there are any.
    pub(crate) fn hang_up(&self, id: &ClawId) {
        self.talks.end(id);
        guard(&self.silent).remove(id);
        self.agents.forget(id);
    }

    /// QEMU, as it is installed now.
    pub(crate) async fn qemu(&self) -> Result<Qemu> {
        let mut known = self.qemu.lock().await;
        let changed = |path: &std::path::Path| std::fs::metadata(path).and_then(|it| it.modified()).ok();
        if let Some((at, qemu)) = &*known
            && changed(&qemu.path) == Some(*at)
        {
            return Ok(qemu.clone());
        }
        let found = Qemu::find().await?;
        if let Some(at) = changed(&found.path) {
            *known = Some((at, found.clone()));
        }
        Ok(found)
    }

    /// What runs processors here: found out once a boot.
    pub(crate) async fn accelerator(&self, qemu: &Qemu) -> Result<Accelerator> {
        match self.config.accelerator {
            Some(chosen) => Ok(chosen),
            None => Ok(self.probed(qemu).await?.accelerator),
        }
    }

    pub(crate) async fn probed(&self, qemu: &Qemu) -> Result<Probed> {
        // Whoever asks meanwhile hears what the first one found.
        let _one = self.probing.lock().await;
        // Any user of ours: none of them owns the device. Its group is what machines get, too.
        let uid = clawfarm_local::uid::FIRST_UID;
        let run_as = self.config.own_users.then(|| RunAs { uid, gid: uid, group: kvm_group() });
        Probed::known(qemu, run_as, &self.paths.accelerator()).await
    }

    pub(crate) async fn virtiofsd(&self) -> Result<VirtiofsdProgram> {
        match &self.config.virtiofsd {
            Some(own) => VirtiofsdProgram::at(own).await,
            None => VirtiofsdProgram::find().await,
        }
    }

    /// Where a machine reaches the server: user-mode networking has the host there.
    pub(crate) fn host_url(&self) -> Result<String> {
        match self.claw_port.load(Ordering::Relaxed) {
            0 => Err(Error::new(Code::Unavailable, "the server's listener for claws is not up yet")
                .fix("try again in a moment")),
            port => Ok(machine::host_url(port)),
        }
    }

    /// A short name for this home, the same after every start.
    pub(crate) fn home_hash(&self) -> String {
        let digest = Sha256::digest(self.paths.home.as_os_str().as_bytes());
        digest.iter().take(6).fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
    }
}

/// Locks; a thread that panicked with the lock left nothing half-done in these maps.
pub(crate) fn guard<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
