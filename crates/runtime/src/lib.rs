//! The trait every runtime implements, and its capabilities.
//!
//! A runtime (`process`, `docker`, `vm`, `kubernetes`, `sim`) turns the reconciler's
//! decisions into acts. Its verbs are few, idempotent, and look at the world before they
//! change it: doing one twice is doing it once, and a verb that was cut off by a crash is
//! mended by doing it again. What only some runtimes can do is a capability with a trait
//! of its own ([`Freeze`], [`Suspend`], [`Exec`], [`Stats`], [`Logs`], [`Files`], [`Upgrade`],
//! [`Backup`], [`Recover`]), so that no runtime has verbs that do nothing.
//!
//! `docs/design/0002-runtimes.md` says how Docker, virtual machines and Kubernetes
//! implement each verb.

mod backup;
mod bases;
mod exec;
mod images;
mod logs;
mod port;
mod progress;
mod recover;
mod upgrade;
mod vm_images;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use clawfarm_model::launch::{DataFate, Launch, Place, Placement, StopOptions};
use clawfarm_model::resources::Usage;
use clawfarm_model::target::{Capacity, Diagnosis, RuntimeKind};
use clawfarm_model::{ClawId, Fence, InstanceSpec, Observation, Result};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::broadcast;

pub use backup::Backup;
pub use bases::{Bases, WantedSize};
pub use exec::{ExecInput, ExecOutput, ExecRequest, ExecSession, TermSize};
pub use images::Images;
pub use logs::{LogLine, LogQuery, LogStream, OutputStream};
pub use port::{PORTS, pick as pick_port};
pub use progress::{NoProgress, Progress};
pub use recover::{Kept, KeptData, KnownData, Recover, check_kept};
pub use upgrade::Upgrade;
pub use vm_images::VmImages;

/// A byte stream to a port of an instance.
pub trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Connection for T {}

/// A way of running claws.
#[async_trait]
pub trait Runtime: Send + Sync + 'static {
    /// Which kind.
    fn kind(&self) -> RuntimeKind;

    /// The same target for a server that holds a lease on the instances it acts on, where the
    /// target can refuse what a server does whose lease another one has had since: that error
    /// is told by [`clawfarm_model::is_fenced`]. `None` where the target remembers no epochs;
    /// there the deterministic names and the `run` of a launch are the guard.
    fn under(&self, fence: &Fence) -> Option<Arc<dyn Runtime>> {
        let _ = fence;
        None
    }

    /// Looks at whether instances can be started here, and what would mend it. Never fails:
    /// what is broken is a check with level `error`.
    async fn diagnose(&self) -> Diagnosis;

    /// What the target has in all and to give.
    ///
    /// # Errors
    /// `Unavailable` when the target does not answer.
    async fn capacity(&self) -> Result<Capacity>;

    /// Checks of a new virtual machine what this target's host decides, before anything is made. The
    /// host may be another one by the time that it is: so [`Runtime::ensure`] looks again.
    ///
    /// # Errors
    /// `InvalidInput` or `Conflict` with the field, of the machine (`vm.…`) or `port`; `Unsupported` when
    /// something is missing on the host.
    async fn check_vm(&self, _spec: &InstanceSpec) -> Result<()> {
        Ok(())
    }

    /// Makes everything an instance needs before it can start: software, folders, network,
    /// data. Reports its steps to `progress`. Done twice, it finds all in place.
    ///
    /// # Errors
    /// `Unavailable` and `Timeout` may be tried again; `Unsupported`, `Insufficient` and
    /// `InvalidInput` say what is in the way. What was made before the error stays, and is
    /// found by the next attempt or removed by [`Runtime::destroy`].
    async fn ensure(&self, placement: &Placement, progress: &dyn Progress) -> Result<Place>;

    /// Keeps a newer [`Placement::record`] beside an instance that has been prepared; without
    /// one nothing is done. Never starts or stops anything.
    ///
    /// # Errors
    /// `Unavailable` when the target does not answer.
    async fn keep_record(&self, id: &ClawId, record: &serde_json::Value) -> Result<()>;

    /// Writes the launch's files and starts it. When it already runs with the launch's `run`
    /// (or a later one) nothing is started; with an earlier one it is a `Conflict`, because
    /// whoever decided this has old news.
    ///
    /// # Errors
    /// `Conflict` with field `port` when the port is taken by something else on this target:
    /// another can be chosen.
    async fn start(&self, launch: &Launch) -> Result<Observation>;

    /// What its owner should know of how the last start went, though it succeeded: that a saved
    /// memory could not be used, and why.
    async fn start_note(&self, _id: &ClawId) -> Option<String> {
        None
    }

    /// What is there now.
    ///
    /// # Errors
    /// `Unavailable` when the target does not answer. Never `Absent` for "can't see".
    async fn observe(&self, id: &ClawId) -> Result<Observation>;

    /// Every instance of this server's on the target.
    ///
    /// # Errors
    /// `Unavailable` when the target does not answer.
    async fn list(&self) -> Result<Vec<Observation>>;

    /// Tells which instances to look at again because something happened to them. A lagging
    /// receiver must look at all of them.
    fn watch(&self) -> broadcast::Receiver<ClawId>;

    /// Asks it to end, and ends it when the grace is over. Returns when it is down.
    ///
    /// # Errors
    /// `Unavailable` when the target does not answer.
    async fn stop(&self, id: &ClawId, options: StopOptions) -> Result<Observation>;

    /// Ends it at once, with everything it started.
    ///
    /// # Errors
    /// `Unavailable` when the target does not answer.
    async fn kill(&self, id: &ClawId) -> Result<Observation>;

    /// Removes everything of it (it is ended first), and its data as `data` says. Returns the
    /// size of what was set aside, in bytes. Gone already is a success.
    ///
    /// # Errors
    /// `Unavailable` when the target does not answer.
    async fn destroy(&self, id: &ClawId, data: DataFate) -> Result<u64>;

    /// Takes back what was made for an instance whose first start failed for good: all but the
    /// record beside it. One that has run is left as it is. The default leaves all of it to the
    /// next start or to [`Runtime::destroy`], which suits what holds nothing while it is down.
    ///
    /// # Errors
    /// `Unavailable` when the target does not answer.
    async fn undo(&self, _id: &ClawId) -> Result<()> {
        Ok(())
    }

    /// Removes data that was set aside. Gone already is a success.
    ///
    /// # Errors
    /// `Unavailable` when the target does not answer.
    async fn remove_dataset(&self, id: &ClawId) -> Result<()>;

    /// A port for a new instance's gateway, not among `taken` (those of the target's other
    /// instances). The default suits runtimes that publish on this machine's loopback device.
    ///
    /// # Errors
    /// `Insufficient` when none is left.
    async fn pick_port(&self, taken: &BTreeSet<u16>) -> Result<u16> {
        port::pick(&PORTS, taken)
    }

    /// Opens a connection to a port of the instance: the only way to reach one. A runtime
    /// makes sure that it is the instance which answers there.
    ///
    /// # Errors
    /// `Unavailable` when nothing listens; `Conflict` when something else does.
    async fn dial(&self, id: &ClawId, port: u16) -> Result<Box<dyn Connection>>;

    /// Opens a connection to another listener of the instance, at an address within its own
    /// machine or container. Where each instance has a network of its own, the port says it.
    ///
    /// # Errors
    /// As for [`Self::dial`].
    async fn dial_at(&self, id: &ClawId, address: SocketAddr) -> Result<Box<dyn Connection>> {
        self.dial(id, address.port()).await
    }

    /// Where an instance on this target reaches the server, given the port of the server's
    /// listener for claws: `http://127.0.0.1:P` for a local process, a gateway address for
    /// a container.
    ///
    /// # Errors
    /// `Unsupported` when instances have no way to the server here.
    async fn host_route(&self, claw_port: u16) -> Result<String>;

    /// Machines that wait to be copied, where the runtime can make some.
    fn bases(&self) -> Option<&dyn Bases> {
        None
    }

    /// Freezing in memory, where the runtime can.
    fn freeze(&self) -> Option<&dyn Freeze> {
        None
    }

    /// Saving memory to disk, where the runtime can.
    fn suspend(&self) -> Option<&dyn Suspend> {
        None
    }

    /// Running further commands inside, where the runtime can.
    fn exec(&self) -> Option<&dyn Exec> {
        None
    }

    /// Measuring use, where the runtime can.
    fn stats(&self) -> Option<&dyn Stats> {
        None
    }

    /// What the claw printed, where the runtime keeps it.
    fn logs(&self) -> Option<&dyn Logs> {
        None
    }

    /// Its files, where the runtime can get at them.
    fn files(&self) -> Option<&dyn Files> {
        None
    }

    /// Another version of an instance's software, where the runtime knows a way back.
    fn upgrade(&self) -> Option<&dyn Upgrade> {
        None
    }

    /// Copies of an instance's data for archives, where the runtime can make such.
    fn backup(&self) -> Option<&dyn Backup> {
        None
    }

    /// Making and listing images, where the runtime runs such.
    fn images(&self) -> Option<&dyn Images> {
        None
    }

    /// Telling of its instances without the store, where the runtime keeps their records.
    fn recover(&self) -> Option<&dyn Recover> {
        None
    }
}

/// Freezing in memory: no processor time, memory held (or reclaimed by the kernel), awake
/// again in milliseconds.
#[async_trait]
pub trait Freeze: Send + Sync {
    /// Freezes it. Frozen already is a success.
    ///
    /// # Errors
    /// `Gone` when it does not run.
    async fn freeze(&self, id: &ClawId) -> Result<Observation>;

    /// Lets it go on. Going on already is a success.
    ///
    /// # Errors
    /// `Gone` when it does not run.
    async fn thaw(&self, id: &ClawId) -> Result<Observation>;
}

/// Saving memory to disk and ending the process; restoring it later.
#[async_trait]
pub trait Suspend: Send + Sync {
    /// Saves and ends. Leaves either the running instance or a whole snapshot.
    ///
    /// # Errors
    /// `Gone` when it does not run.
    async fn suspend(&self, id: &ClawId) -> Result<Observation>;

    /// Restores from the snapshot.
    ///
    /// # Errors
    /// `Gone` when there is no snapshot that can be restored: start it instead.
    async fn resume(&self, id: &ClawId) -> Result<Observation>;
}

/// Running further commands inside an instance, under the same confinement.
#[async_trait]
pub trait Exec: Send + Sync {
    /// Starts a command.
    ///
    /// # Errors
    /// `Gone` when the instance does not run; `NotFound` when the command does not exist.
    async fn exec(&self, id: &ClawId, request: ExecRequest) -> Result<ExecSession>;
}

/// Measuring what an instance uses.
#[async_trait]
pub trait Stats: Send + Sync {
    /// What it uses now.
    ///
    /// # Errors
    /// `Gone` when it does not run.
    async fn usage(&self, id: &ClawId) -> Result<Usage>;
}

/// What an instance printed.
#[async_trait]
pub trait Logs: Send + Sync {
    /// Its lines, oldest first; with `follow` the stream goes on until it is dropped.
    ///
    /// # Errors
    /// `NotFound` when the instance never printed anything here.
    async fn logs(&self, id: &ClawId, query: LogQuery) -> Result<LogStream>;
}

/// An instance's files. Paths are relative to its state folder and never leave it, whatever
/// links the claw has put there.
#[async_trait]
pub trait Files: Send + Sync {
    /// A file's contents; `None` when there is no such file.
    ///
    /// # Errors
    /// `InvalidInput` for a path that leaves the folder; `Insufficient` above `limit` bytes.
    async fn read(&self, id: &ClawId, path: &Path, limit: u64) -> Result<Option<Vec<u8>>>;

    /// Writes a file atomically: 0600 and the claw's own, or so that the claw can't change it, as
    /// the files of its launch are that are `read_only`.
    ///
    /// # Errors
    /// `InvalidInput` for a path that leaves the folder.
    async fn write(&self, id: &ClawId, path: &Path, contents: &[u8], read_only: bool) -> Result<()>;

    /// Copies a folder of this machine in as the instance's state, before its first start.
    /// Links that leave the folder, sockets and devices are not copied. Returns the bytes copied.
    ///
    /// # Errors
    /// `NotFound` when there is no such folder; `Conflict` when the instance has state already.
    async fn import(&self, id: &ClawId, from: &Path, progress: &dyn Progress) -> Result<u64>;
}
