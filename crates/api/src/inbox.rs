//! `/instances/{id}/inbox`: messages of services that wait for a claw.

use clawfarm_model::inbox::{InboxMessage, InboxState};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// `GET /instances/{id}/inbox`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub struct InboxQuery {
    /// Only those that wait, or only those that were given up.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[param(inline)]
    pub state: Option<InboxState>,
    /// The id of the last message of the page before this one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[param(min_length = 1)]
    pub after: Option<String>,
    /// The most items to answer with.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[param(minimum = 1, maximum = 500, default = 100)]
    pub limit: Option<u32>,
}

/// The messages of an instance, in the order they came.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct InboxList {
    /// The messages.
    pub items: Vec<InboxMessage>,
}

/// A message, with what it says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct InboxMessageView {
    /// The message.
    #[serde(flatten)]
    pub message: InboxMessage,
    /// The path and query it is sent to.
    pub target: String,
    /// Its headers. Those that prove its sender are shown without their value.
    pub headers: Vec<InboxHeader>,
    /// Its body; what is no UTF-8 text in it is replaced.
    pub body: String,
}

/// A header of a message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct InboxHeader {
    /// Its name, in lower case.
    pub name: String,
    /// Its value.
    pub value: String,
}

/// How many messages were replayed or dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct InboxChanged {
    /// So many.
    pub messages: u64,
}
