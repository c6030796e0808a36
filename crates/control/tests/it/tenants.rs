//! No tenant reaches another's anything.

use clawfarm_model::secret::SecretName;
use clawfarm_model::{Code, Timestamp};
use clawfarm_runtime::{ExecRequest, LogQuery};
use clawfarm_store::{MasterKey, PageRequest, Store, StoreConfig};

use crate::fleet::{Fleet, owner, tenant};

#[tokio::test]
async fn another_tenants_instance_does_not_exist() {
    let fleet = Fleet::new().await;
    let alice = fleet.ready("alice").await;
    let id = alice.id.as_str();
    let other = tenant("other");
    let c = &fleet.control;
    let exec = ExecRequest { argv: vec!["true".into()], tty: None, term: None };
    let refused = [
        c.get(&other, id).await.err(),
        c.start(&other, id).await.err(),
        c.stop(&other, id, true).await.err(),
        c.restart(&other, id).await.err(),
        c.kill(&other, id).await.err(),
        c.suspend(&other, id, false, true).await.err(),
        c.resume(&other, id).await.err(),
        c.remove(&other, id, true, true).await.err(),
        c.update(&other, id, None, Default::default()).await.err(),
        c.usage(&other, id).await.err(),
        c.logs(&other, id, LogQuery::default()).await.err(),
        c.exec(&other, id, exec).await.err(),
        c.send(&other, id, "hello").await.err(),
        c.reveal_token(&other, id).await.err(),
        c.rotate_token(&other, id).await.err(),
        c.dashboard_url(&other, id).await.err(),
        c.events(&other, Some(id), None, 10).await.err(),
        c.operations(&other, Some(id), None, 10).await.err(),
    ];
    for (n, error) in refused.into_iter().enumerate() {
        let error = error.unwrap_or_else(|| panic!("use case {n} let another tenant in"));
        assert_eq!(error.code(), Code::NotFound, "use case {n}: {error}");
    }
    assert!(c.list(&other, &Default::default(), None, 10).await.unwrap().items.is_empty());
    assert!(c.events(&other, None, None, 10).await.unwrap().0.is_empty());
    assert_eq!(c.get(&owner(), id).await.unwrap().intent, alice.intent, "nothing was changed");
    let page = c.operations(&owner(), Some(id), None, 10).await.unwrap();
    let operation = &page.items[0].id;
    assert_eq!(c.operation(&other, operation).await.unwrap_err().code(), Code::NotFound);
    let waited = c.operation_changed(&other, operation, Timestamp::now(), Default::default()).await;
    assert_eq!(waited.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn secrets_are_their_tenants_and_clawfarms_own_stay_hidden() {
    let fleet = Fleet::new().await;
    fleet.ready("alice").await;
    let name = SecretName::new("key").unwrap();
    fleet.control.set_secret(&owner(), None, &name, &"v1".into()).await.unwrap();
    fleet.control.set_secret(&owner(), Some("alice"), &name, &"v2".into()).await.unwrap();
    assert!(fleet.control.secrets(&tenant("other")).await.unwrap().is_empty());
    let listed = fleet.control.secrets(&owner()).await.unwrap();
    assert_eq!(listed.len(), 2, "the gateway token is not listed: {listed:?}");
    let reserved = SecretName::new("clawfarm.gateway-token").unwrap();
    let refused =
        fleet.control.set_secret(&owner(), Some("alice"), &reserved, &"x".into()).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidInput);
    assert!(fleet.control.remove_secret(&owner(), Some("alice"), &reserved, false).await.is_err());
    fleet.control.remove_secret(&owner(), None, &name, false).await.unwrap();
    let gone = fleet.control.remove_secret(&owner(), None, &name, false).await.unwrap_err();
    assert_eq!(gone.code(), Code::NotFound);
}

#[tokio::test]
async fn what_is_taken_out_of_a_support_bundle_is_what_its_maker_could_see() {
    use secrecy::ExposeSecret;
    let fleet = Fleet::new().await;
    fleet.ready("alice").await;
    let name = SecretName::new("key").unwrap();
    fleet.control.set_secret(&owner(), None, &name, &"ours".into()).await.unwrap();
    let token = fleet.control.reveal_token(&owner(), "alice").await.unwrap().token;
    // The server's log may tell of all.
    let leave = fleet.control.begin_support_bundle(&owner()).await.unwrap();
    let values: Vec<&str> = leave.values.iter().map(ExposeSecret::expose_secret).collect();
    assert!(leave.whole_server && ["ours", token.expose_secret()].iter().all(|v| values.contains(v)));
    assert_eq!(values.len(), 3, "and the model key");
    let key = MasterKey::load_or_create(&fleet.home().join("master.key")).unwrap();
    let store = Store::open(StoreConfig::sqlite(fleet.home().join("clawfarm.db"), key)).await.unwrap();
    let audit = store.audit(&owner(), &PageRequest::after(None, 10)).await.unwrap();
    assert!(audit.items.iter().any(|e| e.action == "server.admin" && e.detail == "a support bundle"));
}

#[tokio::test]
async fn the_owner_sees_the_token_and_the_model_key_fits_its_instance_only() {
    let fleet = Fleet::new().await;
    let alice = fleet.ready("alice").await;
    let bob = fleet.ready("bob").await;
    let first = fleet.control.reveal_token(&owner(), "alice").await.unwrap();
    let (events, _) = fleet.control.events(&owner(), Some("alice"), None, 100).await.unwrap();
    assert!(events.iter().any(|e| e.reason == "token-revealed"));
    fleet.reached(fleet.control.rotate_token(&owner(), "alice").await.unwrap()).await;
    let second = fleet.control.reveal_token(&owner(), "alice").await.unwrap();
    use secrecy::ExposeSecret;
    assert_ne!(first.token.expose_secret(), second.token.expose_secret());
    assert!(!second.dashboard_url.contains(second.token.expose_secret()), "it would stay in histories");
    for id in [&alice.id, &bob.id] {
        assert!(!fleet.control.check_model_key(id, second.token.expose_secret()).await);
        assert!(!fleet.control.check_model_key(id, "").await);
    }
}
