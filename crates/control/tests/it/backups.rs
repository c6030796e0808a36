//! Archives of instances: that they are made without a trace, and what becomes of them.

use std::path::PathBuf;

use bytes::Bytes;
use clawfarm_control::{Accepted, NewRestore};
use clawfarm_model::config::ClawConfig;
use clawfarm_model::instance::Instance;
use clawfarm_model::secret::SecretName;
use clawfarm_model::{ClawId, Code, Error, Phase};
use clawfarm_runtime_sim::{ActKind, Failure, Verb};
use futures::StreamExt;
use secrecy::ExposeSecret;

use crate::fleet::{Fleet, claw, owner, tenant};

fn named(name: &str) -> NewRestore {
    NewRestore { name: Some(name.parse().unwrap()), ..NewRestore::default() }
}

fn failing(verb: Verb, code: Code) -> Failure {
    let mut failure = serde_json::from_value::<Failure>(serde_json::json!({ "verb": verb })).unwrap();
    failure.code = code;
    failure
}

impl Fleet {
    async fn archive(&self, id: &str) -> Result<Vec<u8>, Error> {
        let mut pieces = self.control.back_up(&owner(), id).await?.bytes;
        let mut archive = Vec::new();
        while let Some(piece) = pieces.next().await {
            archive.extend_from_slice(&piece?);
        }
        Ok(archive)
    }

    async fn restore(&self, wanted: NewRestore, archive: &[u8]) -> Result<Accepted, Error> {
        // In pieces of any size.
        let pieces: Vec<_> = archive.chunks(777).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
        self.control.restore(&owner(), wanted, None, futures::stream::iter(pieces)).await
    }

    fn state(&self, id: &ClawId) -> PathBuf {
        let data = self.home().join("world/data");
        let shards = std::fs::read_dir(data).unwrap().map(|shard| shard.unwrap().path());
        shards.map(|shard| shard.join(id.as_str()).join("state")).find(|state| state.exists()).unwrap()
    }

    fn left(&self) -> Vec<PathBuf> {
        let room = std::fs::read_dir(self.home().join("world/backups"));
        room.into_iter().flatten().map(|entry| entry.unwrap().path()).collect()
    }

    /// Waits until nothing of an archive is left on the disk.
    async fn tidy(&self) {
        let begun = std::time::Instant::now();
        while !self.left().is_empty() {
            assert!(begun.elapsed().as_secs() < 60, "{:?} is left", self.left());
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }

    async fn reasons(&self, id: &str) -> Vec<String> {
        let (events, _) = self.control.events(&owner(), Some(id), None, 200).await.unwrap();
        events.into_iter().map(|e| e.reason).collect()
    }

    async fn token(&self, it: &Instance) -> String {
        self.control.reveal_token(&owner(), it.id.as_str()).await.unwrap().token.expose_secret().to_owned()
    }
}

#[tokio::test]
async fn one_that_is_up_stands_still_while_it_is_copied_and_a_new_one_begins_with_its_data() {
    let fleet = Fleet::new().await;
    let alice = fleet.ready("alice").await;
    std::fs::write(fleet.state(&alice.id).join("memory.md"), "the cat is called Mo").unwrap();
    let before = fleet.reasons("alice").await.into_iter().filter(|r| r == "phase").count();
    let archive = fleet.archive("alice").await.unwrap();
    let acts = fleet.acts(&alice);
    let tail = [ActKind::Drain, ActKind::Freeze, ActKind::Thaw, ActKind::Undrain];
    assert_eq!(acts[acts.len() - 4..], tail, "{acts:?}");
    let now = fleet.control.get(&owner(), "alice").await.unwrap();
    assert_eq!((now.phase, now.intent.run), (Phase::Ready, alice.intent.run));
    let reasons = fleet.reasons("alice").await;
    assert_eq!(reasons.iter().filter(|r| *r == "phase").count(), before, "its phase is what it was");
    assert!(reasons.contains(&"backup".to_owned()), "{reasons:?}");
    fleet.tidy().await;
    // What it has learned since is not in the archive.
    std::fs::write(fleet.state(&alice.id).join("memory.md"), "the cat is called Bo").unwrap();
    let accepted = fleet.restore(named("bob"), &archive).await.unwrap();
    assert!(
        accepted.warnings.iter().any(|w| w.message.contains(alice.id.as_str())),
        "{:?}",
        accepted.warnings
    );
    let bob = fleet.reached(accepted).await;
    assert_eq!((bob.name.as_str(), bob.phase), ("bob", Phase::Ready));
    assert_ne!(bob.port, now.port);
    let memory = std::fs::read_to_string(fleet.state(&bob.id).join("memory.md")).unwrap();
    assert_eq!(memory, "the cat is called Mo");
    assert_ne!(fleet.token(&alice).await, fleet.token(&bob).await, "each has a token of its own");
    let config = std::fs::read_to_string(fleet.state(&bob.id).join("openclaw.json")).unwrap();
    assert!(!config.contains(&fleet.token(&alice).await));
    fleet.tidy().await;
    // The same again, under its old name, when the first is gone.
    let removed = fleet.control.remove(&owner(), alice.id.as_str(), true, false).await.unwrap();
    assert!(fleet.ended(&removed.operation).await.error.is_none());
    let again = fleet.reached(fleet.restore(NewRestore::default(), &archive).await.unwrap()).await;
    assert_eq!(again.name.as_str(), "alice");
    assert_ne!(again.id, alice.id);
}

#[tokio::test]
async fn one_that_is_down_or_asleep_stays_so() {
    let fleet = Fleet::new().await;
    let (me, alice) = (owner(), fleet.ready("alice").await);
    for phase in [Phase::Warm, Phase::Suspended, Phase::Stopped] {
        let accepted = match phase {
            Phase::Warm => fleet.control.suspend(&me, "alice", true, false).await,
            Phase::Suspended => fleet.control.suspend(&me, "alice", false, false).await,
            _ => fleet.control.stop(&me, "alice", false).await,
        };
        fleet.reached(accepted.unwrap()).await;
        let before = fleet.acts(&alice);
        let archive = fleet.archive("alice").await.unwrap();
        assert!(!archive.is_empty());
        assert_eq!(fleet.acts(&alice), before, "{phase}: nothing was done to it");
        assert_eq!(fleet.control.get(&me, "alice").await.unwrap().phase, phase);
        fleet.tidy().await;
    }
}

#[tokio::test]
async fn where_nothing_can_be_frozen_it_is_stopped_and_started_again() {
    let fleet = Fleet::with(|b| b.failures.push(failing(Verb::Freeze, Code::Unsupported))).await;
    let alice = fleet.ready("alice").await;
    let archive = fleet.archive("alice").await.unwrap();
    let run = alice.intent.run + 1;
    let up = |it: &Instance| it.phase == Phase::Ready && it.observed.as_ref().is_some_and(|o| o.run == run);
    fleet.until("alice", "it is up again", up).await;
    assert_eq!((fleet.count(&alice, ActKind::Stop), fleet.count(&alice, ActKind::Start)), (1, 2));
    let bob = fleet.reached(fleet.restore(named("bob"), &archive).await.unwrap()).await;
    assert_eq!(fleet.world.versions(&bob.id).unwrap().len(), 2);
}

#[tokio::test]
async fn what_is_under_way_or_not_ones_own_is_refused() {
    let fleet = Fleet::with(|b| b.delays = [(Verb::Install, (3_600_000, 3_600_000))].into()).await;
    let alice = fleet.ready("alice").await;
    let error = fleet.control.back_up(&tenant("other"), "alice").await.map(drop).unwrap_err();
    assert_eq!(error.code(), Code::NotFound);
    fleet.control.update_software(&owner(), "alice", Some("2026.9.7")).await.unwrap();
    let error = fleet.archive("alice").await.unwrap_err();
    assert_eq!((error.code(), error.field_name()), (Code::Conflict, Some("id")));
    assert!(error.message().contains("being updated"), "{error}");
    fleet.reached(fleet.control.stop(&owner(), "alice", false).await.unwrap()).await;
    fleet.world.change_behaviour(|b| b.delays = [(Verb::Destroy, (3_600_000, 3_600_000))].into()).unwrap();
    fleet.control.remove(&owner(), "alice", false, false).await.unwrap();
    assert_eq!(fleet.archive("alice").await.unwrap_err().code(), Code::Conflict);
    assert_eq!(fleet.count(&alice, ActKind::Freeze), 0);
    fleet.tidy().await;
}

#[tokio::test]
async fn a_copy_that_is_called_off_or_fails_leaves_the_claw_as_it_was() {
    let fleet = Fleet::new().await;
    let alice = fleet.ready("alice").await;
    let undrained = |n| fleet.count(&alice, ActKind::Undrain) == n && fleet.count(&alice, ActKind::Thaw) == n;
    // The disk is full.
    fleet.world.change_behaviour(|b| b.failures.push(failing(Verb::CopyOut, Code::Insufficient))).unwrap();
    assert_eq!(fleet.archive("alice").await.unwrap_err().code(), Code::Insufficient);
    assert!(undrained(1), "{:?}", fleet.acts(&alice));
    fleet.tidy().await;
    // Its caller hangs up.
    let long = [(Verb::CopyOut, (3_600_000, 3_600_000))];
    fleet.world.change_behaviour(|b| (b.failures, b.delays) = (vec![], long.into())).unwrap();
    let control = fleet.control.clone();
    let asking = tokio::spawn(async move { control.back_up(&owner(), "alice").await.map(drop) });
    fleet.until("alice", "it is frozen", |it| fleet.count(it, ActKind::Freeze) == 2).await;
    asking.abort();
    fleet.until("alice", "it goes on", |_| undrained(2)).await;
    fleet.tidy().await;
    // Something else is asked of it.
    let control = fleet.control.clone();
    let asking = tokio::spawn(async move { control.back_up(&owner(), "alice").await.map(drop) });
    fleet.until("alice", "it is frozen again", |it| fleet.count(it, ActKind::Freeze) == 3).await;
    fleet.reached(fleet.control.stop(&owner(), "alice", false).await.unwrap()).await;
    let error = asking.await.unwrap().unwrap_err();
    assert!(error.code() == Code::Conflict && error.message().contains("something else"), "{error}");
    fleet.tidy().await;
}

#[tokio::test]
async fn an_archive_that_is_not_whole_makes_nothing() {
    let fleet = Fleet::new().await;
    fleet.ready("alice").await;
    let archive = fleet.archive("alice").await.unwrap();
    let mut changed = archive.clone();
    let middle = changed.len() / 2;
    changed[middle] ^= 1;
    for (what, other) in [
        ("changed", changed.as_slice()),
        ("cut off", &archive[..archive.len() - 1]),
        ("empty", b"".as_slice()),
        ("something else", b"PK\x03\x04 and so on".as_slice()),
    ] {
        let error = fleet.restore(named("bob"), other).await.unwrap_err();
        assert_eq!(
            (error.code(), error.field_name()),
            (Code::InvalidInput, Some("archive")),
            "{what}: {error}"
        );
        assert!(error.fix_text().is_some());
        fleet.tidy().await;
    }
    // The line breaks.
    let pieces =
        vec![Ok(Bytes::copy_from_slice(&archive[..100])), Err(Error::new(Code::Unavailable, "gone"))];
    let broken = fleet.control.restore(&owner(), named("bob"), None, futures::stream::iter(pieces)).await;
    assert_eq!(broken.unwrap_err().message(), "gone");
    // No place for it.
    let elsewhere = NewRestore { target: Some("nowhere".parse().unwrap()), ..named("bob") };
    assert_eq!(fleet.restore(elsewhere, &archive).await.unwrap_err().code(), Code::NotFound);
    fleet.tidy().await;
    let all = fleet.control.list(&owner(), &Default::default(), None, 100).await.unwrap().items;
    assert_eq!(all.len(), 1, "{all:?}");
}

#[tokio::test]
async fn an_archive_holds_no_values_of_secrets_and_says_which_are_missing() {
    let fleet = Fleet::new().await;
    let mut new = claw("alice");
    let key = SecretName::new("model").unwrap();
    new.config = serde_json::from_value::<ClawConfig>(serde_json::json!({
        "model": { "provider": "openai", "name": "gpt-5", "api_key": { "secret": "model" } },
    }))
    .unwrap();
    new.secrets.insert(key.clone(), "sk-very-secret-value".into());
    fleet.reached(fleet.control.create(&owner(), new, None).await.unwrap()).await;
    let archive = fleet.archive("alice").await.unwrap();
    let error = fleet.restore(named("bob"), &archive).await.unwrap_err();
    assert_eq!((error.code(), error.field_name()), (Code::InvalidInput, Some("archive")));
    assert!(
        error.message().contains("'model'") && error.fix_text().unwrap().contains("secret set"),
        "{error:?}"
    );
    fleet.tidy().await;
    fleet.control.set_secret(&owner(), None, &key, &"sk-another".into()).await.unwrap();
    fleet.reached(fleet.restore(named("bob"), &archive).await.unwrap()).await;
}

#[tokio::test]
async fn what_a_killed_server_left_is_removed_by_the_next_and_its_claw_goes_on() {
    let fleet = Fleet::new().await;
    let alice = fleet.ready("alice").await;
    let archive = fleet.archive("alice").await.unwrap();
    fleet.tidy().await;
    let room = fleet.home().join("world/backups");
    std::fs::create_dir_all(room.join(format!("{}.0123", alice.id)).join("state")).unwrap();
    std::fs::create_dir_all(room.join("4567/state")).unwrap();
    // And one that an instance is still to begin with.
    fleet.world.change_behaviour(|b| b.failures.push(failing(Verb::Ensure, Code::Unavailable))).unwrap();
    let bob = fleet.restore(named("bob"), &archive).await.unwrap();
    let fleet = fleet.restarted().await;
    fleet.until("alice", "its drain is taken back", |it| fleet.count(it, ActKind::Undrain) >= 1).await;
    let begun = std::time::Instant::now();
    while fleet.left().len() != 1 {
        assert!(begun.elapsed().as_secs() < 60, "{:?}", fleet.left());
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    fleet.world.change_behaviour(|b| b.failures.clear()).unwrap();
    fleet.control.start(&owner(), bob.instance.id.as_str()).await.unwrap();
    let bob = fleet.until_phase(bob.instance.id.as_str(), Phase::Ready).await;
    assert_eq!(fleet.world.versions(&bob.id).unwrap().len(), 2, "it begins with the data");
    fleet.tidy().await;
}

#[tokio::test]
async fn a_server_that_ends_lets_a_claw_go_on_that_stands_still() {
    let fleet = Fleet::with(|b| b.delays = [(Verb::CopyOut, (3_600_000, 3_600_000))].into()).await;
    let alice = fleet.ready("alice").await;
    let control = fleet.control.clone();
    let asking = tokio::spawn(async move { control.back_up(&owner(), "alice").await.map(drop) });
    fleet.until("alice", "it is frozen", |it| fleet.count(it, ActKind::Freeze) == 1).await;
    fleet.control.shutdown(None, false).await.unwrap();
    assert_eq!((fleet.count(&alice, ActKind::Thaw), fleet.count(&alice, ActKind::Undrain)), (1, 1));
    assert_eq!(asking.await.unwrap().unwrap_err().code(), Code::Unavailable);
}
