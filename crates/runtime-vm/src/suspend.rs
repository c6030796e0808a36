//! Saving a machine's memory, and ending its process.

use std::sync::Arc;

use clawfarm_local::keeper;
use clawfarm_model::{ClawId, Code, Error, Observation, Result};
use clawfarm_qemu::Accelerator;
use clawfarm_qemu::qmp::RunState;
use clawfarm_qemu::snapshot::Limits;

use crate::inner::Inner;
use crate::machine::machine;
use crate::record::MachineRecord;
use crate::start::as_started;
use crate::{freeze, observe, shares, trouble};

/// [`clawfarm_runtime::Suspend::suspend`].
pub(crate) async fn suspend(inner: &Arc<Inner>, id: &ClawId) -> Result<Observation> {
    let _verb = inner.lock(id).await;
    let record = inner.record(id)?;
    if !keeper::is_up(&inner.dir(id)).await? || !observe::settle(inner, id).await? {
        // Saved already, perhaps by the one who was cut off.
        let saved = inner.snapshot(id)?.about().await.is_ok_and(|about| about.is_some());
        if saved {
            inner.watch.tell(id);
            return observe::observe(inner, id).await;
        }
        return Err(Error::new(Code::Gone, format!("'{id}' does not run"))
            .fix(format!("start it with `clawfarm start {id}`")));
    }
    // As it is, whatever is noted: one that was let go on by a server that was killed then can be asked.
    if inner.qmp(id).await?.run_state().await? == RunState::Running {
        freeze::write_out(inner, &record, freeze::WRITTEN_FOR_LONG).await;
    }
    if record.frozen {
        // Before its memory is whole: from then on nobody may let it go on any more, and what
        // shuts this machine down does that with those that are frozen.
        freeze::note(inner, id, false).await?;
    }
    if let Err(error) = save(inner, &record).await {
        if record.frozen {
            // It stands still as before.
            freeze::note(inner, id, true).await?;
        }
        return Err(error);
    }
    inner.watch.tell(id);
    observe::observe(inner, id).await
}

async fn save(inner: &Arc<Inner>, record: &MachineRecord) -> Result<()> {
    let id = &record.id;
    let (Some(started), Some(disk)) = (&record.started, record.disk) else {
        return Err(Error::new(Code::Internal, format!("it is not known how '{id}' was started"))
            .fix("stop it and start it again"));
    };
    let qmp = inner.qmp(id).await?;
    let saves = match shares::count(record) {
        0 => true,
        _ => inner.virtiofsd().await?.saves,
    };
    shares::check_saves(record, qmp.version(), saves)?;
    // As it was started: what it is to be from its next start on may be another thing by now.
    let was = as_started(record);
    let qemu = inner.qemu().await?;
    let of = (&qemu, started.machine.as_str(), started.accelerator);
    let shape = machine(&inner.dir(id), &was, disk, of, false).shape();
    let limits = Limits::of(started.resources.memory_mib);
    let snapshot = inner.snapshot(id)?;
    // There was none: it was settled.
    let saved = snapshot.save(&qmp, &shape, limits, |_, _| ()).await;
    drop(qmp);
    if let Err(error) = saved {
        if error.field_name() == Some("snapshot") || snapshot.about().await?.is_none() {
            return Err(error);
        }
        // Whole, so it is the machine; only the process is still there.
        tracing::warn!(%id, %error, "its memory is saved, and its process does not end as it should");
    }
    trouble::see_off(inner, id).await
}

/// What is said of saving where the accelerator passes the host's processor through.
pub(crate) const fn binds_to_host(accelerator: Accelerator) -> bool {
    matches!(accelerator, Accelerator::Kvm)
}
