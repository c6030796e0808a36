//! What the centre keeps: configurations, their revisions, and how those go out.

use std::collections::BTreeMap;

use clawfarm_model::name::{ClawType, ProjectName, TenantName};
use clawfarm_model::{ClawId, ConfigKind, ConfigName, Instance, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::change_set::ChangeSet;
use crate::diff::Change;
use crate::rollout::{Counts, Stage, Strategy};
use crate::template::Template;

/// A configuration of the centre: a template, or what is said for all instances of the fleet, a
/// tenant or a project.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Config {
    /// Whose it is; nobody's in particular for `global`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<TenantName>,
    /// Its name.
    pub name: ConfigName,
    /// Its newest revision.
    pub head: i64,
    /// The revision that new instances get; none before it was first published.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub published: Option<i64>,
    /// The rollout of it that is under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<String>,
    /// Grows with every write; the ETag.
    pub version: i64,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was last saved or published.
    pub updated_at: Timestamp,
}

/// What a configuration said at one time. It never changes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Revision {
    /// Its number, from 1.
    pub number: i64,
    /// Who saved it.
    pub author: String,
    /// What for.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// When.
    pub created_at: Timestamp,
    /// When a rollout last brought it to all of its instances.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proven_at: Option<Timestamp>,
    /// What it says.
    pub content: Template,
    /// What differs from the revision before.
    #[serde(default)]
    pub changes: Vec<Change>,
}

/// A revision without what it says, as lists have it: what a configuration says may be half a
/// megabyte, and a page holds hundreds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RevisionSummary {
    /// Its number, from 1.
    pub number: i64,
    /// Who saved it.
    pub author: String,
    /// What for.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// When.
    pub created_at: Timestamp,
    /// When a rollout last brought it to all of its instances.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proven_at: Option<Timestamp>,
    /// In how many places it differs from the revision before.
    pub change_count: u64,
}

/// Which instances a rollout is for; all that are bound when nothing is said.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Selector {
    /// Those with these labels.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Those of a claw type.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub claw_type: Option<ClawType>,
    /// Those of a project.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub project: Option<ProjectName>,
}

impl Selector {
    /// Whether it is for all.
    #[must_use]
    pub fn is_all(&self) -> bool {
        *self == Self::default()
    }

    /// Whether it is for this one.
    #[must_use]
    pub fn takes(&self, instance: &Instance) -> bool {
        self.labels.iter().all(|(key, value)| instance.spec.labels.get(key) == Some(value))
            && self.claw_type.as_ref().is_none_or(|it| *it == instance.spec.claw_type)
            && self.project.as_ref().is_none_or(|it| *it == instance.project)
    }
}

/// What a change of its configuration asks of an instance.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "impact", rename_all = "snake_case")]
pub enum Impact {
    /// Nothing: what it is configured with stays the same.
    #[default]
    None,
    /// It takes it up while it runs.
    Hot,
    /// It is started again, or for the first time.
    Restart {
        /// What can't be taken up while it runs; nothing when it is not well, or not up yet, so
        /// that there is nobody who could take anything up.
        fields: Vec<String>,
    },
    /// It is down, and takes it up at its next start.
    NextStart,
}

/// A revision on its way to its instances.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Rollout {
    /// Its id.
    pub id: String,
    /// Whose it is; nobody's in particular for `global`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<TenantName>,
    /// Of which configuration; `instances.own` when it changes what instances say themselves.
    #[schema(value_type = String, pattern = "^(instances\\.own|(project\\.)?[a-z]([a-z0-9-]{0,38}[a-z0-9])?)$", max_length = 48)]
    pub config: ConfigName,
    /// The revision that was published before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<i64>,
    /// The revision that goes out; of changes of what instances say, which of them it is.
    pub to: i64,
    /// To whom.
    #[serde(default, skip_serializing_if = "Selector::is_all")]
    pub selector: Selector,
    /// How.
    pub strategy: Strategy,
    /// Where it is.
    pub stage: Stage,
    /// In which step, from 0; the last is all instances.
    pub step: u32,
    /// Since when it is at this stage and step.
    pub stage_since: Timestamp,
    /// The stage it goes on with, when it is paused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused_from: Option<Stage>,
    /// Somebody gave the word to go on to the next step.
    #[serde(default)]
    pub promoted: bool,
    /// Who began it.
    pub author: String,
    /// What for.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Why it did not get through.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// How many of its instances are where.
    pub counts: Counts,
    /// Grows with every write.
    pub version: i64,
    /// When it began.
    pub created_at: Timestamp,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
}

impl Rollout {
    /// What goes out, in words: "revision 2 of 'support'".
    #[must_use]
    pub fn subject(&self) -> String {
        match self.config.kind() {
            ConfigKind::Own => format!("change {} of what instances say themselves", self.to),
            _ => format!("revision {} of '{}'", self.to, self.config),
        }
    }
}

/// An instance of a rollout.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Member {
    /// Which.
    pub instance: ClawId,
    /// When it is its turn: those with smaller numbers first.
    pub place: i64,
    /// Where it is.
    pub state: MemberState,
    /// Since when.
    pub since: Timestamp,
    /// The revision that it had before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<i64>,
    /// What the change asks of it.
    #[serde(flatten)]
    pub impact: Impact,
    /// How often it had ended by itself when it was changed.
    #[serde(default)]
    pub ends_before: u32,
    /// Whether it was well when it was changed: up and answering, or at rest. That one fails which
    /// was not says nothing of the change.
    #[serde(default)]
    pub was_well: bool,
    /// Whether it was to be up when it was changed.
    #[serde(default)]
    pub was_up: bool,
    /// Whether it was seen to run with it.
    #[serde(default)]
    pub seen: bool,
    /// What went wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What it says otherwise with it, where that is what goes out. Told nowhere: a page of members
    /// would be as long as all of it.
    #[serde(skip)]
    pub changes: ChangeSet,
}

/// Where an instance of a rollout is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum MemberState {
    /// Nothing was done yet.
    Pending,
    /// On its way.
    Changing,
    /// It has it, and is well.
    Proven,
    /// It has it, and is not.
    Failed,
    /// It was left out, with a reason: removed or stopped meanwhile, say, or not well before.
    Skipped,
    /// On its way back.
    Reverting,
    /// It has again what it had.
    Reverted,
    /// It was to have again what it had, and is not well with it, or can't have it.
    RevertFailed,
}

impl Counts {
    /// One more, or so many more, of a state.
    pub fn add(&mut self, state: MemberState, count: u32) {
        let field = match state {
            MemberState::Pending => &mut self.pending,
            MemberState::Changing => &mut self.changing,
            MemberState::Proven => &mut self.proven,
            MemberState::Failed => &mut self.failed,
            MemberState::Skipped => &mut self.skipped,
            MemberState::Reverting => &mut self.reverting,
            MemberState::Reverted => &mut self.reverted,
            MemberState::RevertFailed => &mut self.revert_failed,
        };
        *field = field.saturating_add(count);
    }
}
