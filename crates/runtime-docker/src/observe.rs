//! What an instance is doing: the engine says what its container does, the record which
//! launch that is.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use bollard::models::{
    ContainerInspectResponse, ContainerState, ContainerStateStatusEnum as Status, ContainerSummary,
};
use bollard::query_parameters::{ListContainersOptionsBuilder, RenameContainerOptionsBuilder};
use clawfarm_files::blocking;
use clawfarm_model::name::TenantName;
use clawfarm_model::observed::{Confinement, Exit};
use clawfarm_model::{ClawId, Code, Error, Observation, ObservedState, Result, Timestamp};
use futures::StreamExt;

use crate::fault::{failed, is_missing};
use crate::inner::Inner;
use crate::logs;
use crate::record::{self, ContainerRecord};
use crate::spec::{INSTANCE, SERVER, TARGET, TENANT};

/// How many instances are looked at at a time when all are.
const AT_A_TIME: usize = 8;
/// What the engine says of a container that never was started.
const NEVER: &str = "0001-01-01T00:00:00Z";

/// [`clawfarm_runtime::Runtime::observe`].
pub(crate) async fn observe(inner: &Arc<Inner>, id: &ClawId) -> Result<Observation> {
    let found = container(inner, id).await?;
    let (this, of) = (Arc::clone(inner), id.clone());
    let (record, exists) = blocking(move || {
        let dir = this.dir(&of);
        Ok((ContainerRecord::read(&dir)?, dir.exists()))
    })
    .await?;
    let Some(record) = record else {
        // A folder without a record is another runtime's, or was begun and not finished.
        let mut seen = Observation::absent(id.clone());
        if found.is_some() || (exists && !inner.dir(id).join("instance.json").exists()) {
            seen.state = ObservedState::Prepared;
        }
        return Ok(seen);
    };
    let empty = Observation {
        state: ObservedState::Prepared,
        port: Some(record.port),
        ..Observation::absent(id.clone())
    };
    let Some(found) = found else {
        return Ok(match record.ended {
            Some(exit) => {
                Observation { state: ObservedState::Exited, run: record.run, exit: Some(exit), ..empty }
            }
            None => empty,
        });
    };
    let state = found.state.clone().unwrap_or_default();
    if !has_begun(&state, &record) {
        return Ok(empty);
    }
    let begun = Observation {
        run: record.run,
        started_at: state.started_at.as_deref().and_then(time),
        confinement: Some(confinement(inner)),
        image: record.image.clone(),
        ..empty
    };
    // One that the engine has started again by itself ended all the same: see `watch`.
    if let Some(exit) = record.ended {
        return Ok(Observation { state: ObservedState::Exited, exit: Some(exit), ..begun });
    }
    let pid = state.pid.and_then(|pid| u32::try_from(pid).ok()).filter(|pid| *pid != 0);
    match state.status {
        Some(Status::RUNNING) => Ok(Observation { state: ObservedState::Running, pid, ..begun }),
        Some(Status::PAUSED) => Ok(Observation { state: ObservedState::Frozen, pid, ..begun }),
        _ => {
            let exit = exit(inner, id, &state, record.asked).await;
            let exit = keep_exit(inner, id, record.run, exit).await?;
            Ok(Observation { state: ObservedState::Exited, exit: Some(exit), ..begun })
        }
    }
}

/// Whether a container's last start was that of the record's launch.
pub(crate) fn has_begun(state: &ContainerState, record: &ContainerRecord) -> bool {
    let started = started(state);
    record.run > 0 && started.is_some() && started != record.before
}

/// When a container was started last, in the engine's words; `None` when it never was.
pub(crate) fn started(state: &ContainerState) -> Option<String> {
    state.started_at.clone().filter(|at| at != NEVER && !at.is_empty())
}

/// An instance's container; `None` when there is none.
///
/// # Errors
/// `Conflict` when one of that name is another server's.
pub(crate) async fn container(inner: &Inner, id: &ClawId) -> Result<Option<ContainerInspectResponse>> {
    let name = inner.container(id);
    let Some(found) = inner.engine.inspect(&name).await? else { return renamed(inner, id).await };
    let labels = found.config.as_ref().and_then(|config| config.labels.as_ref());
    let is = |label: &str, wanted: &str| {
        labels.and_then(|labels| labels.get(label)).is_some_and(|value| value == wanted)
    };
    if is(SERVER, &inner.server()) && is(INSTANCE, id.as_str()) {
        return Ok(Some(found));
    }
    Err(Error::new(Code::Conflict, format!("the container '{name}' was not made by this server"))
        .field("id")
        .fix(format!("rename or remove it (docker rename {name} <another name>)")))
}

/// A container of the instance that somebody gave another name: it holds the claw's folders and
/// its port all the same, so a second one must not be made. It gets its name back.
async fn renamed(inner: &Inner, id: &ClawId) -> Result<Option<ContainerInspectResponse>> {
    let labels = vec![format!("{SERVER}={}", inner.server()), format!("{INSTANCE}={id}")];
    let Some(container) = with_labels(inner, labels).await?.into_iter().find_map(|it| it.id) else {
        return Ok(None);
    };
    let (client, name) = (inner.engine.docker().await?, inner.container(id));
    let options = RenameContainerOptionsBuilder::default().name(&name).build();
    let renaming = client.rename_container(&container, options).await;
    let found = inner.engine.inspect(&name).await?;
    match renaming {
        Ok(()) => tracing::warn!(%id, "somebody renamed its container; it has its name back"),
        // Another look was quicker, or it goes just now.
        Err(_) if found.is_some() => {}
        Err(error) if is_missing(&error) => {}
        Err(error) => return Err(failed(format!("give the container of '{id}' its name back"), error)),
    }
    Ok(found)
}

/// Whether an instance's container holds memory and processes.
pub(crate) async fn is_up(inner: &Inner, id: &ClawId) -> Result<bool> {
    let found = container(inner, id).await?;
    let status = found.and_then(|found| found.state).and_then(|state| state.status);
    Ok(matches!(status, Some(Status::RUNNING | Status::PAUSED | Status::RESTARTING)))
}

/// How a container ended, by what the engine says now.
pub(crate) async fn exit(inner: &Inner, id: &ClawId, state: &ContainerState, asked: bool) -> Exit {
    let ended = Exit {
        code: None,
        signal: None,
        at: state.finished_at.as_deref().and_then(time).unwrap_or_else(Timestamp::now),
        out_of_memory: state.oom_killed.unwrap_or(false) && !asked,
        requested: asked,
        log_tail: if asked { String::new() } else { logs::tail(inner, id).await },
    };
    with_status(ended, state.exit_code)
}

/// A status above 128 stands for a signal, as shells and the container's init have it.
pub(crate) fn with_status(exit: Exit, status: Option<i64>) -> Exit {
    let status = status.and_then(|status| i32::try_from(status).ok());
    match status {
        Some(status @ 129..=192) => Exit { signal: Some(status - 128), ..exit },
        code => Exit { code, ..exit },
    }
}

/// Writes down how a launch ended, and returns what was written first.
pub(crate) async fn keep_exit(inner: &Arc<Inner>, id: &ClawId, run: i64, exit: Exit) -> Result<Exit> {
    let (this, id, seen) = (Arc::clone(inner), id.clone(), exit.clone());
    let kept = blocking(move || {
        this.change_record(&id, |it| {
            if it.run == run && it.ended.is_none() {
                it.ended = Some(seen);
            }
        })
    })
    .await?;
    Ok(kept.and_then(|record| record.ended).unwrap_or(exit))
}

/// A time in the engine's words.
fn time(text: &str) -> Option<Timestamp> {
    Timestamp::parse(text).ok().filter(|at| at.as_millis() > 0)
}

fn confinement(inner: &Inner) -> Confinement {
    let engine = || Some("docker".to_owned());
    Confinement {
        landlock_abi: None,
        own_uid: Some(inner.user().uid),
        private_mounts: true,
        memory: engine(),
        cpu: engine(),
        freezer: engine(),
        missing: Vec::new(),
    }
}

/// [`clawfarm_runtime::Runtime::list`].
pub(crate) async fn list(inner: &Arc<Inner>) -> Result<Vec<Observation>> {
    let mut ids: BTreeSet<ClawId> = labelled(inner).await?.into_iter().collect();
    let (paths, target) = (inner.paths.clone(), inner.config.target.clone());
    ids.extend(blocking(move || record::ids(&paths, &target)).await?);
    let seen = futures::stream::iter(ids).map(|id| async move { observe(inner, &id).await });
    let mut seen: Vec<Observation> =
        seen.buffer_unordered(AT_A_TIME).collect::<Vec<_>>().await.into_iter().collect::<Result<_>>()?;
    seen.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(seen)
}

/// The instances that this target has containers of.
pub(crate) async fn labelled(inner: &Inner) -> Result<Vec<ClawId>> {
    let target = format!("{TARGET}={}", inner.config.target);
    let found = with_labels(inner, vec![format!("{SERVER}={}", inner.server()), target]).await?;
    let id = |it: &ContainerSummary| ClawId::new(it.labels.as_ref()?.get(INSTANCE)?.as_str()).ok();
    Ok(found.iter().filter_map(id).collect())
}

/// Whether a tenant has any container of this server's, running or not.
pub(crate) async fn any_of_tenant(inner: &Inner, tenant: &TenantName) -> Result<bool> {
    let labels = vec![format!("{SERVER}={}", inner.server()), format!("{TENANT}={tenant}")];
    Ok(!with_labels(inner, labels).await?.is_empty())
}

async fn with_labels(inner: &Inner, labels: Vec<String>) -> Result<Vec<ContainerSummary>> {
    let client = inner.engine.docker().await?;
    let filters = HashMap::from([("label".to_owned(), labels)]);
    let options = ListContainersOptionsBuilder::default().all(true).filters(&filters).build();
    client.list_containers(Some(options)).await.map_err(|e| failed("list the containers", e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_a_code_or_a_signal() {
        let ended = |status| {
            let exit = Exit {
                code: None,
                signal: None,
                at: Timestamp::from_millis(1),
                out_of_memory: false,
                requested: false,
                log_tail: String::new(),
            };
            let exit = with_status(exit, status);
            (exit.code, exit.signal)
        };
        assert_eq!(ended(Some(0)), (Some(0), None));
        assert_eq!(ended(Some(78)), (Some(78), None));
        assert_eq!(ended(Some(137)), (None, Some(9)));
        assert_eq!(ended(Some(255)), (Some(255), None));
        assert_eq!(ended(None), (None, None));
    }
}
