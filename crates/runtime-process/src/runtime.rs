//! The runtime's traits, each verb handed on to the file that does it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use async_trait::async_trait;
use clawfarm_model::launch::ImageRecipe;
use clawfarm_model::resources::Usage;
use clawfarm_model::target::{Capacity, Diagnosis, RuntimeKind};
use clawfarm_model::{
    ClawId, DataFate, Error, Launch, Observation, Place, Placement, Result, Software, StopOptions,
};
use clawfarm_runtime::{
    Backup, Connection, Exec, ExecRequest, ExecSession, Files, Freeze, Kept, KeptData, LogQuery, LogStream,
    Logs, Progress, Recover, Runtime, Stats, Upgrade,
};
use clawfarm_shim::protocol::Request;
use secrecy::SecretString;
use tokio::sync::broadcast;

use crate::client::LIMIT;
use crate::config::ProcessConfig;
use crate::dataset::{self, DatasetRecord};
use crate::inner::Inner;
use crate::record::{self, InstanceRecord};
use crate::{
    backup, diagnose, dial, end, exec, files, host, logs, observe, prepare, recover, start, upgrade,
};
use clawfarm_files::make_private;
use clawfarm_files::{blocking, io_error};

/// Claws as local processes. Dropping it ends its watching, and no claw.
pub struct ProcessRuntime {
    inner: Arc<Inner>,
}

impl Drop for ProcessRuntime {
    fn drop(&mut self) {
        self.inner.watch.end();
    }
}

impl std::fmt::Debug for ProcessRuntime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ProcessRuntime").field("home", &self.inner.paths.home).finish_non_exhaustive()
    }
}

impl ProcessRuntime {
    /// Opens a home, makes it if it is new, and begins to watch the instances that run in it.
    ///
    /// # Errors
    /// When home or cache can't be made or used.
    pub async fn open(mut config: ProcessConfig) -> Result<Self> {
        let config = blocking(move || {
            for folder in [&mut config.home, &mut config.cache_dir] {
                let failed = |e| io_error(format!("use the folder '{}'", folder.display()), e);
                make_private(folder).map_err(failed)?;
                // Confinement names folders to the kernel: without links on the way.
                *folder = folder.canonicalize().map_err(failed)?;
            }
            Ok(config)
        })
        .await?;
        let inner = Arc::new(Inner::new(config));
        inner.watch.begin().await?;
        let removing = Arc::clone(&inner);
        // A claw's data can be many files, and nobody waits for their end.
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

    /// What is known of every instance without the store, to rebuild it from.
    ///
    /// # Errors
    /// When the folder of instances can't be read. One damaged record is left out, with a
    /// warning in the log.
    pub async fn records(&self) -> Result<Vec<InstanceRecord>> {
        let inner = Arc::clone(&self.inner);
        blocking(move || {
            let mut found = Vec::new();
            for id in record::ids(&inner.paths)? {
                match InstanceRecord::read(&inner.dir(&id)) {
                    Ok(record) => found.extend(record),
                    Err(error) => tracing::warn!(%id, %error, "an instance can't be recovered"),
                }
            }
            Ok(found)
        })
        .await
    }

    /// Every dataset here, to rebuild the store from.
    ///
    /// # Errors
    /// When the folder of datasets can't be read.
    pub async fn datasets(&self) -> Result<Vec<DatasetRecord>> {
        let inner = Arc::clone(&self.inner);
        blocking(move || dataset::list(&inner)).await
    }
}

#[async_trait]
impl Runtime for ProcessRuntime {
    fn kind(&self) -> RuntimeKind {
        RuntimeKind::Process
    }

    async fn diagnose(&self) -> Diagnosis {
        diagnose::diagnose(&self.inner).await
    }

    async fn capacity(&self) -> Result<Capacity> {
        blocking(host::capacity).await
    }

    async fn ensure(&self, placement: &Placement, progress: &dyn Progress) -> Result<Place> {
        prepare::ensure(&self.inner, placement, progress).await
    }

    async fn keep_record(&self, id: &ClawId, record: &serde_json::Value) -> Result<()> {
        let _verb = self.inner.lock(id).await;
        let (inner, id, record) = (Arc::clone(&self.inner), id.clone(), record.clone());
        blocking(move || prepare::keep_record(&inner, &id, record)).await
    }

    async fn start(&self, launch: &Launch) -> Result<Observation> {
        start::start(&self.inner, launch).await
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
        let _verb = self.inner.lock(id).await;
        end::end_for_removal(&self.inner, id).await?;
        clawfarm_failpoint::point!(ClawEnded);
        let (inner, claw) = (Arc::clone(&self.inner), id.clone());
        let size = blocking(move || dataset::remove_instance(&inner, &claw, data)).await?;
        self.inner.forget(id);
        self.inner.tell(id);
        Ok(size)
    }

    async fn remove_dataset(&self, id: &ClawId) -> Result<()> {
        let (inner, id) = (Arc::clone(&self.inner), id.clone());
        blocking(move || dataset::remove(&inner, &id)).await
    }

    async fn dial(&self, id: &ClawId, port: u16) -> Result<Box<dyn Connection>> {
        dial::dial(&self.inner, id, port).await
    }

    async fn dial_at(&self, id: &ClawId, address: SocketAddr) -> Result<Box<dyn Connection>> {
        dial::dial_at(&self.inner, id, address).await
    }

    async fn host_route(&self, claw_port: u16) -> Result<String> {
        if claw_port == 0 {
            return Err(
                Error::invalid("claw_port", "0 is no port").fix("give the port of the server's listener")
            );
        }
        Ok(format!("http://127.0.0.1:{claw_port}"))
    }

    fn freeze(&self) -> Option<&dyn Freeze> {
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

    fn upgrade(&self) -> Option<&dyn Upgrade> {
        Some(self)
    }

    fn backup(&self) -> Option<&dyn Backup> {
        Some(self)
    }

    fn recover(&self) -> Option<&dyn Recover> {
        Some(self)
    }
}

#[async_trait]
impl Freeze for ProcessRuntime {
    async fn freeze(&self, id: &ClawId) -> Result<Observation> {
        end::freeze(&self.inner, id, &Request::Freeze).await
    }

    async fn thaw(&self, id: &ClawId) -> Result<Observation> {
        end::freeze(&self.inner, id, &Request::Thaw).await
    }
}

#[async_trait]
impl Recover for ProcessRuntime {
    async fn kept(&self) -> Result<Vec<Kept>> {
        recover::kept(&self.inner).await
    }

    async fn kept_data(&self) -> Result<Vec<KeptData>> {
        let inner = Arc::clone(&self.inner);
        blocking(move || recover::kept_data(&inner)).await
    }

    async fn environment(&self, seen: &Observation, names: &[&str]) -> Result<Vec<(String, SecretString)>> {
        let (seen, names) = (seen.clone(), names.iter().map(|&n| n.to_owned()).collect::<Vec<_>>());
        blocking(move || Ok(recover::environment(&seen, &names))).await
    }
}

#[async_trait]
impl Exec for ProcessRuntime {
    async fn exec(&self, id: &ClawId, request: ExecRequest) -> Result<ExecSession> {
        exec::exec(&self.inner, id, request).await
    }
}

#[async_trait]
impl Stats for ProcessRuntime {
    async fn usage(&self, id: &ClawId) -> Result<Usage> {
        observe::running_shim(&self.inner, id).await?.ask(id, &Request::Usage, LIMIT).await
    }
}

#[async_trait]
impl Logs for ProcessRuntime {
    async fn logs(&self, id: &ClawId, query: LogQuery) -> Result<LogStream> {
        logs::logs(&self.inner.dir(id), id, query).await
    }
}

#[async_trait]
impl Files for ProcessRuntime {
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
impl Backup for ProcessRuntime {
    fn room(&self) -> PathBuf {
        self.inner.paths.home.join(backup::ROOM)
    }

    async fn copy_out(&self, id: &ClawId, to: &Path) -> Result<Vec<PathBuf>> {
        backup::copy_out(&self.inner, id, to).await
    }

    async fn take_in(&self, id: &ClawId, from: &Path) -> Result<()> {
        backup::take_in(&self.inner, id, from).await
    }
}

#[async_trait]
impl Upgrade for ProcessRuntime {
    async fn install(
        &self,
        software: &Software,
        _recipe: Option<&ImageRecipe>,
        progress: &dyn Progress,
    ) -> Result<()> {
        upgrade::install(&self.inner, software, progress).await
    }

    async fn software_file(&self, software: &Software, path: &Path, limit: u64) -> Result<Option<Vec<u8>>> {
        upgrade::software_file(&self.inner, software, path, limit).await
    }

    async fn copy_data(&self, id: &ClawId, copy: i64, progress: &dyn Progress) -> Result<u64> {
        upgrade::copy_data(&self.inner, id, copy, progress).await
    }

    async fn put_back(&self, id: &ClawId, copy: i64) -> Result<()> {
        let _verb = self.inner.lock(id).await;
        let (inner, id) = (Arc::clone(&self.inner), id.clone());
        blocking(move || upgrade::put_back(&inner, &id, copy)).await
    }

    async fn remove_copy(&self, id: &ClawId) -> Result<()> {
        let _verb = self.inner.lock(id).await;
        let (inner, id) = (Arc::clone(&self.inner), id.clone());
        blocking(move || upgrade::remove_copy(&inner, &id)).await
    }
}
