//! The servers that share one database.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::name::TargetName;
use crate::time::Timestamp;

/// What a server says of itself when it joins the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its node id: one a home folder, kept there.
    pub node: String,
    /// Which process of that node; drawn at each start.
    pub session: String,
    /// The name it is shown by, and its own target bears; unique among the servers.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Where the other servers reach its API (`https://host:port`); `None` where they can't.
    pub address: Option<String>,
    /// The targets it reaches.
    pub targets: Vec<TargetName>,
}

/// A server of the database, as the others see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Peer {
    /// Its node id.
    pub node: String,
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Where the other servers reach it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// The targets it reaches.
    #[schema(value_type = Vec<String>)]
    pub targets: Vec<TargetName>,
    /// Whether it is there: it was heard of within its time. By the database's clock.
    pub live: bool,
    /// When it started. By the database's clock.
    pub started_at: Timestamp,
    /// When it was last heard of. By the database's clock.
    pub seen_at: Timestamp,
    /// The leases it holds: its share of the work.
    pub leases: u32,
}

/// A lease, as the database has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The target.
    pub target: TargetName,
    /// Which shard of it.
    pub shard: u32,
    /// The node that holds it; `None` when it was given back.
    pub holder: Option<String>,
    /// Its number, which grows at each change of holder.
    pub epoch: i64,
    /// Whether its time is not over, by the database's clock.
    pub live: bool,
}
