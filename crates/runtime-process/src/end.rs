//! Stopping, killing, freezing and thawing.

use std::sync::Arc;
use std::time::Duration;

use clawfarm_model::{ClawId, Observation, Result, StopOptions};
use clawfarm_shim::protocol::{Request, ShimStatus};

use crate::client::LIMIT;
use crate::inner::Inner;
use crate::keeper;
use crate::observe;
use clawfarm_files::blocking;

/// What ending may take beyond the grace: killing all, and writing down how it ended.
const RESERVE: Duration = Duration::from_secs(20);

/// [`clawfarm_runtime::Runtime::stop`].
pub(crate) async fn stop(inner: &Arc<Inner>, id: &ClawId, options: StopOptions) -> Result<Observation> {
    let grace_ms = u64::try_from(options.grace.as_millis()).unwrap_or(u64::MAX);
    end(inner, id, &Request::Stop { grace_ms }, options.grace.saturating_add(RESERVE)).await
}

/// [`clawfarm_runtime::Runtime::kill`]. A shim that does not answer is killed as well.
pub(crate) async fn kill(inner: &Arc<Inner>, id: &ClawId) -> Result<Observation> {
    let asked = end(inner, id, &Request::Kill, RESERVE).await;
    if !observe::is_up(inner, id).await? {
        return observe::observe(inner, id).await;
    }
    if let Err(error) = &asked {
        tracing::warn!(%id, %error, "the shim is killed with its claw");
    }
    let dir = inner.dir(id);
    blocking(move || keeper::kill_shim(&dir)).await?;
    observe::wait_for_end(inner, id, LIMIT).await?;
    observe::observe(inner, id).await
}

async fn end(inner: &Arc<Inner>, id: &ClawId, request: &Request, limit: Duration) -> Result<Observation> {
    if let Some(mut shim) = observe::shim(inner, id).await? {
        let answer = shim.ask::<ShimStatus>(id, request, limit).await;
        match answer {
            Ok(_) => observe::wait_for_end(inner, id, LIMIT).await?,
            // It may have ended with its claw before its answer was through.
            Err(error) => {
                if observe::wait_for_end(inner, id, Duration::from_secs(1)).await.is_err() {
                    return Err(error);
                }
            }
        }
        inner.tell(id);
    }
    observe::observe(inner, id).await
}

/// [`clawfarm_runtime::Freeze::freeze`] and `thaw`.
pub(crate) async fn freeze(inner: &Arc<Inner>, id: &ClawId, request: &Request) -> Result<Observation> {
    let mut shim = observe::running_shim(inner, id).await?;
    let _: ShimStatus = shim.ask(id, request, LIMIT * 2).await?;
    drop(shim);
    inner.tell(id);
    observe::observe(inner, id).await
}

/// Ends an instance for good, so that its folder can be removed. A state that can't be read
/// must not keep it from that, once nobody holds its lock.
pub(crate) async fn end_for_removal(inner: &Arc<Inner>, id: &ClawId) -> Result<()> {
    match kill(inner, id).await {
        Ok(_) => Ok(()),
        Err(error) if observe::is_up(inner, id).await? => Err(error),
        Err(error) => {
            tracing::warn!(%id, %error, "removed without a look at its state");
            Ok(())
        }
    }
}
