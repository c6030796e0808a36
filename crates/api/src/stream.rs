//! What goes through event streams (`text/event-stream`).
//!
//! Each stream carries one kind of item, and ends with an `end` or an `error` event; one
//! that stops without either was cut off.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The `event:` of an [`clawfarm_model::event::Event`]; its `id:` is the event's number.
pub const EVENT: &str = "event";
/// The `event:` of a [`crate::LogEntry`].
pub const LOG: &str = "log";
/// The `event:` of a [`SendEvent`].
pub const ANSWER: &str = "answer";
/// The `event:` of a [`crate::BuildEvent`].
pub const BUILD: &str = "build";
/// The `event:` of a [`crate::Problem`], after which the stream ends.
pub const ERROR: &str = "error";
/// The `event:` of a [`StreamEnd`], after which the stream ends.
pub const END: &str = "end";

/// A piece of a claw's answer to a message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum SendEvent {
    /// Further text.
    Text {
        /// The text.
        text: String,
    },
    /// The answer is complete.
    Done {
        /// Tokens that went into the model, where the claw says.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        input_tokens: Option<u64>,
        /// Tokens that came out.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        output_tokens: Option<u64>,
    },
}

/// Why a stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StreamEnd {
    /// Why.
    pub reason: EndReason,
}

/// Why a stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum EndReason {
    /// There is nothing more.
    Complete,
    /// The server is being stopped; ask again when it is back.
    Shutdown,
}
