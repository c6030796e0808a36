//! A machine's life: made, started, looked at, stopped, adopted, removed.

use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use clawfarm_model::{Code, DataFate, ObservedState, StopOptions};
use clawfarm_runtime::{Exec, ExecRequest, Freeze, LogQuery, Logs, NoProgress, Recover, Runtime, Stats};
use futures::StreamExt;

use crate::farm::{Farm, TINY, id, is_root, launch, lives, placement, volume, wait_for};

#[tokio::test]
async fn a_machine_is_made_started_seen_and_removed() {
    let farm = Farm::new().await;
    let id = id("alice-x7k2");
    let wanted = placement(&id, |it| volume(it, "data:/srv/data"));
    let place = farm.rt.ensure(&wanted, &NoProgress).await.unwrap();
    assert_eq!((place.port, place.host_url.as_str()), (wanted.port, "http://10.0.2.2:7"));
    let dir = farm.claw(&id);
    for name in ["instance.json", "instance.img", "seed.iso", "state", "volumes/data", "keys/known_hosts"] {
        assert!(dir.join(name).exists(), "{name}");
    }
    assert_eq!(std::fs::metadata(dir.join("keys/id_ed25519")).unwrap().mode() & 0o777, 0o600);
    assert_eq!(farm.images().pins(&TINY.parse().unwrap()).unwrap(), [id.as_str()]);
    assert_eq!(farm.rt.observe(&id).await.unwrap().state, ObservedState::Prepared);
    // Done again, it finds all in place.
    let seed = std::fs::read(dir.join("seed.iso")).unwrap();
    farm.rt.ensure(&wanted, &NoProgress).await.unwrap();
    assert_eq!(std::fs::read(dir.join("seed.iso")).unwrap(), seed);

    let seen = farm.rt.start(&launch(&id, 1)).await.unwrap();
    assert_eq!((seen.state, seen.run, seen.port), (ObservedState::Running, 1, Some(wanted.port)));
    assert_eq!(seen.image.as_deref(), Some(TINY));
    let pid = seen.pid.unwrap();
    let confinement = seen.confinement.unwrap();
    assert!(confinement.landlock_abi.is_some());
    if is_root() {
        let uid = confinement.own_uid.expect("a user of its own");
        assert_eq!(std::fs::metadata(format!("/proc/{pid}")).unwrap().uid(), uid);
        assert!(confinement.private_mounts);
    }
    farm.counts_beyond(&id, 3).await;
    assert!(Stats::usage(&farm.rt, &id).await.unwrap().memory_bytes > 1 << 20);
    let query = LogQuery { tail: Some(2), ..LogQuery::default() };
    let lines: Vec<_> = Logs::logs(&farm.rt, &id, query).await.unwrap().collect().await;
    assert_eq!(lines.len(), 2);

    // Started again it is the same; an earlier launch is refused, and so is a later one.
    assert_eq!(farm.rt.start(&launch(&id, 1)).await.unwrap().pid, Some(pid));
    let error = farm.rt.start(&launch(&id, 2)).await.unwrap_err();
    assert_eq!((error.code(), error.field_name()), (Code::Conflict, Some("run")));
    assert_eq!(farm.rt.list().await.unwrap().len(), 1);

    // What has a guest's system does not answer yet, and nothing leads to the rest.
    let error = farm.rt.dial(&id, 22).await.err().unwrap();
    assert!(error.message().contains("still boots"), "{error}");
    let error = farm.rt.dial(&id, 4321).await.err().unwrap();
    assert!(error.fix_text().unwrap().contains("--publish"), "{error}");

    std::fs::write(dir.join("volumes/data/kept"), "precious").unwrap();
    let ended = farm.rt.stop(&id, StopOptions { grace: Duration::from_millis(200) }).await.unwrap();
    assert_eq!(ended.state, ObservedState::Exited);
    assert!(ended.exit.unwrap().requested);
    assert!(!lives(pid));
    assert_eq!(farm.rt.start(&launch(&id, 0)).await.unwrap_err().field_name(), Some("run"));

    // It starts anew from its disk, and goes with everything but its volumes.
    farm.rt.start(&launch(&id, 2)).await.unwrap();
    wait_for("a second beginning", || async { (farm.beginnings(&id) == 2).then_some(()).ok_or("one") }).await;
    let size = farm.rt.destroy(&id, DataFate::Keep).await.unwrap();
    assert!(size > 0);
    assert_eq!(farm.rt.destroy(&id, DataFate::Keep).await.unwrap(), size);
    assert!(!dir.exists());
    assert!(farm.images().pins(&TINY.parse().unwrap()).unwrap().is_empty());
    assert_eq!(farm.rt.observe(&id).await.unwrap().state, ObservedState::Absent);
    let [kept] = &farm.rt.kept_data().await.unwrap()[..] else { panic!("one dataset") };
    assert_eq!(kept.known.as_ref().unwrap().size_bytes, size);

    // Another one begins with them.
    let bob = crate::farm::id("bob-x7k2");
    let with = placement(&bob, |it| {
        volume(it, "data:/srv/data");
        it.dataset = Some(id.clone());
    });
    farm.rt.ensure(&with, &NoProgress).await.unwrap();
    let file = farm.claw(&bob).join("volumes/data/kept");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "precious");
    if is_root() {
        // The volume's owner; the file was root's, who wrote it here.
        let uid = farm.record(&bob)["uid"].as_u64().unwrap();
        assert_eq!(u64::from(std::fs::metadata(file.parent().unwrap()).unwrap().uid()), uid);
    }
    assert_eq!(farm.rt.destroy(&bob, DataFate::Purge).await.unwrap(), 0);
    assert!(!farm.claw(&bob).exists() && farm.rt.kept_data().await.unwrap().is_empty());
}

#[tokio::test]
async fn one_without_volumes_leaves_no_dataset() {
    let farm = Farm::new().await;
    let id = id("carol-x7k2");
    farm.rt.ensure(&placement(&id, |_| {}), &NoProgress).await.unwrap();
    assert_eq!(farm.rt.destroy(&id, DataFate::Keep).await.unwrap(), 0);
    assert!(!farm.claw(&id).exists());
    assert!(farm.rt.kept_data().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_frozen_one_stands_still_and_stays_so_under_a_new_server() {
    let mut farm = Farm::new().await;
    let id = id("dave-x7k2");
    let pid = farm.up(&id, |_| {}).await.pid;
    assert_eq!(Freeze::freeze(&farm.rt, &id).await.unwrap().state, ObservedState::Frozen);
    assert_eq!(Freeze::freeze(&farm.rt, &id).await.unwrap().state, ObservedState::Frozen);
    farm.reopen().await;
    let seen = farm.rt.observe(&id).await.unwrap();
    assert_eq!((seen.state, seen.pid), (ObservedState::Frozen, pid));
    let request = ExecRequest { argv: vec!["true".into()], tty: None, term: None };
    let error = Exec::exec(&farm.rt, &id, request).await.unwrap_err();
    assert!(error.message().contains("frozen"), "{error}");
    let at = farm.counted(&id).last().copied().unwrap();
    assert_eq!(farm.rt.thaw(&id).await.unwrap().state, ObservedState::Running);
    farm.counts_beyond(&id, at).await;
    farm.counted_without_a_gap(&id);
    assert_eq!(farm.rt.thaw(&id).await.unwrap().state, ObservedState::Running);
    // It is let go on before it is asked to end.
    Freeze::freeze(&farm.rt, &id).await.unwrap();
    let ended = farm.rt.stop(&id, StopOptions { grace: Duration::from_millis(200) }).await.unwrap();
    assert_eq!(ended.state, ObservedState::Exited);
    assert_eq!(farm.record(&id).get("frozen"), None);
    assert_eq!(farm.rt.thaw(&id).await.unwrap_err().code(), Code::Gone);
}

#[tokio::test]
async fn a_new_server_finds_what_runs_and_is_told_of_its_end() {
    let mut farm = Farm::new().await;
    let id = id("erin-x7k2");
    let pid = farm.up(&id, |_| {}).await.pid.unwrap();
    farm.reopen().await;
    let seen = farm.rt.observe(&id).await.unwrap();
    assert_eq!((seen.state, seen.pid), (ObservedState::Running, Some(pid)));
    let mut told = farm.rt.watch();
    // QEMU ends without anybody's asking.
    let pid_of_qemu = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(pid_of_qemu, rustix::process::Signal::KILL).unwrap();
    let ended = wait_for("its end to be seen", || async {
        let seen = farm.rt.observe(&id).await.unwrap();
        if seen.state == ObservedState::Exited { Ok(seen) } else { Err(seen.state) }
    })
    .await;
    let exit = ended.exit.unwrap();
    assert_eq!((exit.signal, exit.requested), (Some(9), false));
    let heard = tokio::time::timeout(crate::farm::LIMIT, told.recv()).await.expect("somebody tells").unwrap();
    assert_eq!(heard, id);
    let [kept] = &farm.rt.kept().await.unwrap()[..] else { panic!("one instance") };
    assert_eq!((kept.run, kept.record.as_ref().unwrap()["name"].as_str()), (1, Some("test")));
}

#[tokio::test]
async fn what_a_killed_shim_leaves_is_ended() {
    let farm = Farm::new().await;
    let id = id("frank-x7k2");
    let pid = farm.up(&id, |it| volume(it, "a:/srv/a")).await.pid.unwrap();
    let shim = farm.shim_state(&id).shim_pid;
    let shim = rustix::process::Pid::from_raw(i32::try_from(shim).unwrap()).unwrap();
    rustix::process::kill_process(shim, rustix::process::Signal::KILL).unwrap();
    let ended = wait_for("its end to be seen", || async {
        let seen = farm.rt.observe(&id).await.map_err(|e| e.to_string())?;
        if seen.state == ObservedState::Exited { Ok(seen) } else { Err(format!("{:?}", seen.state)) }
    })
    .await;
    assert!(!lives(pid) && !ended.exit.unwrap().known());
    farm.rt.start(&launch(&id, 2)).await.unwrap();
    wait_for("a second beginning", || async { (farm.beginnings(&id) == 2).then_some(()).ok_or("one") }).await;
}
