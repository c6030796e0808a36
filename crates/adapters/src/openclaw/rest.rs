//! Whether an OpenClaw may sleep, and when it has to be up next: a few calls of the admin RPC on
//! one connection, of which each costs it 10 ms.

use clawfarm_model::{Result, Timestamp};
use serde_json::{Value, json};

use super::http::Http;
use super::rpc::{Answer, call, idle, refused, requests};
use crate::{Access, Activity, Rest};

/// All that tells whether it may sleep.
pub(super) async fn rest(access: &Access<'_>) -> Result<Rest> {
    let mut http = Http::open(access.dial).await?;
    let mut rest = Rest { activity: Activity::Idle, last_active: None, next_wake: None };
    let held = match call(&mut http, access, "status", json!({})).await? {
        Answer::Ok(status) => {
            rest.last_active = last_active(&status);
            if let Some(busy) = requests(&status) {
                return Ok(Rest { activity: busy, ..rest });
            }
            rest.next_wake = planned(&mut http, access).await?;
            false
        }
        Answer::Refused { reason, .. } if reason == "gateway-suspending" => true,
        Answer::Refused { code, message, .. } => {
            return Err(refused("say what it works on", &code, &message));
        }
    };
    rest.activity = idle(&mut http, access, held).await?;
    Ok(rest)
}

/// When its scheduler has to be up next. Heartbeats are jobs of it, too.
pub(super) async fn next_wake(access: &Access<'_>) -> Result<Option<Timestamp>> {
    planned(&mut Http::open(access.dial).await?, access).await
}

async fn planned(http: &mut Http, access: &Access<'_>) -> Result<Option<Timestamp>> {
    match call(http, access, "cron.status", json!({})).await? {
        Answer::Ok(status) => Ok(next_run(&status)),
        Answer::Refused { reason, code, message } if reason == "gateway-suspending" => {
            Err(refused("say what it has planned", &code, &message))
        }
        // It has no scheduler.
        Answer::Refused { .. } => Ok(None),
    }
}

fn next_run(status: &Value) -> Option<Timestamp> {
    if status["enabled"] == false {
        return None;
    }
    status["nextWakeAtMs"].as_i64().filter(|at| *at > 0).map(Timestamp::from_millis)
}

/// When the latest of its sessions was used.
fn last_active(status: &Value) -> Option<Timestamp> {
    let recent = status["sessions"]["recent"].as_array()?;
    recent.iter().filter_map(|session| session["updatedAt"].as_i64()).max().map(Timestamp::from_millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_openclaw_says() {
        // As 2026.9.6 answered.
        let cron = json!({"enabled": true, "triggersEnabled": true, "storage": "sqlite", "jobs": 3,
            "nextWakeAtMs": 1_795_230_000_000_i64});
        assert_eq!(next_run(&cron), Some(Timestamp::from_millis(1_795_230_000_000)));
        assert_eq!(next_run(&json!({"enabled": false, "nextWakeAtMs": 1_795_230_000_000_i64})), None);
        assert_eq!(next_run(&json!({"enabled": true, "jobs": 0, "nextWakeAtMs": null})), None);
        let status = json!({"sessions": {"count": 2, "recent": [
            {"key": "agent:main:main", "updatedAt": 1_795_227_410_605_i64, "age": 56265},
            {"key": "agent:main:x", "updatedAt": 1_795_227_407_561_i64}]}});
        assert_eq!(last_active(&status), Some(Timestamp::from_millis(1_795_227_410_605)));
        assert_eq!(last_active(&json!({"sessions": {"recent": []}})), None);
        assert_eq!(last_active(&json!("nonsense")), None);
    }
}
