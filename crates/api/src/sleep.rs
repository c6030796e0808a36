//! `/instances/{id}/sleep`, `/instances/{id}/policy` and `/policies`.

use clawfarm_model::policy::AwakeHours;
use clawfarm_model::{Cause, ClawId, EffectivePolicy, LastWake, Timestamp};
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

/// `PATCH /instances/{id}/policy` and `/policies/...`: what is left out stays as it is; `null` is
/// said no more, so that a broader policy holds, or none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ChangePolicy {
    /// It never sleeps by itself, whatever else is said.
    #[serde(deserialize_with = "said", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<bool>)]
    pub never: Option<Option<bool>>,
    /// Idle for so long it goes to sleep, in seconds.
    #[serde(deserialize_with = "said", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 31_536_000)]
    pub idle_seconds: Option<Option<u32>>,
    /// Warm for so long it is suspended, in seconds.
    #[serde(deserialize_with = "said", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u32>, minimum = 0, maximum = 31_536_000)]
    pub min_warm_seconds: Option<Option<u32>>,
    /// It stays up for so long at least, in seconds.
    #[serde(deserialize_with = "said", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u32>, minimum = 0, maximum = 31_536_000)]
    pub min_running_seconds: Option<Option<u32>>,
    /// How long it may finish what came in while it was being put to sleep, in seconds.
    #[serde(deserialize_with = "said", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u32>, minimum = 0, maximum = 3600)]
    pub drain_timeout_seconds: Option<Option<u32>>,
    /// The hours in which it is up.
    #[serde(deserialize_with = "said", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<AwakeHours>)]
    pub hours: Option<Option<AwakeHours>>,
    /// Whether it is woken shortly before the hours in which it is usually used.
    #[serde(deserialize_with = "said", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<bool>)]
    pub prewake: Option<Option<bool>>,
}

/// What is there was said, be it nothing.
fn said<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

/// `GET /instances/{id}/sleep`: what holds for its sleep, and how it stands with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SleepView {
    /// Which instance.
    pub id: ClawId,
    /// What holds, and who said it.
    pub policy: EffectivePolicy,
    /// What keeps it from sleeping, or from sleeping deeper; empty when nothing does.
    pub kept_awake_by: Vec<String>,
    /// When it goes to sleep, or deeper, if nothing happens until then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sleeps_at: Option<Timestamp>,
    /// When the clock wakes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wakes_at: Option<Timestamp>,
    /// For what.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wakes_for: Option<Cause>,
    /// When its next job or heartbeat is due, as it said before it slept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_run_at: Option<Timestamp>,
    /// When it was last used, as far as that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_used_at: Option<Timestamp>,
    /// Requests at its address that are under way at this server.
    pub open_requests: u64,
    /// WebSockets at its address that are open at this server.
    pub open_sockets: u64,
    /// How its last wake went.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_wake: Option<LastWake>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn to_leave_a_field_and_to_unsay_it_are_two_things() {
        let read = |text: &str| serde_json::from_str::<ChangePolicy>(text).unwrap();
        assert_eq!(read("{}"), ChangePolicy::default());
        assert_eq!(read(r#"{"idle_seconds": null}"#).idle_seconds, Some(None));
        assert_eq!(read(r#"{"idle_seconds": 60}"#).idle_seconds, Some(Some(60)));
        let sent = serde_json::to_string(&read(r#"{"idle_seconds": null, "never": true}"#)).unwrap();
        assert_eq!(sent, r#"{"never":true,"idle_seconds":null}"#);
    }
}
