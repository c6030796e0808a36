//! Bad input gets a clear error that names the field and the fix, and changes nothing.

use axum::body::Body;
use clawfarm_api::Problem;
use http::Method;

use crate::farm::{Answer, Farm, request};

fn problem(answer: &Answer) -> Problem {
    assert_eq!(
        answer.header("content-type"),
        "application/problem+json",
        "{} {}",
        answer.status,
        answer.text
    );
    let problem: Problem = serde_json::from_str(&answer.text).unwrap();
    assert_eq!(problem.status, answer.status.as_u16());
    assert_eq!(problem.request_id, answer.header("x-request-id"));
    assert!(!problem.request_id.is_empty() && !problem.title.is_empty() && !problem.reason.is_empty());
    problem
}

#[tokio::test]
async fn every_mistake_has_its_status_and_field() {
    let farm = Farm::new().await;
    let id = farm.new_claw("alice").await;
    let instances = "/api/v1/instances";
    let one = format!("{instances}/{id}");
    let (get, post, put, delete) = (Method::GET, Method::POST, Method::PUT, Method::DELETE);
    let long = format!(r#"{{"claw_type":"openclaw","version":"{}"}}"#, "x".repeat(2 << 20));
    let deep = format!(
        r#"{{"claw_type":"openclaw","config":{{"native":{}1{}}}}}"#,
        r#"{"a":"#.repeat(80),
        "}".repeat(80)
    );
    let cases: Vec<(&Method, String, &str, u16, Option<&str>)> = vec![
        (&post, instances.into(), "", 400, Some("body")),
        (&post, instances.into(), "{", 400, Some("body")),
        (&post, instances.into(), "[]", 400, Some("body")),
        (&post, instances.into(), "null", 400, Some("body")),
        (&post, instances.into(), r#"{"claw_type":"openclaw","color":1}"#, 400, Some("color")),
        (&post, instances.into(), r#"{"claw_type":"openclaw","claw_type":"x"}"#, 400, Some("claw_type")),
        (&post, instances.into(), r#"{"claw_type":"nobody-knows-it"}"#, 400, Some("claw_type")),
        (&post, instances.into(), r#"{"claw_type":"../etc"}"#, 400, Some("claw_type")),
        (&post, instances.into(), "{}", 400, Some("claw_type")),
        (&post, instances.into(), r#"{"claw_type":"openclaw","name":"-x"}"#, 400, Some("name")),
        (&post, instances.into(), r#"{"claw_type":"openclaw","port":80}"#, 400, Some("port")),
        (&post, instances.into(), r#"{"claw_type":"openclaw","port":"80"}"#, 400, Some("port")),
        (
            &post,
            instances.into(),
            r#"{"claw_type":"openclaw","resources":{"cpus":0}}"#,
            400,
            Some("resources.cpus"),
        ),
        (
            &post,
            instances.into(),
            r#"{"claw_type":"openclaw","resources":{"memory_mib":1}}"#,
            400,
            Some("resources.memory_mib"),
        ),
        (&post, instances.into(), r#"{"claw_type":"openclaw","runtime":"vm"}"#, 400, Some("runtime")),
        (&post, instances.into(), r#"{"claw_type":"openclaw","target":"nowhere"}"#, 404, Some("target")),
        (&post, instances.into(), r#"{"claw_type":"openclaw","dataset":"none-x7k2b"}"#, 404, None),
        (
            &post,
            instances.into(),
            r#"{"claw_type":"openclaw","config":{"model":{"provider":"anthropic","api_key":{"secret":"none"}}}}"#,
            400,
            Some("config"),
        ),
        (
            &post,
            instances.into(),
            r#"{"claw_type":"openclaw","secrets":{"bad name":"x"}}"#,
            400,
            Some("secrets.bad name"),
        ),
        (&post, instances.into(), &long, 413, Some("body")),
        (&post, instances.into(), &deep, 400, None),
        (&get, format!("{instances}?limit=0"), "", 400, Some("limit")),
        (&get, format!("{instances}?limit=501"), "", 400, Some("limit")),
        (&get, format!("{instances}?limit=x"), "", 400, Some("limit")),
        (&get, format!("{instances}?phase=tired"), "", 400, Some("phase")),
        (&get, format!("{instances}?label=x"), "", 400, Some("label")),
        (&get, format!("{instances}?label=a=1&label=a=2"), "", 400, Some("label")),
        (&get, format!("{instances}?cursor=x"), "", 400, Some("cursor")),
        (&get, format!("{instances}?cursor=%00%ff"), "", 400, Some("cursor")),
        (&get, format!("{instances}?unknown=1"), "", 400, Some("unknown")),
        (&get, format!("{instances}/%2e%2e%2fetc"), "", 400, Some("id")),
        (&get, format!("{instances}/%ff"), "", 400, Some("path")),
        (&get, format!("{instances}/{}", "a".repeat(65)), "", 400, Some("id")),
        (&get, format!("{instances}/nobody"), "", 404, None),
        (&put, one.clone(), r#"{"resources":{"cpus":-1}}"#, 400, Some("resources.cpus")),
        (&put, one.clone(), r#"{"name":"other"}"#, 400, Some("name")),
        (&put, format!("{instances}/nobody"), "{}", 404, None),
        (&delete, format!("{one}?purge=perhaps"), "", 400, Some("purge")),
        (&delete, format!("{instances}/nobody"), "", 404, None),
        (&post, format!("{one}/stop"), r#"{"hard":true}"#, 400, Some("hard")),
        (&post, format!("{one}/suspend"), r#"{"warm":1}"#, 400, Some("warm")),
        (&post, format!("{one}/send"), r#"{"message":""}"#, 400, Some("message")),
        (&post, format!("{one}/send"), "{}", 400, Some("message")),
        (&post, format!("{one}/console"), r#"{"cols":0}"#, 400, Some("cols")),
        (&post, format!("{one}/console"), r#"{"argv":["a\u0000"]}"#, 400, Some("argv")),
        (&get, format!("{one}/logs?since=yesterday"), "", 400, Some("since")),
        (&get, format!("{one}/logs?tail=-1"), "", 400, Some("tail")),
        (&get, format!("{one}/events?after=-1"), "", 400, Some("after")),
        (&get, "/api/v1/events?limit=9999".into(), "", 400, Some("limit")),
        (&get, "/api/v1/operations/nothing".into(), "", 404, None),
        (&get, "/api/v1/operations?instance=no/slash".into(), "", 400, Some("instance")),
        (&get, "/api/v1/operations/x?wait=61".into(), "", 400, Some("wait")),
        (&put, "/api/v1/secrets/bad%20name".into(), r#"{"value":"x"}"#, 400, Some("secret")),
        (&put, "/api/v1/secrets/key".into(), r#"{"value":""}"#, 400, Some("value")),
        (&put, "/api/v1/secrets/clawfarm.x".into(), r#"{"value":"x"}"#, 400, Some("secret")),
        (&put, "/api/v1/secrets/key".into(), r#"{"value":"x","instance":"nobody-x7k2b"}"#, 404, None),
        (&delete, "/api/v1/secrets/none".into(), "", 404, None),
        (&get, format!("{one}/inbox?state=gone"), "", 400, Some("state")),
        (&get, format!("{one}/inbox?limit=0"), "", 400, Some("limit")),
        (&get, format!("{one}/inbox?after=in-0"), "", 404, Some("after")),
        (&get, format!("{one}/inbox/in-0"), "", 404, None),
        (&get, format!("{one}/inbox/no%20id"), "", 400, Some("message")),
        (&get, format!("{instances}/nobody/inbox"), "", 404, None),
        (&post, format!("{one}/inbox/in-0/replay"), "", 404, None),
        (&delete, format!("{one}/inbox/in-0"), "", 404, None),
        (&delete, "/api/v1/datasets/none-x7k2b".into(), "", 404, None),
        (&delete, "/api/v1/datasets/NO".into(), "", 400, Some("id")),
        (&post, instances.into(), r#"{"claw_type":"openclaw","image":"a/../b"}"#, 400, Some("image")),
        (
            &post,
            instances.into(),
            r#"{"claw_type":"openclaw","image":"a","runtime":"sim"}"#,
            400,
            Some("image"),
        ),
        (&post, "/api/v1/images/pull".into(), r#"{"image":"../containers"}"#, 400, Some("image")),
        (&post, "/api/v1/images".into(), r#"{"claw_type":"openclaw","ref":"main"}"#, 400, Some("ref")),
        (
            &post,
            "/api/v1/images".into(),
            r#"{"claw_type":"openclaw","version":"2026.9.6","source":"https://x/y"}"#,
            400,
            Some("version"),
        ),
        (&delete, "/api/v1/images?image=-x".into(), "", 400, Some("image")),
        (&get, "/api/v1/images/log".into(), "", 400, Some("image")),
        (&get, "/api/v1/images/log?image=a&target=NO".into(), "", 400, Some("target")),
    ];
    for (method, path, body, status, field) in cases {
        let answer = farm.send(method.clone(), &path, &[], body).await;
        let what = format!("{method} {path} {}: {}", &body[..body.len().min(100)], answer.text);
        assert_eq!(answer.status, status, "{what}");
        let problem = problem(&answer);
        if let Some(field) = field {
            assert_eq!(problem.field.as_deref(), Some(field), "{what}");
            assert!(problem.fix.is_some(), "{what}");
        }
    }
    let list = farm.get(instances).await.json();
    assert_eq!(list["items"].as_array().unwrap().len(), 1, "nothing was made by mistake");
}

#[tokio::test]
async fn what_http_itself_refuses_is_a_problem_too() {
    let farm = Farm::new().await;
    let answer = farm.get("/api/v1/nothing").await;
    assert_eq!(answer.status, 404);
    problem(&answer);
    let answer = farm.send(Method::DELETE, "/api/v1/instances", &[], "{}").await;
    assert_eq!(answer.status, 405);
    assert!(answer.header("allow").contains("GET") && answer.header("allow").contains("POST"));
    problem(&answer);
    for content_type in ["text/plain", "application/x-www-form-urlencoded", ""] {
        let body = Body::from(r#"{"claw_type":"openclaw"}"#);
        let built =
            request(Method::POST, "/api/v1/instances").header("content-type", content_type).body(body);
        let answer = farm.ask(built.unwrap()).await;
        assert_eq!(answer.status, 415, "{content_type}");
        assert_eq!(problem(&answer).field.as_deref(), Some("Content-Type"));
    }
    let answer = farm.get("/api/v1/consoles/abc").await;
    assert_eq!(answer.status, 401);
    problem(&answer);
}

#[tokio::test]
async fn a_ticket_without_a_websocket_is_told_so() {
    let farm = Farm::new().await;
    let id = farm.ready_claw("alice").await;
    let ticket = farm.post(&format!("/api/v1/instances/{id}/console"), r#"{"argv":["true"]}"#).await;
    assert_eq!(ticket.status, 200, "{}", ticket.text);
    let answer = farm.get(ticket.json()["path"].as_str().unwrap()).await;
    assert_eq!(answer.status, 426);
    problem(&answer);
}

#[tokio::test]
async fn answers_carry_their_request_id_and_are_not_kept() {
    let farm = Farm::new().await;
    let given = request(Method::GET, "/api/v1/server").header("x-request-id", "mine-1").body(Body::empty());
    let answer = farm.ask(given.unwrap()).await;
    assert_eq!(answer.header("x-request-id"), "mine-1");
    assert_eq!(answer.header("cache-control"), "no-store");
    assert_eq!(answer.json()["version"], env!("CARGO_PKG_VERSION"));
    let hostile = request(Method::GET, "/api/v1/server").header("x-request-id", "a\"b c").body(Body::empty());
    assert_ne!(farm.ask(hostile.unwrap()).await.header("x-request-id"), "a\"b c");
}

#[tokio::test]
async fn measurements_name_routes_and_never_ids() {
    let farm = Farm::new().await;
    let id = farm.ready_claw("alice").await;
    farm.get(&format!("/api/v1/instances/{id}")).await;
    farm.get("/api/v1/nothing/secret-thing").await;
    let answer = farm.get("/metrics").await;
    assert_eq!(answer.status, 200);
    for part in [
        "clawfarm_http_request_duration_seconds_bucket{",
        r#"route="/api/v1/instances/{id}""#,
        r#"route="unmatched""#,
        r#"clawfarm_instances{phase="ready"} 1"#,
        "clawfarm_build_info{",
    ] {
        assert!(answer.text.contains(part), "{part} is missing in:\n{}", answer.text);
    }
    assert!(!answer.text.contains(&id) && !answer.text.contains("secret-thing"));
}
