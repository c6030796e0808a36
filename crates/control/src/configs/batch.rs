//! The same change in what many instances say themselves: a rollout, whose members each know what
//! they say otherwise.

use std::collections::BTreeMap;
use std::sync::Arc;

use clawfarm_adapters::Warning;
use clawfarm_config::{ChangeSet, Cohort, ConfigPath, Impact, Rollout, Selector, Strategy};
use clawfarm_model::error::Class;
use clawfarm_model::{Action, ClawId, Code, ConfigName, Context, Desired, Error, Instance, Result};
use clawfarm_store::{InstanceFilter, NewMember, NewRollout, PageRequest};
use serde_json::{Map, Value};

use super::asking::{Asked, Asking};
use super::bind::Configure;
use super::layering::own;
use super::manage::leave;
use super::plan::{Refusal, cohort, refused_by};
use super::publish::with_first;
use crate::Control;
use crate::core::may;

/// So many characters of the places that are changed are its message, when there is no other.
const PLACES_TOLD: usize = 200;

/// What is to be otherwise in what many instances say themselves.
#[derive(Clone, Debug, Default)]
pub struct ChangeMany {
    /// In which.
    pub selector: Selector,
    /// Goes into what each of them says (RFC 7396).
    pub patch: Map<String, Value>,
    /// Places at which each says nothing more, before that.
    pub unset: Vec<ConfigPath>,
    /// How it goes out.
    pub strategy: Strategy,
    /// What for; when nothing is said, the places.
    pub message: String,
}

/// What a change of many does, or would do.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// Each that can have it, in the order of their turns.
    pub instances: Vec<Configured>,
    /// Those that can't have it; while there is one, nothing is changed.
    pub refusals: Vec<Refusal>,
    /// The rollout that has begun; none when it was only asked what it would do, or when nobody
    /// would say anything otherwise.
    pub rollout: Option<Rollout>,
}

/// What a change of many does to one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Configured {
    /// Which.
    pub id: ClawId,
    /// What it asks of it.
    pub impact: Impact,
    /// What was accepted, but is worth a word.
    pub warnings: Vec<Warning>,
    /// Why no claw was asked whether it takes it, where its type can be asked and it changes.
    pub not_asked: Option<Arc<str>>,
}

/// One of them while it is planned.
struct Planned {
    told: Configured,
    changes: ChangeSet,
    kind: Option<usize>,
    first: bool,
}

impl Control {
    /// What a change of many would do. Nothing is changed.
    ///
    /// # Errors
    /// `InvalidInput` for a strategy that makes no sense.
    pub async fn would_configure_many(&self, context: &Context, what: &ChangeMany) -> Result<Batch> {
        let (planned, refusals) = self.plan_many(context, what).await?;
        Ok(Batch { instances: told(planned), refusals, rollout: None })
    }

    /// Begins to change what many instances say themselves: all that the selector takes, or none
    /// when one of them can't have it. It goes out as a revision does: in steps, one is watched
    /// with it, and when too many are not well, those that were changed say again what they said
    /// before. One such change of a tenant's is under way at a time.
    ///
    /// # Errors
    /// `InvalidInput` with the first instance that can't have it, its field and the reason;
    /// `Conflict` while another is under way.
    pub async fn configure_many(&self, context: &Context, what: &ChangeMany) -> Result<Batch> {
        let name = ConfigName::own();
        let grant = leave(context, &name)?;
        self.refuse_second(context, &name).await?;
        let (planned, refusals) = self.plan_many(context, what).await?;
        if let Some(first) = refusals.first() {
            let more = refusals.len() - 1;
            let others = if more > 0 { format!("; nor can {more} more") } else { String::new() };
            return Err(Error::invalid(
                first.field.clone(),
                format!("'{}' can't have it: {}{others}; nothing was changed", first.id, first.reason),
            )
            .fix("see all of them with --dry-run; select fewer, or mend what they say"));
        }
        let leading = planned.iter().filter(|it| it.first && !it.changes.is_empty()).count();
        let strategy = with_first(what.strategy.clone(), leading)?;
        let members: Vec<_> = planned
            .iter()
            .filter(|it| !it.changes.is_empty())
            .zip(0..)
            .map(|(it, place)| NewMember {
                instance: it.told.id.clone(),
                place,
                before: None,
                impact: it.told.impact.clone(),
                left_out: None,
                changes: it.changes.clone(),
            })
            .collect();
        if members.is_empty() {
            return Ok(Batch { instances: told(planned), ..Batch::default() });
        }
        let mut not = planned.iter().filter_map(|it| it.told.not_asked.as_ref());
        let note = not.next().map(|why| {
            format!("whether {} of them take it was not asked beforehand: {why}", not.count() + 1)
        });
        let message = if what.message.is_empty() { places(what) } else { what.message.clone() };
        let selector = what.selector.clone();
        let new = NewRollout { config: name, to: 0, expect: 0, selector, strategy, message, note, members };
        let rollout = self.core.store.begin_rollout(&grant, &new).await?;
        self.core.driver.wake();
        Ok(Batch { instances: told(planned), refusals, rollout: Some(rollout) })
    }

    /// Before claws are asked, which takes a while: the store refuses it again.
    async fn refuse_second(&self, context: &Context, name: &ConfigName) -> Result<()> {
        let last = self.core.store.rollouts(context, Some(name), 1).await?;
        match last.iter().find(|it| !it.stage.is_over()) {
            None => Ok(()),
            Some(it) => {
                Err(Error::new(Code::Conflict, format!("another change of many is under way: '{}'", it.id))
                    .fix(format!("wait for its end, or end it: clawfarm rollout abort {}", it.id)))
            }
        }
    }

    async fn plan_many(&self, context: &Context, what: &ChangeMany) -> Result<(Vec<Planned>, Vec<Refusal>)> {
        what.strategy.check()?;
        let change =
            Configure { patch: what.patch.clone(), unset: what.unset.clone(), ..Configure::default() };
        let first = Selector { labels: what.strategy.first.clone(), ..Selector::default() };
        let (mut planned, mut refusals) = (BTreeMap::new(), Vec::new());
        let mut asking = Asking::default();
        for instance in self.selected(context, &what.selector).await? {
            may(context, Action::InstanceChange, &instance)?;
            match self.core.configured(context, &instance, &change).await {
                Ok(it) => {
                    let document = |own: Map<String, Value>| Value::Object(own);
                    let after = document(it.layered.own.clone().unwrap_or_default());
                    let changes = ChangeSet::between(&document(own(&instance)), &after);
                    let kind = match it.spec.config == instance.spec.config {
                        true => None,
                        false => Some(asking.kind(&instance, &it.spec)?),
                    };
                    if let Some(kind) = kind {
                        asking.candidate(kind, &instance);
                    }
                    let (impact, warnings, id) = (it.impact, it.warnings, instance.id.clone());
                    let told = Configured { id: id.clone(), impact, warnings, not_asked: None };
                    let first = !first.is_all() && first.takes(&instance);
                    planned.insert(id, Planned { told, changes, kind, first });
                }
                Err(error) if error.code().class() == Class::User => {
                    refusals.push(refusal(instance.id, &error));
                }
                Err(error) => return Err(error),
            }
        }
        let answers = asking.ask(&self.core).await;
        planned.retain(|id, it| match it.kind.and_then(|kind| answers.get(kind)) {
            Some(Asked::Refuses(by, faults)) => {
                refusals.push(refusal(id.clone(), &refused_by(id, by, faults)));
                false
            }
            Some(Asked::Not(why)) => {
                it.told.not_asked = Some(Arc::clone(why));
                true
            }
            Some(Asked::Fine) | None => true,
        });
        let order = Cohort::of(&cohort(context.tenant()?, &ConfigName::own()));
        let order = order.order(planned.keys().cloned().collect());
        let mut planned: Vec<_> = order.iter().filter_map(|id| planned.remove(id)).collect();
        planned.sort_by_key(|it| !it.first);
        Ok((planned, refusals))
    }

    /// The instances of the caller that a selector takes.
    async fn selected(&self, context: &Context, selector: &Selector) -> Result<Vec<Instance>> {
        let filter = InstanceFilter {
            claw_type: selector.claw_type.clone(),
            project: selector.project.clone(),
            labels: selector.labels.clone().into_iter().collect(),
            ..InstanceFilter::default()
        };
        let mut found = Vec::new();
        let mut cursor = None;
        loop {
            let page = PageRequest::after(cursor, PageRequest::MAX);
            let page = self.core.store.instances(context, &filter, &page).await?;
            found.extend(page.items.into_iter().filter(|it| it.intent.desired != Desired::Destroyed));
            cursor = page.next;
            if cursor.is_none() {
                return Ok(found);
            }
        }
    }
}

fn told(planned: Vec<Planned>) -> Vec<Configured> {
    planned.into_iter().map(|it| it.told).collect()
}

/// The places that are changed; their values may be long, and are told with each instance.
fn places(what: &ChangeMany) -> String {
    let patch = ChangeSet::between(&Value::Object(Map::new()), &Value::Object(what.patch.clone()));
    let set = patch.places().map(ToString::to_string);
    let unset = what.unset.iter().map(|it| format!("no {it}"));
    let all: Vec<_> = unset.chain(set).collect();
    all.join(", ").chars().take(PLACES_TOLD).collect()
}

fn refusal(id: ClawId, error: &Error) -> Refusal {
    Refusal {
        id,
        field: error.field_name().unwrap_or("config").to_owned(),
        reason: error.message().to_owned(),
    }
}
