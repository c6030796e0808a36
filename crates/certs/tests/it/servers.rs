//! Several servers with one vault.

use clawfarm_certs::Source as _;
use clawfarm_certs::acme::AcmeSource;
use clawfarm_test_acme::{Pebble, Setup};
use std::sync::Arc;

use crate::port80::Port80;
use crate::support::{Memory, Running, config, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_them_asks_and_all_show_what_it_got() {
    let port80 = Port80::bind().await;
    let pebble = Pebble::start(&Setup { http: port80.port, ..Setup::default() });
    let vault = Memory::default();
    let mut servers = Vec::new();
    for _ in 0..3 {
        let source = AcmeSource::open(config(&pebble, None), Arc::new(vault.clone())).await.unwrap();
        // Callers come to any of them; this one only shows what another laid out.
        port80.of(&source);
        servers.push(source);
    }
    let servers: Vec<Running> = servers.into_iter().map(Running::run).collect();
    let first = servers[0].has("claws.test").await;
    for server in &servers {
        assert_eq!(server.has("claws.test").await, first);
    }
    assert_eq!(pebble.orders(), 1);
    // A wish at one is heard at all.
    servers[1].source.renew("claws.test").await.unwrap();
    for server in &servers {
        until("the new one is shown", || server.shown("claws.test").filter(|it| *it != first)).await;
    }
    assert_eq!(pebble.orders(), 2, "{:?}", servers[0].source.list());
    for server in servers {
        server.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_different_options_they_do_not_take_turns() {
    let port80 = Port80::bind().await;
    let setup = Setup { http: port80.port, ..Setup::default() };
    let authorities = [Pebble::start(&setup), Pebble::start(&setup)];
    let vault = Memory::default();
    let one = Running::begin(config(&authorities[0], None), &vault).await;
    port80.of(&one.source);
    let first = one.has("claws.test").await;
    // A new authority is asked at once, and the server that has the old one does not take it back.
    let two = Running::begin(config(&authorities[1], None), &vault).await;
    let second = until("the new one is shown", || one.shown("claws.test").filter(|it| *it != first)).await;
    vault.settled().await;
    assert_eq!(one.shown("claws.test"), Some(second));
    assert_eq!(authorities.each_ref().map(Pebble::orders), [1, 1]);
    let told = |server: &Running| server.source.checks().iter().any(|it| it.detail.contains("other options"));
    assert_eq!((told(&one), told(&two)), (true, false));
    one.end().await;
    two.end().await;
}
