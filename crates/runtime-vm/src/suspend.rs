//! Saving a machine's memory, and ending its process.

use std::sync::Arc;

use clawfarm_local::client::LIMIT;
use clawfarm_local::keeper;
use clawfarm_model::{ClawId, Code, Error, Observation, Result};
use clawfarm_qemu::Accelerator;
use clawfarm_qemu::snapshot::Limits;

use crate::inner::Inner;
use crate::machine::machine;
use crate::record::MachineRecord;
use crate::{observe, shares};

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
    save(inner, &record).await?;
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
    let as_started = MachineRecord { resources: started.resources, ..record.clone() };
    let qemu = inner.qemu().await?;
    let of = (&qemu, started.machine.as_str(), started.accelerator);
    let shape = machine(&inner.dir(id), &as_started, disk, of, false).shape();
    let limits = Limits::of(started.resources.memory_mib);
    inner.snapshot(id)?.save(&qmp, &shape, limits, |_, _| ()).await?;
    drop(qmp);
    inner.hang_up(id).await;
    keeper::wait_for_end(&inner.dir(id), id, LIMIT * 6).await
}

/// What is said of saving where the accelerator passes the host's processor through.
pub(crate) const fn binds_to_host(accelerator: Accelerator) -> bool {
    matches!(accelerator, Accelerator::Kvm)
}
