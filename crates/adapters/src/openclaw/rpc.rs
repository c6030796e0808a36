//! OpenClaw's admin RPC over HTTP, and the drain that is built on it.
//!
//! A drain is a lease of two minutes, held under a request id. The id is always the same
//! one ([`REQUEST_ID`]), so nothing has to be remembered between calls: asking for the lease
//! again renews it and tells how far it is, and taking it back begins by asking for its name.

use std::time::Duration;

use clawfarm_model::{Code, Error, Result};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::config::shown;
use super::http::{Http, request};
use crate::{Access, Activity};

const PATH: &str = "/api/v1/admin/rpc";
/// How long one call may take. Suspension answers in 10 ms, even while a turn runs; a gateway
/// short of processor time may hold everything for seconds.
const LIMIT: Duration = Duration::from_secs(15);
/// The largest answer, in bytes; `status` has 10 kB.
const MAX: usize = 1 << 20;
/// The name of clawfarm's own lease. One claw has one clawfarm.
const REQUEST_ID: &str = "clawfarm";
/// How often a drain is looked at. OpenClaw proposes 20 s, at which an idle claw would be
/// found idle 20 s late; a look costs it 10 ms.
const POLL: Duration = Duration::from_millis(250);

/// One answer of the RPC.
pub(super) enum Answer {
    Ok(Value),
    Refused { code: String, message: String, reason: String },
}

pub(super) async fn call(
    http: &mut Http,
    access: &Access<'_>,
    method: &str,
    params: Value,
) -> Result<Answer> {
    call_up_to(http, access, method, params, MAX).await
}

/// A call whose answer may have `max` bytes.
pub(super) async fn call_up_to(
    http: &mut Http,
    access: &Access<'_>,
    method: &str,
    params: Value,
    max: usize,
) -> Result<Answer> {
    let body = json!({ "method": method, "params": params });
    let response =
        http.whole(request(http::Method::POST, PATH, Some(access.token), Some(&body))?, LIMIT, max).await?;
    read_answer(response.status.as_u16(), &response.body)
}

/// What an answer says. It comes from a claw, which may say anything.
fn read_answer(status: u16, body: &[u8]) -> Result<Answer> {
    let said = || shown(&String::from_utf8_lossy(body));
    if status == 401 {
        return Err(Error::new(Code::Unavailable, "the claw refuses the gateway token")
            .fix("restart it, so that it takes the present token: clawfarm restart <id>"));
    }
    let Ok(answer) = serde_json::from_slice::<Value>(body) else {
        return Err(Error::new(
            Code::Unavailable,
            format!("the claw's admin interface answers {status}: {}", said()),
        )
        .fix("restart it, so that its configuration is mended: clawfarm restart <id>"));
    };
    if answer["ok"] == true {
        return Ok(Answer::Ok(answer["payload"].clone()));
    }
    let text = |v: &Value| shown(v.as_str().unwrap_or_default());
    let error = &answer["error"];
    Ok(Answer::Refused {
        code: text(&error["code"]),
        message: text(&error["message"]),
        reason: text(&error["details"]["reason"]),
    })
}

/// Where a drain is.
enum Lease {
    /// Nothing is under way and nothing new is taken.
    Ready { id: String },
    /// Nothing new is taken; this is still under way.
    Draining { id: String, blockers: Vec<String> },
    /// It was not given.
    Refused { blockers: Vec<String> },
}

async fn prepare(http: &mut Http, access: &Access<'_>) -> Result<Lease> {
    let params = json!({ "requestId": REQUEST_ID, "drain": true });
    read_lease(call(http, access, "gateway.suspend.prepare", params).await?)
}

/// What it works on, asked without a drain: a busy claw goes on taking work all the while, an
/// idle one answers new work for the 10 ms until it is let go again with "try again". `held`: a
/// drain was under way before, and stays.
pub(super) async fn idle(http: &mut Http, access: &Access<'_>, held: bool) -> Result<Activity> {
    let params = json!({ "requestId": REQUEST_ID, "drain": held });
    let lease = read_lease(call(http, access, "gateway.suspend.prepare", params).await?)?;
    if let (false, Lease::Ready { id } | Lease::Draining { id, .. }) = (held, &lease) {
        release(http, access, id).await?;
    }
    Ok(match lease {
        Lease::Ready { .. } => Activity::Idle,
        Lease::Draining { blockers, .. } | Lease::Refused { blockers } => Activity::Busy(blockers),
    })
}

fn read_lease(answer: Answer) -> Result<Lease> {
    match answer {
        Answer::Ok(payload) => {
            let id = payload["suspensionId"].as_str().unwrap_or_default().to_owned();
            match payload["status"].as_str() {
                Some("ready") if !id.is_empty() => Ok(Lease::Ready { id }),
                Some("draining") if !id.is_empty() => {
                    Ok(Lease::Draining { id, blockers: blockers(&payload) })
                }
                Some("busy") => Ok(Lease::Refused { blockers: blockers(&payload) }),
                _ => Err(Error::new(
                    Code::Unavailable,
                    "the claw answered a request to drain with something unknown",
                )
                .source(payload.to_string())),
            }
        }
        Answer::Refused { reason, .. } if reason == "gateway-suspension-conflict" => {
            Ok(Lease::Refused { blockers: vec!["a suspension that somebody else asked for".to_owned()] })
        }
        Answer::Refused { code, message, .. } => Err(refused("drain", &code, &message)),
    }
}

pub(super) fn refused(what: &str, code: &str, message: &str) -> Error {
    Error::new(Code::Unavailable, format!("the claw would not {what}: {message} ({code})"))
        .fix("try again; look at what it prints: clawfarm logs <id>")
}

/// What is under way, in OpenClaw's words.
fn blockers(payload: &Value) -> Vec<String> {
    /// More than these help nobody.
    const MOST: usize = 20;
    let mut said: Vec<String> = payload["blockers"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|b| b["message"].as_str())
        .take(MOST)
        .map(|text| text.chars().take(200).flat_map(char::escape_debug).collect())
        .collect();
    if said.is_empty() {
        said.push(format!("{} active operation(s)", payload["activeCount"].as_u64().unwrap_or(1)));
    }
    said
}

/// What it works on, changing nothing that lasts.
///
/// OpenClaw has no question for this alone. `status` sees the most common kind of work, a
/// turn that somebody waits for; the rest (queues, background commands, tasks) is told only
/// to who asks for a drain. So a drain is asked for and taken back on the same connection,
/// for 10 ms in which new work is answered with "try again".
pub(super) async fn activity(access: &Access<'_>) -> Result<Activity> {
    let mut http = Http::open(access.dial).await?;
    let held = match call(&mut http, access, "status", json!({})).await? {
        Answer::Ok(status) => {
            if let Some(busy) = requests(&status) {
                return Ok(busy);
            }
            false
        }
        Answer::Refused { reason, .. } if reason == "gateway-suspending" => true,
        Answer::Refused { code, message, .. } => {
            return Err(refused("say what it works on", &code, &message));
        }
    };
    let lease = prepare(&mut http, access).await?;
    // A drain that was under way before stays: only the end of its lease has moved.
    if let (false, Lease::Ready { id } | Lease::Draining { id, .. }) = (held, &lease) {
        release(&mut http, access, id).await?;
    }
    Ok(match lease {
        Lease::Ready { .. } => Activity::Idle,
        Lease::Draining { blockers, .. } | Lease::Refused { blockers } => Activity::Busy(blockers),
    })
}

/// The requests that it answers, by its `status`.
pub(super) fn requests(status: &Value) -> Option<Activity> {
    let requests = status["shutdownBudget"]["activeWork"]["rootRequests"].as_u64().unwrap_or(0);
    (requests > 0).then(|| Activity::Busy(vec![format!("{requests} active gateway request(s)")]))
}

/// Takes no further work, and waits until it has finished what it has; a claw that is still
/// busy when `wait` is over goes on as before.
pub(super) async fn drain(access: &Access<'_>, wait: Duration) -> Result<Activity> {
    let mut http = Http::open(access.dial).await?;
    let deadline = Instant::now() + wait;
    loop {
        match prepare(&mut http, access).await? {
            Lease::Ready { .. } => return Ok(Activity::Idle),
            Lease::Refused { blockers } => return Ok(Activity::Busy(blockers)),
            Lease::Draining { id, blockers } if Instant::now() + POLL >= deadline => {
                release(&mut http, access, &id).await?;
                return Ok(Activity::Busy(blockers));
            }
            Lease::Draining { .. } => sleep(POLL).await,
        }
    }
}

/// Lets it take work again.
pub(super) async fn undrain(access: &Access<'_>) -> Result<()> {
    let mut http = Http::open(access.dial).await?;
    // `status` answers only while nothing is held: most often there is nothing to take back.
    if let Answer::Ok(_) = call(&mut http, access, "status", json!({})).await? {
        return Ok(());
    }
    match prepare(&mut http, access).await? {
        Lease::Ready { id } | Lease::Draining { id, .. } => release(&mut http, access, &id).await,
        Lease::Refused { blockers } => {
            Err(Error::new(Code::Unavailable, format!("the claw is held by {}", blockers.join(", ")))
                .fix("a suspension ends by itself after two minutes; then try again"))
        }
    }
}

async fn release(http: &mut Http, access: &Access<'_>, id: &str) -> Result<()> {
    match call(http, access, "gateway.suspend.resume", json!({ "suspensionId": id })).await? {
        Answer::Ok(_) => Ok(()),
        Answer::Refused { code, message, .. } => Err(refused("go on after a drain", &code, &message)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fuzz_answers_of_the_rpc() {
        let seeds = [
            r#"{"ok":true,"payload":{"status":"ready","suspensionId":"s-1","blockers":[]}}"#,
            r#"{"ok":true,"payload":{"status":"draining","suspensionId":"s-1","blockers":[{"message":"a turn"}],"activeCount":2}}"#,
            r#"{"ok":false,"error":{"code":"UNAVAILABLE","message":"no","details":{"reason":"gateway-suspending"}}}"#,
            "<!doctype html>",
        ];
        let tidy = |text: &str| text.len() < 8_000 && !text.contains(char::is_control);
        clawfarm_fuzz::fuzz_text(&seeds, |body| {
            match read_answer(200, body.as_bytes()).and_then(read_lease) {
                Ok(Lease::Ready { id }) => assert!(!id.is_empty()),
                Ok(Lease::Draining { blockers, .. } | Lease::Refused { blockers }) => {
                    assert!(!blockers.is_empty() && blockers.len() <= 20 && blockers.iter().all(|b| tidy(b)));
                }
                Err(error) => assert!(tidy(error.message()), "{error}"),
            }
        });
    }
}
