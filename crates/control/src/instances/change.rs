//! Changing an instance's specification.

use std::collections::BTreeMap;

use clawfarm_adapters::Warning;
use clawfarm_config::Impact;
use clawfarm_model::config::{ClawConfig, ConfigMode};
use clawfarm_model::event::NewEvent;
use clawfarm_model::instance::RestartPolicy;
use clawfarm_model::{
    Action, Code, Context, Desired, Error, Instance, InstanceSpec, Layered, OperationKind, Resources, Result,
    RuntimePolicy, Urgency,
};
use clawfarm_store::{Changes, NewOperation};

use crate::admission::Reservation;
use crate::configs::reconfigure;
use crate::core::{Core, may};
use crate::instances::create::{check_labels, default_model, port_is_taken};
use crate::instances::software::refuse_if_updating;
use crate::secrets::seen_by_instance;
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
    /// What [`Self::update`] would say, as far as it can be known before. Changes nothing.
    ///
    /// # Errors
    /// As for [`Self::update`].
    pub async fn would_update(
        &self,
        context: &Context,
        id: &str,
        expect_version: Option<i64>,
        change: Change,
    ) -> Result<Vec<Warning>> {
        let core = &self.core;
        let present = core.find(context, id).await?;
        may(context, Action::InstanceChange, &present)?;
        if expect_version.is_some_and(|expected| expected != present.version) {
            return Err(Error::new(
                Code::PreconditionFailed,
                format!("instance '{}' is at version {}", present.id, present.version),
            )
            .field("If-Match")
            .fix("read it again and repeat the change on what it is now"));
        }
        if present.intent.desired == Desired::Destroyed {
            return Err(Error::new(Code::Conflict, format!("'{}' is being removed", present.id))
                .fix("make a new instance"));
        }
        refuse_if_updating(&present)?;
        let Wanted { spec, warnings, .. } = core.changed_spec(context, &present, change).await?;
        let more = spec.resources.memory_mib.saturating_sub(present.spec.resources.memory_mib);
        if more > 0 && present.phase.holds_memory() && !present.spec.overcommit {
            let runtime = core.runtime(&spec.target)?;
            core.admit(&spec.target, runtime.as_ref(), more).await?;
        }
        if let Some(port) = spec.port.filter(|port| present.port != Some(*port))
            && !core.store.port_is_free(&Context::system("ports"), &spec.target, port).await?
        {
            return Err(port_is_taken(port));
        }
        Ok(warnings)
    }

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
        let change_policy = change.policy.clone();
        let Wanted { layers, spec, warnings } = core.changed_spec(context, &present, change).await?;
        let adapter = core.adapter(&present)?;
        let read = present.layers.clone();
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
            if it.layers != read {
                return Err(Error::new(
                    Code::PreconditionFailed,
                    format!("what '{}' is configured with was changed at the same moment", it.id),
                )
                .fix("look at it again, and repeat what is still wanted"));
            }
            // What an update made of it since it was read.
            let spec = InstanceSpec {
                version: it.spec.version.clone(),
                policy: change_policy.unwrap_or_else(|| it.spec.policy.clone()),
                ..spec
            };
            let fresh = needs_restart(&it.spec, &spec);
            let mut events = Vec::new();
            let mut impact = Impact::None;
            let run = it.intent.run;
            if it.spec.config == spec.config {
                it.spec = spec;
                it.intent.generation += 1;
                it.attempts = 0;
                it.not_before = None;
            } else {
                impact = reconfigure(it, adapter.as_ref(), layers, spec, &mut events);
            }
            if let Some(port) = it.spec.port {
                it.port = Some(port);
            }
            it.intent.urgency = Urgency::Graceful;
            if fresh && it.intent.run == run {
                it.intent.run += 1;
            }
            let text = match &impact {
                _ if it.intent.run > run => "changed; it is started again with it",
                Impact::Hot => "changed; it takes it up while it runs",
                _ => "changed",
            };
            events.push(NewEvent::info("updated", text));
            Ok(Changes {
                events,
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

/// What comes of a change, checked.
struct Wanted {
    layers: Layered,
    spec: InstanceSpec,
    warnings: Vec<Warning>,
}

impl Core {
    async fn changed_spec(&self, context: &Context, present: &Instance, change: Change) -> Result<Wanted> {
        let adapter = self.adapter(present)?;
        let defaults = adapter.default_resources();
        let resources = Resources {
            cpus: change.cpus.unwrap_or(defaults.cpus),
            memory_mib: change.memory_mib.unwrap_or(defaults.memory_mib),
        };
        let mut config = change.config;
        if present.spec.import.is_none() && present.spec.dataset.is_none() {
            default_model(&mut config);
        }
        let (layers, config) = self.wanting(present, &config).await?;
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
            policy: change.policy.unwrap_or_default(),
            ..present.spec.clone()
        };
        spec.check()?;
        check_labels(&spec.labels)?;
        let warnings = adapter.validate(&spec)?;
        self.check_secrets(context, &spec.config, &seen_by_instance(present), |_| false).await?;
        Ok(Wanted { layers, spec, warnings })
    }
}

/// Whether what runs would differ, beside its configuration.
fn needs_restart(before: &InstanceSpec, after: &InstanceSpec) -> bool {
    before.resources != after.resources
        || before.port != after.port
        || before.config_mode != after.config_mode
}
