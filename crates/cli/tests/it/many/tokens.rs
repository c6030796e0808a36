//! The callers' token of all servers of a database.

use std::fs;
use std::time::{Duration, Instant};

use clawfarm_client::{Client, Endpoint};
use nix::sys::signal::Signal;
use secrecy::SecretString;

use super::servers::{Farm, Node, Options};
use crate::support::LIMIT;

fn token(node: &Node) -> String {
    fs::read_to_string(node.home().farm().join("admin.token")).expect("a token").trim().to_owned()
}

fn client(node: &Node, token: &str) -> Client {
    Client::new(Endpoint::Unix(node.home().farm().join("clawfarm.sock")), SecretString::from(token))
}

/// Waits until a server takes a token, or does so no more.
async fn until_taken(node: &Node, token: &str, taken: bool) {
    let begun = Instant::now();
    while client(node, token).servers().await.is_ok() != taken {
        assert!(begun.elapsed() < LIMIT, "server {}, taken {taken}: {}", node.name, node.said());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e2e_a_token_that_leaked_is_renewed_for_all_servers() {
    let farm = Farm::new();
    let one = Node::start(&farm, "one", Options::default()).await;
    let two = Node::start(&farm, "two", Options::default()).await;
    let mut down = Node::start(&farm, "down", Options::default()).await;
    down.end(Signal::SIGTERM).await;
    let old = token(&one);
    let url = farm.database.url();
    let said = one.home().run(&["server", "renew-token", "--database", &url]).ends(0);
    let new = token(&one);
    assert!(new != old && !said.out.contains(&new) && !said.err.contains(&new), "{said:?}");
    for node in [&one, &two] {
        until_taken(node, &new, true).await;
        until_taken(node, &old, false).await;
        assert_eq!(token(node), new, "its own commands have it");
    }
    // One that was down takes it when it starts.
    assert_eq!(token(&down), old);
    down.run(&farm).await;
    until_taken(&down, &new, true).await;
    until_taken(&down, &old, false).await;
    assert_eq!(token(&down), new);
}
