//! Operations: what somebody asked for and may wait for, with its progress.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::clawid::ClawId;
use crate::error::ErrorReport;
use crate::time::Timestamp;

/// Something that was asked for and takes a while.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Operation {
    /// Its id.
    pub id: String,
    /// What was asked for.
    pub kind: OperationKind,
    /// Of which instance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<ClawId>,
    /// The generation of the intent that it waits for.
    pub generation: i64,
    /// How it stands.
    pub state: OperationState,
    /// The steps it goes through, in order; steps are added as they are known.
    pub steps: Vec<Step>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorReport>,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// When anything about it last changed.
    pub updated_at: Timestamp,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
}

/// What was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum OperationKind {
    /// A new instance.
    Create,
    /// Start what is stopped.
    Start,
    /// Stop it.
    Stop,
    /// Stop it and start it again.
    Restart,
    /// End it without asking it.
    Kill,
    /// Put it to sleep.
    Suspend,
    /// Wake it.
    Resume,
    /// Change its specification.
    Update,
    /// Remove it.
    Remove,
}

impl OperationKind {
    /// The name as it is shown and stored.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Restart => "restart",
            Self::Kill => "kill",
            Self::Suspend => "suspend",
            Self::Resume => "resume",
            Self::Update => "update",
            Self::Remove => "remove",
        }
    }
}

/// How an operation stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum OperationState {
    /// Under way.
    Running,
    /// It was reached.
    Succeeded,
    /// It was not reached; `error` says why.
    Failed,
    /// Another request took its place before it was reached.
    Superseded,
}

impl OperationState {
    /// Whether nothing more will come of it.
    #[must_use]
    pub const fn ended(self) -> bool {
        !matches!(self, Self::Running)
    }
}

/// One step of an operation, as a bar can show it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Step {
    /// A stable word: `install`, `prepare`, `start`, `ready`, `drain`, `stop`, `remove`.
    pub name: String,
    /// What is being done, in words.
    pub message: String,
    /// How far it is, in `unit`.
    pub done: u64,
    /// How far it will go, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total: Option<u64>,
    /// What `done` and `total` count: `bytes`, `packages`, `milliseconds`.
    pub unit: String,
    /// When it began.
    pub started_at: Timestamp,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
}
