//! Events: what happened to an instance, in words, in order.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::clawid::ClawId;
use crate::time::Timestamp;

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Event {
    /// Its number: grows with every event, so that a watcher can say where it stopped.
    pub seq: i64,
    /// When.
    pub at: Timestamp,
    /// To which instance; `None` for something of the tenant or the server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<ClawId>,
    /// How much it matters.
    pub level: Level,
    /// What kind of thing, as one stable word: `created`, `phase`, `error`, `token-revealed`.
    pub reason: String,
    /// What happened, in words.
    pub message: String,
}

/// An event before the store has numbered it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewEvent {
    /// How much it matters.
    pub level: Level,
    /// The stable word.
    pub reason: &'static str,
    /// What happened, in words.
    pub message: String,
}

impl NewEvent {
    /// Something that went as it should.
    pub fn info(reason: &'static str, message: impl Into<String>) -> Self {
        Self { level: Level::Info, reason, message: message.into() }
    }

    /// Something that went wrong.
    pub fn warning(reason: &'static str, message: impl Into<String>) -> Self {
        Self { level: Level::Warning, reason, message: message.into() }
    }
}

/// How much an event matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Info,
    /// Something went wrong.
    Warning,
}
