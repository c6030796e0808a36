//! The policies as people read and change them.

use clawfarm_model::event::NewEvent;
use clawfarm_model::name::{ProjectName, TenantName};
use clawfarm_model::policy::AwakeHours;
use clawfarm_model::{
    Action, ClawId, Code, Context, Desired, Error, Instance, Phase, Resource, Result, RuntimePolicy,
    authorize,
};
use clawfarm_store::{Changes, PolicyOf};

use crate::Control;
use crate::core::may;
use std::time::Duration;

/// A change of a policy: what is `None` stays, what is `Some(None)` is said no more.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is the field of RuntimePolicy by that name")]
pub struct PolicyChange {
    pub never: Option<Option<bool>>,
    pub idle_seconds: Option<Option<u32>>,
    pub min_warm_seconds: Option<Option<u32>>,
    pub min_running_seconds: Option<Option<u32>>,
    pub drain_timeout_seconds: Option<Option<u32>>,
    pub hours: Option<Option<AwakeHours>>,
    pub prewake: Option<Option<bool>>,
}

impl PolicyChange {
    /// The policy with the change.
    ///
    /// # Errors
    /// Names the field that can't be used.
    pub fn on(&self, before: &RuntimePolicy) -> Result<RuntimePolicy> {
        fn one<T: Clone>(change: &Option<Option<T>>, before: &Option<T>) -> Option<T> {
            change.clone().unwrap_or_else(|| before.clone())
        }
        let after = RuntimePolicy {
            never: one(&self.never, &before.never),
            idle_seconds: one(&self.idle_seconds, &before.idle_seconds),
            min_warm_seconds: one(&self.min_warm_seconds, &before.min_warm_seconds),
            min_running_seconds: one(&self.min_running_seconds, &before.min_running_seconds),
            drain_timeout_seconds: one(&self.drain_timeout_seconds, &before.drain_timeout_seconds),
            hours: one(&self.hours, &before.hours),
            prewake: one(&self.prewake, &before.prewake),
        };
        after.check()?;
        Ok(after)
    }
}

impl Control {
    /// What the server, a tenant or a project says of sleep; `None` for the tenant of the caller,
    /// of which `project` is one.
    ///
    /// # Errors
    /// `NotFound` for a project that there is not.
    pub async fn policy_of(&self, context: &Context, of: &PolicyOf) -> Result<RuntimePolicy> {
        if let PolicyOf::Project(tenant, project) = of {
            let known = self.core.store.projects(context).await?;
            if !known.contains(&(tenant.clone(), project.clone())) {
                return Err(Error::not_found("project", project).field("project"));
            }
        }
        let all = self.core.store.policies(context).await?;
        Ok(all.into_iter().find(|(it, _)| it == of).map(|(_, policy)| policy).unwrap_or_default())
    }

    /// Changes it. Everything it holds for goes by it at once.
    ///
    /// # Errors
    /// `InvalidInput`, naming the field; `NotFound` as for [`Self::policy_of`]; `NotFound` for the
    /// server's, where the caller is not of the default tenant.
    pub async fn change_policy_of(
        &self,
        context: &Context,
        of: &PolicyOf,
        change: &PolicyChange,
    ) -> Result<RuntimePolicy> {
        let tenant = match of {
            PolicyOf::Server => TenantName::default_tenant(),
            PolicyOf::Tenant(tenant) | PolicyOf::Project(tenant, _) => tenant.clone(),
        };
        let resource = Resource::new(tenant.clone(), "policy", tenant.as_str());
        let grant = authorize(context, Action::PolicyWrite, &resource)?;
        let after = self.core.store.change_policy(&grant, of, |before| change.on(before)).await?;
        self.core.sleeper.layers.read(&self.core).await?;
        Ok(after)
    }

    /// Changes an instance's own policy; nothing of what runs.
    ///
    /// # Errors
    /// `InvalidInput`, naming the field; `PreconditionFailed` when it is no longer at
    /// `expect_version`; `Conflict` when it is being removed.
    pub async fn change_policy(
        &self,
        context: &Context,
        id: &str,
        expect_version: Option<i64>,
        change: &PolicyChange,
    ) -> Result<Instance> {
        let core = &self.core;
        let present = core.find(context, id).await?;
        let grant = may(context, Action::InstanceChange, &present)?;
        // Refused before anything is begun; it is taken again from what is there by then.
        change.on(&present.spec.policy)?;
        let (id, change) = (present.id, change.clone());
        let writing = core.store.update_instance(&grant, &id, expect_version, move |it| {
            if it.intent.desired == Desired::Destroyed {
                return Err(Error::new(Code::Conflict, format!("'{}' is being removed", it.id))
                    .fix("make a new instance"));
            }
            let after = change.on(&it.spec.policy)?;
            if after == it.spec.policy {
                return Ok(Changes::none());
            }
            let said = serde_json::to_string(&after).unwrap_or_default();
            it.spec.policy = after;
            it.intent.generation += 1;
            Ok(Changes::event(NewEvent::info("updated", format!("its sleep policy was changed to {said}"))))
        });
        let (instance, _) = core.wishing(&id, Box::pin(writing)).await?;
        Ok(instance)
    }

    /// A project of the caller's tenant.
    ///
    /// # Errors
    /// For a task of the server, which has no tenant.
    pub fn project_of(context: &Context, project: ProjectName) -> Result<PolicyOf> {
        Ok(PolicyOf::Project(context.tenant()?.clone(), project))
    }

    /// Moves the clock on that sleep goes by, for tests: nobody waits for a quarter of an hour.
    #[doc(hidden)]
    pub fn advance_sleep_clock(&self, by: Duration) {
        self.core.sleeper.clock.advance(by);
        self.core.sleeper.changed.notify_one();
    }

    /// Whether it is known here, to who decides about sleep, that it is in this phase: from then on
    /// the moved clock counts, for tests.
    #[doc(hidden)]
    #[must_use]
    pub fn sleep_knows(&self, id: &ClawId, phase: Phase) -> bool {
        self.core.sleeper.lock().known.get(id).is_some_and(|known| known.brief.phase == phase)
    }

    /// Writes down at once what is used through this server, for tests.
    #[doc(hidden)]
    pub async fn write_use_marks(&self) {
        super::marks::write(&self.core).await;
    }
}
