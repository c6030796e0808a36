//! The server itself.

use clawfarm_model::Timestamp;
use clawfarm_model::server::Peer;
use clawfarm_model::target::{Check, Diagnosis};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `GET /server`: which server this is. The first thing a client asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ServerInfo {
    /// Its version, as `major.minor.patch`.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// Its home folder.
    pub home: String,
    /// When it was started.
    pub started_at: Timestamp,
    /// Where it listens besides its socket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listen: Option<String>,
    /// A service manager (systemd) runs it, and starts it again when it ends.
    #[serde(default)]
    pub supervised: bool,
}

/// `POST /server/shutdown`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Shutdown {
    /// Stop every instance first; they stay stopped until they are started again.
    pub claws: bool,
}

/// `POST /support-bundle`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SupportRequest {
    /// Instances whose output and configuration are wanted too; at most 20.
    #[schema(max_items = 20)]
    pub instances: Vec<String>,
}

/// `GET /doctor`: what works here, and what would mend the rest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Doctor {
    /// Of the server itself.
    pub server: Vec<Check>,
    /// Of each runtime.
    pub runtimes: Vec<Diagnosis>,
}

/// `GET /servers`: the servers that share one database.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ServerList {
    /// The servers, by name.
    pub items: Vec<ServerView>,
}

/// One of the servers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ServerView {
    /// What it says of itself, and what the others heard of it.
    #[serde(flatten)]
    pub server: Peer,
    /// Whether it is the one that answers.
    pub this: bool,
}
