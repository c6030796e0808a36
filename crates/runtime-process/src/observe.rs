//! What an instance is doing: the lock says whether its shim lives, the shim says the rest.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clawfarm_model::{ClawId, Code, Error, Observation, ObservedState, Result};
use clawfarm_shim::protocol::ShimStatus;
use clawfarm_shim::{ShimState, lock};
use futures::StreamExt;

use crate::client::{LIMIT, Shim};
use crate::inner::Inner;
use crate::keeper;
use crate::leftover;
use crate::record::{self, InstanceRecord};
use clawfarm_files::blocking;

/// How many instances are asked at a time when all are.
const AT_A_TIME: usize = 32;

/// Whether an instance's shim lives.
pub(crate) async fn is_up(inner: &Inner, id: &ClawId) -> Result<bool> {
    keeper::is_up(&inner.dir(id)).await
}

/// A connection to the shim; `None` when it does not live.
pub(crate) async fn shim(inner: &Inner, id: &ClawId) -> Result<Option<Shim>> {
    keeper::shim(&inner.dir(id), id).await
}

/// As [`shim`], for verbs that need a running claw.
pub(crate) async fn running_shim(inner: &Inner, id: &ClawId) -> Result<Shim> {
    keeper::running_shim(&inner.dir(id), id).await
}

/// [`clawfarm_runtime::Runtime::observe`].
pub(crate) async fn observe(inner: &Arc<Inner>, id: &ClawId) -> Result<Observation> {
    // Once more when the shim ended between the lock and its answer.
    for _ in 0..3 {
        let Some(mut shim) = shim(inner, id).await? else {
            match at_rest(inner, id).await {
                // A shim has come up in between: it knows better.
                Err(error) if error.code() == Code::Conflict => continue,
                seen => return seen,
            }
        };
        match shim.status(id).await {
            Ok(status) if status.state.is_up() => return running(inner, id, status).await,
            Ok(_) => wait_for_end(inner, id, LIMIT).await?,
            Err(error) if is_up(inner, id).await? => return Err(error),
            Err(_) => {}
        }
    }
    at_rest(inner, id).await
}

/// Waits until the shim has ended.
pub(crate) async fn wait_for_end(inner: &Inner, id: &ClawId, limit: Duration) -> Result<()> {
    keeper::wait_for_end(&inner.dir(id), id, limit).await
}

async fn running(inner: &Inner, id: &ClawId, status: ShimStatus) -> Result<Observation> {
    let dir = inner.dir(id);
    // A damaged record takes nothing from what the shim says.
    let record = blocking(move || InstanceRecord::read(&dir)).await.ok().flatten();
    Ok(Observation {
        id: id.clone(),
        state: status.state,
        run: status.run,
        pid: status.pid,
        started_at: status.started_at,
        exit: None,
        confinement: status.confinement,
        port: record.map(|record| record.port),
        image: None,
        trouble: None,
    })
}

/// What is there of an instance whose shim does not live; ends what a killed one has left.
async fn at_rest(inner: &Arc<Inner>, id: &ClawId) -> Result<Observation> {
    let (inner, dir, id) = (Arc::clone(inner), inner.dir(id), id.clone());
    blocking(move || {
        if !dir.exists() {
            return Ok(Observation::absent(id));
        }
        let port = InstanceRecord::read(&dir).ok().flatten().map(|record| record.port);
        let state = leftover::settle(&inner, &dir)?;
        Ok(ended(id, state, port))
    })
    .await
}

fn ended(id: ClawId, state: Option<ShimState>, port: Option<u16>) -> Observation {
    let empty = Observation { state: ObservedState::Prepared, port, ..Observation::absent(id) };
    match state {
        None => empty,
        Some(state) => Observation {
            state: ObservedState::Exited,
            run: state.run,
            started_at: Some(state.started_at),
            exit: state.exit,
            confinement: Some(state.confinement),
            ..empty
        },
    }
}

/// [`clawfarm_runtime::Runtime::list`].
pub(crate) async fn list(inner: &Arc<Inner>) -> Result<Vec<Observation>> {
    let paths = inner.paths.clone();
    let ids = blocking(move || record::ids(&paths)).await?;
    let seen = futures::stream::iter(ids).map(|id| async move {
        match observe(inner, &id).await {
            Ok(seen) => Ok(seen),
            Err(error) => from_files(inner, &id, error).await,
        }
    });
    let mut seen: Vec<Observation> =
        seen.buffer_unordered(AT_A_TIME).collect::<Vec<_>>().await.into_iter().collect::<Result<_>>()?;
    seen.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(seen)
}

/// One shim that does not answer must not hide all the other instances: its lock is held, so it lives, and
/// `state.json` says what it keeps.
async fn from_files(inner: &Inner, id: &ClawId, error: Error) -> Result<Observation> {
    let dir: PathBuf = inner.dir(id);
    let (state, held) = blocking({
        let dir = dir.clone();
        move || Ok((ShimState::read(&dir)?, lock::is_held(&dir)?))
    })
    .await?;
    let Some(state) = state.filter(|state| held && state.active) else { return Err(error) };
    tracing::warn!(%id, %error, "listed from its files");
    let status = ShimStatus {
        run: state.run,
        state: ObservedState::Running,
        pid: Some(state.pid),
        started_at: Some(state.started_at),
        exit: None,
        confinement: Some(state.confinement),
        stopping: false,
        lost: Vec::new(),
    };
    running(inner, id, status).await
}
