//! What a machine is doing: the lock says whether its shim lives, the shim says the rest, QEMU
//! says whether its processors are stopped, and why.

use std::sync::Arc;

use clawfarm_files::blocking;
use clawfarm_local::client::LIMIT;
use clawfarm_local::keeper;
use clawfarm_model::{ClawId, Code, Error, Observation, ObservedState, Result};
use clawfarm_qemu::qmp::RunState;
use clawfarm_qemu::snapshot::Settled;
use clawfarm_shim::ShimState;
use clawfarm_shim::protocol::ShimStatus;

use crate::inner::{Inner, guard};
use crate::record::{self, MachineRecord};
use crate::trouble::{self, Doing};
use crate::{base, end};

/// [`clawfarm_runtime::Runtime::observe`].
pub(crate) async fn observe(inner: &Arc<Inner>, id: &ClawId) -> Result<Observation> {
    let dir = inner.dir(id);
    // Once more when the shim ended between the lock and its answer.
    for _ in 0..3 {
        let Some(mut shim) = keeper::shim(&dir, id).await? else {
            match at_rest(inner, id).await {
                // A shim has come up in between: it knows better.
                Err(error) if error.code() == Code::Conflict => continue,
                seen => return seen,
            }
        };
        match shim.status(id).await {
            Ok(status) if status.state.is_up() => return running(inner, id, status).await,
            Ok(_) => keeper::wait_for_end(&dir, id, LIMIT).await?,
            Err(error) if keeper::is_up(&dir).await? => return Err(error),
            Err(_) => {}
        }
    }
    at_rest(inner, id).await
}

async fn running(inner: &Arc<Inner>, id: &ClawId, status: ShimStatus) -> Result<Observation> {
    let dir = inner.dir(id);
    // A damaged record takes nothing from what the shim says.
    let record = blocking(move || MachineRecord::read(&dir)).await.ok().flatten();
    let frozen = record.as_ref().is_some_and(|record| record.frozen);
    let doing = trouble::look(inner, id, frozen).await;
    let state = if matches!(doing, Doing::Frozen) { ObservedState::Frozen } else { status.state };
    let trouble = doing.trouble(inner, id).or_else(|| trouble::lost(id, &status.lost));
    Ok(Observation {
        id: id.clone(),
        state,
        run: status.run,
        pid: status.pid,
        started_at: status.started_at,
        exit: None,
        confinement: status.confinement,
        port: record.as_ref().map(|record| record.port),
        image: record.map(|record| record.vm.image.to_string()),
        trouble: trouble.map(|error| Box::new(error.report())),
    })
}

/// What is there of a machine whose shim does not live; ends what a killed one has left.
async fn at_rest(inner: &Arc<Inner>, id: &ClawId) -> Result<Observation> {
    let saved = match inner.snapshot(id)?.about().await {
        Ok(about) => about.is_some(),
        // What can't be read can't be restored either; the start says so.
        Err(_) => false,
    };
    let (inner, dir, id) = (Arc::clone(inner), inner.dir(id), id.clone());
    blocking(move || {
        if !record::is_machine(&dir) {
            return Ok(Observation::absent(id));
        }
        let record = MachineRecord::read(&dir).ok().flatten();
        let state = settle_shim(&inner, &dir)?;
        let empty = Observation {
            state: ObservedState::Prepared,
            port: record.as_ref().map(|record| record.port),
            image: record.map(|record| record.vm.image.to_string()),
            ..Observation::absent(id)
        };
        Ok(match state {
            None => empty,
            Some(state) => Observation {
                state: ObservedState::Exited,
                run: state.run,
                started_at: Some(state.started_at),
                // Who saves its memory ends QEMU: that was asked for.
                exit: state.exit.map(|exit| clawfarm_model::observed::Exit {
                    requested: exit.requested || saved,
                    ..exit
                }),
                confinement: Some(state.confinement),
                ..empty
            },
        })
    })
    .await
}

/// The state of a machine whose lock nobody holds. When it still says that it runs, what is left
/// of it is ended, and its end is recorded.
fn settle_shim(inner: &Inner, dir: &std::path::Path) -> Result<Option<ShimState>> {
    let seen = ShimState::read(dir)?;
    if !seen.as_ref().is_some_and(|state| state.active) {
        return Ok(seen);
    }
    // One at a time: a second sweep would find the first one's lock and take it for a shim.
    let _settling = guard(&inner.settling);
    clawfarm_shim::sweep(dir)
}

/// Makes one machine of what a save or a restore has left that was cut off: to be called with
/// its lock. Returns whether the process is the machine; when it is not, it has ended.
pub(crate) async fn settle(inner: &Arc<Inner>, id: &ClawId) -> Result<bool> {
    let dir = inner.dir(id);
    if !keeper::is_up(&dir).await? {
        inner.hang_up(id);
        return Ok(false);
    }
    if MachineRecord::read(&dir)?.as_ref().is_some_and(base::is_half) {
        tracing::info!(%id, "a machine that was not told yet who it is does not go on");
        Box::pin(end::kill(inner, id)).await?;
        return Ok(false);
    }
    let qmp = inner.qmp(id).await?;
    let state = match inner.snapshot(id)?.settle(&qmp).await? {
        Settled::Snapshot => {
            trouble::see_off(inner, id).await?;
            return Ok(false);
        }
        Settled::Process(state) => state,
    };
    let frozen = MachineRecord::read(&dir)?.is_some_and(|record| record.frozen);
    match state {
        RunState::Paused | RunState::Postmigrate | RunState::Prelaunch | RunState::FinishMigrate
            if !frozen =>
        {
            tracing::info!(%id, ?state, "a machine that was stopped for its memory to be saved goes on");
            qmp.cont().await?;
        }
        // It waits for a memory that is not there: nothing of it can go on.
        RunState::Inmigrate => {
            if let Err(error) = qmp.quit().await {
                tracing::warn!(%id, %error, "what waits for a memory that is not there does not end by itself");
            }
            trouble::see_off(inner, id).await?;
            return Ok(false);
        }
        _ => {}
    }
    Ok(true)
}

/// [`clawfarm_runtime::Runtime::list`].
pub(crate) async fn list(inner: &Arc<Inner>) -> Result<Vec<Observation>> {
    use futures::StreamExt;
    /// How many instances are asked at a time when all are.
    const AT_A_TIME: usize = 32;
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

/// One shim that does not answer must not hide all the others: its lock is held, so it lives, and
/// `state.json` says what it keeps.
async fn from_files(inner: &Inner, id: &ClawId, error: Error) -> Result<Observation> {
    let dir = inner.dir(id);
    let found = blocking(move || {
        let held = clawfarm_shim::lock::is_held(&dir)?;
        Ok((
            ShimState::read(&dir)?.filter(|state| held && state.active),
            MachineRecord::read(&dir).ok().flatten(),
        ))
    })
    .await?;
    let (Some(state), record) = found else { return Err(error) };
    tracing::warn!(%id, %error, "listed from its files");
    Ok(Observation {
        state: ObservedState::Running,
        run: state.run,
        pid: Some(state.pid),
        started_at: Some(state.started_at),
        confinement: Some(state.confinement),
        port: record.as_ref().map(|record| record.port),
        image: record.map(|record| record.vm.image.to_string()),
        ..Observation::absent(id.clone())
    })
}
