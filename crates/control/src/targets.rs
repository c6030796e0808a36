//! Targets: the places instances run on, and what they have.

use clawfarm_model::target::{Capacity, Target};
use clawfarm_model::{Context, Phase, Result};
use clawfarm_store::InstanceFilter;

use crate::Control;
use crate::admission::CAPACITY_LIMIT;

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
