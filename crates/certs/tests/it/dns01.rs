//! The wildcard, proven by the DNS.

use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use clawfarm_certs::dns::{Cloudflare, Dns, Hook, Provider as _, Record, Rfc2136, Seen};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use clawfarm_test_acme::{Bind, Pebble, Setup};

use crate::cloudflare::StandIn;
use crate::support::{Memory, Running, config, local, until};

/// Lines of a shell script that tell pebble's DNS server what a hook was told.
pub(crate) fn tell(manage: u16) -> String {
    format!(
        "case $1 in present) path=set-txt;; cleanup) path=clear-txt;; *) exit 9;; esac\n\
         body=\"{{\\\"host\\\":\\\"$CLAWFARM_DNS_NAME.\\\",\\\"value\\\":\\\"$CLAWFARM_DNS_VALUE\\\"}}\"\n\
         exec 3<>/dev/tcp/127.0.0.1/{manage}\n\
         printf 'POST /%s HTTP/1.0\\r\\nContent-Length: %s\\r\\n\\r\\n%s' \"$path\" \"${{#body}}\" \"$body\" >&3\n\
         read -r _ status _ <&3\n[ \"$status\" = 200 ]\n"
    )
}

async fn gets_the_wildcard(pebble: &Pebble, dns: Dns) {
    let server = Running::begin(config(pebble, Some(dns)), &Memory::default()).await;
    let base = server.has("claws.test").await;
    assert_eq!(server.shown("alice-x7k2m.claws.test").as_ref(), Some(&base));
    assert_eq!(server.told("claws.test").unwrap().names, ["claws.test", "*.claws.test"]);
    assert_eq!(server.source.table().find(Some("a.b.claws.test")).map(|_| ()), None);
    server.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn by_a_hook() {
    let pebble = Pebble::start(&Setup::default());
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("hook");
    let calls = folder.path().join("calls");
    let script = format!(
        "#!/bin/bash\nset -eu\n{}echo \"$# $1 $CLAWFARM_DNS_DOMAIN $CLAWFARM_DNS_NAME\" >>{}\n",
        tell(pebble.resolver().manage),
        calls.display()
    );
    std::fs::write(&program, script).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o700)).unwrap();
    let look_at = vec![local(pebble.resolver().port)];
    gets_the_wildcard(&pebble, Dns { provider: Box::new(Hook { program: program.clone() }), look_at }).await;
    let line = |verb: &str| format!("1 {verb} claws.test _acme-challenge.claws.test");
    let calls = std::fs::read_to_string(&calls).unwrap();
    // Each of the two records, more than once when pebble refused something in between.
    let verbs: Vec<&str> = calls.lines().collect();
    let (put, taken): (Vec<&str>, Vec<&str>) = verbs.iter().partition(|it| **it == line("present"));
    assert!(put.len() >= 2 && taken.len() >= 2 && taken.iter().all(|it| *it == line("cleanup")), "{calls}");
    assert_eq!(verbs[0], line("present"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_hook_says_when_it_fails_is_told() {
    let pebble = Pebble::start(&Setup::default());
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("hook");
    std::fs::write(&program, "#!/bin/sh\necho 'the zone is locked' >&2\nexit 3\n").unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o700)).unwrap();
    let dns = Dns { provider: Box::new(Hook { program }), look_at: vec![] };
    let server = Running::begin(config(&pebble, Some(dns)), &Memory::default()).await;
    server.fails("claws.test", "exit status: 3: the zone is locked").await;
    server.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn by_cloudflare() {
    let pebble = Pebble::start(&Setup::default());
    let there = StandIn::start(pebble.resolver().manage).await;
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    std::fs::write(&token, "cf-token-of-the-test\n").unwrap();
    let look_at = vec![local(pebble.resolver().port)];
    let provider = Cloudflare::new(&token, Some(&there.api)).unwrap();
    gets_the_wildcard(&pebble, Dns { provider: Box::new(provider), look_at }).await;
    until("its records are taken out", || there.records().is_empty().then_some(())).await;
    assert_eq!(there.made(), 2);

    std::fs::write(&token, "another\n").unwrap();
    let provider = Cloudflare::new(&token, Some(&there.api)).unwrap();
    let record =
        Record { domain: "claws.test".into(), name: "_acme-challenge.claws.test".into(), value: "v".into() };
    let error = provider.present(&record).await.unwrap_err();
    assert!(error.message().contains("Invalid API Token (1000)"), "{error:?}");
    assert!(!format!("{error:?}").contains("another"));
    std::fs::write(&token, "").unwrap();
    assert!(Cloudflare::new(&token, Some(&there.api)).is_err());
    std::fs::write(&token, "x").unwrap();
    let error = Cloudflare::new(&token, Some("http://elsewhere.test")).err().unwrap();
    assert_eq!(error.field_name(), Some("acme_dns_api"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn by_signed_updates_of_bind() {
    let bind = Bind::start();
    let pebble = Pebble::start(&Setup { dns: Some(bind.port), ..Setup::default() });
    let provider = Rfc2136::new(local(bind.port), &bind.key(), None).unwrap();
    gets_the_wildcard(&pebble, Dns { provider: Box::new(provider), look_at: vec![local(bind.port)] }).await;

    // Both are taken out, and no other record of the name.
    let record = |value: &str| Record {
        domain: "claws.test".into(),
        name: "_acme-challenge.claws.test".into(),
        value: value.into(),
    };
    let provider = || Box::new(Rfc2136::new(local(bind.port), &bind.key(), Some("test")).unwrap());
    let dns = Dns { provider: provider(), look_at: vec![local(bind.port)] };
    let seen = |records: Vec<Record>| {
        let dns = &dns;
        async move { dns.look(&records).await.unwrap() == clawfarm_certs::dns::Seen::Everywhere }
    };
    for value in ["one", "two", "two"] {
        dns.provider.present(&record(value)).await.unwrap();
    }
    assert!(seen(vec![record("one"), record("two")]).await);
    dns.provider.clean_up(&record("one")).await.unwrap();
    dns.provider.clean_up(&record("one")).await.unwrap();
    assert!(!seen(vec![record("one")]).await);
    assert!(seen(vec![record("two")]).await);
    dns.provider.clean_up(&record("two")).await.unwrap();
    assert!(!seen(vec![record("two")]).await);

    let stranger = Rfc2136::new(local(bind.port), &bind.other_key(), None).unwrap();
    let error = stranger.present(&record("x")).await.unwrap_err();
    assert!(error.message().contains("refused"), "{error:?}");
}

/// A DNS server that has no record of any name.
async fn without_records() -> std::net::SocketAddr {
    let listener = tokio::net::TcpListener::bind(local(0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let Ok((mut stream, _)) = listener.accept().await else { return };
            let length = stream.read_u16().await.unwrap();
            let mut message = vec![0; usize::from(length)];
            stream.read_exact(&mut message).await.unwrap();
            // An answer (QR) with what was asked and nothing else.
            message[2] |= 0x80;
            stream.write_u16(length).await.unwrap();
            stream.write_all(&message).await.unwrap();
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dns_server_that_is_dead_is_not_waited_for_like_one_without_the_record() {
    let pebble = Pebble::start(&Setup::default());
    let there = StandIn::start(pebble.resolver().manage).await;
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    std::fs::write(&token, "cf-token-of-the-test\n").unwrap();
    let dns = |other| Dns {
        provider: Box::new(Cloudflare::new(&token, Some(&there.api)).unwrap()),
        look_at: vec![local(pebble.resolver().port), other],
    };
    let dead = local(clawfarm_test_acme::free_port());
    let empty = without_records().await;
    let record =
        Record { domain: "claws.test".into(), name: "_acme-challenge.claws.test".into(), value: "v".into() };
    let with_dead = dns(dead);
    with_dead.provider.present(&record).await.unwrap();
    let seen = with_dead.look(std::slice::from_ref(&record)).await.unwrap();
    assert!(matches!(&seen, Seen::Silent(who) if who.len() == 1), "{seen:?}");
    let seen = dns(empty).look(std::slice::from_ref(&record)).await.unwrap();
    assert!(matches!(&seen, Seen::NotYet(who) if who.len() == 1), "{seen:?}");
    let other = Record { value: "w".into(), ..record.clone() };
    assert!(matches!(with_dead.look(&[record.clone(), other]).await.unwrap(), Seen::NotYet(_)));
    let all_dead = Dns { look_at: vec![dead], ..dns(dead) };
    assert!(matches!(all_dead.look(&[record]).await.unwrap(), Seen::NotYet(_)));

    let mut config = config(&pebble, Some(with_dead));
    config.timing.propagation = Duration::from_secs(20);
    let server = Running::begin(config, &Memory::default()).await;
    server.has("claws.test").await;
    server.end().await;
}
