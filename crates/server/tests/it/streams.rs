//! Event streams, long polls and consoles.

use std::time::{Duration, Instant};

use clawfarm_api::{
    ConsoleRequest, CreateInstance, EventsQuery, InstanceQuery, LogsQuery, SendEvent, Shutdown, StopRequest,
};
use clawfarm_client::{Client, ConsoleInput, ConsoleOutput};
use clawfarm_model::{Code, Context, OperationState, Timestamp};
use clawfarm_store::{MasterKey, Retention, Store, StoreConfig};
use futures::StreamExt;
use tokio::time::timeout;

use crate::farm::{Farm, LIMIT, Running};

async fn ready(client: &Client, name: &str) -> String {
    let new = CreateInstance {
        claw_type: "openclaw".into(),
        name: Some(name.parse().unwrap()),
        ..Default::default()
    };
    let made = client.create(&new, Some(name)).await.unwrap();
    let begun = Instant::now();
    let mut operation = made.operation;
    while !operation.state.ended() {
        assert!(begun.elapsed() < LIMIT, "{operation:?}");
        let wait = Duration::from_secs(10);
        operation = client.operation_changed(&operation.id, operation.updated_at, wait).await.unwrap();
    }
    assert_eq!(operation.state, OperationState::Succeeded, "{operation:?}");
    made.instance.id.to_string()
}

async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    timeout(LIMIT, future).await.unwrap_or_else(|_| panic!("waited {LIMIT:?} for {what}"))
}

#[tokio::test]
async fn a_follower_sees_what_happened_and_what_happens_then_and_the_servers_end() {
    let home = tempfile::tempdir().unwrap();
    let server = Running::start(home.path()).await;
    let client = server.client();
    let id = ready(&client, "alice").await;
    let past = client.events(Some("alice"), EventsQuery::default()).await.unwrap();
    assert_eq!(past.items[0].reason, "created");
    let query = EventsQuery { after: Some(0), ..EventsQuery::default() };
    let mut stream = client.follow_events(None, query).await.unwrap();
    let mut seen = Vec::new();
    while seen.len() < past.items.len() {
        seen.push(soon("a past event", stream.next()).await.unwrap().unwrap());
    }
    assert_eq!(seen, past.items);
    client.stop(&id, StopRequest { force: true }).await.unwrap();
    let next = soon("the stop", stream.next()).await.unwrap().unwrap();
    assert!(next.seq > past.last_seq);
    assert_eq!(next.instance.as_ref().map(ToString::to_string), Some(id));
    let begun = Instant::now();
    server.ended().await;
    assert!(begun.elapsed() < Duration::from_secs(8), "an open stream holds the server up");
}

#[tokio::test]
async fn following_goes_on_over_a_restart_without_loss_or_repetition() {
    let home = tempfile::tempdir().unwrap();
    let server = Running::start(home.path()).await;
    let client = server.client();
    ready(&client, "alice").await;
    let query = EventsQuery { after: Some(0), ..EventsQuery::default() };
    let mut stream = client.follow_events(None, query).await.unwrap();
    let first = soon("the first event", stream.next()).await.unwrap().unwrap();
    server.ended().await;
    let server = Running::start(home.path()).await;
    ready(&server.client(), "bob").await;
    let mut last = first.seq;
    loop {
        let event = soon("bob's creation", stream.next()).await.unwrap().unwrap();
        assert!(event.seq > last, "{} after {last}", event.seq);
        last = event.seq;
        if event.reason == "created" && event.instance.is_some_and(|i| i.as_str().starts_with("bob")) {
            break;
        }
    }
    server.ended().await;
}

#[tokio::test]
async fn a_place_that_retention_has_pruned_is_told_everywhere_and_a_follower_goes_on() {
    let home = tempfile::tempdir().unwrap();
    let server = Running::start(home.path()).await;
    let client = server.client();
    let id = ready(&client, "alice").await;
    let after = |after| EventsQuery { after: Some(after), ..EventsQuery::default() };
    let all = client.events(None, after(0)).await.unwrap().items;
    let mut stream = client.follow_events(None, after(0)).await.unwrap();
    for event in &all {
        assert_eq!(soon("the past", stream.next()).await.unwrap().unwrap(), *event);
    }
    let (first, last) = (&all[0], all.last().unwrap());
    server.ended().await;
    // More happens while nobody follows, and little of it is kept.
    let server = Running::start(home.path()).await;
    for name in ["bob", "carol"] {
        ready(&server.client(), name).await;
    }
    server.ended().await;
    let key = MasterKey::load_or_create(&home.path().join("master.key")).unwrap();
    let store = Store::open(StoreConfig::sqlite(home.path().join("clawfarm.db"), key)).await.unwrap();
    let keep = Retention { events: 1, ..Retention::default() };
    let pruned = store.prune(&Context::system("test"), &keep).await.unwrap();
    assert!(pruned.events > 3, "{pruned:?}");
    store.close().await;
    let server = Running::start(home.path()).await;
    let client = server.client();

    let error = client.events(None, after(first.seq)).await.unwrap_err();
    assert_eq!((error.code(), error.field_name()), (Code::Gone, Some("after")), "{error}");
    let error = client.follow_events(Some(&id), after(first.seq)).await.map(drop).unwrap_err();
    assert_eq!(error.code(), Code::Gone, "{error}");
    let farm = Farm::over(server.control.clone(), home.path());
    let number = first.seq.to_string();
    for path in ["/api/v1/events", &format!("/api/v1/instances/{id}/events")] {
        let asked = farm.get(&format!("{path}?after={number}")).await;
        assert_eq!((asked.status.as_u16(), asked.json()["code"].as_str()), (410, Some("gone")), "{path}");
        let headers = [("last-event-id", number.as_str()), ("accept", "text/event-stream")];
        let resumed = farm.send(http::Method::GET, path, &headers, "").await;
        assert_eq!((resumed.status.as_u16(), resumed.json()["code"].as_str()), (410, Some("gone")), "{path}");
        assert!(resumed.json()["fix"].as_str().unwrap().contains("give 0"), "{}", resumed.text);
    }

    // It is told of the gap in its place, and then of all that is left and new, each once.
    let gap = soon("the gap", stream.next()).await.unwrap().unwrap_err();
    assert_eq!(gap.code(), Code::Gone, "{gap}");
    let mut left = client.events(None, after(0)).await.unwrap().items;
    left.retain(|event| event.seq > last.seq);
    assert!(left.len() >= 2, "{left:?}");
    for event in left {
        assert_eq!(soon("what is left", stream.next()).await.unwrap().unwrap(), event);
    }
    client.stop(&id, StopRequest { force: true }).await.unwrap();
    let next = soon("the stop", stream.next()).await.unwrap().unwrap();
    assert_eq!(next.instance.as_ref().map(ToString::to_string), Some(id));
    server.ended().await;
}

#[tokio::test]
async fn a_message_is_answered_piece_by_piece() {
    let home = tempfile::tempdir().unwrap();
    let server = Running::start(home.path()).await;
    let client = server.client();
    let id = ready(&client, "alice").await;
    let mut answer = client.send(&id, "hello there").await.unwrap();
    let mut text = String::new();
    let mut done = false;
    while let Some(piece) = soon("the answer", answer.next()).await {
        match piece.unwrap() {
            SendEvent::Text { text: piece } => text.push_str(&piece),
            SendEvent::Done { .. } => done = true,
        }
    }
    assert!(done && text.contains("hello there"), "{text}");
    let lines = client.logs(&id, LogsQuery { tail: Some(5), ..LogsQuery::default() }).await.unwrap();
    assert!(!lines.is_empty() && lines.len() <= 5);
    let mut follow = client.follow_logs(&id, LogsQuery::default()).await.unwrap();
    soon("a line", follow.next()).await.unwrap().unwrap();
    drop(follow);
    server.ended().await;
}

#[tokio::test]
async fn a_long_poll_returns_on_a_change_at_the_end_of_the_wait_and_at_once_when_it_ended() {
    let farm = Farm::new().await;
    let id = farm.ready_claw("alice").await;
    let list = farm.get(&format!("/api/v1/operations?instance={id}")).await.json();
    let operation = list["items"][0]["id"].as_str().unwrap().to_owned();
    let begun = Instant::now();
    let far = Timestamp::now().after(Duration::from_secs(3600));
    let ended = farm.get(&format!("/api/v1/operations/{operation}?after={far}&wait=60")).await;
    assert_eq!(ended.json()["state"], "succeeded");
    assert!(begun.elapsed() < Duration::from_secs(10), "an ended operation is not waited for");
    let poll = farm.post(&format!("/api/v1/instances/{id}/restart"), "").await.json();
    let ended = farm.ended(poll["operation"]["id"].as_str().unwrap()).await;
    assert_eq!(ended["state"], "succeeded");
}

#[tokio::test]
async fn a_console_carries_both_ways_and_is_opened_once() {
    let home = tempfile::tempdir().unwrap();
    let server = Running::start(home.path()).await;
    let client = server.client();
    let id = ready(&client, "alice").await;
    let request = ConsoleRequest { argv: vec!["cat".into()], ..ConsoleRequest::default() };
    let ticket = client.console_ticket(&id, &request).await.unwrap();
    let mut console = client.console(&ticket).await.unwrap();
    console.input.send(ConsoleInput::Stdin("some words\n".into())).await.unwrap();
    console.input.send(ConsoleInput::Eof).await.unwrap();
    let mut printed = Vec::new();
    let code = loop {
        match soon("the command's end", console.output.next()).await.unwrap().unwrap() {
            ConsoleOutput::Stdout(bytes) => printed.extend_from_slice(&bytes),
            ConsoleOutput::Stderr(_) => {}
            ConsoleOutput::Exit(code) => break code,
        }
    };
    assert_eq!((String::from_utf8_lossy(&printed).as_ref(), code), ("some words\n", 0));
    assert!(console.output.next().await.is_none());
    let error = client.console(&ticket).await.expect_err("the ticket was used");
    assert_eq!(error.code(), Code::Unauthenticated, "{error}");
    server.ended().await;
}

#[tokio::test]
async fn a_console_of_what_is_down_is_refused_with_the_reason() {
    let home = tempfile::tempdir().unwrap();
    let server = Running::start(home.path()).await;
    let client = server.client();
    let id = ready(&client, "alice").await;
    let ticket = client.console_ticket(&id, &ConsoleRequest::default()).await.unwrap();
    let mut operation = client.stop(&id, StopRequest { force: true }).await.unwrap().operation;
    while !operation.state.ended() {
        let wait = Duration::from_secs(10);
        operation = client.operation_changed(&operation.id, operation.updated_at, wait).await.unwrap();
    }
    let error = client.console(&ticket).await.expect_err("it is stopped");
    assert!(matches!(error.code(), Code::Conflict | Code::Gone), "{error:?}");
    assert!(error.message().contains(&id), "{error}");
    server.ended().await;
}

#[tokio::test]
async fn an_open_console_is_told_of_the_servers_end() {
    let home = tempfile::tempdir().unwrap();
    let server = Running::start(home.path()).await;
    let client = server.client();
    let id = ready(&client, "alice").await;
    let request = ConsoleRequest { argv: vec!["cat".into()], ..ConsoleRequest::default() };
    let mut console = client.console(&client.console_ticket(&id, &request).await.unwrap()).await.unwrap();
    console.input.send(ConsoleInput::Stdin("x\n".into())).await.unwrap();
    let first = soon("the echo", console.output.next()).await.unwrap().unwrap();
    assert_eq!(first, ConsoleOutput::Stdout("x\n".into()));
    let (last, ()) = tokio::join!(soon("the last word", console.output.next()), server.ended());
    let error = last.unwrap().unwrap_err();
    assert!(error.message().contains("being stopped"), "{error}");
}

#[tokio::test]
async fn a_shutdown_over_the_api_ends_the_server_and_can_stop_the_claws() {
    let home = tempfile::tempdir().unwrap();
    let server = Running::start(home.path()).await;
    let client = server.client();
    let id = ready(&client, "alice").await;
    client.shutdown(Shutdown { claws: true }).await.unwrap();
    soon("the server's end", server.task).await.unwrap().unwrap();
    assert!(!server.socket.exists(), "the socket is left behind");
    let error = client.instance(&id).await.unwrap_err();
    assert_eq!(error.code(), Code::Unavailable);
    let server = Running::start(home.path()).await;
    let view = server.client().instance(&id).await.unwrap();
    assert_eq!(view.phase.as_str(), "stopped");
    let all = server.client().all_instances(&InstanceQuery::default()).await.unwrap();
    assert_eq!(all.len(), 1);
    server.ended().await;
}
