//! When the authority is away, refuses, or a server dies in the middle.

use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use clawfarm_certs::Source as _;
use clawfarm_certs::dns::{Dns, Hook};
use clawfarm_model::certificate::CertificateState;
use clawfarm_model::target::CheckLevel;
use clawfarm_test_acme::{Pebble, Setup};

use crate::port80::Port80;
use crate::support::{Memory, Running, config, local, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_one_before_is_shown_while_the_authority_is_away() {
    let port80 = Port80::bind().await;
    let mut pebble = Pebble::start(&Setup { http: port80.port, ..Setup::default() });
    let server = Running::begin(config(&pebble, None), &Memory::default()).await;
    port80.of(&server.source);
    let first = server.has("claws.test").await;
    pebble.stop();
    server.source.renew("claws.test").await.unwrap();
    let why = server.fails("claws.test", "127.0.0.1 can't be asked").await;
    assert_eq!(server.shown("claws.test").as_ref(), Some(&first));
    assert_eq!(server.told("claws.test").unwrap().state, CertificateState::Failing);
    let check = server.source.checks().remove(0);
    assert_eq!(check.level, CheckLevel::Warning);
    assert!(check.detail.contains(&why) && check.fix.unwrap().contains("cert renew"), "{why}");
    // It comes back without its memory: the account is gone there, too.
    pebble.start_again();
    server.source.renew("claws.test").await.unwrap();
    let began = std::time::Instant::now();
    while server.shown("claws.test").as_ref() == Some(&first) {
        // Until the account that the authority does not know is forgotten.
        server.source.renew("claws.test").await.unwrap();
        assert!(began.elapsed() < crate::support::LIMIT, "{:?}", server.source.list());
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    until("the reason is gone", || server.told("claws.test").filter(|it| it.error.is_none())).await;
    server.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_is_told_and_tried_again() {
    // Nobody answers at port 80.
    let pebble = Pebble::start(&Setup { http: clawfarm_test_acme::free_port(), ..Setup::default() });
    let server = Running::begin(config(&pebble, None), &Memory::default()).await;
    server.fails("claws.test", "refused the proof of claws.test").await;
    assert_eq!(server.told("claws.test").unwrap().state, CertificateState::Unusable);
    assert_eq!(server.source.checks()[0].level, CheckLevel::Error);
    let before = pebble.orders();
    until("it is tried again by itself", || (pebble.orders() > before).then_some(())).await;
    // Who comes meanwhile is not held up.
    until("it waits for the next try", || {
        let told = server.told("claws.test")?;
        (told.error.is_some() && server.shown("claws.test").is_none()).then_some(())
    })
    .await;
    server.end().await;
}

/// A hook that waits at the proof until it is let go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_is_killed_in_the_middle_is_followed_by_one_that_goes_on() {
    let pebble = Pebble::start(&Setup::default());
    let folder = tempfile::tempdir().unwrap();
    let (program, gate) = (folder.path().join("hook"), folder.path().join("gate"));
    let script = format!(
        "#!/bin/bash\nset -eu\necho \"$1 $CLAWFARM_DNS_NAME\" >>{0}/calls\nwhile [ ! -e {0}/gate ]; do sleep 0.1; done\n{1}",
        folder.path().display(),
        crate::dns01::tell(pebble.resolver().manage),
    );
    std::fs::write(&program, script).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o700)).unwrap();
    let dns = || {
        Some(Dns {
            provider: Box::new(Hook { program: program.clone() }),
            look_at: vec![local(pebble.resolver().port)],
        })
    };
    let vault = Memory::default();
    let server = Running::begin(config(&pebble, dns()), &vault).await;
    until("the proof is being given", || folder.path().join("calls").exists().then_some(())).await;
    server.kill().await;
    let orders = pebble.orders();
    assert_eq!(orders, 1);
    let left: serde_json::Value = serde_json::from_str(&vault.text("cert/claws.test").unwrap()).unwrap();
    assert!(left["order"]["url"].is_string(), "how far it came is written down");
    std::fs::write(&gate, "").unwrap();
    let next = Running::begin(config(&pebble, dns()), &vault).await;
    next.has("claws.test").await;
    assert_eq!(pebble.orders(), orders, "the same order");
    assert!(next.shown("alice-x7k2m.claws.test").is_some());
    let done: serde_json::Value = serde_json::from_str(&vault.text("cert/claws.test").unwrap()).unwrap();
    assert!(done["order"].is_null());
    next.end().await;
}
