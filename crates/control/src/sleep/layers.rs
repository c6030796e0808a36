//! The policies of the server, its tenants and their projects, as they are in the store.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use clawfarm_model::policy::Layer;
use clawfarm_model::{Context, EffectivePolicy, Result, RuntimePolicy};
use clawfarm_store::PolicyOf;
use tokio::sync::broadcast::error::RecvError;

use super::Brief;
use crate::core::Core;

#[derive(Default)]
pub(super) struct Layers(RwLock<Arc<HashMap<PolicyOf, RuntimePolicy>>>);

impl Layers {
    /// What holds for an instance.
    pub(super) fn effective(&self, brief: &Brief) -> EffectivePolicy {
        let held = Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner));
        let tenant = brief.tenant.clone();
        let of = [
            (Layer::Project, PolicyOf::Project(tenant.clone(), brief.project.clone())),
            (Layer::Tenant, PolicyOf::Tenant(tenant)),
            (Layer::Server, PolicyOf::Server),
        ];
        let mut layers = vec![(Layer::Instance, &brief.own)];
        layers.extend(of.iter().filter_map(|(layer, of)| held.get(of).map(|policy| (*layer, policy))));
        RuntimePolicy::effective(&layers)
    }

    /// Reads them afresh.
    pub(super) async fn read(&self, core: &Core) -> Result<()> {
        let policies = core.store.policies(&Context::system("policy")).await?;
        let policies = Arc::new(policies.into_iter().collect());
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = policies;
        core.sleeper.plan_all();
        Ok(())
    }
}

/// Reads them again when the events say that one was changed, here or at another server.
pub(super) async fn follow(core: Arc<Core>) {
    let mut events = core.feed.subscribe(&Context::system("policy"), None);
    loop {
        let told = tokio::select! {
            () = core.stopping.cancelled() => return,
            told = events.recv() => told,
        };
        let changed = match &told {
            Ok(told) => told.event.instance.is_none() && told.event.reason == "policy",
            Err(RecvError::Lagged(_)) => true,
            Err(RecvError::Closed) => return,
        };
        if changed && let Err(error) = core.sleeper.layers.read(&core).await {
            tracing::warn!(?error, "the sleep policies could not be read");
        }
    }
}
