//! Stopping a machine's processors, and letting them go on.

use std::sync::Arc;
use std::time::Duration;

use clawfarm_files::blocking;
use clawfarm_model::{ClawId, Code, Error, Observation, Result};
use clawfarm_qemu::qmp::RunState;
use clawfarm_qemu::ssh::Ended;

use crate::inner::Inner;
use crate::record::MachineRecord;
use crate::{agent, observe, seed};

/// How long setting the clock is tried: a guest that is busy after a long sleep may be slow.
const CLOCK: Duration = Duration::from_secs(60);

/// How long a guest may take to write what it holds to its disks before it stands still for a while. In the
/// middle of much writing, or on a busy disk, it may need longer; then the rest stays in its memory alone.
const WRITTEN: Duration = Duration::from_secs(10);
/// The same before its memory is saved, which nobody waits for.
pub(crate) const WRITTEN_FOR_LONG: Duration = Duration::from_secs(60);

/// [`clawfarm_runtime::Freeze::freeze`].
pub(crate) async fn freeze(inner: &Arc<Inner>, id: &ClawId) -> Result<Observation> {
    let _verb = inner.lock(id).await;
    if !observe::settle(inner, id).await? {
        return Err(gone(id));
    }
    let qmp = inner.qmp(id).await?;
    if qmp.run_state().await? == RunState::Running {
        write_out(inner, &inner.record(id)?, WRITTEN).await;
    }
    // Before it is so: whoever finds it stopped knows that it is meant to be.
    note(inner, id, true).await?;
    qmp.stop().await?;
    inner.watch.tell(id);
    observe::observe(inner, id).await
}

/// [`clawfarm_runtime::Freeze::thaw`].
pub(crate) async fn thaw(inner: &Arc<Inner>, id: &ClawId) -> Result<Observation> {
    let _verb = inner.lock(id).await;
    if !observe::settle(inner, id).await? {
        return Err(gone(id));
    }
    inner.qmp(id).await?.cont().await?;
    note(inner, id, false).await?;
    step_clock(inner, id);
    inner.watch.tell(id);
    observe::observe(inner, id).await
}

fn gone(id: &ClawId) -> Error {
    Error::new(Code::Gone, format!("'{id}' does not run")).fix(format!("start it with `clawfarm start {id}`"))
}

/// Writes down whether it is meant to stand still.
pub(crate) async fn note(inner: &Arc<Inner>, id: &ClawId, frozen: bool) -> Result<()> {
    let (this, id) = (Arc::clone(inner), id.clone());
    blocking(move || this.change(&id, |record| record.frozen = frozen).map(drop)).await
}

/// Has a guest that is about to stand still write what it holds to its disks, as well as can be.
///
/// Its memory can be lost while it does: by a power cut of this machine, when what it is started with changes,
/// or when another QEMU can't use it. Then it goes on from its disk, where without this the last half minute
/// of what it wrote is missing (`dirty_expire_centisecs`). One that still boots has nobody to ask.
pub(crate) async fn write_out(inner: &Inner, record: &MachineRecord, limit: Duration) {
    let id = &record.id;
    if record.booted.as_ref().is_none_or(|booted| booted.run < record.run) {
        return;
    }
    let written = async {
        // The rest is for the other way.
        if agent::sync(inner, id, limit / 2).await {
            return Ok(());
        }
        by_ssh(inner, id, "sync").await
    };
    match tokio::time::timeout(limit, written).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(%id, %error, "what it wrote may not all be on its disk"),
        Err(_) => tracing::warn!(%id, ?limit, "what it wrote may not all be on its disk: it is not done"),
    }
}

/// Sets the guest's clock, which stood still: in the background, and as well as can be. A guest
/// that does not answer SSH yet has nobody who would mind.
pub(crate) fn step_clock(inner: &Arc<Inner>, id: &ClawId) {
    let (weak, id) = (Arc::downgrade(inner), id.clone());
    let ending = inner.watch.ending().clone();
    tokio::spawn(async move {
        let Some(inner) = weak.upgrade() else { return };
        tokio::select! {
            () = ending.cancelled() => {}
            set = tokio::time::timeout(CLOCK, set_clock(&inner, &id)) => match set {
                Ok(Ok(())) => tracing::debug!(%id, "its clock was set"),
                Ok(Err(error)) => tracing::info!(%id, %error, "its clock could not be set"),
                Err(_) => tracing::info!(%id, "its clock could not be set: it does not answer SSH"),
            }
        }
    });
}

async fn set_clock(inner: &Inner, id: &ClawId) -> Result<()> {
    if agent::set_clock(inner, id).await {
        return Ok(());
    }
    let now = clawfarm_model::Timestamp::now().as_millis() / 1000;
    by_ssh(inner, id, &format!("date -u -s @{now}")).await
}

/// Runs one command in the guest, where there is no agent for it.
async fn by_ssh(inner: &Inner, id: &ClawId, command: &str) -> Result<()> {
    let ssh = seed::ssh(inner, &inner.record(id)?)?;
    let messages = seed::messages(inner, id)?;
    match ssh.output(command, messages.path()).await?.0 {
        Ended::Code(0) => Ok(()),
        Ended::Code(code) => Err(Error::new(Code::ClawFailed, format!("'{command}' ended with {code}"))),
        Ended::Lost(why) => Err(Error::new(Code::Unavailable, why)),
    }
}
