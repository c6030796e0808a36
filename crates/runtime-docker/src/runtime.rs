//! The runtime's traits, each verb handed on to the file that does it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use clawfarm_files::{blocking, io_error, make_private};
use clawfarm_model::image::{Image, ImageReference};
use clawfarm_model::launch::{GitSource, ImageMark, ImageRecipe, SourceRecipe};
use clawfarm_model::resources::Usage;
use clawfarm_model::target::{Capacity, Diagnosis, RuntimeKind};
use clawfarm_model::{
    ClawId, DataFate, Launch, Observation, Place, Placement, Result, Software, StopOptions,
};
use clawfarm_runtime::{
    Backup, Connection, Exec, ExecRequest, ExecSession, Files, Freeze, Images, Kept, KeptData, LogQuery,
    LogStream, Logs, Progress, Recover, Runtime, Stats, Upgrade, pick_port,
};
use secrecy::SecretString;
use tokio::sync::broadcast;

use crate::config::{DockerConfig, PORTS};
use crate::inner::Inner;
use crate::{
    backup, dataset, diagnose, dial, end, exec, files, image, logs, observe, prepare, recover, start, stats,
    upgrade, watch,
};

/// Claws as containers. Dropping it ends its watching, and no claw.
pub struct DockerRuntime {
    inner: Arc<Inner>,
}

impl Drop for DockerRuntime {
    fn drop(&mut self) {
        self.inner.ending.cancel();
    }
}

impl std::fmt::Debug for DockerRuntime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DockerRuntime").field("config", &self.inner.config).finish_non_exhaustive()
    }
}

impl DockerRuntime {
    /// Opens a home, makes it if it is new, and begins to watch the engine, whether that answers
    /// now or later.
    ///
    /// # Errors
    /// When the home can't be made or used.
    pub async fn open(mut config: DockerConfig) -> Result<Self> {
        let config = blocking(move || {
            let failed = |e| io_error(format!("use the folder '{}'", config.home.display()), e);
            make_private(&config.home).map_err(failed)?;
            // The engine is told where the folders are: without links on the way.
            let home = config.home.canonicalize().map_err(failed)?;
            config.home = home;
            Ok(config)
        })
        .await?;
        let inner = Arc::new(Inner::new(config));
        watch::follow(&inner);
        Ok(Self { inner })
    }
}

#[async_trait]
impl Runtime for DockerRuntime {
    fn kind(&self) -> RuntimeKind {
        RuntimeKind::Docker
    }

    async fn diagnose(&self) -> Diagnosis {
        diagnose::diagnose(&self.inner).await
    }

    async fn capacity(&self) -> Result<Capacity> {
        diagnose::capacity(&self.inner).await
    }

    async fn ensure(&self, placement: &Placement, progress: &dyn Progress) -> Result<Place> {
        prepare::ensure(&self.inner, placement, progress).await
    }

    async fn keep_record(&self, id: &ClawId, record: &serde_json::Value) -> Result<()> {
        let (inner, id, record) = (Arc::clone(&self.inner), id.clone(), record.clone());
        blocking(move || prepare::keep_record(&inner, &id, record)).await
    }

    async fn start(&self, launch: &Launch) -> Result<Observation> {
        Box::pin(start::start(&self.inner, launch)).await
    }

    async fn observe(&self, id: &ClawId) -> Result<Observation> {
        observe::observe(&self.inner, id).await
    }

    async fn list(&self) -> Result<Vec<Observation>> {
        observe::list(&self.inner).await
    }

    fn watch(&self) -> broadcast::Receiver<ClawId> {
        self.inner.events.subscribe()
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
        end::undo(&self.inner, id).await
    }

    async fn remove_dataset(&self, id: &ClawId) -> Result<()> {
        let (inner, id) = (Arc::clone(&self.inner), id.clone());
        blocking(move || dataset::remove(&inner, &id)).await
    }

    async fn pick_port(&self, taken: &BTreeSet<u16>) -> Result<u16> {
        pick_port(&PORTS, taken)
    }

    async fn dial(&self, id: &ClawId, port: u16) -> Result<Box<dyn Connection>> {
        dial::dial(&self.inner, id, port).await
    }

    async fn host_route(&self, claw_port: u16) -> Result<String> {
        prepare::host_url(claw_port)
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

    fn images(&self) -> Option<&dyn Images> {
        Some(self)
    }

    fn recover(&self) -> Option<&dyn Recover> {
        Some(self)
    }
}

#[async_trait]
impl Recover for DockerRuntime {
    async fn kept(&self) -> Result<Vec<Kept>> {
        recover::kept(&self.inner).await
    }

    async fn kept_data(&self) -> Result<Vec<KeptData>> {
        let inner = Arc::clone(&self.inner);
        blocking(move || recover::kept_data(&inner)).await
    }

    async fn environment(&self, seen: &Observation, names: &[&str]) -> Result<Vec<(String, SecretString)>> {
        let (inner, seen) = (Arc::clone(&self.inner), seen.clone());
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        blocking(move || Ok(recover::environment(&inner, &seen, &names))).await
    }
}

#[async_trait]
impl Backup for DockerRuntime {
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
impl Images for DockerRuntime {
    async fn build(
        &self,
        recipe: &ImageRecipe,
        base: Option<&str>,
        progress: &dyn Progress,
    ) -> Result<Image> {
        image::build_and_tell(&self.inner, recipe, base, progress).await
    }

    async fn build_source(
        &self,
        recipe: &SourceRecipe,
        source: &GitSource,
        base: Option<&str>,
        progress: &dyn Progress,
    ) -> Result<Image> {
        image::build_source_and_tell(&self.inner, recipe, source, base, progress).await
    }

    async fn pull(
        &self,
        reference: &ImageReference,
        mark: &ImageMark,
        progress: &dyn Progress,
    ) -> Result<Image> {
        image::pull(&self.inner, reference, mark, progress).await
    }

    async fn remove_image(&self, reference: &ImageReference) -> Result<()> {
        image::remove(&self.inner, reference).await
    }

    async fn build_log(&self, reference: &ImageReference) -> Result<String> {
        image::build_log(&self.inner, reference).await
    }

    async fn images(&self) -> Result<Vec<Image>> {
        image::images(&self.inner).await
    }
}

#[async_trait]
impl Freeze for DockerRuntime {
    async fn freeze(&self, id: &ClawId) -> Result<Observation> {
        end::freeze(&self.inner, id, true).await
    }

    async fn thaw(&self, id: &ClawId) -> Result<Observation> {
        end::freeze(&self.inner, id, false).await
    }
}

#[async_trait]
impl Exec for DockerRuntime {
    async fn exec(&self, id: &ClawId, request: ExecRequest) -> Result<ExecSession> {
        exec::exec(&self.inner, id, request).await
    }
}

#[async_trait]
impl Stats for DockerRuntime {
    async fn usage(&self, id: &ClawId) -> Result<Usage> {
        stats::usage(&self.inner, id).await
    }
}

#[async_trait]
impl Logs for DockerRuntime {
    async fn logs(&self, id: &ClawId, query: LogQuery) -> Result<LogStream> {
        logs::logs(&self.inner, id, query).await
    }
}

#[async_trait]
impl Files for DockerRuntime {
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
impl Upgrade for DockerRuntime {
    async fn install(
        &self,
        software: &Software,
        recipe: Option<&ImageRecipe>,
        progress: &dyn Progress,
    ) -> Result<()> {
        image::ensure(&self.inner, software, recipe, None, progress).await
    }

    async fn software_file(&self, software: &Software, path: &Path, limit: u64) -> Result<Option<Vec<u8>>> {
        upgrade::software_file(&self.inner, software, path, limit).await
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
