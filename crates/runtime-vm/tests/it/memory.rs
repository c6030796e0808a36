//! Suspending a machine and going on from its memory.

use clawfarm_model::resources::Resources;
use clawfarm_model::{Code, DataFate, ObservedState};
use clawfarm_runtime::{Freeze, NoProgress, Runtime, Suspend};

use crate::farm::{Farm, id, launch, lives, placement, volume};

#[tokio::test]
async fn it_goes_on_where_it_was_with_its_volumes_under_a_new_server() {
    let mut farm = Farm::new().await;
    let id = id("alice-x7k2");
    let pid = farm
        .up(&id, |it| {
            volume(it, "a:/srv/a");
            volume(it, "b:/srv/b");
        })
        .await
        .pid
        .unwrap();
    let slept = farm.suspended(&id).await;
    assert_eq!((slept.state, slept.pid), (ObservedState::Exited, None));
    assert!(slept.exit.unwrap().requested, "it was asked for");
    assert!(!lives(pid) && farm.claw(&id).join("suspended/memory").exists());
    // Done again, it finds it done.
    assert_eq!(farm.suspended(&id).await.state, ObservedState::Exited);
    let at = farm.counted(&id).last().copied().unwrap();

    farm.reopen().await;
    let awake = farm.rt.start(&launch(&id, 2)).await.unwrap();
    assert_eq!((awake.state, awake.run), (ObservedState::Running, 2));
    farm.counts_beyond(&id, at).await;
    farm.counted_without_a_gap(&id);
    assert!(farm.halves(&id).is_empty(), "{:?}", farm.halves(&id));

    // And once more, by the other verb, which keeps the launch.
    farm.suspended(&id).await;
    let at = farm.counted(&id).last().copied().unwrap();
    let awake = farm.rt.resume(&id).await.unwrap();
    assert_eq!((awake.state, awake.run), (ObservedState::Running, 2));
    farm.counts_beyond(&id, at).await;
    farm.counted_without_a_gap(&id);
    assert_eq!(farm.record(&id).get("memory_lost"), None);
}

/// As where the server is not root: what is left is seccomp and Landlock.
#[tokio::test]
async fn without_users_of_their_own_it_is_the_same() {
    let mut farm = Farm::new().await;
    farm.config.own_users = false;
    farm.reopen().await;
    let id = id("dora-x7k2");
    let seen = farm.up(&id, |it| volume(it, "a:/srv/a")).await;
    let confinement = seen.confinement.unwrap();
    assert_eq!((confinement.own_uid, confinement.private_mounts), (None, false));
    farm.suspended(&id).await;
    let at = farm.counted(&id).last().copied().unwrap();
    farm.rt.start(&launch(&id, 2)).await.unwrap();
    farm.counts_beyond(&id, at).await;
    farm.counted_without_a_gap(&id);
    assert_eq!(farm.rt.start_note(&id).await, None);
}

#[tokio::test]
async fn a_memory_that_does_not_fit_any_more_gives_way_to_the_disk() {
    let farm = Farm::new().await;
    let id = id("bob-x7k2");
    let first = placement(&id, |_| {});
    farm.rt.ensure(&first, &NoProgress).await.unwrap();
    farm.rt.start(&launch(&id, 1)).await.unwrap();
    farm.counts_beyond(&id, 2).await;
    farm.suspended(&id).await;
    // Another QEMU was installed meanwhile.
    let about = farm.claw(&id).join("suspended/about.json");
    let mut told: serde_json::Value = serde_json::from_slice(&std::fs::read(&about).unwrap()).unwrap();
    told["qemu"] = serde_json::json!({"major": 8, "minor": 2, "micro": 1});
    std::fs::write(&about, told.to_string()).unwrap();
    let seen = farm.rt.start(&launch(&id, 2)).await.unwrap();
    assert_eq!(seen.state, ObservedState::Running);
    crate::farm::wait_for("a second beginning", || async {
        (farm.beginnings(&id) == 2).then_some(()).ok_or("one")
    })
    .await;
    let why = farm.rt.start_note(&id).await.unwrap();
    assert!(why.contains("QEMU's version was 8.2.1 and is"), "{why}");
    assert!(farm.halves(&id).is_empty());

    // A damaged one is no better, and says so.
    farm.suspended(&id).await;
    let memory = farm.claw(&id).join("suspended/memory");
    let size = std::fs::metadata(&memory).unwrap().len();
    let file = std::fs::OpenOptions::new().write(true).truncate(true).open(&memory).unwrap();
    file.set_len(size).unwrap();
    assert_eq!(farm.rt.start(&launch(&id, 3)).await.unwrap().state, ObservedState::Running);
    crate::farm::wait_for("a third beginning", || async {
        (farm.beginnings(&id) == 3).then_some(()).ok_or("two")
    })
    .await;
    assert!(farm.record(&id)["memory_lost"].is_string());

    // What can't be read either.
    farm.suspended(&id).await;
    std::fs::write(farm.claw(&id).join("suspended/about.json"), "{").unwrap();
    assert_eq!(farm.rt.observe(&id).await.unwrap().state, ObservedState::Exited);
    farm.rt.start(&launch(&id, 4)).await.unwrap();
    crate::farm::wait_for("a fourth beginning", || async {
        (farm.beginnings(&id) == 4).then_some(()).ok_or("three")
    })
    .await;
}

/// That its base snapshot was of no use is told of its first start alone: later ones have their own.
#[tokio::test]
async fn what_became_of_its_base_snapshot_is_told_once() {
    let farm = Farm::new().await;
    let id = id("hugo-x7k2");
    farm.rt.ensure(&placement(&id, |_| {}), &NoProgress).await.unwrap();
    // As its first start leaves it, before it is booted from a disk of its image.
    let lost = || {
        let mut record = farm.record(&id);
        record["base_lost"] = "the image is another one by now".into();
        std::fs::write(farm.claw(&id).join("instance.json"), record.to_string()).unwrap();
    };
    lost();
    farm.rt.start(&launch(&id, 1)).await.unwrap();
    farm.counts_beyond(&id, 0).await;
    let why = farm.rt.start_note(&id).await.unwrap();
    assert!(why.contains("could not be made from the base snapshot"), "{why}");
    farm.rt.kill(&id).await.unwrap();
    farm.rt.start(&launch(&id, 2)).await.unwrap();
    assert_eq!(farm.rt.start_note(&id).await, None);
    farm.counts_beyond(&id, 0).await;

    // Nor does it hide what is lost later, or stay after a start from memory.
    farm.suspended(&id).await;
    lost();
    farm.rt.start(&launch(&id, 3)).await.unwrap();
    assert_eq!(farm.rt.start_note(&id).await, None);
    farm.suspended(&id).await;
    lost();
    std::fs::write(farm.claw(&id).join("suspended/about.json"), "{").unwrap();
    farm.rt.start(&launch(&id, 4)).await.unwrap();
    let why = farm.rt.start_note(&id).await.unwrap();
    assert!(why.contains("its saved memory could not be used"), "{why}");
}

/// What a machine is given while it sleeps is for when it begins anew.
#[tokio::test]
async fn it_goes_on_with_the_resources_of_its_memory_and_begins_with_its_new_ones() {
    let farm = Farm::new().await;
    let id = id("grace-x7k2");
    let first = placement(&id, |_| {});
    farm.rt.ensure(&first, &NoProgress).await.unwrap();
    farm.rt.start(&launch(&id, 1)).await.unwrap();
    farm.counts_beyond(&id, 2).await;
    farm.suspended(&id).await;
    let mut larger = first.clone();
    larger.resources = Resources { cpus: 2.0, memory_mib: 96 };
    farm.rt.ensure(&larger, &NoProgress).await.unwrap();
    let at = farm.counted(&id).last().copied().unwrap();
    let awake = farm.rt.start(&launch(&id, 2)).await.unwrap();
    let has = |pid: Option<u32>| {
        let line = std::fs::read(format!("/proc/{}/cmdline", pid.unwrap())).unwrap();
        let words: Vec<_> =
            line.split(|b| *b == 0).map(|w| String::from_utf8_lossy(w).into_owned()).collect();
        let after = |option: &str| words[words.iter().position(|word| word == option).unwrap() + 1].clone();
        (after("-smp"), after("-m"))
    };
    assert_eq!(has(awake.pid), ("1".into(), "64M".into()));
    farm.counts_beyond(&id, at).await;
    farm.counted_without_a_gap(&id);
    assert_eq!(farm.rt.start_note(&id).await, None);
    // And once more, now that it runs as another than it is to be.
    farm.suspended(&id).await;
    let at = farm.counted(&id).last().copied().unwrap();
    farm.rt.start(&launch(&id, 3)).await.unwrap();
    farm.counts_beyond(&id, at).await;
    farm.counted_without_a_gap(&id);
    farm.rt.kill(&id).await.unwrap();
    let anew = farm.rt.start(&launch(&id, 4)).await.unwrap();
    assert_eq!(has(anew.pid), ("2".into(), "96M".into()));
}

#[tokio::test]
async fn one_that_does_not_run_can_not_be_saved_and_a_saved_one_can_be_removed() {
    let farm = Farm::new().await;
    let id = id("carol-x7k2");
    farm.rt.ensure(&placement(&id, |_| {}), &NoProgress).await.unwrap();
    for error in [Suspend::suspend(&farm.rt, &id).await.unwrap_err(), farm.rt.resume(&id).await.unwrap_err()]
    {
        assert_eq!(error.code(), Code::Gone, "{error}");
    }
    farm.rt.start(&launch(&id, 1)).await.unwrap();
    farm.counts_beyond(&id, 0).await;
    // A frozen one too.
    Freeze::freeze(&farm.rt, &id).await.unwrap();
    farm.suspended(&id).await;
    farm.rt.destroy(&id, DataFate::Purge).await.unwrap();
    assert!(!farm.claw(&id).exists());
}
