//! Stopping, killing, and ending for good.

use std::sync::Arc;
use std::time::Duration;

use clawfarm_files::blocking;
use clawfarm_local::client::LIMIT;
use clawfarm_local::keeper;
use clawfarm_model::{ClawId, DataFate, Observation, Result, StopOptions};
use clawfarm_shim::protocol::{Request, ShimStatus};

use crate::inner::Inner;
use crate::record::MachineRecord;
use crate::{dataset, observe, prepare, trouble};

/// What ending may take beyond the grace: killing all, and writing down how it ended.
const RESERVE: Duration = Duration::from_secs(20);

/// [`clawfarm_runtime::Runtime::stop`]: the power button, and the guest's system does the rest.
pub(crate) async fn stop(inner: &Arc<Inner>, id: &ClawId, options: StopOptions) -> Result<Observation> {
    let grace = match trouble::awaken(inner, id).await {
        Ok(true) => options.grace,
        // There is nobody in it who could hear.
        Ok(false) => Duration::ZERO,
        Err(error) => {
            // It is ended when its grace is over.
            tracing::warn!(%id, %error, "it could not be let go on before its stop");
            options.grace
        }
    };
    let grace_ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
    end(inner, id, &Request::Stop { grace_ms }, grace.saturating_add(RESERVE)).await
}

/// [`clawfarm_runtime::Runtime::kill`]. A shim that does not answer is killed as well.
pub(crate) async fn kill(inner: &Arc<Inner>, id: &ClawId) -> Result<Observation> {
    let dir = inner.dir(id);
    let asked = end(inner, id, &Request::Kill, RESERVE).await;
    if !keeper::is_up(&dir).await? {
        return observe::observe(inner, id).await;
    }
    if let Err(error) = &asked {
        tracing::warn!(%id, %error, "the shim is killed with its machine");
    }
    let folder = dir.clone();
    blocking(move || keeper::kill_shim(&folder)).await?;
    keeper::wait_for_end(&dir, id, LIMIT).await?;
    observe::observe(inner, id).await
}

async fn end(inner: &Arc<Inner>, id: &ClawId, request: &Request, limit: Duration) -> Result<Observation> {
    let dir = inner.dir(id);
    if let Some(mut shim) = keeper::shim(&dir, id).await? {
        match shim.ask::<ShimStatus>(id, request, limit).await {
            Ok(_) => keeper::wait_for_end(&dir, id, LIMIT).await?,
            // It may have ended with its machine before its answer was through.
            Err(error) => {
                if keeper::wait_for_end(&dir, id, Duration::from_secs(1)).await.is_err() {
                    return Err(error);
                }
            }
        }
        inner.hang_up(id);
        inner.watch.tell(id);
    }
    observe::observe(inner, id).await
}

/// [`clawfarm_runtime::Runtime::destroy`].
pub(crate) async fn destroy(inner: &Arc<Inner>, id: &ClawId, data: DataFate) -> Result<u64> {
    let _verb = inner.lock(id).await;
    match kill(inner, id).await {
        Ok(_) => {}
        Err(error) if keeper::is_up(&inner.dir(id)).await? => return Err(error),
        // A state that can't be read must not keep it from that, once nobody holds its lock.
        Err(error) => tracing::warn!(%id, %error, "removed without a look at its state"),
    }
    clawfarm_failpoint::point!(ClawEnded);
    let (this, claw) = (Arc::clone(inner), id.clone());
    let size = blocking(move || dataset::keep_or_purge(&this, &claw, data)).await?;
    clawfarm_failpoint::point!(DataMoved);
    // The image is let go before the record that names it is gone.
    match MachineRecord::read(&inner.dir(id)) {
        Ok(Some(record)) => prepare::remove_disk(inner, &record).await?,
        Ok(None) => {}
        // A damaged one does not say which: whichever it leans on.
        Err(_) => {
            for image in inner.images.list().await? {
                if image.pinned_by.iter().any(|owner| owner == id.as_str()) {
                    inner.images.unpin(&image.reference, id.as_str()).await?;
                }
            }
        }
    }
    let (this, claw) = (Arc::clone(inner), id.clone());
    blocking(move || dataset::remove_folder(&this, &claw)).await?;
    inner.forget(id).await;
    inner.watch.tell(id);
    Ok(size)
}
