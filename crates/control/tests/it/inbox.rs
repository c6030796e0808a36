//! Messages of services: kept while a claw can't take them, and given to it in order.

use std::time::{Duration, Instant};

use clawfarm_control::{Lined, NewInboxMessage, NewInstance, Sender};
use clawfarm_model::inbox::{InboxMessage, InboxRequest, InboxState, Proof};
use clawfarm_model::{Context, Instance, Phase};
use clawfarm_runtime_sim::{ActKind, Received};
use serde_json::json;

use crate::fleet::{Fleet, claw, owner};

/// As long as anything may take on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);

fn edge() -> Context {
    Context::system("edge")
}

/// As the edge takes a message in.
async fn accept(fleet: &Fleet, to: &Instance, conversation: &str, body: &str) -> Lined {
    let sender = Sender { path: "/hooks", target: "/hooks/agent?x=y", conversation, number: Some(body) };
    let lined = fleet.control.line_up(&edge(), &to.id, sender).await.unwrap();
    let request = InboxRequest {
        target: "/hooks/agent?x=y".into(),
        headers: vec![("authorization".into(), b"Bearer hook".to_vec())],
    };
    let message = NewInboxMessage {
        lined: lined.clone(),
        path: "/hooks".into(),
        content: request.pack(body.as_bytes()),
    };
    fleet.control.accept(&edge(), &to.id, message).await.unwrap();
    lined
}

fn received(fleet: &Fleet, by: &Instance) -> Vec<Received> {
    fleet.world.received(&by.id).unwrap()
}

async fn until_received(fleet: &Fleet, by: &Instance, count: usize) -> Vec<Received> {
    let begun = Instant::now();
    loop {
        let all = received(fleet, by);
        if all.len() >= count {
            return all;
        }
        assert!(begun.elapsed() < LIMIT, "waited {LIMIT:?} for {count} messages: {all:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn kept(fleet: &Fleet, of: &Instance) -> Vec<InboxMessage> {
    fleet.control.messages(&owner(), of.id.as_str(), None, None, 100).await.unwrap()
}

async fn until_kept(fleet: &Fleet, of: &Instance, what: &str, mut is: impl FnMut(&[InboxMessage]) -> bool) {
    let begun = Instant::now();
    loop {
        let all = kept(fleet, of).await;
        if is(&all) {
            return;
        }
        assert!(begun.elapsed() < LIMIT, "waited {LIMIT:?} until {what}: {all:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn bodies(all: &[Received]) -> Vec<&str> {
    all.iter().map(|it| it.body.as_str()).collect()
}

async fn asleep(fleet: &Fleet, name: &str, warm: bool) -> Instance {
    fleet.ready(name).await;
    fleet.reached(fleet.control.suspend(&owner(), name, warm, false).await.unwrap()).await
}

#[tokio::test]
async fn a_sleeper_is_woken_once_and_given_all_in_order() {
    let fleet = Fleet::new().await;
    for warm in [false, true] {
        let name = if warm { "warm" } else { "cold" };
        let alice = asleep(&fleet, name, warm).await;
        let mut lined = Vec::new();
        for n in 0..10 {
            lined.push(accept(&fleet, &alice, "chat", &format!("m{n}")).await);
        }
        let all = until_received(&fleet, &alice, 10).await;
        assert_eq!(bodies(&all), (0..10).map(|n| format!("m{n}")).collect::<Vec<_>>());
        assert_eq!(
            all.iter().map(|it| &it.key).collect::<Vec<_>>(),
            lined.iter().map(|it| &it.id).collect::<Vec<_>>()
        );
        assert_eq!(
            (all[0].target.as_str(), all[0].authorization.as_str()),
            ("/hooks/agent?x=y", "Bearer hook")
        );
        until_kept(&fleet, &alice, "nothing waits", <[_]>::is_empty).await;
        let wakes = if warm { ActKind::Thaw } else { ActKind::Start };
        assert_eq!(fleet.count(&alice, wakes), if warm { 1 } else { 2 });
        // Awake it takes the next at once.
        let sender = Sender { path: "/hooks", target: "/hooks", conversation: "chat", number: None };
        assert!(!fleet.control.line_up(&edge(), &alice.id, sender).await.unwrap().waits);
        accept(&fleet, &alice, "chat", "later").await;
        until_received(&fleet, &alice, 11).await;
    }
}

#[tokio::test]
async fn one_that_was_stopped_stays_down_and_has_its_messages_when_it_is_started() {
    let fleet = Fleet::new().await;
    let alice = fleet.ready("alice").await;
    fleet.reached(fleet.control.stop(&owner(), "alice", false).await.unwrap()).await;
    accept(&fleet, &alice, "chat", "m1").await;
    // Another one's messages are delivered meanwhile.
    let bob = asleep(&fleet, "bob", false).await;
    accept(&fleet, &bob, "chat", "m2").await;
    until_received(&fleet, &bob, 1).await;
    assert_eq!(fleet.control.get(&owner(), "alice").await.unwrap().phase, Phase::Stopped);
    assert_eq!(kept(&fleet, &alice).await.len(), 1);
    let fleet = fleet.restarted().await;
    assert_eq!(fleet.control.get(&owner(), "alice").await.unwrap().phase, Phase::Stopped);
    fleet.reached(fleet.control.start(&owner(), "alice").await.unwrap()).await;
    assert_eq!(bodies(&until_received(&fleet, &alice, 1).await), ["m1"]);
}

#[tokio::test]
async fn what_waits_outlives_the_server() {
    let fleet = Fleet::with(|b| b.claw.messages_fail = Some(1.0)).await;
    let alice = asleep(&fleet, "alice", false).await;
    for n in 0..3 {
        accept(&fleet, &alice, "chat", &format!("m{n}")).await;
    }
    until_kept(&fleet, &alice, "the first was tried", |all| all.first().is_some_and(|it| it.attempts > 0))
        .await;
    fleet.world.change_behaviour(|b| b.claw.messages_fail = None).unwrap();
    let fleet = fleet.restarted().await;
    until_kept(&fleet, &alice, "nothing waits", <[_]>::is_empty).await;
    let all = received(&fleet, &alice);
    // One that the claw had, but did not say so, comes again, under the same key.
    let mut firsts: Vec<(&str, &str)> = Vec::new();
    for it in &all {
        if !firsts.iter().any(|(body, _)| *body == it.body) {
            firsts.push((&it.body, &it.key));
        }
        assert!(firsts.contains(&(it.body.as_str(), it.key.as_str())), "{all:?}");
    }
    assert_eq!(firsts.iter().map(|(body, _)| *body).collect::<Vec<_>>(), ["m0", "m1", "m2"]);
}

#[tokio::test]
async fn what_a_claw_refuses_is_given_up_and_can_be_replayed_or_dropped() {
    let fleet = Fleet::new().await;
    let alice = asleep(&fleet, "alice", false).await;
    let refused = accept(&fleet, &alice, "chat", "refuse-this").await;
    accept(&fleet, &alice, "chat", "m1").await;
    // The next of the same conversation does not wait behind it.
    assert_eq!(bodies(&until_received(&fleet, &alice, 1).await), ["m1"]);
    until_kept(&fleet, &alice, "one is given up", |all| {
        all.len() == 1
            && all[0].state == InboxState::Dead
            && all[0].last_error.as_deref() == Some("it answered 422")
    })
    .await;
    let (told, request, body) = fleet.control.message(&owner(), "alice", &refused.id).await.unwrap();
    assert_eq!(
        (told.id.as_str(), request.target.as_str(), body.as_slice()),
        (refused.id.as_str(), "/hooks/agent?x=y", &b"refuse-this"[..])
    );
    assert_eq!(fleet.control.replay(&owner(), "alice", Some(&refused.id)).await.unwrap(), 1);
    until_kept(&fleet, &alice, "it was tried again", |all| {
        all.len() == 1 && all[0].state == InboxState::Dead
    })
    .await;
    assert!(fleet.control.replay(&owner(), "alice", Some("in-0")).await.is_err());
    assert_eq!(fleet.control.drop_messages(&owner(), "alice", None).await.unwrap(), 1);
    assert_eq!(kept(&fleet, &alice).await, []);
    assert!(fleet.control.drop_messages(&owner(), "alice", Some(&refused.id)).await.is_err());
}

#[tokio::test]
async fn one_that_can_t_be_woken_now_has_its_messages_later() {
    let fleet = Fleet::new().await;
    let alice = asleep(&fleet, "alice", false).await;
    fleet
        .world
        .change_behaviour(|b| {
            let mut failure = clawfarm_runtime_sim::Failure::new(
                clawfarm_runtime_sim::Verb::Start,
                clawfarm_model::Code::Unavailable,
            );
            failure.calls = vec![1, 2];
            b.failures.push(failure);
        })
        .unwrap();
    accept(&fleet, &alice, "chat", "m1").await;
    assert_eq!(bodies(&until_received(&fleet, &alice, 1).await), ["m1"]);
}

#[tokio::test]
async fn two_hooks_may_number_alike() {
    let fleet = Fleet::new().await;
    let alice = fleet.ready("alice").await;
    let id = async |target: &str, number: Option<&str>| {
        let sender = Sender { path: "/hooks", target, conversation: "chat", number };
        fleet.control.line_up(&edge(), &alice.id, sender).await.unwrap().id
    };
    assert_eq!(id("/hooks/a", Some("1")).await, id("/hooks/a", Some("1")).await);
    assert_ne!(id("/hooks/a", Some("1")).await, id("/hooks/b", Some("1")).await);
    assert_ne!(id("/hooks/a", Some("1")).await, id("/hooks/a", Some("2")).await);
    assert_ne!(id("/hooks/a", None).await, id("/hooks/a", None).await);
}

#[tokio::test]
async fn one_whose_channels_come_up_late_has_its_messages_then() {
    let fleet = Fleet::with(|b| b.claw.channels_ms = Some((2_000, 2_000))).await;
    let alice = asleep(&fleet, "alice", false).await;
    for n in 0..3 {
        accept(&fleet, &alice, "chat", &format!("m{n}")).await;
    }
    let mut first = 0;
    until_kept(&fleet, &alice, "the first was not taken", |all| {
        let Some(it) = all.first() else { return true };
        first = first.max(it.attempts);
        first > 0
    })
    .await;
    assert_eq!(bodies(&until_received(&fleet, &alice, 3).await), ["m0", "m1", "m2"]);
    until_kept(&fleet, &alice, "nothing is kept, nor given up", <[_]>::is_empty).await;
}

#[tokio::test]
async fn routes_are_those_of_its_configuration() {
    let fleet = Fleet::new().await;
    let mut new: NewInstance = claw("alice");
    new.config.native = json!({
        "hooks": {"enabled": true, "token": "hook-token", "path": "in/"},
        "channels": {"slack": {"mode": "http", "signingSecret": "sss"}},
    })
    .as_object()
    .unwrap()
    .clone();
    new.config.inbox =
        vec![serde_json::from_value(json!({"path": "/open", "check": {"type": "open"}})).unwrap()];
    let accepted = fleet.control.create(&owner(), new, None).await.unwrap();
    let alice = fleet.reached(accepted).await;
    let entrance = fleet.control.entrance_now(&edge(), &alice.id).await.unwrap().unwrap();
    let mut paths: Vec<&str> = entrance.inbox.iter().map(|route| route.path.as_str()).collect();
    paths.sort_unstable();
    assert_eq!(paths, ["/in", "/open", "/slack/events"]);
    assert!(entrance.rules.inbox.contains(&"/in".to_owned()));
    let token = entrance.inbox.iter().find_map(|route| match &route.proof {
        Proof::Token { token, .. } => Some(token.expose().to_owned()),
        _ => None,
    });
    assert_eq!(token.as_deref(), Some("hook-token"));
    // They are among its secrets, and nobody is shown them.
    let listed = fleet.control.secrets(&owner()).await.unwrap();
    assert!(listed.iter().all(|secret| !secret.name.as_str().starts_with("clawfarm.")), "{listed:?}");
}
