//! The boundary to a runtime: a limit on how long each of its verbs may take, and a failpoint
//! before and after it.
//!
//! In one place, so that no runtime is without them and none can forget one. Preparing,
//! installing and importing have their limit with the whole start, observing with the turn. What is a stream
//! (a command's, a followed log's) has a limit on its beginning only: it lasts as long as its
//! reader wants it.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use clawfarm_failpoint::point;
use clawfarm_model::launch::{DataFate, ImageRecipe, Launch, Place, Placement, StopOptions};
use clawfarm_model::resources::Usage;
use clawfarm_model::target::{Capacity, Check, CheckLevel, Diagnosis, RuntimeKind};
use clawfarm_model::{ClawId, Code, Error, InstanceSpec, Observation, Result, Software};
use clawfarm_runtime::{
    Backup, Bases, Connection, Exec, ExecRequest, ExecSession, Files, Freeze, Images, Kept, KeptData,
    LogQuery, LogStream, Logs, Progress, Recover, Runtime, Stats, Suspend, Upgrade,
};
use futures::StreamExt;
use secrecy::SecretString;
use tokio::sync::broadcast;

/// What only looks or answers at once: half of what a plain request may take, so that its
/// caller is told what did not answer, and not only that something did not.
const LOOK: Duration = Duration::from_secs(15);
/// What changes one small thing: a file, a frozen state, the end of a process.
const TOUCH: Duration = Duration::from_secs(60);
/// What reads all that a target has, before a server is there: ten thousand records on a slow disk.
const LISTING: Duration = Duration::from_secs(10 * 60);
/// What moves or removes all of a claw's data, or saves its memory.
const MOVE: Duration = Duration::from_secs(30 * 60);

/// A runtime behind its boundary.
pub(crate) fn around(runtime: Arc<dyn Runtime>) -> Arc<dyn Runtime> {
    Arc::new(Bounded(runtime))
}

/// Waits so long and no longer. What was begun is left where it is: every verb is idempotent,
/// and the next attempt looks at the world first.
async fn within<T>(limit: Duration, verb: &str, work: impl Future<Output = Result<T>> + Send) -> Result<T> {
    tokio::time::timeout(limit, work).await.unwrap_or_else(|_| Err(too_late(limit, verb)))
}

fn too_late(limit: Duration, verb: &str) -> Error {
    Error::new(Code::Timeout, format!("its target did not {verb} within {} s", limit.as_secs())).fix(
        "what the server does by itself is tried again; see clawfarm doctor, and the load of the target's machine",
    )
}

struct Bounded(Arc<dyn Runtime>);

#[async_trait]
impl Runtime for Bounded {
    fn kind(&self) -> RuntimeKind {
        self.0.kind()
    }

    async fn diagnose(&self) -> Diagnosis {
        let kind = self.0.kind();
        tokio::time::timeout(LOOK, self.0.diagnose()).await.unwrap_or_else(|_| unanswered(kind))
    }

    async fn capacity(&self) -> Result<Capacity> {
        point!(CapacityBefore);
        within(LOOK, "say what it has", self.0.capacity()).await
    }

    async fn check_vm(&self, spec: &InstanceSpec) -> Result<()> {
        within(LOOK, "look at what a machine is to be", self.0.check_vm(spec)).await
    }

    async fn ensure(&self, placement: &Placement, progress: &dyn Progress) -> Result<Place> {
        point!(EnsureBefore);
        let place = self.0.ensure(placement, progress).await?;
        point!(EnsureAfter);
        Ok(place)
    }

    async fn keep_record(&self, id: &ClawId, record: &serde_json::Value) -> Result<()> {
        point!(KeepRecordBefore);
        within(TOUCH, "keep a record", self.0.keep_record(id, record)).await?;
        point!(KeepRecordAfter);
        Ok(())
    }

    async fn start(&self, launch: &Launch) -> Result<Observation> {
        point!(StartBefore);
        let seen = within(TOUCH * 2, "start it", self.0.start(launch)).await?;
        point!(StartAfter);
        Ok(seen)
    }

    async fn start_note(&self, id: &ClawId) -> Option<String> {
        tokio::time::timeout(LOOK, self.0.start_note(id)).await.ok().flatten()
    }

    async fn observe(&self, id: &ClawId) -> Result<Observation> {
        point!(ObserveBefore);
        let seen = self.0.observe(id).await?;
        point!(ObserveAfter);
        Ok(seen)
    }

    async fn list(&self) -> Result<Vec<Observation>> {
        within(TOUCH, "list what it has", self.0.list()).await
    }

    fn watch(&self) -> broadcast::Receiver<ClawId> {
        self.0.watch()
    }

    async fn stop(&self, id: &ClawId, options: StopOptions) -> Result<Observation> {
        point!(StopBefore);
        let seen = within(options.grace + TOUCH, "stop it", self.0.stop(id, options)).await?;
        point!(StopAfter);
        Ok(seen)
    }

    async fn kill(&self, id: &ClawId) -> Result<Observation> {
        point!(KillBefore);
        let seen = within(TOUCH, "end it", self.0.kill(id)).await?;
        point!(KillAfter);
        Ok(seen)
    }

    async fn destroy(&self, id: &ClawId, data: DataFate) -> Result<u64> {
        point!(DestroyBefore);
        let size = within(MOVE, "remove it", self.0.destroy(id, data)).await?;
        point!(DestroyAfter);
        Ok(size)
    }

    async fn undo(&self, id: &ClawId) -> Result<()> {
        within(TOUCH, "take back what it made", self.0.undo(id)).await
    }

    async fn remove_dataset(&self, id: &ClawId) -> Result<()> {
        point!(RemoveDatasetBefore);
        within(MOVE, "remove a dataset", self.0.remove_dataset(id)).await?;
        point!(RemoveDatasetAfter);
        Ok(())
    }

    async fn pick_port(&self, taken: &BTreeSet<u16>) -> Result<u16> {
        point!(PickPortBefore);
        within(LOOK, "find a port", self.0.pick_port(taken)).await
    }

    async fn dial(&self, id: &ClawId, port: u16) -> Result<Box<dyn Connection>> {
        point!(DialBefore);
        let connection = within(LOOK, "connect to it", self.0.dial(id, port)).await?;
        point!(DialAfter);
        Ok(connection)
    }

    async fn dial_at(&self, id: &ClawId, address: SocketAddr) -> Result<Box<dyn Connection>> {
        within(LOOK, "connect to it", self.0.dial_at(id, address)).await
    }

    async fn host_route(&self, claw_port: u16) -> Result<String> {
        within(LOOK, "say how claws reach the server", self.0.host_route(claw_port)).await
    }

    // What takes as long as a boot, or looks.
    fn bases(&self) -> Option<&dyn Bases> {
        self.0.bases()
    }

    fn freeze(&self) -> Option<&dyn Freeze> {
        self.0.freeze().map(|_| self as &dyn Freeze)
    }

    fn suspend(&self) -> Option<&dyn Suspend> {
        self.0.suspend().map(|_| self as &dyn Suspend)
    }

    fn exec(&self) -> Option<&dyn Exec> {
        self.0.exec().map(|_| self as &dyn Exec)
    }

    fn stats(&self) -> Option<&dyn Stats> {
        self.0.stats().map(|_| self as &dyn Stats)
    }

    fn logs(&self) -> Option<&dyn Logs> {
        self.0.logs().map(|_| self as &dyn Logs)
    }

    fn files(&self) -> Option<&dyn Files> {
        self.0.files().map(|_| self as &dyn Files)
    }

    fn upgrade(&self) -> Option<&dyn Upgrade> {
        self.0.upgrade().map(|_| self as &dyn Upgrade)
    }

    fn backup(&self) -> Option<&dyn Backup> {
        self.0.backup().map(|_| self as &dyn Backup)
    }

    fn images(&self) -> Option<&dyn Images> {
        self.0.images()
    }

    fn recover(&self) -> Option<&dyn Recover> {
        self.0.recover().map(|_| self as &dyn Recover)
    }
}

/// What is found of a runtime that can't even be looked at.
fn unanswered(runtime: RuntimeKind) -> Diagnosis {
    let check = Check {
        name: "answers".into(),
        level: CheckLevel::Error,
        detail: format!("the runtime did not say how it is within {} s", LOOK.as_secs()),
        fix: Some("look at the load of its machine, and at its disk; then ask again".into()),
    };
    Diagnosis { runtime, usable: false, checks: vec![check] }
}

/// What [`Bounded`] offers only where the runtime within does.
fn offered<T>(capability: Option<T>) -> Result<T> {
    capability.ok_or_else(|| {
        clawfarm_model::Error::internal("a capability went away", "it is offered or not for good")
    })
}

#[async_trait]
impl Freeze for Bounded {
    async fn freeze(&self, id: &ClawId) -> Result<Observation> {
        point!(FreezeBefore);
        let seen = within(TOUCH, "freeze it", offered(self.0.freeze())?.freeze(id)).await?;
        point!(FreezeAfter);
        Ok(seen)
    }

    async fn thaw(&self, id: &ClawId) -> Result<Observation> {
        point!(ThawBefore);
        let seen = within(TOUCH, "thaw it", offered(self.0.freeze())?.thaw(id)).await?;
        point!(ThawAfter);
        Ok(seen)
    }
}

#[async_trait]
impl Suspend for Bounded {
    async fn suspend(&self, id: &ClawId) -> Result<Observation> {
        point!(SuspendBefore);
        let seen = within(MOVE, "save it", offered(self.0.suspend())?.suspend(id)).await?;
        point!(SuspendAfter);
        Ok(seen)
    }

    async fn resume(&self, id: &ClawId) -> Result<Observation> {
        within(MOVE, "restore it", offered(self.0.suspend())?.resume(id)).await
    }
}

#[async_trait]
impl Exec for Bounded {
    async fn exec(&self, id: &ClawId, request: ExecRequest) -> Result<ExecSession> {
        within(TOUCH, "start the command", offered(self.0.exec())?.exec(id, request)).await
    }
}

#[async_trait]
impl Stats for Bounded {
    async fn usage(&self, id: &ClawId) -> Result<Usage> {
        within(LOOK, "measure it", offered(self.0.stats())?.usage(id)).await
    }
}

#[async_trait]
impl Logs for Bounded {
    async fn logs(&self, id: &ClawId, query: LogQuery) -> Result<LogStream> {
        let lines = within(LOOK, "read its output", offered(self.0.logs())?.logs(id, query)).await?;
        // A followed log may be silent for days. Another has its lines at hand, or its disk hangs.
        Ok(if query.follow { lines } else { in_time(lines) })
    }
}

/// The lines, as long as each comes in time; then why it did not, and the end.
fn in_time(lines: LogStream) -> LogStream {
    futures::stream::unfold(Some(lines), |lines| async {
        let mut lines = lines?;
        match tokio::time::timeout(LOOK, lines.next()).await {
            Ok(line) => line.map(|line| (line, Some(lines))),
            Err(_) => Some((Err(too_late(LOOK, "read its output")), None)),
        }
    })
    .boxed()
}

#[async_trait]
impl Recover for Bounded {
    async fn kept(&self) -> Result<Vec<Kept>> {
        within(LISTING, "tell what it has", offered(self.0.recover())?.kept()).await
    }

    async fn kept_data(&self) -> Result<Vec<KeptData>> {
        within(LISTING, "tell what data it has", offered(self.0.recover())?.kept_data()).await
    }

    async fn environment(&self, seen: &Observation, names: &[&str]) -> Result<Vec<(String, SecretString)>> {
        within(LOOK, "read its environment", offered(self.0.recover())?.environment(seen, names)).await
    }
}

#[async_trait]
impl Files for Bounded {
    async fn read(&self, id: &ClawId, path: &Path, limit: u64) -> Result<Option<Vec<u8>>> {
        point!(ReadBefore);
        within(TOUCH, "read its file", offered(self.0.files())?.read(id, path, limit)).await
    }

    async fn write(&self, id: &ClawId, path: &Path, contents: &[u8], read_only: bool) -> Result<()> {
        point!(WriteBefore);
        within(TOUCH, "write its file", offered(self.0.files())?.write(id, path, contents, read_only))
            .await?;
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

#[async_trait]
impl Upgrade for Bounded {
    async fn install(
        &self,
        software: &Software,
        recipe: Option<&ImageRecipe>,
        progress: &dyn Progress,
    ) -> Result<()> {
        point!(InstallBefore);
        offered(self.0.upgrade())?.install(software, recipe, progress).await?;
        point!(InstallAfter);
        Ok(())
    }

    async fn software_file(&self, software: &Software, path: &Path, limit: u64) -> Result<Option<Vec<u8>>> {
        point!(SoftwareFileBefore);
        let asked = offered(self.0.upgrade())?.software_file(software, path, limit);
        within(TOUCH, "read a file of its software", asked).await
    }

    async fn copy_data(&self, id: &ClawId, copy: i64, progress: &dyn Progress) -> Result<u64> {
        point!(CopyDataBefore);
        let copying = offered(self.0.upgrade())?.copy_data(id, copy, progress);
        let bytes = within(MOVE, "copy its data", copying).await?;
        point!(CopyDataAfter);
        Ok(bytes)
    }

    async fn put_back(&self, id: &ClawId, copy: i64) -> Result<()> {
        point!(PutBackBefore);
        within(MOVE, "put its data back", offered(self.0.upgrade())?.put_back(id, copy)).await?;
        point!(PutBackAfter);
        Ok(())
    }

    async fn remove_copy(&self, id: &ClawId) -> Result<()> {
        point!(RemoveCopyBefore);
        within(MOVE, "remove a copy of its data", offered(self.0.upgrade())?.remove_copy(id)).await?;
        point!(RemoveCopyAfter);
        Ok(())
    }
}

#[async_trait]
impl Backup for Bounded {
    fn room(&self) -> PathBuf {
        // Only ever asked of what has it.
        self.0.backup().map(Backup::room).unwrap_or_default()
    }

    async fn copy_out(&self, id: &ClawId, to: &Path) -> Result<Vec<PathBuf>> {
        point!(CopyOutBefore);
        let copying = offered(self.0.backup())?.copy_out(id, to);
        let left_out = within(MOVE, "copy its data", copying).await?;
        point!(CopyOutAfter);
        Ok(left_out)
    }

    async fn take_in(&self, id: &ClawId, from: &Path) -> Result<()> {
        point!(TakeInBefore);
        within(MOVE, "take its data in", offered(self.0.backup())?.take_in(id, from)).await?;
        point!(TakeInAfter);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_never_answers_is_told_and_may_be_tried_again() {
        let stuck = std::future::pending::<Result<()>>();
        let error = within(TOUCH, "stop it", stuck).await.unwrap_err();
        assert_eq!(error.code(), Code::Timeout);
        assert!(error.message().contains("within 60 s") && error.fix_text().is_some(), "{error}");
        assert_eq!(within(TOUCH, "stop it", async { Ok(1) }).await.unwrap(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_runtime_that_hangs_is_told_by_every_verb() {
        let dir = tempfile::tempdir().unwrap();
        let config = clawfarm_runtime_sim::SimConfig::new(dir.path());
        let world = clawfarm_runtime_sim::World::open(dir.path()).unwrap();
        let runtime = around(Arc::new(clawfarm_runtime_sim::SimRuntime::open(config).unwrap()));
        let hour = 3_600_000;
        world
            .change_behaviour(|b| {
                use clawfarm_runtime_sim::Verb as V;
                b.delays = [V::List, V::Exec, V::Usage, V::Logs].map(|verb| (verb, (hour, hour))).into();
            })
            .unwrap();
        let id = ClawId::new("alice-x7k2b").unwrap();
        let request = ExecRequest { argv: vec!["true".into()], tty: None, term: None };
        let told = [
            runtime.list().await.map(drop).unwrap_err(),
            runtime.exec().unwrap().exec(&id, request).await.map(drop).unwrap_err(),
            runtime.stats().unwrap().usage(&id).await.map(drop).unwrap_err(),
            runtime.logs().unwrap().logs(&id, LogQuery::default()).await.map(drop).unwrap_err(),
        ];
        for error in told {
            assert_eq!(error.code(), Code::Timeout, "{error}");
            assert!(error.message().contains("did not") && error.fix_text().is_some(), "{error}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_log_that_stops_in_its_middle_is_told_after_its_lines() {
        let line = clawfarm_runtime::LogLine {
            at: clawfarm_model::Timestamp::from_millis(1),
            stream: clawfarm_runtime::OutputStream::Stdout,
            text: "last".into(),
        };
        let first = line.clone();
        let stuck = futures::stream::once(async { Ok(first) }).chain(futures::stream::pending());
        let mut lines = in_time(stuck.boxed());
        assert_eq!(lines.next().await.unwrap().unwrap(), line);
        assert_eq!(lines.next().await.unwrap().unwrap_err().code(), Code::Timeout);
        assert!(lines.next().await.is_none());
    }
}
