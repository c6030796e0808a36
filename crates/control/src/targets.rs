//! Targets: the places instances run on, what they have, and whether one more fits.

use std::time::Duration;

use clawfarm_model::name::TargetName;
use clawfarm_model::target::{Capacity, Target};
use clawfarm_model::{ClawId, Code, Context, Error, Phase, Resources, Result};
use clawfarm_runtime::Runtime;
use clawfarm_store::InstanceFilter;

use crate::Control;
use crate::core::Core;

/// How long a target may take to say what it has.
const CAPACITY_LIMIT: Duration = Duration::from_secs(5);
/// Memory that is left to the machine itself, in MiB.
const RESERVE_MIB: u64 = 256;

impl Control {
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
}

impl Core {
    /// Refuses, with figures, what would not fit into a target's memory beside what has been
    /// promised to the instances that are up on it.
    pub(crate) async fn check_memory(
        &self,
        target: &TargetName,
        runtime: &dyn Runtime,
        wanted: Resources,
        but: Option<&ClawId>,
    ) -> Result<()> {
        let capacity = tokio::time::timeout(CAPACITY_LIMIT, runtime.capacity()).await.map_err(|_| {
            Error::new(Code::Unavailable, format!("target '{target}' does not say how much memory it has"))
        })??;
        let promised = self.store.promised_memory_mib(&Context::system("admission"), target, but).await?;
        let wanted = u64::from(wanted.memory_mib);
        let free = capacity.memory_mib.saturating_sub(promised).saturating_sub(RESERVE_MIB);
        if wanted <= free && wanted <= capacity.memory_available_mib {
            return Ok(());
        }
        Err(Error::new(
            Code::Insufficient,
            format!(
                "{wanted} MiB are wanted; '{target}' has {} MiB in all, of which {promised} are promised to instances that are up and {} are free at the moment",
                capacity.memory_mib, capacity.memory_available_mib
            ),
        )
        .field("resources.memory_mib")
        .fix("suspend or stop another instance, ask for less with --memory-mib, or take the risk with --overcommit"))
    }
}
