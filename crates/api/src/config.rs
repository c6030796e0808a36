//! `/configs`, `/rollouts`, `/instances/{id}/config` and `/instances/{id}/drift`.

use std::collections::BTreeMap;

use clawfarm_config::{
    Change, Config, ConfigPath, Explained, Impact, Member, MemberState, Refused, Revision, RevisionSummary,
    Rollout, Selector, Strategy, Template,
};
use clawfarm_model::{ClawId, ConfigName, Layered};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};
use utoipa::{IntoParams, ToSchema};

use crate::{InstanceView, WarningView};

/// The most instances that a plan lists one by one.
pub const PLAN_MAX: u32 = 10_000;

/// `POST /configs`: a new configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewConfig {
    /// Its name: `global`, `tenant` or `project.<name>` for what is said for all instances there;
    /// any other name is a template's.
    pub name: ConfigName,
    /// What it says.
    pub content: Template,
    /// What for.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schema(max_length = 1000)]
    pub message: String,
}

/// `PUT /configs/{name}`: its next revision, or its first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SaveConfig {
    /// What it says, all of it.
    pub content: Template,
    /// What for.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schema(max_length = 1000)]
    pub message: String,
}

/// `POST /configs/{name}/check`: what saving this would come to. Nothing was saved.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ConfigChecked {
    /// The revision that it would be; the newest, when that says the same.
    pub revision: i64,
    /// What differs from the newest revision, or from nothing.
    pub changes: Vec<Change>,
}

/// All configurations that the caller sees.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ConfigList {
    /// By name.
    pub items: Vec<Config>,
}

/// A configuration with its newest revision.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ConfigView {
    /// The configuration.
    #[serde(flatten)]
    pub config: Config,
    /// Its newest revision.
    pub newest: Revision,
}

/// A page of revisions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RevisionList {
    /// The newest first, without what they say: `GET /configs/{name}/revisions/{number}` has that.
    pub items: Vec<RevisionSummary>,
    /// The `before` of the next page; absent on the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<i64>,
}

/// `GET /configs/{name}/revisions`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub struct RevisionsQuery {
    /// Only revisions of before this one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[param(minimum = 1)]
    pub before: Option<i64>,
    /// The most to answer with.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[param(minimum = 1, maximum = 500, default = 20)]
    pub limit: Option<u32>,
}

/// `GET /configs/{name}/diff`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub struct DiffQuery {
    /// The revision to begin with; the one that is published when left out, or the one before `to`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[param(minimum = 1)]
    pub from: Option<i64>,
    /// The revision to end with; the newest when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[param(minimum = 1)]
    pub to: Option<i64>,
}

/// What leads from one revision to another.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ConfigDiff {
    /// The revision that it begins with; absent when `to` is the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<i64>,
    /// The one that it ends with.
    pub to: i64,
    /// Each difference.
    pub changes: Vec<Change>,
}

/// `POST /configs/{name}/plan`: what publishing would do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PlanRequest {
    /// Which revision; the newest when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    pub revision: Option<i64>,
    /// For whom; all that go by it when left out.
    pub selector: Selector,
    /// The most instances to list one by one; the counts are of all.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 10_000, default = 100)]
    pub limit: Option<u32>,
}

/// What publishing would do. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PlanView {
    /// Of which configuration.
    pub config: ConfigName,
    /// Which revision.
    pub revision: i64,
    /// How many instances it asks what of.
    pub counts: ImpactCounts,
    /// The instances in the order of their turns, as many as were asked for.
    pub instances: Vec<PlannedView>,
    /// Those that can't have it, the first hundred. While there is one, nobody gets it.
    pub refusals: Vec<RefusalView>,
    /// How many can't have it.
    pub refused: u64,
    /// What is worth a word, and of how many instances: what one says itself without effect
    /// because it is locked, what its type makes of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<ConfigWarning>,
}

/// Something that is accepted, but is worth a word.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ConfigWarning {
    /// The field it is about.
    pub field: String,
    /// What to know.
    pub message: String,
    /// Of how many instances.
    pub instances: u64,
}

impl ConfigWarning {
    /// The same words of many instances as one, in the order of their fields.
    #[must_use]
    pub fn of<'a>(all: impl Iterator<Item = (&'a str, &'a str)>) -> Vec<Self> {
        let mut counts: BTreeMap<(&str, &str), u64> = BTreeMap::new();
        for it in all {
            *counts.entry(it).or_default() += 1;
        }
        counts
            .into_iter()
            .map(|((field, message), instances)| Self {
                field: field.to_owned(),
                message: message.to_owned(),
                instances,
            })
            .collect()
    }
}

/// How many instances a change asks what of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ImpactCounts {
    /// Nothing changes for them.
    pub none: u64,
    /// They take it up while they run.
    pub hot: u64,
    /// They are started again.
    pub restart: u64,
    /// They are down, and take it up at their next start.
    pub next_start: u64,
}

impl ImpactCounts {
    /// Of all of these.
    #[must_use]
    pub fn of<'a>(all: impl Iterator<Item = &'a Impact>) -> Self {
        let mut counts = Self::default();
        for impact in all {
            *match impact {
                Impact::None => &mut counts.none,
                Impact::Hot => &mut counts.hot,
                Impact::Restart { .. } => &mut counts.restart,
                Impact::NextStart => &mut counts.next_start,
            } += 1;
        }
        counts
    }
}

/// What it would do to one instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PlannedView {
    /// Which.
    pub instance: ClawId,
    /// The revision that it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<i64>,
    /// What the change asks of it.
    #[serde(flatten)]
    pub impact: Impact,
}

/// Why an instance can't have a revision or a change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RefusalView {
    /// Which.
    pub instance: ClawId,
    /// The field.
    pub field: String,
    /// The reason.
    pub reason: String,
}

/// `POST /configs/{name}/publish`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PublishRequest {
    /// Which revision; the newest when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    pub revision: Option<i64>,
    /// To whom; all that go by it when left out.
    pub selector: Selector,
    /// How.
    pub strategy: Strategy,
    /// What for.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schema(max_length = 1000)]
    pub message: String,
}

/// `POST /configs/{name}/rollback`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RollbackRequest {
    /// To which revision. When left out: to what is published, where some have something later;
    /// else to what was published before that. A rollout that is under way is turned round instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    pub to: Option<i64>,
    /// How. When left out all are changed at once and nothing is turned round; where the revision
    /// was proven not long ago, those that fail don't stop it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub strategy: Option<Strategy>,
}

/// `GET /rollouts`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub struct RolloutsQuery {
    /// Only those of this configuration; `instances.own` for the changes of what many instances say
    /// themselves.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<String>, pattern = "^(instances\\.own|(project\\.)?[a-z]([a-z0-9-]{0,38}[a-z0-9])?)$", max_length = 48)]
    pub config: Option<ConfigName>,
    /// The most to answer with.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[param(minimum = 1, maximum = 500, default = 100)]
    pub limit: Option<u32>,
}

/// Rollouts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RolloutList {
    /// The newest first.
    pub items: Vec<Rollout>,
}

/// `GET /rollouts/{id}/instances`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub struct MembersQuery {
    /// Only those that are there.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[param(inline)]
    pub state: Option<MemberState>,
    /// Only those whose turn is after this place.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<i64>,
    /// The most to answer with.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[param(minimum = 1, maximum = 500, default = 100)]
    pub limit: Option<u32>,
}

/// A page of a rollout's instances.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct MemberList {
    /// In the order of their turns.
    pub items: Vec<Member>,
    /// The `after` of the next page; absent on the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<i64>,
}

/// `GET /instances/{id}/config`: an instance's configuration, and where each value came from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ExplainView {
    /// Which instance.
    pub id: ClawId,
    /// What it is made of.
    pub layers: Layered,
    /// What came of it; secrets by reference only.
    #[schema(value_type = Object)]
    pub config: Value,
    /// Each of its values.
    pub values: Vec<Explained>,
    /// What was said but doesn't hold, because it is locked.
    pub refused: Vec<Refused>,
    /// What is worth a word.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<WarningView>,
    /// Whether it is known to run with this.
    pub in_force: bool,
}

/// `PATCH /instances/{id}/config`: what is left out stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ChangeConfig {
    /// Goes into what the instance says itself (RFC 7396). A `null` takes away what the layers
    /// below it say, too.
    #[serde(skip_serializing_if = "Map::is_empty")]
    #[schema(value_type = Object)]
    pub overrides: Map<String, Value>,
    /// Places at which it says nothing more, before the overrides go in: what the layers below it
    /// say holds there again.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<clawfarm_config::ConfigPlace>)]
    pub unset: Vec<ConfigPath>,
    /// Whether what it said itself before is forgotten first.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub replace: bool,
    /// The template that it is bound to; `null` for none.
    #[serde(deserialize_with = "said", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<ConfigName>)]
    pub template: Option<Option<ConfigName>>,
    /// Values for the template's variables, by name: all of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<BTreeMap<String, Value>>)]
    pub variables: Option<BTreeMap<String, Value>>,
    /// Only tell what it would do.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
}

/// What is there was said, be it nothing.
fn said<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ConfigChanged {
    /// The instance now.
    pub instance: InstanceView,
    /// What the change asks of it.
    #[serde(flatten)]
    pub impact: Impact,
    /// What was accepted, but is worth a word.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<WarningView>,
}

/// `PATCH /instances`: the same change for many instances, or for none when one of them can't
/// have it. It goes out as a rollout.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ChangeConfigs {
    /// Which instances; all when left out.
    pub selector: Selector,
    /// Goes into what each of them says itself (RFC 7396).
    #[schema(value_type = Object)]
    pub overrides: Map<String, Value>,
    /// Places at which each of them says nothing more, before the overrides go in.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<clawfarm_config::ConfigPlace>)]
    pub unset: Vec<ConfigPath>,
    /// How it goes out.
    pub strategy: Strategy,
    /// What for; the places that it changes when nothing is said.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schema(max_length = 1000)]
    pub message: String,
    /// Only tell what it would do.
    pub dry_run: bool,
}

/// What a change of many does, or would do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ConfigsChanged {
    /// Whether anything is changed.
    pub changed: bool,
    /// The rollout by which it is; none when it is only told, or when nobody would say anything
    /// otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<Rollout>,
    /// How many instances it asks what of.
    pub counts: ImpactCounts,
    /// Each of them, in the order of their turns.
    pub instances: Vec<PlannedView>,
    /// Those that can't have it; then nothing can be changed.
    pub refusals: Vec<RefusalView>,
    /// What was accepted, but is worth a word, and of how many instances.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<ConfigWarning>,
}

/// `GET` and `POST /instances/{id}/drift`: how an instance differs from what it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DriftView {
    /// Which instance.
    pub id: ClawId,
    /// Whether it differs at all.
    pub drifted: bool,
    /// Its files that are not as they should be.
    pub files: Vec<DriftedFileView>,
    /// What its claw goes by otherwise, where it can tell.
    pub in_memory: Vec<String>,
    /// Whether its claw could be asked what it goes by.
    pub asked: bool,
    /// A change is on its way to it: what differs may be that.
    pub changing: bool,
    /// Whether it is being put right now.
    pub mending: bool,
}

/// A file that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DriftedFileView {
    /// Where it is, in the instance's state.
    pub path: String,
    /// It is not there at all.
    pub missing: bool,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn to_leave_a_template_and_to_be_bound_to_none_are_two_things() {
        let read = |value: Value| serde_json::from_value::<ChangeConfig>(value).unwrap();
        assert_eq!(read(json!({})), ChangeConfig::default());
        assert_eq!(read(json!({"template": null})).template, Some(None));
        let bound = read(json!({"template": "support", "overrides": {"env": null}}));
        assert_eq!(
            serde_json::to_value(&bound).unwrap(),
            json!({"template": "support", "overrides": {"env": null}})
        );
    }

    #[test]
    fn a_planned_instance_says_flat_what_is_asked_of_it() {
        let impact = Impact::Restart { fields: vec!["gateway".into()] };
        let planned = PlannedView { instance: "alice-x7k2m".parse().unwrap(), before: Some(1), impact };
        let sent = serde_json::to_value(&planned).unwrap();
        assert_eq!(
            sent,
            json!({"instance": "alice-x7k2m", "before": 1, "impact": "restart", "fields": ["gateway"]})
        );
        assert_eq!(serde_json::from_value::<PlannedView>(sent).unwrap(), planned);
    }

    #[test]
    fn impacts_are_counted() {
        let all = [Impact::None, Impact::Hot, Impact::Hot, Impact::NextStart];
        assert_eq!(ImpactCounts::of(all.iter()), ImpactCounts { none: 1, hot: 2, restart: 0, next_start: 1 });
    }
}
