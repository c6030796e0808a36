//! `POST /api/v1/admin/rpc`: what it works on, and suspending it.

use std::io;
use std::sync::atomic::Ordering;

use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use serde_json::{Value, json};

use super::http::{Body, json_response, read_json};
use super::{Gateway, Moment};
use crate::behaviour::{Blocker, ClawBehaviour};
use crate::journal::ActKind;
use crate::record::Suspension;
use crate::world::Step;

/// How long a busy claw asks to wait before the next try (as OpenClaw says it), in milliseconds.
const RETRY_AFTER_MS: u64 = 20_000;

impl Gateway {
    pub(super) async fn rpc(
        &self,
        request: Request<Incoming>,
        moment: &Moment,
    ) -> io::Result<Response<Body>> {
        let id = format!("sim-{}", self.chats.asked.fetch_add(1, Ordering::Relaxed));
        let call: Value = match read_json(request).await {
            Ok(call) => call,
            Err(message) => return Ok(Refusal::invalid(&message).response(&id)),
        };
        let method = call["method"].as_str().unwrap_or_default();
        Ok(match self.call(method, &call["params"], moment).await? {
            Ok(payload) => json_response(StatusCode::OK, &json!({"id": id, "ok": true, "payload": payload})),
            Err(refusal) => refusal.response(&id),
        })
    }

    async fn call(
        &self,
        method: &str,
        params: &Value,
        moment: &Moment,
    ) -> io::Result<std::result::Result<Value, Refusal>> {
        let suspended = moment.up.suspension(moment.now);
        Ok(Ok(match method {
            "gateway.suspend.prepare" => return self.prepare(params, moment).await,
            "gateway.suspend.status" | "gateway.suspend.resume" => {
                let given = params["suspensionId"].as_str().unwrap_or_default();
                match suspended.filter(|s| s.id == given) {
                    None => return Ok(Err(Refusal::invalid(&format!("invalid {method} params")))),
                    Some(_) if method == "gateway.suspend.resume" => self.resume().await?,
                    Some(suspension) => self.progress(suspension, moment),
                }
            }
            _ if suspended.is_some() => {
                let message = format!("{method} unavailable during gateway suspension");
                return Ok(Err(Refusal::unavailable(&message, "gateway-suspending")));
            }
            "health" => json!({"ok": true, "ts": moment.now, "durationMs": 0, "channels": {},
                "agents": [{"agentId": "main", "isDefault": true}], "defaultAgentId": "main"}),
            "status" => {
                let recent: Vec<_> = moment.claw.used_at.iter().map(|at| json!({"updatedAt": at})).collect();
                json!({"runtimeVersion": "sim", "sessions": {"count": recent.len(), "recent": recent},
                    "shutdownBudget": {"activeWork": {"rootRequests": self.chats.count(&self.id)}}})
            }
            "cron.status" => {
                let jobs = moment.claw.jobs.clone().unwrap_or_default();
                let next = jobs.iter().filter(|at| **at > moment.now).min();
                json!({"enabled": true, "jobs": jobs.len(), "nextWakeAtMs": next})
            }
            "config.get" => self.config(moment),
            "tasks.list" => json!({"tasks": []}),
            _ => return Ok(Err(Refusal::invalid(&format!("unknown method: {method}")))),
        }))
    }

    /// `gateway.suspend.prepare`: ready at once when idle; when busy, refused, or with
    /// `drain` begun. Asked again under the same name, it renews the suspension.
    async fn prepare(
        &self,
        params: &Value,
        moment: &Moment,
    ) -> io::Result<std::result::Result<Value, Refusal>> {
        let Some(request_id) = params["requestId"].as_str().map(str::to_owned) else {
            return Ok(Err(Refusal::invalid("invalid gateway.suspend.prepare params")));
        };
        let held = moment.up.suspension(moment.now);
        if held.is_some_and(|held| held.request_id != request_id) {
            let message = "another gateway suspension is held";
            return Ok(Err(Refusal::unavailable(message, "gateway-suspension-conflict")));
        }
        let blockers = self.blockers(&moment.claw);
        if held.is_none() && !blockers.is_empty() && params["drain"] != json!(true) {
            return Ok(Ok(json!({"status": "busy", "reason": "active-work", "retryAfterMs": RETRY_AFTER_MS,
                "activeCount": active(&blockers), "blockers": blockers, "writeCustody": []})));
        }
        let drains = moment.claw.drain_ms.map(|range| i64::try_from(range.1).unwrap_or(i64::MAX));
        let step = if held.is_some() { Step::Note } else { Step::Act(ActKind::Drain) };
        let suspension = self
            .change(step, move |record, now| {
                let drained_at = drains.map(|millis| now.saturating_add(millis));
                record.suspend_gateway(now, &request_id, drained_at).cloned()
            })
            .await?
            .ok_or_else(|| io::Error::other("the simulated claw ended"))?;
        let mut answer = self.progress(&suspension, moment);
        answer["suspensionId"] = json!(suspension.id);
        Ok(Ok(answer))
    }

    fn progress(&self, suspension: &Suspension, moment: &Moment) -> Value {
        let busy = self.blockers(&moment.claw);
        let blockers = suspension.blockers(moment.now, &busy);
        let mut answer = json!({"status": "ready", "expiresAtMs": suspension.expires_at,
            "activeCount": active(blockers), "blockers": blockers, "writeCustody": []});
        if !blockers.is_empty() {
            answer["status"] = json!("draining");
            answer["retryAfterMs"] = json!(RETRY_AFTER_MS);
        }
        answer
    }

    async fn resume(&self) -> io::Result<Value> {
        self.change(Step::Act(ActKind::Undrain), |record, _| record.resume_gateway().then_some(())).await?;
        Ok(json!({"ok": true, "status": "running", "resumed": true}))
    }

    /// What it is working on.
    fn blockers(&self, claw: &ClawBehaviour) -> Vec<Blocker> {
        let mut blockers = claw.busy.clone().unwrap_or_default();
        let count = self.chats.count(&self.id);
        if count > 0 {
            let message = format!("{count} active embedded run(s)");
            blockers.push(Blocker { kind: "embedded-run".to_owned(), count, message });
        }
        blockers
    }
}

fn active(blockers: &[Blocker]) -> u64 {
    blockers.iter().map(|blocker| blocker.count).sum()
}

/// A call of the admin RPC that is not answered.
struct Refusal {
    status: StatusCode,
    error: Value,
}

impl Refusal {
    fn invalid(message: &str) -> Self {
        Self {
            status: StatusCode::BAD_REQUEST,
            error: json!({"code": "INVALID_REQUEST", "message": message}),
        }
    }

    fn unavailable(message: &str, reason: &str) -> Self {
        Self {
            status: StatusCode::SERVICE_UNAVAILABLE,
            error: json!({"code": "UNAVAILABLE", "message": message, "retryable": true,
                "retryAfterMs": 1000, "details": {"reason": reason}}),
        }
    }

    fn response(self, id: &str) -> Response<Body> {
        json_response(self.status, &json!({"id": id, "ok": false, "error": self.error}))
    }
}
