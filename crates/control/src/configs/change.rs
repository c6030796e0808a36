//! Giving one instance another configuration.

use clawfarm_adapters::ClawAdapter;
use clawfarm_config::{ChangeSet, ConfigPath, Impact};
use clawfarm_model::config::ClawConfig;
use clawfarm_model::error::Class;
use clawfarm_model::event::NewEvent;
use clawfarm_model::{
    Action, ClawId, Code, ConfigKind, ConfigName, Context, Desired, Error, Instance, InstanceSpec, Layered,
    Phase, Result, Signal, Timestamp, Urgency,
};
use clawfarm_store::{Changes, Turn};
use serde::Serialize;
use serde_json::Value;

use super::layering::{Whose, own};
use super::members::is_well;
use crate::core::{Core, may};
use crate::instances::software::refuse_if_updating;
use crate::reconcile::absorb::moved;
use crate::reconcile::queue::Priority;
use crate::reconcile::stays_down;

/// How often a change is made anew that somebody else came in between of.
const TRIES: u32 = 8;

/// What came of giving an instance a revision.
pub(crate) enum Given {
    /// It has it now.
    Changed,
    /// It is no more, is being removed, or is bound to another template.
    Gone,
    /// Not now: its software is being updated, or others change it all the time.
    Later,
    /// It is not its turn any more: the rollout was steered elsewhere meanwhile.
    Over,
    /// Somebody else changed this place since it was planned.
    Otherwise(ConfigPath),
    /// It can't have it: what comes of it is no configuration, or the type refuses it.
    Refused(Error),
}

impl Core {
    /// Has an instance go by another revision of a layer, or by none; while it is its turn, where
    /// that is asked for.
    pub(crate) async fn give(
        &self,
        id: &ClawId,
        name: &ConfigName,
        to: Option<i64>,
        turn: Option<&Turn>,
    ) -> Result<Given> {
        let system = Context::system("rollout");
        let mut tries = 0;
        loop {
            let instance = match self.changeable(&system, id).await? {
                Ok(instance) => instance,
                Err(given) => return Ok(given),
            };
            if name.kind() == ConfigKind::Template && instance.layers.template.as_ref() != Some(name) {
                return Ok(Given::Gone);
            }
            if instance.layers.applied.get(name).copied() == to {
                return Ok(Given::Changed);
            }
            let made = match self.with_revision(&instance, name, to).await {
                Ok((layered, config)) => {
                    self.put_in_turn(&system, &instance, layered, config, turn).await.map(|_| ())
                }
                Err(error) => Err(error),
            };
            if let Some(given) = came_of(made, &mut tries)? {
                return Ok(given);
            }
        }
    }

    /// Has an instance say otherwise what is to be changed in what it says itself, while it is its
    /// turn. What somebody else has said there since stays.
    pub(crate) async fn say(&self, id: &ClawId, changes: &ChangeSet, turn: &Turn) -> Result<Given> {
        let system = Context::system("rollout");
        let mut tries = 0;
        loop {
            let instance = match self.changeable(&system, id).await? {
                Ok(instance) => instance,
                Err(given) => return Ok(given),
            };
            let before = Value::Object(own(&instance));
            if changes.is_done(&before) {
                return Ok(Given::Changed);
            }
            let after = match changes.done(&before) {
                Ok(Value::Object(after)) => after,
                Ok(_) => {
                    return Err(Error::internal("a changed object is an object", "what an instance says"));
                }
                Err(place) => return Ok(Given::Otherwise(place)),
            };
            let layered = Layered { own: Some(after.clone()), ..instance.layers.clone() };
            let made = match self.make(&Whose::of(&instance), &layered, &after).await {
                Ok(made) => {
                    self.put_in_turn(&system, &instance, layered, made.config, Some(turn)).await.map(|_| ())
                }
                Err(error) => Err(error),
            };
            if let Some(given) = came_of(made, &mut tries)? {
                return Ok(given);
            }
        }
    }

    /// An instance that can be given another configuration now; else why not.
    async fn changeable(
        &self,
        context: &Context,
        id: &ClawId,
    ) -> Result<std::result::Result<Instance, Given>> {
        Ok(match self.store.instance(context, id).await {
            Ok(it) if it.phase == Phase::Destroyed || it.intent.desired == Desired::Destroyed => {
                Err(Given::Gone)
            }
            Ok(it) if refuse_if_updating(&it).is_err() => Err(Given::Later),
            Ok(it) => Ok(it),
            Err(error) if error.code() == Code::NotFound => Err(Given::Gone),
            Err(error) => return Err(error),
        })
    }

    /// The layers and the configuration of an instance with another revision of a layer.
    pub(super) async fn with_revision(
        &self,
        instance: &Instance,
        name: &ConfigName,
        to: Option<i64>,
    ) -> Result<(Layered, ClawConfig)> {
        let own = own(instance);
        let mut layered = Layered { own: Some(own.clone()), ..instance.layers.clone() };
        match to {
            Some(number) => layered.applied.insert(name.clone(), number),
            None => layered.applied.remove(name),
        };
        let made = self.make(&Whose::of(instance), &layered, &own).await?;
        Ok((layered, made.config))
    }

    /// Writes an instance's layers and what came of them, with what that asks of it.
    ///
    /// # Errors
    /// `PreconditionFailed` when it was changed meanwhile; `InvalidInput` when its type refuses.
    pub(super) async fn put(
        &self,
        context: &Context,
        read: &Instance,
        layered: Layered,
        config: ClawConfig,
        told: Option<String>,
    ) -> Result<Instance> {
        self.write(context, read, (layered, config), told, None).await
    }

    /// The same while it is its turn in a rollout.
    ///
    /// # Errors
    /// `Conflict` on `rollout` when it is not any more; as [`Self::put`].
    async fn put_in_turn(
        &self,
        context: &Context,
        read: &Instance,
        layered: Layered,
        config: ClawConfig,
        turn: Option<&Turn>,
    ) -> Result<Instance> {
        self.write(context, read, (layered, config), None, turn.cloned()).await
    }

    async fn write(
        &self,
        context: &Context,
        read: &Instance,
        (layered, config): (Layered, ClawConfig),
        told: Option<String>,
        turn: Option<Turn>,
    ) -> Result<Instance> {
        let grant = may(context, Action::InstanceChange, read)?;
        let spec = InstanceSpec { config: Box::new(config), ..read.spec.clone() };
        spec.check()?;
        let adapter = self.adapter(read)?;
        adapter.validate(&spec)?;
        // Nobody waits for what the server does by itself.
        let priority = if turn.is_some() { Priority::Event } else { Priority::Person };
        let writing = self.store.update_instance(&grant, &read.id, Some(read.version), move |it| {
            let mut events = Vec::new();
            let impact = reconfigure(it, adapter.as_ref(), layered, spec, &mut events);
            let text = told.unwrap_or_else(|| match &impact {
                Impact::Restart { fields } if fields.is_empty() => {
                    "its configuration changed; it is started with it".to_owned()
                }
                Impact::Restart { fields } => {
                    format!("its configuration changed; it is started again for {}", fields.join(", "))
                }
                _ => "its configuration changed".to_owned(),
            });
            events.push(NewEvent::info("config", text));
            Ok(Changes { events, turn, ..Changes::default() })
        });
        let (instance, _) = self.wishing_as(&read.id, priority, Box::pin(writing)).await?;
        Ok(instance)
    }

    /// What another specification asks of an instance as it is.
    pub(crate) fn impact(&self, instance: &Instance, after: &InstanceSpec) -> Result<Impact> {
        Ok(asked(instance, self.adapter(instance)?.as_ref(), after).impact)
    }
}

/// What came of writing a change; nothing when it is to be tried once more.
fn came_of(made: Result<()>, tries: &mut u32) -> Result<Option<Given>> {
    Ok(Some(match made {
        Ok(()) => Given::Changed,
        Err(error) if is_over(&error) => Given::Over,
        Err(error) if is_race(&error) && *tries < TRIES => {
            *tries += 1;
            return Ok(None);
        }
        Err(error) if is_race(&error) => Given::Later,
        Err(error) if matches!(error.code(), Code::Gone | Code::NotFound) => Given::Gone,
        Err(error) if error.code().class() == Class::User => Given::Refused(error),
        Err(error) => return Err(error),
    }))
}

/// Somebody else changed the instance at the same moment.
fn is_race(error: &Error) -> bool {
    error.code() == Code::PreconditionFailed || is_conflict_on(error, "If-Match")
}

fn is_over(error: &Error) -> bool {
    is_conflict_on(error, "rollout")
}

fn is_conflict_on(error: &Error, field: &str) -> bool {
    error.code() == Code::Conflict && error.field_name() == Some(field)
}

/// What decides, beside the specifications, what a change asks of an instance.
#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) struct State {
    up: bool,
    well: bool,
    /// It has ended, or its start was given up.
    down: bool,
    /// And is left so.
    stays_down: bool,
}

impl State {
    pub(super) fn of(instance: &Instance) -> Self {
        Self {
            up: instance.observed.as_ref().is_some_and(|it| it.state.is_up()),
            well: is_well(instance),
            down: matches!(instance.phase, Phase::Exited | Phase::Failed),
            stays_down: stays_down(instance),
        }
    }
}

/// What a change asks of an instance.
struct Asked {
    impact: Impact,
    /// Whether it needs a fresh start: at once where it is to be up, else when it wakes.
    fresh: bool,
}

/// What another specification asks of an instance as it is. Only a claw that is up and well takes
/// anything up while it runs: one that is not can't be asked whether it did, and one that begins
/// at the moment may have read the old files.
fn asked(instance: &Instance, adapter: &dyn ClawAdapter, after: &InstanceSpec) -> Asked {
    use clawfarm_adapters::Impact as Class;
    if instance.spec.config == after.config {
        return Asked { impact: Impact::None, fresh: false };
    }
    let class = adapter.impact(&instance.spec, after);
    let State { up, well, down, stays_down } = State::of(instance);
    if instance.intent.desired != Desired::Running || stays_down {
        // What is frozen goes on in the same run when it wakes, with what it has in its memory.
        return Asked { impact: Impact::NextStart, fresh: up && matches!(class, Class::Restart(_)) };
    }
    match class {
        Class::None if !down => Asked { impact: Impact::None, fresh: false },
        Class::Hot if well => Asked { impact: Impact::Hot, fresh: false },
        Class::Restart(fields) => Asked { impact: Impact::Restart { fields }, fresh: true },
        Class::None | Class::Hot => Asked { impact: Impact::Restart { fields: Vec::new() }, fresh: true },
    }
}

/// What the change does to an instance, within its transaction; and what it asks of it as it is
/// then.
pub(crate) fn reconfigure(
    it: &mut Instance,
    adapter: &dyn ClawAdapter,
    layered: Layered,
    spec: InstanceSpec,
    events: &mut Vec<NewEvent>,
) -> Impact {
    let now = Timestamp::now();
    let Asked { impact, fresh } = asked(it, adapter, &spec);
    let starts = matches!(it.phase, Phase::Exited | Phase::Failed)
        && it.intent.desired == Desired::Running
        && !stays_down(it);
    it.layers = Layered { revision: it.layers.revision + 1, ..layered };
    it.spec = spec;
    it.intent.generation += 1;
    it.attempts = 0;
    it.restarts = 0;
    it.not_before = None;
    if fresh || starts {
        it.intent.urgency = Urgency::Graceful;
        it.intent.run += 1;
    }
    if starts {
        // It may be down because of what it was configured with.
        it.last_error = None;
        moved(it, Signal::StartBegun, now, events);
    }
    impact
}
