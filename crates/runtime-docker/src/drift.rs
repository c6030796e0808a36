//! Mending what somebody changed of a container by hand.
//!
//! The engine lets the limits of a container be changed while it runs (`docker update`), its
//! network be taken from it (`docker network disconnect`), and a stopped one be started. All else of it can only be changed by
//! making it anew, which is noticed as a removal.

use std::sync::{Arc, Weak};

use bollard::models::{
    ContainerInspectResponse, ContainerStateStatusEnum as Status, ContainerUpdateBody, HostConfig,
    NetworkConnectRequest,
};
use clawfarm_model::observed::Exit;
use clawfarm_model::{ClawId, Result, Timestamp};

use crate::engine::Kind;
use crate::fault::{failed, is_state};
use crate::inner::Inner;
use crate::spec::{self, HOST_NAME, INSTANCE, LIMITS};
use crate::{end, network, observe};

/// Puts the limits and the network of a container back to what it was made with.
pub(crate) async fn mend(weak: Weak<Inner>, id: ClawId) {
    let Some(inner) = weak.upgrade() else { return };
    if let Err(error) = put_back(&inner, &id).await {
        tracing::warn!(%id, ?error, "its container was changed by somebody else and could not be mended");
    }
    inner.tell(&id);
}

/// As [`mend`], for a container of this server's that is known by the engine's id alone.
pub(crate) async fn mend_container(weak: Weak<Inner>, container: String) {
    let Some(inner) = weak.upgrade() else { return };
    match inner.engine.inspect(&container).await {
        Ok(Some(found)) => {
            let labels = found.config.and_then(|config| config.labels);
            let id = labels.and_then(|labels| ClawId::new(labels.get(INSTANCE)?.as_str()).ok());
            if let Some(id) = id {
                drop(inner);
                mend(weak, id).await;
            }
        }
        Ok(None) => {}
        Err(error) => tracing::debug!(?error, "a container whose network was taken can't be looked at"),
    }
}

/// Looks for what was changed while nobody listened.
pub(crate) async fn mend_all(weak: Weak<Inner>) {
    let Some(inner) = weak.upgrade() else { return };
    let ids = match observe::labelled(&inner).await {
        Ok(ids) => ids,
        Err(error) => return tracing::debug!(?error, "the containers can't be listed"),
    };
    drop(inner);
    for id in ids {
        mend(Weak::clone(&weak), id).await;
    }
}

async fn put_back(inner: &Arc<Inner>, id: &ClawId) -> Result<()> {
    let _verb = inner.lock(id).await;
    let Some(found) = observe::container(inner, id).await? else { return Ok(()) };
    if is_over(inner, id, &found) {
        tracing::warn!(%id, "somebody started its container; it is ended again");
        return end::end_now(inner, id).await;
    }
    limits_back(inner, id, &found).await?;
    network_back(inner, id, &found).await
}

/// Whether it runs although its last launch has ended, or none was begun: launches are the
/// server's to begin, which counts them and writes the claw's files before.
fn is_over(inner: &Inner, id: &ClawId, found: &ContainerInspectResponse) -> bool {
    let up = matches!(
        found.state.as_ref().and_then(|state| state.status),
        Some(Status::RUNNING | Status::PAUSED | Status::RESTARTING)
    );
    up && inner.record(id).is_ok_and(|record| record.ended.is_some() || record.run == 0)
}

async fn limits_back(inner: &Inner, id: &ClawId, found: &ContainerInspectResponse) -> Result<()> {
    let labels = found.config.as_ref().and_then(|config| config.labels.as_ref());
    let made_with = labels.and_then(|labels| serde_json::from_str::<spec::Limits>(labels.get(LIMITS)?).ok());
    let (Some(limits), Some(now)) = (made_with, found.host_config.as_ref()) else { return Ok(()) };
    if limits == of(now) {
        return Ok(());
    }
    tracing::warn!(%id, ?limits, "its container was changed by somebody else; it is put back");
    let change = ContainerUpdateBody {
        memory: Some(limits.memory),
        memory_swap: Some(limits.memory),
        nano_cpus: Some(limits.nano_cpus),
        pids_limit: Some(limits.pids),
        ..ContainerUpdateBody::default()
    };
    let client = inner.engine.docker().await?;
    client
        .update_container(&inner.container(id), change)
        .await
        .map_err(|e| failed(format!("put the limits of '{id}' back"), e))
}

/// A claw that runs without its tenant's network reaches nobody and can't be reached.
async fn network_back(inner: &Arc<Inner>, id: &ClawId, found: &ContainerInspectResponse) -> Result<()> {
    let status = found.state.as_ref().and_then(|state| state.status);
    let Ok(record) = inner.record(id) else { return Ok(()) };
    let kind = inner.engine.kind().await?;
    let name = inner.network(kind, &record.tenant, id);
    let settings = found.network_settings.as_ref().and_then(|settings| settings.networks.as_ref());
    let has_it = settings.is_none_or(|networks| networks.contains_key(&name));
    if kind != Kind::Docker || has_it || !matches!(status, Some(Status::RUNNING | Status::PAUSED)) {
        return Ok(());
    }
    let _used = inner.networks.read().await;
    let gateway = network::ensure(inner, &record.tenant, id).await?.gateway;
    let hosts = found.host_config.as_ref().and_then(|host| host.extra_hosts.as_ref());
    let knows = hosts.is_some_and(|hosts| hosts.contains(&format!("{HOST_NAME}:{gateway}")));
    if !knows {
        // The network was made anew, and the server is elsewhere in it than the claw was told.
        tracing::warn!(%id, "its network was replaced by somebody else; it is started again in the new one");
        let exit = Exit {
            code: None,
            signal: None,
            at: Timestamp::now(),
            out_of_memory: false,
            requested: false,
            log_tail: String::new(),
        };
        observe::keep_exit(inner, id, record.run, exit).await?;
        return end::end_now(inner, id).await;
    }
    tracing::warn!(%id, "somebody took its network from its container; it gets it back");
    let request = NetworkConnectRequest { container: inner.container(id), endpoint_config: None };
    match inner.engine.docker().await?.connect_network(&name, request).await {
        Ok(()) => Ok(()),
        Err(error) if is_state(&error) => Ok(()),
        Err(error) => Err(failed(format!("give '{id}' its network back"), error)),
    }
}

fn of(host: &HostConfig) -> spec::Limits {
    spec::Limits {
        memory: host.memory.unwrap_or(0),
        nano_cpus: host.nano_cpus.unwrap_or(0),
        pids: host.pids_limit.unwrap_or(0),
    }
}
