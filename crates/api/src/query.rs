//! What may stand after the `?`, shared by server and client.

use clawfarm_model::name::{ClawType, InstanceName, ProjectName, TargetName};
use clawfarm_model::secret::SecretScope;
use clawfarm_model::target::RuntimeKind;
use clawfarm_model::{ClawId, Phase, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::IntoParams;

/// The most items a page may hold.
pub const MAX_LIMIT: u32 = 500;
/// The items of a page when no limit is asked for.
pub const DEFAULT_LIMIT: u32 = 100;

/// `GET /instances`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub struct InstanceQuery {
    /// Only those in this phase.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[param(inline)]
    pub phase: Option<Phase>,
    /// Only those of this claw type.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[param(inline, example = "openclaw")]
    pub claw_type: Option<ClawType>,
    /// Only those of this runtime.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[param(inline)]
    pub runtime: Option<RuntimeKind>,
    /// Only those on this target.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[param(inline)]
    pub target: Option<TargetName>,
    /// Only those of this project.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[param(inline)]
    pub project: Option<ProjectName>,
    /// Only those with this label, as `key=value`. May be given several times: all must match.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[param(example = json!(["team=support"]))]
    pub label: Vec<String>,
    /// Also those that are destroyed and kept in history.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub include_destroyed: bool,
    /// Where the page before this one ended (its `next`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// The most items to answer with.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[param(minimum = 1, maximum = 500, default = 100)]
    pub limit: Option<u32>,
}

/// `POST /instances` and `PUT /instances/{id}`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub struct TryQuery {
    /// Only say whether it could be done, and change nothing. What only shows while it is done (a
    /// place that fills meanwhile) can still be in its way.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
}

/// `GET /instances/{id}/port-forward`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub struct ForwardQuery {
    /// The port that the instance listens on; its gateway's when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[param(minimum = 1, maximum = 65535)]
    pub port: Option<u16>,
}

/// `DELETE /instances/{id}`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub struct RemoveQuery {
    /// Remove its data too, for good. Otherwise the data stays as a dataset.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub purge: bool,
    /// Do not let it finish its work first.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
}

/// `POST /restore`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub struct RestoreQuery {
    /// The new instance's name; that of the one which the archive is of when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[param(inline)]
    pub name: Option<InstanceName>,
    /// How it runs; as before when left out, where that can be had here.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[param(inline)]
    pub runtime: Option<RuntimeKind>,
    /// Where it runs; where it did when left out, if that is here.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[param(inline)]
    pub target: Option<TargetName>,
    /// Make it even when the target has no memory left for it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub overcommit: bool,
}

/// `GET /instances/{id}/logs`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub struct LogsQuery {
    /// Go on with lines as they are printed; the answer is an event stream.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub follow: bool,
    /// Only lines printed at or after this time.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<String>, format = DateTime, example = "2026-11-21T07:36:40Z")]
    pub since: Option<Timestamp>,
    /// Only this many of the last lines. Without `follow` at most 10000 are answered in any case.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[param(maximum = 10_000)]
    pub tail: Option<u32>,
}

/// `GET /events` and `GET /instances/{id}/events`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub struct EventsQuery {
    /// Only events with a greater number than this (`last_seq` of the answer before); the
    /// newest ones when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[param(minimum = 0)]
    pub after: Option<i64>,
    /// Go on with events as they happen; the answer is an event stream.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub follow: bool,
    /// The most events to answer with; with `follow`, the most past ones to begin with when
    /// `after` is absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[param(minimum = 1, maximum = 500, default = 100)]
    pub limit: Option<u32>,
}

/// `GET /operations`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub struct OperationsQuery {
    /// Only those of this instance: its id, its name when that is unique, or a unique prefix.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[param(min_length = 1, max_length = 64, pattern = "^[A-Za-z0-9_-]+$")]
    pub instance: Option<String>,
    /// Where the page before this one ended (its `next`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// The most items to answer with.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[param(minimum = 1, maximum = 500, default = 100)]
    pub limit: Option<u32>,
}

/// `GET /operations/{id}`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub struct OperationQuery {
    /// Answer only when it has changed after this time (its `updated_at`), has ended, or
    /// `wait` is over.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<String>, format = DateTime)]
    pub after: Option<Timestamp>,
    /// How long to wait for that, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[param(minimum = 0, maximum = 60)]
    pub wait: Option<u32>,
}

/// `GET /secrets/{name}`: whose is meant; the tenant's when nothing is said.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub struct SecretQuery {
    /// For whom it is; to be left out where a project or an instance is named.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[param(inline)]
    pub scope: Option<SecretScope>,
    /// The project it belongs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[param(inline)]
    pub project: Option<ProjectName>,
    /// The instance it belongs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[param(inline)]
    pub instance: Option<ClawId>,
}

/// `DELETE /secrets/{name}`: whose is meant; the tenant's when nothing is said.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub struct SecretRemovalQuery {
    /// For whom it is; to be left out where a project or an instance is named.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[param(inline)]
    pub scope: Option<SecretScope>,
    /// The project it belongs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[param(inline)]
    pub project: Option<ProjectName>,
    /// The instance it belongs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[param(inline)]
    pub instance: Option<ClawId>,
    /// Also one that somebody is configured with, who can't be started without it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
}
