//! A real OpenClaw in Telegram's webhook mode, asleep when somebody writes to it.

use std::time::Duration;

use super::farm::{Farm, until};
use crate::telegram::{PERSON, Telegram};

#[test]
fn a_message_wakes_it_and_is_answered() {
    let telegram = Telegram::new();
    let farm = Farm::new();
    farm.run_with_input(&["secret", "set", "bot"], "42:bot-token\n").ends(0);
    let root = format!("channels.telegram.api_root={}", telegram.root());
    let people = format!("channels.telegram.allow_from=[\"{PERSON}\"]");
    let id = farm.new_claw(
        "alice",
        &["--set", "channels.telegram.bot_token.secret=bot", "--set", &root, "--set", &people],
    );
    until("it has told Telegram where to call", || telegram.webhook().is_some());
    let (url, secret) = telegram.webhook().unwrap();
    assert!(url.contains(&format!("{id}.localhost:")) && url.ends_with("/telegram-webhook"), "{url}");
    assert!(!telegram.called().contains(&"getUpdates".to_owned()), "it asks for nothing");

    telegram.deliver("said while awake");
    let heard = |text: &str| telegram.said().iter().any(|said| said.contains(text));
    until("it answers", || heard("said while awake"));

    let before = farm.pid(&id);
    until("it is idle", || farm.run(&["suspend", &id]).code == Some(0));
    assert_eq!(farm.phase(&id), "suspended");
    // Who does not know the secret is refused, and wakes nobody.
    let forged = telegram.update("forged");
    assert_eq!(telegram.call(&url, "another", &forged).expect("an answer").status, 401);
    assert_eq!(farm.phase(&id), "suspended");

    let first = telegram.deliver("said while asleep");
    // Taken before it is awake: its start alone takes longer.
    println!("taken for a sleeper in {:?}", first.took);
    telegram.deliver("and another word");
    until("it answers what was said while it slept", || heard("said while asleep"));
    until("and what came after", || heard("and another word"));
    let said = telegram.said().join("\n");
    let place = |text: &str| said.find(text).expect("it was said");
    assert!(place("said while asleep") < place("and another word"), "{said}");
    assert!(!said.contains("forged"), "{said}");
    farm.until_phase(&id, "ready");
    assert_ne!(farm.pid(&id), before);
    assert!(!secret.is_empty() && first.took < Duration::from_secs(60));
    until("nothing waits any more", || {
        farm.run(&["inbox", "ls", &id, "--json"]).ends(0).json()["items"]
            .as_array()
            .is_some_and(Vec::is_empty)
    });
}
