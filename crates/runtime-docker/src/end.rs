//! Stopping, killing, freezing and thawing.

use std::sync::Arc;
use std::time::Duration;

use bollard::models::ContainerStateStatusEnum as Status;
use bollard::query_parameters::{KillContainerOptionsBuilder, StopContainerOptionsBuilder};
use clawfarm_files::blocking;
use clawfarm_model::{ClawId, Code, DataFate, Error, Observation, Result, StopOptions};

use crate::fault::{failed, is_missing, is_state};
use crate::inner::Inner;
use crate::{dataset, network, observe, start};

/// What the engine may take beyond the grace: killing all, and noting it.
const RESERVE: Duration = Duration::from_secs(30);

/// [`clawfarm_runtime::Runtime::stop`].
pub(crate) async fn stop(inner: &Arc<Inner>, id: &ClawId, options: StopOptions) -> Result<Observation> {
    if observe::is_up(inner, id).await? {
        asked(inner, id).await?;
        thaw_if_frozen(inner, id).await?;
        stop_within(inner, id, options.grace).await?;
        inner.tell(id);
    }
    observe::observe(inner, id).await
}

/// [`clawfarm_runtime::Runtime::kill`].
pub(crate) async fn kill(inner: &Arc<Inner>, id: &ClawId) -> Result<Observation> {
    if observe::is_up(inner, id).await? {
        asked(inner, id).await?;
        end_now(inner, id).await?;
        inner.tell(id);
    }
    observe::observe(inner, id).await
}

/// Ends a container at once, and keeps the engine from starting it again.
pub(crate) async fn end_now(inner: &Inner, id: &ClawId) -> Result<()> {
    thaw_if_frozen(inner, id).await?;
    let client = inner.engine.docker().await?;
    let options = KillContainerOptionsBuilder::default().signal("SIGKILL").build();
    match client.kill_container(&inner.container(id), Some(options)).await {
        Ok(()) => {}
        Err(error) if is_state(&error) || is_missing(&error) => {}
        Err(error) => return Err(failed(format!("kill '{id}'"), error)),
    }
    // Returns when it is down; and one that the engine was about to start stays down.
    stop_within(inner, id, Duration::ZERO).await
}

async fn stop_within(inner: &Inner, id: &ClawId, grace: Duration) -> Result<()> {
    let client = inner.engine.docker().await?.with_timeout(grace + RESERVE);
    let seconds = i32::try_from(grace.as_secs()).unwrap_or(i32::MAX);
    let options = StopContainerOptionsBuilder::default().t(seconds).build();
    match client.stop_container(&inner.container(id), Some(options)).await {
        Ok(()) => Ok(()),
        Err(error) if is_state(&error) || is_missing(&error) => Ok(()),
        Err(error) => Err(failed(format!("stop '{id}'"), error)),
    }
}

/// Notes that an end is wanted, so that it is not taken for a crash.
async fn asked(inner: &Arc<Inner>, id: &ClawId) -> Result<()> {
    let (inner, id) = (Arc::clone(inner), id.clone());
    blocking(move || inner.change_record(&id, |it| it.asked = true)).await.map(drop)
}

/// A frozen container takes no signal.
async fn thaw_if_frozen(inner: &Inner, id: &ClawId) -> Result<()> {
    let found = observe::container(inner, id).await?;
    let status = found.and_then(|found| found.state).and_then(|state| state.status);
    if status != Some(Status::PAUSED) {
        return Ok(());
    }
    match inner.engine.docker().await?.unpause_container(&inner.container(id)).await {
        Ok(()) => Ok(()),
        Err(error) if is_unchanged(&error) => Ok(()),
        Err(error) => Err(failed(format!("thaw '{id}'"), error)),
    }
}

/// [`clawfarm_runtime::Freeze::freeze`] and `thaw`.
pub(crate) async fn freeze(inner: &Arc<Inner>, id: &ClawId, frozen: bool) -> Result<Observation> {
    let _verb = inner.lock(id).await;
    let seen = observe::observe(inner, id).await?;
    if !seen.state.is_up() {
        return Err(not_running(id));
    }
    let client = inner.engine.docker().await?;
    let name = inner.container(id);
    let done =
        if frozen { client.pause_container(&name).await } else { client.unpause_container(&name).await };
    match done {
        Ok(()) => {}
        Err(error) if is_unchanged(&error) => {}
        Err(error) => {
            return Err(failed(format!("{} '{id}'", if frozen { "freeze" } else { "thaw" }), error));
        }
    }
    inner.tell(id);
    observe::observe(inner, id).await
}

/// Whether the engine said that it is frozen, or goes on, already: some versions answer that
/// with status 500.
fn is_unchanged(error: &bollard::errors::Error) -> bool {
    let text = error.to_string();
    is_state(error) || text.contains("already paused") || text.contains("is not paused")
}

/// The error of a verb that needs a running claw.
pub(crate) fn not_running(id: &ClawId) -> Error {
    Error::new(Code::Gone, format!("'{id}' does not run")).fix(format!("start it with `clawfarm start {id}`"))
}

/// [`clawfarm_runtime::Runtime::destroy`].
pub(crate) async fn destroy(inner: &Arc<Inner>, id: &ClawId, data: DataFate) -> Result<u64> {
    // Before the lock, so that a long stop under way ends with it.
    if observe::is_up(inner, id).await? {
        asked(inner, id).await?;
        end_now(inner, id).await?;
    }
    let _verb = inner.lock(id).await;
    let found = observe::container(inner, id).await?;
    let labels = found.as_ref().and_then(|found| found.config.as_ref()?.labels.clone());
    let tenant = match inner.record(id) {
        Ok(record) => Some(record.tenant),
        Err(_) => labels.and_then(|labels| labels.get(crate::spec::TENANT)?.parse().ok()),
    };
    if found.is_some() {
        start::remove(inner, id).await?;
    }
    let (this, claw) = (Arc::clone(inner), id.clone());
    let size = blocking(move || dataset::remove_instance(&this, &claw, data)).await?;
    if let Some(tenant) = tenant {
        network::remove_if_empty(inner, &tenant, id).await?;
    }
    inner.forget(id);
    inner.tell(id);
    Ok(size)
}

/// [`clawfarm_runtime::Runtime::undo`].
pub(crate) async fn undo(inner: &Arc<Inner>, id: &ClawId) -> Result<()> {
    let _verb = inner.lock(id).await;
    let Ok(record) = inner.record(id) else { return Ok(()) };
    let found = observe::container(inner, id).await?;
    let state = found.as_ref().and_then(|found| found.state.as_ref());
    // Its log is of use to somebody, and what it wrote may be.
    if record.run > 1 || state.and_then(observe::started).is_some() {
        return Ok(());
    }
    if found.is_some() {
        start::remove(inner, id).await?;
    }
    let (this, claw) = (Arc::clone(inner), id.clone());
    blocking(move || dataset::remove_parts(&this, &claw)).await?;
    network::remove_if_empty(inner, &record.tenant, id).await?;
    inner.tell(id);
    Ok(())
}
