//! Targets: the places instances run on, and what they have.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use clawfarm_model::name::{TargetName, TenantName};
use clawfarm_model::target::{Capacity, CheckLevel, RuntimeKind, Target};
use clawfarm_model::{Action, Code, Context, Error, Granted, Phase, Resource, Result, authorize};
use clawfarm_runtime::Runtime;
use clawfarm_store::InstanceFilter;

use crate::Control;
use crate::admission::CAPACITY_LIMIT;
use crate::instances::create::check_labels;

/// Makes the runtime of a target from its settings.
#[async_trait]
pub trait OpenTarget: Send + Sync {
    /// Opens it; whether it answers is not asked yet.
    ///
    /// # Errors
    /// `InvalidInput` naming the setting, or when targets of its kind can't be added.
    async fn open(&self, target: &Target) -> Result<Arc<dyn Runtime>>;

    /// Keeps what is known of it apart from the store, for the day the store is lost.
    ///
    /// # Errors
    /// When it can't be written.
    async fn keep(&self, target: &Target) -> Result<()>;

    /// Keeps it no longer: it was removed. Gone already is a success.
    ///
    /// # Errors
    /// When it can't be removed.
    async fn forget(&self, name: &TargetName) -> Result<()>;
}

/// A target that is to be added.
#[derive(Clone, Debug)]
pub struct NewTarget {
    /// Its name.
    pub name: TargetName,
    /// How instances run on it.
    pub runtime: RuntimeKind,
    /// Free-form labels.
    pub labels: BTreeMap<String, String>,
    /// What its runtime needs to know.
    pub settings: serde_json::Value,
}

fn leave(context: &Context, name: &TargetName) -> Result<Granted> {
    let resource = Resource::new(TenantName::default_tenant(), "target", name.as_str());
    authorize(context, Action::TargetWrite, &resource)
}

impl Control {
    /// Adds a target that answers, to be used from now on, and by the next server on this home.
    /// Where servers share their database it is reached from this one alone. The same target
    /// once more is a success.
    ///
    /// # Errors
    /// `Conflict` when there is another of this name; `Unavailable` when it does not answer.
    pub async fn add_target(&self, context: &Context, new: NewTarget) -> Result<Target> {
        let core = &self.core;
        let grant = leave(context, &new.name)?;
        check_labels(&new.labels)?;
        let target = Target {
            name: new.name,
            runtime: new.runtime,
            labels: new.labels,
            reachable_from: core.shares.node().map(str::to_owned),
            settings: new.settings,
        };
        let opener = core
            .opener
            .as_ref()
            .ok_or_else(|| Error::new(Code::Unsupported, "this server takes no further targets"))?;
        // One at a time, so that two who add the same do not both open it.
        let _adding = core.adding.lock().await;
        match core.target(&target.name) {
            Some(known) if known == target => return Ok(known),
            Some(_) => {
                return Err(Error::new(
                    Code::Conflict,
                    format!("there is a target '{}' already", target.name),
                )
                .field("name")
                .fix(format!("give another name, or remove it: clawfarm target rm {}", target.name)));
            }
            None => {}
        }
        let runtime = opener.open(&target).await?;
        answers(&target, runtime.as_ref()).await?;
        core.store.add_target(&grant, &target).await?;
        if let Err(error) = opener.keep(&target).await {
            // The next server does it.
            tracing::warn!(target = %target.name, ?error, "the target is not kept for a lost database");
        }
        core.take_target_in(&target, runtime);
        core.share_target(&target).await?;
        Ok(target)
    }

    /// Removes a target that nothing is on.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` when instances or datasets are on it, or it is the server's own.
    pub async fn remove_target(&self, context: &Context, name: &TargetName) -> Result<()> {
        let core = &self.core;
        let grant = leave(context, name)?;
        let _adding = core.adding.lock().await;
        let target = core.store.target(context, name).await?;
        if !core.is_own(name) {
            return Err(crate::sharing::held::not_reached(name));
        }
        if target.settings.is_null() {
            return Err(Error::new(Code::Conflict, format!("target '{name}' is the server's own"))
                .field("name")
                .fix("only what was added can be removed"));
        }
        core.store.remove_target(&grant, name).await?;
        core.change_targets(|targets| targets.retain(|(t, _)| t.name != *name));
        core.hurry();
        match &core.opener {
            Some(opener) => opener.forget(name).await,
            None => Ok(()),
        }
    }

    /// The targets, with what they have at the moment and how many instances they hold.
    ///
    /// # Errors
    /// When the store can't be read.
    pub async fn targets(&self, context: &Context) -> Result<Vec<(Target, Option<Capacity>, u64)>> {
        let mut all = Vec::new();
        for target in self.core.store.targets(context).await? {
            let capacity = match self.core.runtime(&target.name) {
                Ok(runtime) => {
                    tokio::time::timeout(CAPACITY_LIMIT, runtime.capacity()).await.ok().and_then(Result::ok)
                }
                Err(_) => None,
            };
            let filter = InstanceFilter { target: Some(target.name.clone()), ..InstanceFilter::default() };
            let count = self.core.store.count_instances(context, &filter).await?;
            all.push((target, capacity, count));
        }
        Ok(all)
    }

    /// Live instances by phase, for the metrics.
    ///
    /// # Errors
    /// When the store can't be read.
    pub async fn fleet_gauges(&self) -> Result<Vec<(Phase, u64)>> {
        self.core.store.count_by_phase(&Context::system("metrics")).await
    }

    /// Instances waiting for the reconciler, for the metrics.
    #[must_use]
    pub fn queue_length(&self) -> usize {
        self.core.reconciler.queue.waiting()
    }

    /// Instances waiting for their turn to start, for the metrics.
    #[must_use]
    pub fn starts_waiting(&self) -> usize {
        self.core.starts.waiting()
    }
}

/// Refuses a target whose runtime can't be used.
async fn answers(target: &Target, runtime: &dyn Runtime) -> Result<()> {
    let found = runtime.diagnose().await;
    let Some(wrong) = found.checks.iter().find(|check| check.level == CheckLevel::Error) else {
        return Ok(());
    };
    let error = Error::new(Code::Unavailable, format!("target '{}': {}", target.name, wrong.detail));
    Err(match &wrong.fix {
        Some(fix) => error.fix(fix.clone()),
        None => error,
    })
}
