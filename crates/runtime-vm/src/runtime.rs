//! The runtime's traits, each verb handed on to the file that does it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use async_trait::async_trait;
use clawfarm_files::{blocking, io_error, make_private};
use clawfarm_local::client::LIMIT;
use clawfarm_local::{host, keeper, logs};
use clawfarm_model::launch::ImageRecipe;
use clawfarm_model::resources::{Resources, Usage};
use clawfarm_model::target::{Capacity, Diagnosis, RuntimeKind};
use clawfarm_model::vm_image::VmImageReference;
use clawfarm_model::{
    ClawId, DataFate, Error, InstanceSpec, Launch, Observation, Place, Placement, Result, Software,
    StopOptions,
};
use clawfarm_runtime::{
    Backup, Bases, Connection, Exec, ExecRequest, ExecSession, Files, Freeze, Kept, KeptData, LogQuery,
    LogStream, Logs, PORTS, Progress, Recover, Runtime, Stats, Suspend, Upgrade, WantedSize, pick_port,
};
use clawfarm_shim::protocol::Request;
use clawfarm_vm_images::Images;
use secrecy::SecretString;
use tokio::sync::broadcast;

use crate::config::VmConfig;
use crate::inner::Inner;
use crate::machine::host_url;
use crate::record::{self, MachineRecord};
use crate::{
    base, boot, check, claw, dataset, diagnose, dial, end, exec, files, freeze, observe, ports, prepare,
    recover, start, suspend, upgrade, warm,
};

/// Instances as virtual machines. Dropping it ends its watching, and no machine.
pub struct VmRuntime {
    inner: Arc<Inner>,
}

impl Drop for VmRuntime {
    fn drop(&mut self) {
        self.inner.watch.end();
    }
}

impl std::fmt::Debug for VmRuntime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VmRuntime").field("home", &self.inner.paths.home).finish_non_exhaustive()
    }
}

impl VmRuntime {
    /// Opens a home, makes it if it is new, and takes up the machines that run in it: those that
    /// an earlier server was saving or restoring when it ended go on, from where they are.
    ///
    /// QEMU need not be installed: what is missing is told by [`Runtime::diagnose`], and by
    /// whatever needs it.
    ///
    /// # Errors
    /// When the home or the folder of images can't be made or used.
    pub async fn open(config: VmConfig) -> Result<Self> {
        let (config, images) = blocking(move || {
            let mut config = config;
            for folder in [&mut config.home, &mut config.images.folder] {
                let failed = |e| io_error(format!("use the folder '{}'", folder.display()), e);
                make_private(folder).map_err(failed)?;
                // Confinement names folders to the kernel: without links on the way.
                *folder = folder.canonicalize().map_err(failed)?;
            }
            let images = Images::open(config.images.clone())?;
            Ok((config, images))
        })
        .await?;
        let inner = Arc::new(Inner::new(config, images));
        inner.watch.begin().await?;
        take_up(&inner).await?;
        let sweeping = Arc::clone(&inner);
        tokio::spawn(async move { warm::sweep_abandoned(&sweeping).await });
        let removing = Arc::clone(&inner);
        // A machine's disk is large, and nobody waits for its end.
        tokio::task::spawn_blocking(move || {
            if let Err(error) = dataset::finish_removals(&removing) {
                tracing::warn!(%error, "what an earlier server had begun to remove is left");
            }
        });
        Ok(Self { inner })
    }

    /// Says on which port the server listens for claws; until then no instance is prepared.
    pub fn set_claw_port(&self, port: u16) {
        self.inner.claw_port.store(port, Ordering::Relaxed);
    }
}

/// Goes on with what runs: in the background, because QEMU may be slow to answer.
async fn take_up(inner: &Arc<Inner>) -> Result<()> {
    let paths = inner.paths.clone();
    for id in blocking(move || record::ids(&paths)).await? {
        if !keeper::is_up(&inner.dir(&id)).await? {
            // Laid for a start that was cut off: the next one lays its own.
            claw::take_away(inner, &id).await;
            continue;
        }
        let (weak, ending) = (Arc::downgrade(inner), inner.watch.ending().clone());
        tokio::spawn(async move {
            let Some(inner) = weak.upgrade() else { return };
            tokio::select! {
                () = ending.cancelled() => {}
                () = adopt(&inner, &id) => inner.watch.tell(&id),
            }
        });
    }
    Ok(())
}

async fn adopt(inner: &Arc<Inner>, id: &ClawId) {
    let _verb = inner.lock(id).await;
    match observe::settle(inner, id).await {
        Ok(true) => {
            // QEMU has answered, so it has read what it was started with.
            claw::take_away(inner, id).await;
            if let Ok(Some(record)) = MachineRecord::read(&inner.dir(id)) {
                boot::follow(inner, id, record.run);
            }
        }
        Ok(false) => {}
        Err(error) => tracing::warn!(%id, %error, "a machine that runs could not be asked what it does"),
    }
}

/// Does what must not stop in the middle because its caller waits no longer: a machine whose
/// memory is half saved or half restored stands still, and nobody would let it go on.
async fn to_its_end<T: Send + 'static>(verb: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
    tokio::spawn(verb).await.map_err(clawfarm_files::join_error)?
}

#[async_trait]
impl Runtime for VmRuntime {
    fn kind(&self) -> RuntimeKind {
        RuntimeKind::Vm
    }

    async fn diagnose(&self) -> Diagnosis {
        diagnose::diagnose(&self.inner).await
    }

    async fn capacity(&self) -> Result<Capacity> {
        blocking(host::capacity).await
    }

    async fn check_vm(&self, spec: &InstanceSpec) -> Result<()> {
        check::check(&self.inner, spec).await
    }

    async fn ensure(&self, placement: &Placement, progress: &dyn Progress) -> Result<Place> {
        prepare::ensure(&self.inner, placement, progress).await
    }

    async fn keep_record(&self, id: &ClawId, record: &serde_json::Value) -> Result<()> {
        let (inner, id, record) = (Arc::clone(&self.inner), id.clone(), record.clone());
        blocking(move || prepare::keep_record(&inner, &id, record)).await
    }

    async fn start(&self, launch: &Launch) -> Result<Observation> {
        let (inner, launch) = (Arc::clone(&self.inner), launch.clone());
        to_its_end(async move { start::start(&inner, &launch).await }).await
    }

    async fn start_note(&self, id: &ClawId) -> Option<String> {
        let (inner, id) = (Arc::clone(&self.inner), id.clone());
        let record = blocking(move || MachineRecord::read(&inner.dir(&id))).await.ok().flatten()?;
        if let Some(why) = record.base_lost {
            return Some(format!("it could not be made from the base snapshot, so it was booted: {why}"));
        }
        let why = record.memory_lost?;
        Some(format!("its saved memory could not be used, so it was started from its disk: {why}"))
    }

    async fn observe(&self, id: &ClawId) -> Result<Observation> {
        observe::observe(&self.inner, id).await
    }

    async fn list(&self) -> Result<Vec<Observation>> {
        observe::list(&self.inner).await
    }

    fn watch(&self) -> broadcast::Receiver<ClawId> {
        self.inner.watch.subscribe()
    }

    async fn stop(&self, id: &ClawId, options: StopOptions) -> Result<Observation> {
        end::stop(&self.inner, id, options).await
    }

    async fn kill(&self, id: &ClawId) -> Result<Observation> {
        end::kill(&self.inner, id).await
    }

    async fn destroy(&self, id: &ClawId, data: DataFate) -> Result<u64> {
        end::destroy(&self.inner, id, data).await
    }

    async fn undo(&self, id: &ClawId) -> Result<()> {
        let _verb = self.inner.lock(id).await;
        prepare::undo(&self.inner, id).await
    }

    async fn remove_dataset(&self, id: &ClawId) -> Result<()> {
        let (inner, id) = (Arc::clone(&self.inner), id.clone());
        blocking(move || dataset::remove(&inner, &id)).await
    }

    async fn pick_port(&self, taken: &BTreeSet<u16>) -> Result<u16> {
        let (inner, mut taken) = (Arc::clone(&self.inner), taken.clone());
        blocking(move || {
            // The ports of SSH are known here alone.
            taken.extend(ports::of_all(&inner)?);
            pick_port(&PORTS, &taken)
        })
        .await
    }

    async fn dial(&self, id: &ClawId, port: u16) -> Result<Box<dyn Connection>> {
        dial::dial(&self.inner, id, port).await
    }

    async fn host_route(&self, claw_port: u16) -> Result<String> {
        if claw_port == 0 {
            return Err(
                Error::invalid("claw_port", "0 is no port").fix("give the port of the server's listener")
            );
        }
        Ok(host_url(claw_port))
    }

    fn bases(&self) -> Option<&dyn Bases> {
        Some(self)
    }

    fn freeze(&self) -> Option<&dyn Freeze> {
        Some(self)
    }

    fn suspend(&self) -> Option<&dyn Suspend> {
        Some(self)
    }

    fn exec(&self) -> Option<&dyn Exec> {
        Some(self)
    }

    fn stats(&self) -> Option<&dyn Stats> {
        Some(self)
    }

    fn logs(&self) -> Option<&dyn Logs> {
        Some(self)
    }

    fn files(&self) -> Option<&dyn Files> {
        Some(self)
    }

    fn backup(&self) -> Option<&dyn Backup> {
        Some(self)
    }

    fn recover(&self) -> Option<&dyn Recover> {
        Some(self)
    }

    fn upgrade(&self) -> Option<&dyn Upgrade> {
        Some(self)
    }
}

#[async_trait]
impl Files for VmRuntime {
    async fn read(&self, id: &ClawId, path: &Path, limit: u64) -> Result<Option<Vec<u8>>> {
        files::read(&self.inner, id, path, limit).await
    }

    async fn write(&self, id: &ClawId, path: &Path, contents: &[u8], read_only: bool) -> Result<()> {
        files::write(&self.inner, id, path, contents, read_only).await
    }

    async fn import(&self, id: &ClawId, from: &Path, progress: &dyn Progress) -> Result<u64> {
        files::import(&self.inner, id, from, progress).await
    }
}

#[async_trait]
impl Bases for VmRuntime {
    async fn warm(
        &self,
        image: &VmImageReference,
        wanted: WantedSize,
        progress: &dyn Progress,
    ) -> Result<()> {
        warm::warm(&self.inner, image, wanted, progress).await
    }

    async fn size(&self, image: &VmImageReference, wanted: WantedSize) -> Result<Resources> {
        base::size(&self.inner, image, wanted).await
    }
}

#[async_trait]
impl Freeze for VmRuntime {
    async fn freeze(&self, id: &ClawId) -> Result<Observation> {
        freeze::freeze(&self.inner, id).await
    }

    async fn thaw(&self, id: &ClawId) -> Result<Observation> {
        freeze::thaw(&self.inner, id).await
    }
}

#[async_trait]
impl Suspend for VmRuntime {
    async fn suspend(&self, id: &ClawId) -> Result<Observation> {
        let (inner, id) = (Arc::clone(&self.inner), id.clone());
        to_its_end(async move { suspend::suspend(&inner, &id).await }).await
    }

    async fn resume(&self, id: &ClawId) -> Result<Observation> {
        let (inner, id) = (Arc::clone(&self.inner), id.clone());
        to_its_end(async move { start::resume(&inner, &id).await }).await
    }
}

#[async_trait]
impl Exec for VmRuntime {
    async fn exec(&self, id: &ClawId, request: ExecRequest) -> Result<ExecSession> {
        exec::exec(&self.inner, id, request).await
    }
}

#[async_trait]
impl Stats for VmRuntime {
    async fn usage(&self, id: &ClawId) -> Result<Usage> {
        keeper::running_shim(&self.inner.dir(id), id).await?.ask(id, &Request::Usage, LIMIT).await
    }
}

#[async_trait]
impl Logs for VmRuntime {
    async fn logs(&self, id: &ClawId, query: LogQuery) -> Result<LogStream> {
        logs::logs(&self.inner.dir(id), id, query).await
    }
}

#[async_trait]
impl Backup for VmRuntime {
    fn room(&self) -> PathBuf {
        self.inner.paths.home.join(clawfarm_local::backup::ROOM)
    }

    async fn copy_out(&self, id: &ClawId, to: &Path) -> Result<Vec<PathBuf>> {
        files::copy_out(&self.inner, id, to).await
    }

    async fn take_in(&self, id: &ClawId, from: &Path) -> Result<()> {
        files::take_in(&self.inner, id, from).await
    }
}

#[async_trait]
impl Upgrade for VmRuntime {
    async fn install(
        &self,
        software: &Software,
        _: Option<&ImageRecipe>,
        progress: &dyn Progress,
    ) -> Result<()> {
        claw::install(&self.inner, software, progress).await.map(drop)
    }

    async fn software_file(&self, software: &Software, path: &Path, limit: u64) -> Result<Option<Vec<u8>>> {
        claw::installation(&self.inner, software)?.file(software, path, limit).await
    }

    async fn copy_data(&self, id: &ClawId, copy: i64, progress: &dyn Progress) -> Result<u64> {
        upgrade::copy_data(&self.inner, id, copy, progress).await
    }

    async fn put_back(&self, id: &ClawId, copy: i64) -> Result<()> {
        upgrade::put_back(&self.inner, id, copy).await
    }

    async fn remove_copy(&self, id: &ClawId) -> Result<()> {
        upgrade::remove_copy(&self.inner, id).await
    }
}

#[async_trait]
impl Recover for VmRuntime {
    async fn kept(&self) -> Result<Vec<Kept>> {
        recover::kept(&self.inner).await
    }

    async fn kept_data(&self) -> Result<Vec<KeptData>> {
        let inner = Arc::clone(&self.inner);
        blocking(move || recover::kept_data(&inner)).await
    }

    /// A machine has no environment: what it was given is on its disk.
    async fn environment(&self, _: &Observation, _: &[&str]) -> Result<Vec<(String, SecretString)>> {
        Ok(Vec::new())
    }
}
