//! A dialled claw speaks OpenClaw's gateway protocol.

use std::time::Duration;

use clawfarm_model::Code;
use clawfarm_runtime::Runtime;
use clawfarm_runtime_sim::{ActKind, Blocker, SimRuntime};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::common::{GRACE, PORT, id, until, up, world};

/// One request on a connection of its own; the status and the body.
async fn ask(sim: &SimRuntime, method: &str, path: &str, token: &str, body: &str) -> (u16, String) {
    let mut connection = sim.dial(&id("a-12345"), PORT).await.unwrap();
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\
         Content-Length: {length}\r\n\r\n{body}"
    );
    connection.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await.unwrap();
    let status = answer.split(' ').nth(1).expect("a status line").parse().unwrap();
    (status, answer.split_once("\r\n\r\n").expect("a head").1.to_owned())
}

async fn get(sim: &SimRuntime, path: &str) -> (u16, Value) {
    let (status, body) = ask(sim, "GET", path, "open-sesame", "").await;
    (status, serde_json::from_str(&body).unwrap())
}

async fn rpc(sim: &SimRuntime, method: &str, params: Value) -> (u16, Value) {
    let body = json!({"method": method, "params": params}).to_string();
    let (status, body) = ask(sim, "POST", "/api/v1/admin/rpc", "open-sesame", &body).await;
    (status, serde_json::from_str(&body).unwrap())
}

async fn chat(sim: &SimRuntime, text: &str, stream: bool) -> (u16, String) {
    let body = json!({"model": "openclaw", "stream": stream,
        "messages": [{"role": "user", "content": text}]});
    ask(sim, "POST", "/v1/chat/completions", "open-sesame", &body.to_string()).await
}

#[tokio::test]
async fn it_listens_then_starts_then_is_ready() {
    let (_folder, sim) = world();
    let a = id("a-12345");
    // A minute is longer than this test: it does not listen, whatever else the machine does.
    let boot = |listen: u64, boot: u64| {
        sim.world().change_behaviour(|b| {
            b.claw.listen_ms = Some((listen, listen));
            b.claw.boot_ms = Some((boot, boot));
        })
    };
    boot(60_000, 60_000).unwrap();
    up(&sim, &a, PORT, 1).await;
    assert_eq!(sim.dial(&a, PORT).await.err().unwrap().code(), Code::Unavailable);
    sim.kill(&a).await.unwrap();
    boot(0, 60_000).unwrap();
    up(&sim, &a, PORT, 2).await;
    assert_eq!(sim.dial(&a, PORT + 1).await.err().unwrap().code(), Code::Unavailable);
    assert_eq!(get(&sim, "/healthz").await, (200, json!({"ok": true, "status": "live"})));
    let (status, body) = get(&sim, "/startupz").await;
    assert_eq!((status, &body["status"]), (503, &json!("starting")));
    sim.kill(&a).await.unwrap();
    boot(20, 100).unwrap();
    up(&sim, &a, PORT, 3).await;
    until("it listens", || async { sim.dial(&a, PORT).await.is_ok() }).await;
    until("it has started", || async { get(&sim, "/startupz").await.0 == 200 }).await;
    assert_eq!(get(&sim, "/readyz").await.1["ready"], true);
    sim.world().change_behaviour(|b| b.claw.unhealthy = Some(true)).unwrap();
    assert_eq!(get(&sim, "/healthz").await.0, 503);
    sim.kill(&a).await.unwrap();
    assert_eq!(sim.dial(&a, PORT).await.err().unwrap().code(), Code::Unavailable);
}

#[tokio::test]
async fn it_answers_whole_and_streamed_to_its_token_only() {
    let (_folder, sim) = world();
    up(&sim, &id("a-12345"), PORT, 1).await;
    let (status, body) = chat(&sim, "hello there", false).await;
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((status, &body["choices"][0]["message"]["content"]), (200, &json!("sim says: hello there")));
    let (_, streamed) = chat(&sim, "hello there", true).await;
    let text: String = streamed
        .lines()
        .filter_map(|line| line.strip_prefix("data: "))
        .filter_map(|data| serde_json::from_str::<Value>(data).ok())
        .filter_map(|event| event["choices"][0]["delta"]["content"].as_str().map(str::to_owned))
        .collect();
    assert_eq!(text, "sim says: hello there");
    assert!(streamed.contains("\"usage\"") && streamed.contains("data: [DONE]"));
    assert_eq!(ask(&sim, "POST", "/v1/chat/completions", "wrong", "{}").await.0, 401);
    assert_eq!(ask(&sim, "GET", "/anything", "", "").await.0, 200);
    assert_eq!(rpc(&sim, "no.such", json!({})).await.0, 400);
}

#[tokio::test]
async fn an_idle_claw_is_drained_at_once_and_takes_work_again() {
    let (_folder, sim) = world();
    let a = id("a-12345");
    up(&sim, &a, PORT, 1).await;
    let (_, answer) = rpc(&sim, "gateway.suspend.prepare", json!({"requestId": "r", "drain": true})).await;
    assert_eq!(answer["payload"]["status"], "ready");
    let suspension = answer["payload"]["suspensionId"].as_str().unwrap().to_owned();
    assert_eq!(get(&sim, "/startupz").await.0, 503);
    assert_eq!(get(&sim, "/readyz").await.1["failing"], json!(["gateway-draining"]));
    assert_eq!(chat(&sim, "x", false).await.0, 503);
    let (status, answer) = rpc(&sim, "health", json!({})).await;
    assert_eq!((status, &answer["error"]["details"]["reason"]), (503, &json!("gateway-suspending")));
    // Asked for again it is renewed; somebody else does not get it.
    let (_, again) = rpc(&sim, "gateway.suspend.prepare", json!({"requestId": "r", "drain": true})).await;
    assert_eq!(again["payload"]["suspensionId"], json!(suspension));
    let (_, other) = rpc(&sim, "gateway.suspend.prepare", json!({"requestId": "s", "drain": true})).await;
    assert_eq!(other["error"]["details"]["reason"], "gateway-suspension-conflict");
    let wrong = rpc(&sim, "gateway.suspend.resume", json!({"suspensionId": "x"})).await;
    assert_eq!(wrong.0, 400);
    let params = json!({"suspensionId": suspension});
    assert_eq!(rpc(&sim, "gateway.suspend.status", params.clone()).await.1["payload"]["status"], "ready");
    assert_eq!(rpc(&sim, "gateway.suspend.resume", params).await.1["payload"]["status"], "running");
    assert_eq!(chat(&sim, "x", false).await.0, 200);
    use ActKind as K;
    assert_eq!(sim.world().acts_on(&a).unwrap(), [K::Ensure, K::Start, K::Drain, K::Undrain]);
}

#[tokio::test]
async fn a_busy_claw_refuses_or_drains() {
    let (_folder, sim) = world();
    up(&sim, &id("a-12345"), PORT, 1).await;
    sim.world()
        .change_behaviour(|b| {
            b.claw.busy = Some(vec![Blocker::new("queue", "2 queued or active operation(s)")]);
            b.claw.drain_ms = Some((200, 200));
        })
        .unwrap();
    let (_, refused) = rpc(&sim, "gateway.suspend.prepare", json!({"requestId": "r"})).await;
    assert_eq!(refused["payload"]["status"], "busy");
    assert_eq!(refused["payload"]["blockers"][0]["message"], "2 queued or active operation(s)");
    assert_eq!(chat(&sim, "x", false).await.0, 200);
    let (_, begun) = rpc(&sim, "gateway.suspend.prepare", json!({"requestId": "r", "drain": true})).await;
    assert_eq!(begun["payload"]["status"], "draining");
    let params = json!({"suspensionId": begun["payload"]["suspensionId"]});
    until("it is drained", || async {
        rpc(&sim, "gateway.suspend.status", params.clone()).await.1["payload"]["status"] == "ready"
    })
    .await;
}

#[tokio::test]
async fn an_answer_under_way_makes_it_busy_and_waits_through_a_freeze() {
    let (_folder, sim) = world();
    let a = id("a-12345");
    up(&sim, &a, PORT, 1).await;
    sim.world().change_behaviour(|b| b.claw.answer_ms = Some((2_000, 2_000))).unwrap();
    let answer = chat(&sim, "one two three four", true);
    let meanwhile = async {
        until("it is busy", || async {
            let (_, status) = rpc(&sim, "status", json!({})).await;
            status["payload"]["shutdownBudget"]["activeWork"]["rootRequests"] == 1
        })
        .await;
        let (_, busy) = rpc(&sim, "gateway.suspend.prepare", json!({"requestId": "r"})).await;
        assert_eq!(busy["payload"]["blockers"][0]["kind"], "embedded-run");
        let freeze = sim.freeze().unwrap();
        freeze.freeze(&a).await.unwrap();
        let probe = tokio::time::timeout(Duration::from_millis(800), get(&sim, "/healthz")).await;
        assert!(probe.is_err(), "a frozen claw answers nothing");
        freeze.thaw(&a).await.unwrap();
    };
    let ((status, body), ()) = tokio::join!(answer, meanwhile);
    assert_eq!(status, 200);
    assert!(body.contains("[DONE]"), "{body}");
}

#[tokio::test]
async fn the_end_of_a_claw_breaks_its_answers_off() {
    let (_folder, sim) = world();
    let a = id("a-12345");
    up(&sim, &a, PORT, 1).await;
    sim.world().change_behaviour(|b| b.claw.answer_ms = Some((5_000, 5_000))).unwrap();
    let (answer, ()) = tokio::join!(chat(&sim, "one two three four five six", true), async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        sim.stop(&a, GRACE).await.unwrap();
    });
    assert!(!answer.1.contains("[DONE]"), "{answer:?}");
}
