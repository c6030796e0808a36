//! What is refused, and what others have taken.

use std::path::Path;

use clawfarm_model::{Code, DataFate, ObservedState};
use clawfarm_runtime::{NoProgress, Runtime};

use crate::farm::{Farm, id, launch, placement, volume, wait_for};
use crate::guest;

#[tokio::test]
async fn what_can_not_be_made_is_told_before_anything_is() {
    let farm = Farm::new().await;
    let id = id("alice-x7k2");
    let refused = async |placement| {
        let error = farm.rt.ensure(&placement, &NoProgress).await.unwrap_err();
        assert!(error.fix_text().is_some(), "{error}");
        assert!(!farm.claw(&id).exists(), "{error}: something was made");
        error.field_name().unwrap_or_default().to_owned()
    };
    // One that nobody offers, and one whose site does not answer.
    for image in ["lab:9", "debian:12@20250115", "debian:12"] {
        let missing = placement(&id, |it| it.vm.as_mut().unwrap().image = image.parse().unwrap());
        assert_eq!(refused(missing).await, "vm.image", "{image}");
    }
    assert_eq!(refused(placement(&id, |it| it.vm = None)).await, "vm.image");
    let nowhere = placement(&id, |it| it.vm.as_mut().unwrap().workspace = Some("/nowhere/at/all".into()));
    assert_eq!(refused(nowhere).await, "vm.workspace");
    let own = farm.config.home.to_str().unwrap().to_owned();
    assert_eq!(
        refused(placement(&id, |it| it.vm.as_mut().unwrap().workspace = Some(own))).await,
        "vm.workspace"
    );
    assert_eq!(refused(placement(&id, |it| it.resources.memory_mib = 1)).await, "resources.memory_mib");
}

#[tokio::test]
async fn a_disk_smaller_than_its_image_is_refused_and_leaves_no_pin() {
    let farm = Farm::new().await;
    let id = id("bob-x7k2");
    let disk = farm.root().join("large");
    let made = std::process::Command::new("qemu-img")
        .args(["create", "-q", "-f", "qcow2"])
        .arg(&disk)
        .arg("3G")
        .status()
        .expect("qemu-img is installed");
    assert!(made.success());
    let large = "large:1".parse().unwrap();
    farm.images().import(&disk, &large, &NoProgress).await.unwrap();
    let small = placement(&id, |it| {
        let vm = it.vm.as_mut().unwrap();
        (vm.image, vm.disk_gib) = (large.clone(), Some(1));
    });
    let error = farm.rt.ensure(&small, &NoProgress).await.unwrap_err();
    assert_eq!(error.field_name(), Some("disk_gib"), "{error}");
    farm.rt.undo(&id).await.unwrap();
    farm.rt.destroy(&id, DataFate::Purge).await.unwrap();
    assert!(farm.images().pins(&large).unwrap().is_empty() && !farm.claw(&id).exists());
}

#[tokio::test]
async fn ports_that_others_have_are_told_by_their_field_or_left_to_them() {
    let farm = Farm::new().await;
    let id = id("carol-x7k2");
    let held = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = held.local_addr().unwrap().port();
    let wanted = placement(&id, |it| it.port = taken);
    farm.rt.ensure(&wanted, &NoProgress).await.unwrap();
    let error = farm.rt.start(&launch(&id, 1)).await.unwrap_err();
    assert_eq!((error.code(), error.field_name()), (Code::Conflict, Some("port")), "{error}");

    let held_too = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = held_too.local_addr().unwrap().port();
    let other = crate::farm::id("dave-x7k2");
    let wanted = placement(&other, |it| {
        it.vm.as_mut().unwrap().publish = vec![format!("{taken}:80").parse().unwrap()];
    });
    farm.rt.ensure(&wanted, &NoProgress).await.unwrap();
    let error = farm.rt.start(&launch(&other, 1)).await.unwrap_err();
    assert_eq!((error.code(), error.field_name()), (Code::Conflict, Some("vm.publish[0].host")), "{error}");

    // The port of SSH is ours to choose.
    let third = crate::farm::id("erin-x7k2");
    farm.rt.ensure(&placement(&third, |_| {}), &NoProgress).await.unwrap();
    let before = farm.record(&third)["ssh_port"].as_u64().unwrap();
    let _held = std::net::TcpListener::bind(("127.0.0.1", u16::try_from(before).unwrap())).unwrap();
    let seen = farm.rt.start(&launch(&third, 1)).await.unwrap();
    assert_eq!(seen.state, ObservedState::Running);
    assert_ne!(farm.record(&third)["ssh_port"].as_u64().unwrap(), before);
}

#[tokio::test]
async fn a_port_that_a_machine_could_never_have_is_refused_before_anything_is_made() {
    let farm = Farm::new().await;
    let publishes = |id: &clawfarm_model::ClawId, host: u16| {
        placement(id, |it| it.vm.as_mut().unwrap().publish = vec![format!("{host}:80").parse().unwrap()])
    };
    let nothing = |id: &clawfarm_model::ClawId| {
        let dir = farm.claw(id);
        assert!(
            !dir.join("instance.json").exists() && !dir.join("instance.img").exists(),
            "something was made"
        );
    };
    // QEMU is never root.
    let (alice, bob) = (id("alice-x7k2"), id("bob-x7k2"));
    let error = farm.rt.ensure(&publishes(&alice, 80), &NoProgress).await.unwrap_err();
    assert_eq!(
        (error.code(), error.field_name()),
        (Code::InvalidInput, Some("vm.publish[0].host")),
        "{error}"
    );
    assert!(error.fix_text().unwrap().contains("1024"), "{error}");
    nothing(&alice);

    // Two at once, of which one has it; neither runs.
    let port = crate::farm::free_port();
    let (wants_a, wants_b) = (publishes(&alice, port), publishes(&bob, port));
    let both = tokio::join!(farm.rt.ensure(&wants_a, &NoProgress), farm.rt.ensure(&wants_b, &NoProgress));
    let (won, lost, error) = match both {
        (Ok(_), Err(error)) => (&alice, &bob, error),
        (Err(error), Ok(_)) => (&bob, &alice, error),
        other => panic!("one of them: {other:?}"),
    };
    assert_eq!((error.code(), error.field_name()), (Code::Conflict, Some("vm.publish[0].host")), "{error}");
    assert!(error.message().contains(won.as_str()) && error.fix_text().is_some(), "{error}");
    nothing(lost);

    // Nor another's SSH, nor its gateway's.
    let ssh = farm.record(won)["ssh_port"].as_u64().unwrap();
    let gateway = farm.record(won)["port"].as_u64().unwrap();
    for taken in [ssh, gateway] {
        let wanted = publishes(lost, u16::try_from(taken).unwrap());
        let error = farm.rt.ensure(&wanted, &NoProgress).await.unwrap_err();
        assert_eq!(error.field_name(), Some("vm.publish[0].host"), "{error}");
    }
    let wanted = placement(lost, |it| it.port = u16::try_from(ssh).unwrap());
    assert_eq!(farm.rt.ensure(&wanted, &NoProgress).await.unwrap_err().field_name(), Some("port"));
    nothing(lost);
    // The one that has it may be prepared again, and when it is gone the other may have it.
    let again = if won == &alice { &wants_a } else { &wants_b };
    farm.rt.ensure(again, &NoProgress).await.unwrap();
    farm.rt.destroy(won, DataFate::Purge).await.unwrap();
    farm.rt.ensure(&publishes(lost, port), &NoProgress).await.unwrap();
}

#[tokio::test]
async fn a_bare_machine_runs_no_claw() {
    let farm = Farm::new().await;
    let id = id("frank-x7k2");
    farm.rt.ensure(&placement(&id, |_| {}), &NoProgress).await.unwrap();
    let mut claw = launch(&id, 1);
    claw.argv = vec!["openclaw".into()];
    let error = farm.rt.start(&claw).await.unwrap_err();
    assert!(error.message().contains("is a bare machine"), "{error}");
    assert!(!farm.rt.observe(&id).await.unwrap().state.is_up());
}

#[tokio::test]
async fn a_qemu_or_virtiofsd_that_ends_at_once_is_told_in_its_words() {
    let farm = Farm::new().await;
    let id = id("grace-x7k2");
    farm.rt.ensure(&placement(&id, |it| volume(it, "a:/srv/a")), &NoProgress).await.unwrap();
    // Not a disk that QEMU can use.
    let disk = farm.claw(&id).join("instance.img");
    let whole = std::fs::read(&disk).unwrap();
    std::fs::write(&disk, "no disk at all").unwrap();
    let error = farm.rt.start(&launch(&id, 1)).await.unwrap_err();
    assert_eq!(error.code(), Code::ClawFailed, "{error}");
    assert!(error.message().contains("qcow2"), "{error}");
    assert!(!farm.rt.observe(&id).await.unwrap().state.is_up());
    std::fs::write(&disk, whole).unwrap();
    // Nor a folder that can be served.
    std::fs::remove_dir(farm.claw(&id).join("volumes/a")).unwrap();
    std::fs::write(farm.claw(&id).join("volumes/a"), "no folder").unwrap();
    let error = farm.rt.start(&launch(&id, 2)).await.unwrap_err();
    assert_eq!(error.field_name(), Some("vm.volumes"), "{error}");
    assert!(!farm.rt.observe(&id).await.unwrap().state.is_up());
    std::fs::remove_file(farm.claw(&id).join("volumes/a")).unwrap();
    farm.rt.ensure(&placement(&id, |it| volume(it, "a:/srv/a")), &NoProgress).await.unwrap();
    farm.rt.start(&launch(&id, 3)).await.unwrap();
    farm.counts_beyond(&id, 0).await;
}

/// A kernel's panic is a failure to whoever decides about a restart, and no power button.
#[tokio::test]
async fn a_system_that_crashes_has_ended_with_a_failure() {
    let farm = Farm::of(Path::new("/tmp"), &guest::crashing()).await;
    let id = id("hanna-x7k2");
    farm.rt.ensure(&placement(&id, |_| {}), &NoProgress).await.unwrap();
    // It is so quick that its start may see its end.
    let _ = farm.rt.start(&launch(&id, 1)).await;
    let exit = wait_for("its end", || async {
        let seen = farm.rt.observe(&id).await.unwrap();
        seen.exit.clone().ok_or(seen)
    })
    .await;
    assert_eq!((exit.code, exit.requested), (Some(1), false), "{exit:?}");
}
