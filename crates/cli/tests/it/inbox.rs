//! Messages of services over real sockets: kept while a claw sleeps, given to it when it is awake.

use clawfarm_runtime_sim::World;
use serde_json::Value;

use crate::support::{Home, eventually};
use crate::telegram::{Telegram, post};

const HOOK: [(&str, &str); 1] = [("authorization", "Bearer hook-token")];

/// A simulated claw with hooks; its id and the address of its pages.
fn claw(home: &Home, name: &str, more: &[&str]) -> (String, String) {
    let mut arguments = vec![
        "new",
        "openclaw",
        name,
        "--runtime",
        "sim",
        "--json",
        "--set",
        "native.hooks.enabled=true",
        "--set",
        "native.hooks.token=hook-token",
    ];
    arguments.extend(more);
    let made = home.run(&arguments).ends(0).json();
    let id = made["instance"]["id"].as_str().expect("an id").to_owned();
    let open = home.run(&["open", &id]).ends(0).out;
    let address = open.split("/_clawfarm").next().expect("an address").trim().to_owned();
    (id, address)
}

fn messages(home: &Home, id: &str) -> Vec<Value> {
    let listed = home.run(&["inbox", "ls", id, "--json"]).ends(0).json();
    listed["items"].as_array().expect("a list").clone()
}

fn received(home: &Home, id: &str) -> Vec<String> {
    let world = World::open(home.path().join("world")).expect("a world");
    let all = world.received(&id.parse().expect("an id")).expect("read");
    all.into_iter().map(|it| it.body).collect()
}

#[test]
fn a_hook_for_a_sleeper_is_acknowledged_and_given_to_it() {
    let home = Home::new();
    let (id, address) = claw(&home, "alice", &[]);
    let hook = format!("{address}/hooks/agent");
    let (status, answer) = post(&hook, &HOOK, r#"{"message":"awake"}"#).expect("an answer");
    assert!(status == 200 && answer.contains("runId"), "the claw's own answer: {answer}");
    home.run(&["suspend", &id]).ends(0);
    assert_eq!(post(&hook, &[("authorization", "Bearer wrong")], "{}").expect("an answer").0, 401);
    let (status, answer) = post(&hook, &HOOK, r#"{"message":"asleep"}"#).expect("an answer");
    assert!(status == 200 && answer.contains("queued"), "{answer}");
    eventually("it has both", || (received(&home, &id).len() == 2).then_some(()));
    assert_eq!(received(&home, &id), [r#"{"message":"awake"}"#, r#"{"message":"asleep"}"#]);
    eventually("nothing waits", || messages(&home, &id).is_empty().then_some(()));
    assert_eq!(home.run(&["inbox", "ls", &id]).ends(0).out, "");

    // What it refuses is given up, and people decide.
    home.run(&["suspend", &id]).ends(0);
    post(&hook, &HOOK, "refuse-this, with a secret").expect("an answer");
    let dead = eventually("it is given up", || {
        messages(&home, &id).into_iter().find(|message| message["state"] == "dead")
    });
    let message = dead["id"].as_str().expect("an id");
    let table = home.run(&["inbox", "ls", &id, "--dead"]).ends(0).out;
    assert!(table.contains(message) && table.contains("it answered 422"), "{table}");
    let shown = home.run(&["inbox", "show", &id, message]).ends(0).out;
    assert!(
        shown.starts_with("POST /hooks/agent\n") && shown.ends_with("refuse-this, with a secret\n"),
        "{shown}"
    );
    assert!(!shown.contains("hook-token"), "what proves a sender is not shown: {shown}");
    assert_eq!(home.run(&["inbox", "replay", &id, "--all"]).ends(0).out, "1 message is tried again\n");
    eventually("it is given up again", || {
        messages(&home, &id).iter().any(|it| it["state"] == "dead" && it["attempts"] == 1).then_some(())
    });
    assert_eq!(home.run(&["inbox", "rm", &id, message]).ends(0).out, "1 message is dropped\n");
    home.run(&["inbox", "rm", &id, message]).ends(3);
    home.run(&["inbox", "show", &id, "in-0"]).ends(3);
    // On the disk nothing of what was said.
    let database = std::fs::read(home.farm().join("clawfarm.db")).expect("read");
    let log = std::fs::read(home.farm().join("clawfarm.db-wal")).unwrap_or_default();
    for text in ["with a secret", "asleep\"}"] {
        assert!([&database, &log].iter().all(|file| !file.windows(text.len()).any(|w| w == text.as_bytes())));
    }
}

#[test]
fn telegram_calls_a_sleeper() {
    let (home, telegram) = (Home::new(), Telegram::new());
    home.run_with_input(&["secret", "set", "bot"], "42:bot-token\n").ends(0);
    let root = format!("channels.telegram.api_root={}", telegram.root());
    let (id, address) =
        claw(&home, "alice", &["--set", "channels.telegram.bot_token.secret=bot", "--set", &root]);
    home.run(&["suspend", &id]).ends(0);
    // A simulated claw tells Telegram nothing; a real one is tested with a real one.
    let url = format!("{address}/telegram-webhook");
    let update = telegram.update("hello");
    assert_eq!(telegram.call(&url, "wrong", &update).expect("an answer").status, 401);
    assert_eq!(messages(&home, &id).len(), 0);
    let status = home.run(&["status", &id, "--json"]).ends(0).json();
    assert_eq!(status["instance"]["phase"], "suspended", "a stranger wakes nobody");
}
