//! Messages of services: passed on at once, or written down before they are acknowledged.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use clawfarm_model::inbox::InboxRequest;
use clawfarm_model::{ClawId, Timestamp};
use http_body_util::Full;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::claw::Claw;
use crate::farm::{Answer, Farm, LIMIT, State};

const TELEGRAM: (&str, &str) = ("x-telegram-bot-api-secret-token", "tg");

async fn post(farm: &Farm, id: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
    let mut request = farm.request("POST", id, path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let body = Full::new(Bytes::copy_from_slice(body.as_bytes()));
    Answer::of(farm.ask(request.body(body).unwrap()).await).await
}

/// What was taken in: ids, lanes, requests and bodies.
fn taken(farm: &Farm) -> Vec<(String, String, InboxRequest, String)> {
    let taken = farm.fleet.taken.lock().unwrap();
    taken
        .iter()
        .map(|message| {
            let (request, body) = InboxRequest::unpack(&message.content).unwrap();
            let body = String::from_utf8(body.to_vec()).unwrap();
            (message.place.id.clone(), message.place.lane.clone(), request, body)
        })
        .collect()
}

#[tokio::test]
async fn one_for_a_sleeper_is_kept_and_acknowledged_and_wakes_nobody_here() {
    let (farm, claw) = (Farm::new().await, Claw::new().await);
    for state in [State::Asleep, State::Down] {
        farm.put("a-1", state, claw.address);
        let update = r#"{"update_id":7,"message":{"chat":{"id":5},"text":"hello"}}"#;
        let headers = [TELEGRAM, ("x-forwarded-for", "6.6.6.6"), ("connection", "x-mine"), ("x-mine", "1")];
        let answer = post(&farm, "a-1", "/telegram?a=b", &headers, update).await;
        assert_eq!((answer.status, answer.text.as_str()), (200, ""));
        assert_eq!(answer.headers["x-clawfarm-message"], "in-7");
        let all = taken(&farm);
        let (id, lane, request, body) = all.last().unwrap();
        assert_eq!((id.as_str(), lane.as_str(), body.as_str()), ("in-7", "/telegram 5", update));
        assert_eq!(request.target, "/telegram?a=b");
        let value = |name: &str| {
            let found = request.headers.iter().find(|(known, _)| known == name);
            found.map(|(_, value)| String::from_utf8(value.clone()).unwrap())
        };
        assert_eq!(value("x-telegram-bot-api-secret-token").as_deref(), Some("tg"));
        assert_eq!(value("x-mine"), None);
        assert_eq!(value("x-forwarded-for").as_deref(), Some("192.0.2.1"), "what the caller says is dropped");
        assert_eq!(value("host"), Some(farm.host("a-1")));
    }
    assert_eq!((farm.wakes(), claw.seen()), (0, 0));
    let hook = [("authorization", "Bearer hook"), ("idempotency-key", "k1")];
    let answer = post(&farm, "a-1", "/hooks/agent", &hook, "{}").await;
    assert_eq!((answer.status, answer.json()["queued"].as_bool()), (200, Some(true)));
    assert_eq!(answer.json()["id"], "in-k1");
    assert_eq!(taken(&farm).last().unwrap().1, "/hooks /hooks/agent");
    // A number is one among those of the whole address.
    let targets = farm.fleet.targets.lock().unwrap().clone();
    assert_eq!(targets, ["/telegram?a=b", "/telegram?a=b", "/hooks/agent"]);
}

#[tokio::test]
async fn one_that_is_not_proven_is_refused_like_any_stranger() {
    let (farm, claw) = (Farm::new().await, Claw::new().await);
    farm.put("a-1", State::Asleep, claw.address);
    let mut answers = vec![post(&farm, "nobody-1", "/hooks/x", &[], "{}").await];
    for (path, headers) in [
        ("/hooks/x", &[][..]),
        ("/hooks/x", &[("authorization", "Bearer wrong")]),
        ("/telegram", &[("x-telegram-bot-api-secret-token", "wrong")]),
        ("/telegram", &[("authorization", "Bearer hook")]),
        // Nothing is known of how its senders prove themselves.
        ("/unproven", &[("authorization", "Bearer hook")]),
        ("/feishu", &[]),
    ] {
        answers.push(post(&farm, "a-1", path, headers, "{}").await);
    }
    for answer in &answers {
        assert_eq!((answer.status, &answer.text), (401, &answers[0].text), "{answer:?}");
    }
    assert_eq!(taken(&farm).len(), 0);
    // Its owner said that anybody may.
    assert_eq!(post(&farm, "a-1", "/hooks/open", &[], "{}").await.status, 200);
    assert_eq!((taken(&farm).len(), farm.wakes()), (1, 0));
}

#[tokio::test]
async fn a_claw_that_is_awake_answers_itself() {
    let (farm, claw) = (Farm::new().await, Claw::new().await);
    farm.put("a-1", State::Awake, claw.address);
    let hook = [("authorization", "Bearer hook")];
    let answer = post(&farm, "a-1", "/hooks/agent?x=y", &hook, "said").await.json();
    assert_eq!((&answer["body"], &answer["target"]), (&"said".into(), &"/hooks/agent?x=y".into()));
    assert_eq!(answer["headers"]["idempotency-key"], "in-1");
    assert_eq!(answer["headers"]["authorization"], "Bearer hook");
    // What only the claw can tell is the claw's to tell.
    let answer = post(&farm, "a-1", "/unproven", &[("authorization", "Bearer own")], "said").await.json();
    assert_eq!(answer["headers"]["authorization"], "Bearer own");
    assert_eq!(taken(&farm).len(), 0);
}

#[tokio::test]
async fn what_an_awake_claw_does_not_take_is_kept() {
    let (farm, claw) = (Farm::new().await, Claw::new().await);
    farm.put("a-1", State::Awake, claw.address);
    let hook = [("authorization", "Bearer hook")];
    // It says that it is on its way to sleep.
    assert_eq!(post(&farm, "a-1", "/hooks/draining", &hook, "1").await.status, 200);
    // A success that is not the channel's own.
    assert_eq!(post(&farm, "a-1", "/telegram", &[TELEGRAM], "{}").await.status, 200);
    // It breaks off.
    let breaks = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    farm.put("c-1", State::Awake, breaks.local_addr().unwrap());
    let breaking = async {
        let (mut stream, _) = breaks.accept().await.unwrap();
        let mut some = [0; 16];
        tokio::io::AsyncReadExt::read_exact(&mut stream, &mut some).await.unwrap();
    };
    let (answer, ()) = tokio::join!(post(&farm, "c-1", "/hooks/x", &hook, "3"), breaking);
    assert_eq!(answer.status, 200);
    // It does not answer as long as the service waits.
    let answer = post(&farm, "a-1", "/feishu/silent", &[], r#"{"token":"fs","uuid":"u1"}"#).await;
    assert_eq!((answer.status, answer.text.as_str()), (200, "{}"));
    // Nothing listens there.
    let gone = Claw::new().await.address;
    farm.put("b-1", State::Awake, gone);
    assert_eq!(post(&farm, "b-1", "/hooks/x", &hook, "5").await.status, 200);
    // Earlier ones wait.
    farm.fleet.waits.store(true, Ordering::Relaxed);
    let before = claw.seen();
    assert_eq!(post(&farm, "a-1", "/hooks/agent", &hook, "6").await.status, 200);
    assert_eq!(claw.seen(), before);
    let bodies: Vec<String> = taken(&farm).into_iter().map(|(.., body)| body).collect();
    assert_eq!(bodies, ["1", "{}", "3", r#"{"token":"fs","uuid":"u1"}"#, "5", "6"]);
    // Who has proven nothing is not kept then either.
    assert_eq!(post(&farm, "a-1", "/unproven", &[], "7").await.status, 503);
    assert_eq!(taken(&farm).len(), 6);
}

#[tokio::test]
async fn what_can_t_be_kept_is_not_acknowledged() {
    let (farm, claw) = (Farm::new().await, Claw::new().await);
    let hook = [("authorization", "Bearer hook")];
    for (id, status) in [("full-1", 429), ("large-1", 507), ("broken-1", 503)] {
        farm.put(id, State::Asleep, claw.address);
        let answer = post(&farm, id, "/hooks/x", &hook, "{}").await;
        assert_eq!(answer.status, status, "{answer:?}");
        assert!(answer.headers.contains_key("retry-after"), "{answer:?}");
        assert!(!answer.text.contains("10000"), "strangers are told nothing of what waits");
    }
    farm.put("a-1", State::Asleep, claw.address);
    let large = "x".repeat((1 << 20) + 1);
    assert_eq!(post(&farm, "a-1", "/hooks/x", &hook, &large).await.status, 413);
    assert_eq!(post(&farm, "a-1", "/hooks/x", &hook, &large[1..]).await.status, 200);
    assert_eq!(taken(&farm).len(), 1);
}

#[tokio::test]
async fn a_question_about_the_address_is_answered_for_a_sleeper() {
    let (farm, claw) = (Farm::new().await, Claw::new().await);
    farm.put("a-1", State::Asleep, claw.address);
    let asked = r#"{"type":"url_verification","token":"fs","challenge":"c1"}"#;
    assert_eq!(post(&farm, "a-1", "/feishu", &[], asked).await.json()["challenge"], "c1");
    let forged = r#"{"type":"url_verification","token":"x","challenge":"c1"}"#;
    assert_eq!(post(&farm, "a-1", "/feishu", &[], forged).await.status, 401);
    assert_eq!(taken(&farm).len(), 0);
}

#[tokio::test]
async fn one_that_is_just_up_may_lack_its_channels() {
    let (farm, claw) = (Farm::new().await, Claw::new().await);
    let hook = [("authorization", "Bearer hook")];
    farm.put("a-1", State::Awake, claw.address);
    // It has been up for long: what it says is so.
    assert_eq!(post(&farm, "a-1", "/hooks/missing", &hook, "1").await.status, 404);
    assert!(post(&farm, "a-1", "/hooks/page", &hook, "2").await.text.contains("a dashboard"));
    farm.change("a-1", |known| known.up_since = Timestamp::now());
    for path in ["/hooks/missing", "/hooks/page"] {
        let answer = post(&farm, "a-1", path, &hook, "3").await;
        assert_eq!((answer.status, answer.json()["queued"].as_bool()), (200, Some(true)), "{path}");
    }
    assert_eq!(taken(&farm).len(), 2);
    // Whoever has proven nothing is told what the claw says.
    assert_eq!(post(&farm, "a-1", "/hooks/missing", &[], "4").await.status, 404);
    assert_eq!(taken(&farm).len(), 2);
}

#[tokio::test]
async fn what_proves_nothing_keeps_no_claw_awake() {
    let (farm, claw) = (Farm::new().await, Claw::new().await);
    farm.put("a-1", State::Awake, claw.address);
    let id = ClawId::new("a-1").unwrap();
    assert_eq!(post(&farm, "a-1", "/hooks/missing", &[], "1").await.status, 404);
    assert_eq!(post(&farm, "a-1", "/hooks/page", &[], "2").await.status, 200);
    assert!(farm.edge.load(&id).is_none());
    // What the claw itself takes is use of it.
    assert_eq!(post(&farm, "a-1", "/unproven", &[("authorization", "Bearer own")], "3").await.status, 200);
    assert!(farm.edge.load(&id).is_some());
    farm.put("b-1", State::Awake, claw.address);
    let hook = [("authorization", "Bearer hook")];
    assert_eq!(post(&farm, "b-1", "/hooks/missing", &hook, "4").await.status, 404);
    assert!(farm.edge.load(&ClawId::new("b-1").unwrap()).is_some());
    // One that falls asleep over it is not woken, and nobody waits for that.
    farm.put("c-1", State::Awake, claw.address);
    let before = claw.seen();
    let asleep = async {
        while claw.seen() == before {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        farm.change("c-1", |known| known.state = State::Asleep);
    };
    let silent = timeout(LIMIT, post(&farm, "c-1", "/hooks/silent", &[], "5"));
    let (answer, ()) = tokio::join!(silent, asleep);
    assert_eq!((answer.expect("it is answered").status, farm.wakes()), (503, 0));
}

/// The status of a message whose body does not come.
async fn begun(farm: &Farm, path: &str) -> String {
    let mut stream = TcpStream::connect(farm.address).await.unwrap();
    let head = format!("POST {path} HTTP/1.1\r\nhost: {}\r\ncontent-length: 9\r\n\r\na", farm.host("a-1"));
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut head = [0; 12];
    timeout(LIMIT, stream.read_exact(&mut head)).await.expect("it is answered").unwrap();
    String::from_utf8(head.to_vec()).unwrap()
}

#[tokio::test]
async fn what_no_body_can_prove_is_not_read() {
    let (farm, claw) = (Farm::new().await, Claw::new().await);
    farm.put("a-1", State::Asleep, claw.address);
    for path in ["/hooks/x", "/telegram", "/unproven"] {
        // Not 408, which a body is told that does not come.
        assert_eq!(begun(&farm, path).await, "HTTP/1.1 401", "{path}");
    }
}

#[tokio::test]
async fn claws_that_do_not_answer_keep_nobody_else_s_messages_out() {
    let farm = Farm::limited(|limits| limits.messages_per_claw = 200).await;
    let claw = Claw::new().await;
    farm.put("a-1", State::Awake, claw.address);
    farm.put("b-1", State::Awake, claw.address);
    let silent = format!(
        "POST /hooks/silent HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer hook\r\ncontent-length: 1\r\n\r\na",
        farm.host("a-1")
    );
    let mut held = Vec::new();
    let full = async {
        // More than are read at once.
        for n in 1..=150 {
            let mut stream = TcpStream::connect(farm.address).await.unwrap();
            stream.write_all(silent.as_bytes()).await.unwrap();
            held.push(stream);
            while claw.seen() < n {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    };
    timeout(LIMIT, full).await.expect("all are at the claw");
    let hook = [("authorization", "Bearer hook")];
    let answer = post(&farm, "b-1", "/hooks/agent", &hook, "said").await;
    assert_eq!((answer.status, answer.json()["body"].as_str()), (200, Some("said")));
}

#[tokio::test]
async fn a_claw_that_is_at_many_is_written_to() {
    let farm = Farm::limited(|limits| limits.messages_per_claw = 1).await;
    let claw = Claw::new().await;
    farm.put("a-1", State::Awake, claw.address);
    let hook = [("authorization", "Bearer hook")];
    let silent = post(&farm, "a-1", "/hooks/silent", &hook, "1");
    let others = async {
        while claw.seen() == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let answer = post(&farm, "a-1", "/hooks/agent", &hook, "2").await;
        assert_eq!((answer.status, answer.json()["queued"].as_bool()), (200, Some(true)));
        // A stranger's has a place of its own there.
        assert_eq!(post(&farm, "a-1", "/hooks/missing", &[], "3").await.status, 404);
    };
    tokio::select! {
        _ = silent => panic!("it is not answered"),
        done = timeout(LIMIT, others) => done.expect("others are answered"),
    }
    assert_eq!(taken(&farm).len(), 1);
}
