//! Instances that came while a rollout was under way.
//!
//! One that is made or bound goes by what is published then. A rollout takes in those that it was
//! not planned with before it is done; those that come between that and its end are given the
//! revision right afterwards.

use std::collections::BTreeSet;

use clawfarm_config::Rollout;
use clawfarm_model::{ClawId, ConfigKind, Context, Instance, Result};

use super::change::Given;
use super::drive::tenant;
use crate::core::Core;

/// So many of the last rollouts are looked through for the last of a tenant's.
const LAST: u32 = 100;

impl Core {
    /// Takes those in that came while it was under way; says whether there were any.
    pub(super) async fn take_in_late(&self, rollout: &Rollout) -> Result<bool> {
        // What is said of those that were selected is said of nobody who comes later.
        if rollout.config.kind() == ConfigKind::Own {
            return Ok(false);
        }
        let (late, place) = self.late(rollout).await?;
        if late.is_empty() {
            return Ok(false);
        }
        let new = self.new_members(&rollout.config, rollout.to, &late, place).await?;
        self.store.add_members(&Context::system("rollout"), rollout, &new).await?;
        Ok(true)
    }

    /// Gives what a rollout ended with to those that came when it had looked for them already.
    pub(super) async fn take_along(&self, done: &Rollout) -> Result<()> {
        if done.config.kind() == ConfigKind::Own {
            return Ok(());
        }
        let system = Context::system("rollout");
        let config = self.store.tenants_config(&system, &tenant(done), &done.config).await?;
        if config.published != Some(done.to) || config.rollout.is_some() {
            return Ok(());
        }
        // A later one may have ended with some of them elsewhere, as somebody wanted.
        let last = self.store.rollouts(&system, Some(&done.config), LAST).await?;
        if last.iter().find(|it| it.tenant == done.tenant).is_none_or(|it| it.id != done.id) {
            return Ok(());
        }
        for instance in self.late(done).await?.0 {
            match self.give(&instance.id, &done.config, Some(done.to), None).await {
                Ok(Given::Refused(error)) | Err(error) => {
                    tracing::warn!(instance = %instance.id, ?error, "it could not be given what is published");
                }
                Ok(_) => {}
            }
        }
        Ok(())
    }

    /// Gives an instance that was bound to a template what a rollout ended with between the reading
    /// of that and the binding.
    pub(super) async fn bound_meanwhile(&self, before: &Instance, after: &Instance) -> Result<()> {
        let Some(name) = after.layers.template.as_ref() else { return Ok(()) };
        if before.layers.template.as_ref() == Some(name) {
            return Ok(());
        }
        let published = self.published(&after.tenant, &after.project, Some(name)).await?;
        if let Some(number) = published.get(name)
            && after.layers.applied.get(name) != Some(number)
        {
            self.give(&after.id, name, Some(*number), None).await?;
        }
        Ok(())
    }

    /// Those that have another revision and are none of the rollout's, and the next free place.
    async fn late(&self, rollout: &Rollout) -> Result<(Vec<Instance>, i64)> {
        let mut late = Vec::new();
        let mut after: Option<ClawId> = None;
        loop {
            let page = self.page_by(&tenant(rollout), &rollout.config, after.as_ref()).await?;
            after = page.last().map(|it| it.id.clone());
            let has = |it: &Instance| it.layers.applied.get(&rollout.config) == Some(&rollout.to);
            late.extend(page.into_iter().filter(|it| rollout.selector.takes(it) && !has(it)));
            if after.is_none() {
                break;
            }
        }
        if late.is_empty() {
            return Ok((late, 0));
        }
        let system = Context::system("rollout");
        let known = self.store.members(&system, &rollout.id, None, None, u32::MAX).await?;
        let place = known.iter().map(|it| it.place).max().unwrap_or(-1) + 1;
        let known: BTreeSet<_> = known.into_iter().map(|it| it.instance).collect();
        late.retain(|it| !known.contains(&it.id));
        Ok((late, place))
    }
}
