//! Changing an instance's specification.

use std::collections::BTreeMap;

use clawfarm_model::config::{ClawConfig, ConfigMode};
use clawfarm_model::event::NewEvent;
use clawfarm_model::instance::RestartPolicy;
use clawfarm_model::{
    Action, Code, Context, Desired, Error, InstanceSpec, OperationKind, Resources, Result, RuntimePolicy,
    Urgency,
};
use clawfarm_store::{Changes, NewOperation};

use crate::admission::Reservation;
use crate::core::may;
use crate::instances::create::{check_labels, default_model};
use crate::instances::software::refuse_if_updating;
use crate::keys::owner;
use crate::{Accepted, Control};

/// The changeable part of an instance. What is `None` returns to its default, but for the
/// port, which stays.
#[derive(Clone, Debug, Default)]
pub struct Change {
    /// Processor cores.
    pub cpus: Option<f64>,
    /// Memory, in MiB.
    pub memory_mib: Option<u32>,
    /// Its gateway's port.
    pub port: Option<u16>,
    /// Its configuration.
    pub config: ClawConfig,
    /// Who has the last word on its configuration file.
    pub config_mode: ConfigMode,
    /// What happens when it ends by itself.
    pub restart: Option<RestartPolicy>,
    /// How long its start may take, in seconds.
    pub ready_timeout_secs: Option<u32>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// When it sleeps; what holds stays when this is `None`.
    pub policy: Option<RuntimePolicy>,
}

impl Control {
    /// Changes what an instance is made of. One that is up is started again when what runs
    /// would differ (resources, port, configuration); labels and the like need no restart.
    ///
    /// # Errors
    /// `PreconditionFailed` when it is no longer at `expect_version`; `InvalidInput` naming
    /// the field; `Conflict` when it is being removed or the port is taken; `Insufficient`
    /// when it is up and shall have more memory than its target holds.
    pub async fn update(
        &self,
        context: &Context,
        id: &str,
        expect_version: Option<i64>,
        change: Change,
    ) -> Result<Accepted> {
        let core = &self.core;
        let present = core.find(context, id).await?;
        let grant = may(context, Action::InstanceChange, &present)?;
        let adapter = core.adapter(&present)?;
        let defaults = adapter.default_resources();
        let resources = Resources {
            cpus: change.cpus.unwrap_or(defaults.cpus),
            memory_mib: change.memory_mib.unwrap_or(defaults.memory_mib),
        };
        let change_policy = change.policy;
        let mut config = change.config;
        if present.spec.import.is_none() && present.spec.dataset.is_none() {
            default_model(&mut config);
        }
        let spec = InstanceSpec {
            resources,
            port: change.port.or(present.spec.port),
            config: Box::new(config),
            config_mode: change.config_mode,
            restart: change.restart.unwrap_or_default(),
            ready_timeout_secs: change
                .ready_timeout_secs
                .unwrap_or_else(InstanceSpec::default_ready_timeout_secs),
            labels: change.labels,
            policy: change_policy.clone().unwrap_or_default(),
            ..present.spec.clone()
        };
        spec.check()?;
        check_labels(&spec.labels)?;
        let warnings = adapter.validate(&spec)?;
        core.check_secrets(context, &spec.config, &owner(&present), |_| false).await?;
        let more = spec.resources.memory_mib.saturating_sub(present.spec.resources.memory_mib);
        let counts = more > 0 && present.phase.holds_memory() && !present.spec.overcommit;
        let reserved = match core.runtime(&spec.target) {
            Ok(runtime) if counts => Some(core.admit(&spec.target, runtime.as_ref(), more).await?),
            _ => None,
        };
        let room = reserved.as_ref().and_then(Reservation::room);
        let writing = core.store.update_instance(&grant, &present.id, expect_version, move |it| {
            if it.intent.desired == Desired::Destroyed {
                return Err(Error::new(Code::Conflict, format!("'{}' is being removed", it.id))
                    .fix("make a new instance"));
            }
            refuse_if_updating(it)?;
            // What an update made of it since it was read.
            let spec = InstanceSpec {
                version: it.spec.version.clone(),
                policy: change_policy.unwrap_or_else(|| it.spec.policy.clone()),
                ..spec
            };
            let fresh = needs_restart(&it.spec, &spec);
            it.spec = spec;
            if let Some(port) = it.spec.port {
                it.port = Some(port);
            }
            it.intent.generation += 1;
            it.intent.urgency = Urgency::Graceful;
            it.attempts = 0;
            it.not_before = None;
            if fresh {
                it.intent.run += 1;
            }
            let text = if fresh { "changed; it is started again with it" } else { "changed" };
            Ok(Changes {
                events: vec![NewEvent::info("updated", text)],
                begin: Some(NewOperation::new(OperationKind::Update)),
                room,
                ..Changes::default()
            })
        });
        let (instance, operation) = core.wishing(&present.id, Box::pin(writing)).await?;
        let operation =
            operation.ok_or_else(|| Error::new(Code::Internal, "the store began no operation"))?;
        Ok(Accepted { instance, operation, warnings, replayed: false })
    }
}

/// Whether what runs would differ.
fn needs_restart(before: &InstanceSpec, after: &InstanceSpec) -> bool {
    before.resources != after.resources
        || before.port != after.port
        || before.config != after.config
        || before.config_mode != after.config_mode
}
