//! Names that are proven by HTTP.

use std::time::Duration;

use clawfarm_certs::acme::{AcmeConfig, External};
use clawfarm_certs::{Source as _, Vault as _};
use clawfarm_model::Timestamp;
use clawfarm_model::certificate::CertificateState;
use clawfarm_test_acme::{Pebble, Setup};
use secrecy::SecretString;
use serde_json::json;

use crate::port80::Port80;
use crate::support::{LIMIT, Memory, Running, config, quick, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_base_domain_gets_one_and_claws_when_they_are_asked_for() {
    let port80 = Port80::bind().await;
    let pebble = Pebble::start(&Setup { http: port80.port, ..Setup::default() });
    let vault = Memory::default();
    let server = Running::begin(config(&pebble, None), &vault).await;
    port80.of(&server.source);
    server.has("claws.test").await;
    let told = server.told("claws.test").unwrap();
    assert_eq!((told.state, told.names), (CertificateState::Valid, vec!["claws.test".to_owned()]));
    assert!(told.issuer.unwrap().contains("Pebble"));
    // A third of its time before its end, or up to a thirtieth earlier.
    let (from, to, renews) = (told.not_before.unwrap(), told.not_after.unwrap(), told.renews_at.unwrap());
    let (life, left) = (to.since(from), to.since(renews));
    assert!(
        left >= life / 3 && left <= life / 3 + life / 30 + Duration::from_secs(1),
        "{left:?} of {life:?}"
    );

    assert_eq!(server.shown("alice-x7k2m.claws.test"), None);
    server.source.ready("Alice-x7k2m.claws.test").await;
    server.has("alice-x7k2m.claws.test").await;
    let orders = pebble.orders();
    for stranger in
        ["nobody-11111.claws.test", "a.alice-x7k2m.claws.test", "evil.test", "test", "", "*.claws.test"]
    {
        server.source.ready(stranger).await;
        assert_eq!(server.shown(stranger), None, "{stranger}");
    }
    assert_eq!(pebble.orders(), orders, "no order for who is not there");
    assert!(server.source.renew("nobody-11111.claws.test").await.is_err());
    // Proofs are taken away, and the key is not in what is told.
    until("proofs are taken away", || {
        vault.names().iter().all(|name| !name.starts_with("http/")).then_some(())
    })
    .await;
    let told = serde_json::to_string(&server.source.list()).unwrap();
    assert!(!told.contains("PRIVATE KEY"));
    server.end().await;

    // What was got is there at once for the next server.
    let next = Running::begin(config(&pebble, None), &vault).await;
    assert!(next.shown("claws.test").is_some() && next.shown("alice-x7k2m.claws.test").is_some());
    assert_eq!(pebble.orders(), orders);
    next.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_is_got_when_it_is_asked_for_and_in_time() {
    let port80 = Port80::bind().await;
    let validity = Duration::from_secs(30);
    let pebble = Pebble::start(&Setup { http: port80.port, validity, ..Setup::default() });
    let server = Running::begin(config(&pebble, None), &Memory::default()).await;
    port80.of(&server.source);
    let first = server.has("claws.test").await;
    server.source.renew("claws.test").await.unwrap();
    let second = until("another is shown", || server.shown("claws.test").filter(|it| *it != first)).await;
    until("the next is shown without being asked for", || {
        server.shown("claws.test").filter(|it| *it != second)
    })
    .await;
    server.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_account_at_the_authority_is_named() {
    let key = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W";
    let port80 = Port80::bind().await;
    let pebble =
        Pebble::start(&Setup { http: port80.port, external: Some(("kid-1", key)), ..Setup::default() });
    let vault = Memory::default();
    let server = Running::begin(config(&pebble, None), &vault).await;
    port80.of(&server.source);
    server.fails("claws.test", "externalAccount").await;
    server.end().await;
    let mut with = config(&pebble, None);
    with.external = Some(External { id: "kid-1".to_owned(), key: SecretString::from(key) });
    let server = Running::begin(with, &vault).await;
    port80.of(&server.source);
    server.has("claws.test").await;
    server.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_so_many_names_a_week_and_it_is_told() {
    let port80 = Port80::bind().await;
    let pebble = Pebble::start(&Setup { http: port80.port, ..Setup::default() });
    let mut few = config(&pebble, None);
    few.timing.weekly = 2;
    let server = Running::begin(few, &Memory::default()).await;
    port80.of(&server.source);
    server.has("claws.test").await;
    server.source.ready("alice-x7k2m.claws.test").await;
    server.has("alice-x7k2m.claws.test").await;
    let orders = pebble.orders();
    // It is not waited for.
    server.source.ready("bob-q2w3e.claws.test").await;
    assert_eq!(server.shown("bob-q2w3e.claws.test"), None);
    let checks = server.source.checks();
    assert!(checks.iter().any(|it| it.detail.contains("further ones have to wait")), "{checks:?}");
    assert_eq!(pebble.orders(), orders);
    server.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_fails_uses_up_nothing_of_the_week() {
    let port80 = Port80::bind().await;
    let pebble = Pebble::start(&Setup { http: port80.port, ..Setup::default() });
    let mut few = config(&pebble, None);
    few.timing.weekly = 2;
    let server = Running::begin(few, &Memory::default()).await;
    port80.not_for("alice-x7k2m.claws.test");
    port80.of(&server.source);
    server.has("claws.test").await;
    server.source.ready("alice-x7k2m.claws.test").await;
    server.fails("alice-x7k2m.claws.test", "refused the proof").await;
    server.gets("bob-q2w3e.claws.test").await;
    assert_eq!(server.shown("alice-x7k2m.claws.test"), None);
    server.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_written_by_a_clock_far_ahead_is_not_waited_for() {
    let port80 = Port80::bind().await;
    let pebble = Pebble::start(&Setup { http: port80.port, ..Setup::default() });
    let vault = Memory::default();
    let ahead = Timestamp::now().after(Duration::from_secs(200 * 24 * 3600));
    for name in ["claws.test", "alice-x7k2m.claws.test"] {
        let failed = json!({ "names": [name], "directory": pebble.directory(), "failures": 2,
            "tried_at": ahead, "error": "the authority's certificate is too old", "again_at": ahead });
        vault.write(&format!("cert/{name}"), &failed).await;
    }
    let counted: Vec<_> = (0..40).map(|_| json!({ "at": ahead, "tenant": "default" })).collect();
    for name in ["issued", "tried"] {
        vault.write(name, &json!(counted)).await;
    }
    let server = Running::begin(config(&pebble, None), &vault).await;
    port80.of(&server.source);
    for name in ["claws.test", "alice-x7k2m.claws.test", "bob-q2w3e.claws.test"] {
        server.gets(name).await;
    }
    server.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_who_ask_for_proofs_keep_no_authority_waiting() {
    let vault = Memory::default();
    let mut timing = quick();
    // It looks by itself so seldom that it does not come to it.
    timing.poll = LIMIT * 60;
    let config = AcmeConfig {
        directory: "https://acme.test/dir".to_owned(),
        root: None,
        contact: vec![],
        external: None,
        base: "claws.test".to_owned(),
        dns: None,
        timing,
    };
    let server = Running::begin(config, &vault).await;
    let strangers = (0..200).map(|number| {
        let source = &server.source;
        async move { source.answer(&format!("token-of-a-stranger-{number}")).await }
    });
    let authority = async {
        // Another server lays it out, and the authority comes to this one.
        let proof = SecretString::from("proof".to_owned());
        vault.put("http/token-of-the-authority", Some(&proof), None).await.unwrap();
        server.source.answer("token-of-the-authority").await
    };
    let (told, found) = tokio::join!(futures::future::join_all(strangers), authority);
    assert!(told.iter().all(Option::is_none));
    assert_eq!(found.as_deref(), Some("proof"));
    assert!(vault.looks() < 20, "{}", vault.looks());
    server.end().await;
}
