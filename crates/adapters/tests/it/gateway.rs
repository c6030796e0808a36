//! Probes, drain and chat against a gateway that plays captured answers of OpenClaw's.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use clawfarm_adapters::openclaw::OpenClaw;
use clawfarm_adapters::{Access, Activity, ClawAdapter as _, Connection, Dial, Probe, SendEvent};
use clawfarm_model::{Code, Error, Result};
use futures::StreamExt as _;
use secrecy::SecretString;
use serde_json::{Value, json};
use tokio::io::DuplexStream;

use crate::wire;

/// What is answered: status, content type, body in the pieces it is sent in.
struct Played(u16, &'static str, Vec<Vec<u8>>);

fn json_(status: u16, body: &Value) -> Played {
    Played(status, "application/json", vec![body.to_string().into_bytes()])
}

type Play = dyn Fn(&str, &Value) -> Played + Send + Sync;

/// A gateway that plays `play` for each path and body.
struct Gateway {
    play: Arc<Play>,
    /// `(path, body)` of every request, in order.
    seen: Arc<Mutex<Vec<(String, Value)>>>,
}

impl Gateway {
    fn new(play: impl Fn(&str, &Value) -> Played + Send + Sync + 'static) -> Self {
        Self { play: Arc::new(play), seen: Arc::default() }
    }

    fn methods(&self) -> Vec<String> {
        let seen = self.seen.lock().expect("no test panics while it holds it");
        seen.iter().filter_map(|(_, body)| body["method"].as_str().map(str::to_owned)).collect()
    }
}

#[async_trait]
impl Dial for Gateway {
    async fn dial(&self) -> Result<Box<dyn Connection>> {
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        tokio::spawn(serve(ours, Arc::clone(&self.play), Arc::clone(&self.seen)));
        Ok(Box::new(theirs))
    }
}

async fn serve(mut stream: DuplexStream, play: Arc<Play>, seen: Arc<Mutex<Vec<(String, Value)>>>) {
    let mut buffer = Vec::new();
    while let Some(request) = wire::read(&mut stream, &mut buffer).await {
        let path = request.path;
        let body = serde_json::from_slice(&request.body).unwrap_or(Value::Null);
        let played = if path.ends_with('z') || request.head.contains("authorization: bearer tok\r\n") {
            play(&path, &body)
        } else {
            json_(401, &json!({"error": {"message": "Unauthorized", "type": "unauthorized"}}))
        };
        seen.lock().expect("no test panics while it holds it").push((path, body));
        let Played(status, kind, pieces) = played;
        let mut sent = wire::head(&mut stream, status, kind).await;
        for piece in pieces.iter().filter(|p| !p.is_empty()) {
            sent = sent.and(wire::piece(&mut stream, piece).await);
            tokio::task::yield_now().await;
        }
        if sent.and(wire::piece(&mut stream, b"").await).is_err() {
            return;
        }
    }
}

fn token() -> SecretString {
    SecretString::from("tok")
}

/// Plays the suspension: idle after `busy` requests to prepare.
fn suspending(busy: usize) -> Gateway {
    let state = Mutex::new((busy, false));
    Gateway::new(move |path, body| {
        assert_eq!(path, "/api/v1/admin/rpc");
        let (left, held) = &mut *state.lock().expect("no test panics while it holds it");
        let ok = |payload: Value| json_(200, &json!({"id": "x", "ok": true, "payload": payload}));
        match body["method"].as_str() {
            Some("status") if *held => json_(
                503,
                &json!({"id": "x", "ok": false, "error": {"code": "UNAVAILABLE", "message": "status unavailable during gateway suspension",
                    "retryable": true, "details": {"method": "status", "reason": "gateway-suspending", "phase": "draining"}}}),
            ),
            Some("status") => ok(json!({"shutdownBudget": {"activeWork": {"rootRequests": 0}}})),
            Some("gateway.suspend.prepare") => {
                assert_eq!(body["params"], json!({"requestId": "clawfarm", "drain": true}));
                *held = true;
                if *left == 0 {
                    return ok(
                        json!({"status": "ready", "suspensionId": "s-1", "expiresAtMs": 1, "activeCount": 0, "blockers": []}),
                    );
                }
                *left -= 1;
                ok(
                    json!({"status": "draining", "suspensionId": "s-1", "expiresAtMs": 1, "activeCount": 2, "retryAfterMs": 20000,
                    "blockers": [{"kind": "embedded-run", "count": 1, "message": "1 active embedded run(s)"}]}),
                )
            }
            Some("gateway.suspend.resume") => {
                assert_eq!(body["params"], json!({"suspensionId": "s-1"}));
                *held = false;
                ok(json!({"ok": true, "status": "running", "resumed": true}))
            }
            other => panic!("no such method: {other:?}"),
        }
    })
}

const PREPARE: &str = "gateway.suspend.prepare";
const RESUME: &str = "gateway.suspend.resume";

#[tokio::test]
async fn asking_what_it_does_leaves_it_as_it_was() {
    for (busy, expected) in
        [(0, Activity::Idle), (1, Activity::Busy(vec!["1 active embedded run(s)".into()]))]
    {
        let gateway = suspending(busy);
        let access = Access { dial: &gateway, token: &token() };
        assert_eq!(OpenClaw.activity(&access).await.unwrap(), expected);
        assert_eq!(gateway.methods(), ["status", PREPARE, RESUME]);
    }
    // Under a drain it answers, and the drain stays.
    let gateway = suspending(0);
    let access = Access { dial: &gateway, token: &token() };
    assert_eq!(OpenClaw.drain(&access, Duration::ZERO).await.unwrap(), Activity::Idle);
    assert_eq!(OpenClaw.activity(&access).await.unwrap(), Activity::Idle);
    assert_eq!(gateway.methods(), [PREPARE, "status", PREPARE]);
}

#[tokio::test]
async fn a_turn_under_way_is_seen_without_touching_it() {
    let gateway = Gateway::new(|_, _| {
        json_(200, &json!({"ok": true, "payload": {"shutdownBudget": {"activeWork": {"rootRequests": 1}}}}))
    });
    let access = Access { dial: &gateway, token: &token() };
    assert!(matches!(OpenClaw.activity(&access).await.unwrap(), Activity::Busy(_)));
    assert_eq!(gateway.methods(), ["status"]);
}

#[tokio::test]
async fn a_drain_waits_as_long_as_it_may() {
    let gateway = suspending(2);
    let access = Access { dial: &gateway, token: &token() };
    assert_eq!(OpenClaw.drain(&access, Duration::from_secs(20)).await.unwrap(), Activity::Idle);
    assert_eq!(gateway.methods(), [PREPARE, PREPARE, PREPARE], "it stays drained");
    OpenClaw.undrain(&access).await.unwrap();
    OpenClaw.undrain(&access).await.expect("done twice is done once");
    assert_eq!(gateway.methods()[3..], ["status", PREPARE, RESUME, "status"]);

    let gateway = suspending(usize::MAX);
    let access = Access { dial: &gateway, token: &token() };
    for wait in [Duration::ZERO, Duration::from_millis(400)] {
        assert!(matches!(OpenClaw.drain(&access, wait).await.unwrap(), Activity::Busy(_)));
        assert_eq!(gateway.methods().last().map(String::as_str), Some(RESUME), "a busy one goes on");
    }
}

#[tokio::test]
async fn anothers_suspension_is_told() {
    let gateway = Gateway::new(|_, body| {
        let reason =
            if body["method"] == "status" { "gateway-suspending" } else { "gateway-suspension-conflict" };
        json_(
            503,
            &json!({"ok": false, "error": {"code": "UNAVAILABLE", "message": "m", "details": {"reason": reason}}}),
        )
    });
    let access = Access { dial: &gateway, token: &token() };
    assert!(
        matches!(OpenClaw.activity(&access).await.unwrap(), Activity::Busy(w) if w[0].contains("somebody else"))
    );
    assert_eq!(OpenClaw.undrain(&access).await.unwrap_err().code(), Code::Unavailable);
}

#[tokio::test]
async fn a_wrong_token_says_what_to_do() {
    let gateway = suspending(0);
    let access = Access { dial: &gateway, token: &SecretString::from("old") };
    for error in [
        OpenClaw.activity(&access).await.unwrap_err(),
        OpenClaw.send(&access, "hi").await.map(|_| ()).unwrap_err(),
    ] {
        assert_eq!(error.code(), Code::Unavailable);
        assert!(error.fix_text().is_some_and(|f| f.contains("restart")), "{error}");
    }
}

#[tokio::test]
async fn probes_tell_not_yet_from_no_answer() {
    let gateway = Gateway::new(|path, _| match path {
        "/startupz" => json_(503, &json!({"ok": false, "status": "draining"})),
        _ => json_(200, &json!({"ok": true, "status": "live"})),
    });
    let access = Access { dial: &gateway, token: &token() };
    assert_eq!(
        OpenClaw.probe_startup(access.dial).await,
        Probe::Failed("/startupz answers 503: draining".into())
    );
    assert_eq!(OpenClaw.probe_liveness(access.dial).await, Probe::Passed);
    let page = Gateway::new(|_, _| Played(200, "text/html", vec![b"<!doctype html>".to_vec()]));
    assert!(matches!(OpenClaw.probe_startup(&page).await, Probe::Failed(_)));
    let endless = Gateway::new(|_, _| Played(200, "application/json", vec![vec![b' '; 100_000]]));
    assert!(matches!(OpenClaw.probe_startup(&endless).await, Probe::NoAnswer(_)));
    assert!(matches!(OpenClaw.probe_startup(&Nobody).await, Probe::NoAnswer(_)));
}

/// Nothing listens.
struct Nobody;

#[async_trait]
impl Dial for Nobody {
    async fn dial(&self) -> Result<Box<dyn Connection>> {
        Err(Error::new(Code::Unavailable, "nothing listens"))
    }
}

async fn said(gateway: &Gateway) -> Vec<Result<SendEvent>> {
    let access = Access { dial: gateway, token: &token() };
    let stream = OpenClaw.send(&access, "hi").await.expect("it is taken");
    tokio::time::timeout(Duration::from_secs(20), stream.collect()).await.expect("the answer ends")
}

#[tokio::test]
async fn an_answer_arrives_in_whatever_pieces() {
    let stream = concat!(
        "data: {\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\"},\"finish_reason\":null}]}\n\n",
        ": keep-alive\n\n",
        "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"h\u{e9}llo \"},\"finish_reason\":null}]}\n\n",
        "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"there\"},\"finish_reason\":null}]}\r\n\r\n",
        "data: {\"choices\":[],\n",
        "data: \"usage\":{\"prompt_tokens\":15102,\"completion_tokens\":14}}\n\n",
        "data: [DONE]\n\n",
    );
    for size in [1, 7, 4096] {
        let gateway = Gateway::new(move |path, body| {
            assert_eq!(path, "/v1/chat/completions");
            assert_eq!((&body["user"], &body["stream"]), (&"clawfarm".into(), &true.into()));
            Played(
                200,
                "text/event-stream; charset=utf-8",
                stream.as_bytes().chunks(size).map(<[u8]>::to_vec).collect(),
            )
        });
        let events: Vec<SendEvent> = said(&gateway).await.into_iter().map(|e| e.expect("no error")).collect();
        let text = |t: &str| SendEvent::Text { text: t.into() };
        let done = SendEvent::Done { input_tokens: Some(15102), output_tokens: Some(14) };
        assert_eq!(events, [text("h\u{e9}llo "), text("there"), done]);
    }
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_an_error_and_not_an_end() {
    let cut = b"data: {\"choices\":[{\"delta\":{\"content\":\"half\"}}]}\n\ndata: {\"choi".to_vec();
    let gateway = Gateway::new(move |_, _| Played(200, "text/event-stream", vec![cut.clone()]));
    let events = said(&gateway).await;
    assert_eq!(events.len(), 2);
    assert_eq!(events[1].as_ref().unwrap_err().code(), Code::Unavailable);
}

#[tokio::test]
async fn a_message_is_sent_again_only_when_it_was_not_looked_at() {
    let refusals = Mutex::new(2);
    let gateway = Gateway::new(move |_, _| {
        let mut left = refusals.lock().expect("no test panics while it holds it");
        if *left == 0 {
            return Played(200, "text/event-stream", vec![b"data: [DONE]\n\n".to_vec()]);
        }
        *left -= 1;
        json_(
            503,
            &json!({"error": {"message": "Gateway is temporarily unavailable while suspending or restarting", "code": "gateway_unavailable"}}),
        )
    });
    assert_eq!(said(&gateway).await.len(), 1);
    for (status, code) in [(500, Code::ClawFailed), (400, Code::InvalidInput), (429, Code::Overloaded)] {
        let gateway = Gateway::new(move |_, _| json_(status, &json!({"error": {"message": "no"}})));
        let access = Access { dial: &gateway, token: &token() };
        let error = OpenClaw.send(&access, "hi").await.map(|_| ()).unwrap_err();
        assert_eq!(error.code(), code);
        assert_eq!(gateway.seen.lock().expect("no test panics while it holds it").len(), 1, "sent once");
    }
    let off = Gateway::new(|_, _| Played(200, "text/html", vec![b"<!doctype html>".to_vec()]));
    let access = Access { dial: &off, token: &token() };
    assert!(OpenClaw.send(&access, "hi").await.map(|_| ()).unwrap_err().message().contains("switched off"));
    assert_eq!(OpenClaw.send(&access, " ").await.map(|_| ()).unwrap_err().field_name(), Some("message"));
}
