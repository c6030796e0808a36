//! Mending what somebody changed of a container by hand.
//!
//! The engine lets the limits of a container be changed while it runs (`docker update`). All
//! else of it can only be changed by making it anew, which is noticed as a removal.

use std::sync::Weak;

use bollard::models::{ContainerUpdateBody, HostConfig};
use clawfarm_model::{ClawId, Result};

use crate::fault::failed;
use crate::inner::Inner;
use crate::observe;
use crate::spec::{self, LIMITS};

/// Puts the limits of a container back to what it was made with.
pub(crate) async fn mend(weak: Weak<Inner>, id: ClawId) {
    let Some(inner) = weak.upgrade() else { return };
    if let Err(error) = put_back(&inner, &id).await {
        tracing::warn!(%id, ?error, "its container was changed by somebody else and could not be mended");
    }
    inner.tell(&id);
}

async fn put_back(inner: &Inner, id: &ClawId) -> Result<()> {
    let _verb = inner.lock(id).await;
    let Some(found) = observe::container(inner, id).await? else { return Ok(()) };
    let made_with = found
        .config
        .and_then(|config| config.labels)
        .and_then(|labels| serde_json::from_str::<spec::Limits>(labels.get(LIMITS)?).ok());
    let (Some(limits), Some(now)) = (made_with, found.host_config) else { return Ok(()) };
    if limits == of(&now) {
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

fn of(host: &HostConfig) -> spec::Limits {
    spec::Limits {
        memory: host.memory.unwrap_or(0),
        nano_cpus: host.nano_cpus.unwrap_or(0),
        pids: host.pids_limit.unwrap_or(0),
    }
}
