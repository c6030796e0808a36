//! A runtime with a failpoint before and after each of its verbs, for tests.
//!
//! In one place, so that no runtime is without them and none can forget one.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use clawfarm_failpoint::point;
use clawfarm_model::launch::{DataFate, Launch, Place, Placement, StopOptions};
use clawfarm_model::target::{Capacity, Diagnosis, RuntimeKind};
use clawfarm_model::{ClawId, Observation, Result};
use clawfarm_runtime::{Connection, Exec, Files, Freeze, Logs, Progress, Runtime, Stats, Suspend};
use tokio::sync::broadcast;

/// The runtime itself; with points around it where a test may arm them.
pub(crate) fn around(runtime: Arc<dyn Runtime>) -> Arc<dyn Runtime> {
    if clawfarm_failpoint::ON { Arc::new(Faulty(runtime)) } else { runtime }
}

struct Faulty(Arc<dyn Runtime>);

#[async_trait]
impl Runtime for Faulty {
    fn kind(&self) -> RuntimeKind {
        self.0.kind()
    }

    async fn diagnose(&self) -> Diagnosis {
        self.0.diagnose().await
    }

    async fn capacity(&self) -> Result<Capacity> {
        point!(CapacityBefore);
        self.0.capacity().await
    }

    async fn ensure(&self, placement: &Placement, progress: &dyn Progress) -> Result<Place> {
        point!(EnsureBefore);
        let place = self.0.ensure(placement, progress).await?;
        point!(EnsureAfter);
        Ok(place)
    }

    async fn keep_record(&self, id: &ClawId, record: &serde_json::Value) -> Result<()> {
        point!(KeepRecordBefore);
        self.0.keep_record(id, record).await?;
        point!(KeepRecordAfter);
        Ok(())
    }

    async fn start(&self, launch: &Launch) -> Result<Observation> {
        point!(StartBefore);
        let seen = self.0.start(launch).await?;
        point!(StartAfter);
        Ok(seen)
    }

    async fn observe(&self, id: &ClawId) -> Result<Observation> {
        point!(ObserveBefore);
        let seen = self.0.observe(id).await?;
        point!(ObserveAfter);
        Ok(seen)
    }

    async fn list(&self) -> Result<Vec<Observation>> {
        self.0.list().await
    }

    fn watch(&self) -> broadcast::Receiver<ClawId> {
        self.0.watch()
    }

    async fn stop(&self, id: &ClawId, options: StopOptions) -> Result<Observation> {
        point!(StopBefore);
        let seen = self.0.stop(id, options).await?;
        point!(StopAfter);
        Ok(seen)
    }

    async fn kill(&self, id: &ClawId) -> Result<Observation> {
        point!(KillBefore);
        let seen = self.0.kill(id).await?;
        point!(KillAfter);
        Ok(seen)
    }

    async fn destroy(&self, id: &ClawId, data: DataFate) -> Result<u64> {
        point!(DestroyBefore);
        let size = self.0.destroy(id, data).await?;
        point!(DestroyAfter);
        Ok(size)
    }

    async fn remove_dataset(&self, id: &ClawId) -> Result<()> {
        point!(RemoveDatasetBefore);
        self.0.remove_dataset(id).await?;
        point!(RemoveDatasetAfter);
        Ok(())
    }

    async fn pick_port(&self, taken: &BTreeSet<u16>) -> Result<u16> {
        point!(PickPortBefore);
        self.0.pick_port(taken).await
    }

    async fn dial(&self, id: &ClawId, port: u16) -> Result<Box<dyn Connection>> {
        point!(DialBefore);
        let connection = self.0.dial(id, port).await?;
        point!(DialAfter);
        Ok(connection)
    }

    async fn host_route(&self, claw_port: u16) -> Result<String> {
        self.0.host_route(claw_port).await
    }

    fn freeze(&self) -> Option<&dyn Freeze> {
        self.0.freeze().map(|_| self as &dyn Freeze)
    }

    fn suspend(&self) -> Option<&dyn Suspend> {
        self.0.suspend().map(|_| self as &dyn Suspend)
    }

    fn exec(&self) -> Option<&dyn Exec> {
        self.0.exec()
    }

    fn stats(&self) -> Option<&dyn Stats> {
        self.0.stats()
    }

    fn logs(&self) -> Option<&dyn Logs> {
        self.0.logs()
    }

    fn files(&self) -> Option<&dyn Files> {
        self.0.files().map(|_| self as &dyn Files)
    }
}

/// What [`Faulty`] offers only where the runtime within does.
fn offered<T>(capability: Option<T>) -> Result<T> {
    capability.ok_or_else(|| {
        clawfarm_model::Error::internal("a capability went away", "it is offered or not for good")
    })
}

#[async_trait]
impl Freeze for Faulty {
    async fn freeze(&self, id: &ClawId) -> Result<Observation> {
        point!(FreezeBefore);
        let seen = offered(self.0.freeze())?.freeze(id).await?;
        point!(FreezeAfter);
        Ok(seen)
    }

    async fn thaw(&self, id: &ClawId) -> Result<Observation> {
        point!(ThawBefore);
        let seen = offered(self.0.freeze())?.thaw(id).await?;
        point!(ThawAfter);
        Ok(seen)
    }
}

#[async_trait]
impl Suspend for Faulty {
    async fn suspend(&self, id: &ClawId) -> Result<Observation> {
        point!(SuspendBefore);
        let seen = offered(self.0.suspend())?.suspend(id).await?;
        point!(SuspendAfter);
        Ok(seen)
    }

    async fn resume(&self, id: &ClawId) -> Result<Observation> {
        offered(self.0.suspend())?.resume(id).await
    }
}

#[async_trait]
impl Files for Faulty {
    async fn read(&self, id: &ClawId, path: &Path, limit: u64) -> Result<Option<Vec<u8>>> {
        point!(ReadBefore);
        offered(self.0.files())?.read(id, path, limit).await
    }

    async fn write(&self, id: &ClawId, path: &Path, contents: &[u8]) -> Result<()> {
        point!(WriteBefore);
        offered(self.0.files())?.write(id, path, contents).await?;
        point!(WriteAfter);
        Ok(())
    }

    async fn import(&self, id: &ClawId, from: &Path, progress: &dyn Progress) -> Result<u64> {
        point!(ImportBefore);
        let bytes = offered(self.0.files())?.import(id, from, progress).await?;
        point!(ImportAfter);
        Ok(bytes)
    }
}
