//! Machines that are made from a base snapshot.

use std::path::Path;
use std::process::Stdio;
use std::time::Instant;

use clawfarm_failpoint::{Action, Plan, Point, arm};
use clawfarm_model::{ClawId, Code, DataFate, ObservedState, StopOptions};
use clawfarm_runtime::{Bases, NoProgress, Runtime, Suspend, WantedSize};
use clawfarm_runtime_vm::VmConfig;
use clawfarm_vm_images::{Images, ImagesConfig};

use crate::e2e::{LONG, agent, booted, kept, said, sh};
use crate::farm::{Farm, LIMIT, TINY, id, is_root, launch, lives, placement, volume, wait_for};

const SIZE: WantedSize = WantedSize { cpus: Some(2.0), memory_mib: Some(512) };

const FOLDER: &str = "CLAWFARM_VM_FOLDER";
const KILL: &str = "CLAWFARM_VM_KILL";
const IMAGE: &str = "CLAWFARM_VM_IMAGE";

/// A server that is killed: this binary once more. With the guest that counts it makes a base
/// snapshot, which that guest never is; with a real one it makes a machine from one.
#[tokio::test]
#[ignore = "run by the others as a process of its own"]
async fn worker() {
    let var = |name: &str| std::env::var(name).ok();
    let (Some(folder), Some(kill), Some(image)) = (var(FOLDER), var(KILL), var(IMAGE)) else { return };
    let config = Farm::at(Path::new(&folder)).await.config.clone();
    let agent = agent().filter(|_| image != TINY).or(Some("an agent".into()));
    let farm = Farm::with(VmConfig { agent, ..config }).await;
    let point = Point::ALL.iter().copied().find(|point| point.as_str() == kill).unwrap();
    arm(&[Plan::once(point, 1, Action::Kill)]);
    if image == TINY {
        Bases::warm(&farm.rt, &image.parse().unwrap(), SIZE, &NoProgress).await.unwrap();
    } else {
        start(&farm, &id("carol-x7k2b"), 1).await;
    }
    panic!("{kill} was not reached");
}

async fn killed(farm: &Farm, image: &str, point: Point) {
    let mut worker = tokio::process::Command::new(std::env::current_exe().unwrap());
    worker
        .args(["--exact", "base::worker", "--ignored", "--nocapture"])
        .env(FOLDER, farm.root())
        .env(KILL, point.as_str())
        .env(IMAGE, image)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let limit = if image == TINY { LIMIT } else { LONG };
    let ended = tokio::time::timeout(limit, worker.output()).await.expect("the worker ends").unwrap();
    assert_eq!(
        std::os::unix::process::ExitStatusExt::signal(&ended.status),
        Some(9),
        "{point:?}: {}{}",
        String::from_utf8_lossy(&ended.stdout),
        String::from_utf8_lossy(&ended.stderr)
    );
}

/// What a server has left that was killed while it made a base snapshot goes with the next one.
#[tokio::test]
async fn a_base_that_was_cut_off_is_swept_with_its_machine() {
    for point in [Point::BasePrepared, Point::BaseStarted] {
        let mut farm = Farm::new().await;
        killed(&farm, TINY, point).await;
        let making = farm.config.images.folder.join(".warm");
        let left: Vec<_> = std::fs::read_dir(&making).unwrap().flatten().collect();
        assert_eq!(left.len(), 1, "{point:?}");
        let state = clawfarm_shim::ShimState::read(&left[0].path()).unwrap();
        assert_eq!(state.is_some(), point == Point::BaseStarted);
        farm.reopen().await;
        wait_for("what is left to be gone", || async {
            let left = std::fs::read_dir(&making).unwrap().count();
            let runs = state.as_ref().is_some_and(|state| lives(state.shim_pid) || lives(state.pid));
            if left == 0 && !runs { Ok(()) } else { Err((left, runs)) }
        })
        .await;
        let tiny = TINY.parse().unwrap();
        assert!(farm.images().bases(&tiny).await.unwrap().is_empty());
        farm.images().remove(&tiny).await.unwrap();
    }
}

#[tokio::test]
async fn what_can_not_be_a_base_or_come_from_one_is_refused() {
    let farm = Farm::new().await;
    let tiny = TINY.parse().unwrap();
    let warm = async |farm: &Farm, wanted: WantedSize| {
        Bases::warm(&farm.rt, &tiny, wanted, &NoProgress).await.unwrap_err()
    };
    let error = warm(&farm, SIZE).await;
    assert!(error.code() == Code::Unsupported && error.message().contains("agent"), "{error}");
    let agent = Farm::with(VmConfig { agent: Some("an agent".into()), ..farm.config.clone() }).await;
    for (wanted, field) in [
        (WantedSize { cpus: None, memory_mib: Some(100) }, "memory_mib"),
        (WantedSize { cpus: Some(5000.0), memory_mib: None }, "resources.cpus"),
    ] {
        assert_eq!(warm(&agent, wanted).await.field_name(), Some(field));
    }
    let mut cache = agent.config.clone();
    cache.images.kept = false;
    assert!(warm(&Farm::with(cache).await, SIZE).await.message().contains("CLAWFARM_CACHE_DIR"));

    // Without one of its size no machine is made from one.
    let error = Bases::size(&agent.rt, &tiny, SIZE).await.unwrap_err();
    assert_eq!(error.field_name(), Some("vm.from_snapshot"));
    let id = id("alice-x7k2b");
    let wanted = placement(&id, |it| it.vm.as_mut().unwrap().from_snapshot = true);
    let error = agent.rt.ensure(&wanted, &NoProgress).await.unwrap_err();
    assert!(error.code() == Code::InvalidInput && error.field_name() == Some("vm.from_snapshot"), "{error}");
    assert!(error.fix_text().unwrap().contains("clawfarm image warm tiny:1"));
    agent.rt.destroy(&id, DataFate::Purge).await.unwrap();
    assert!(farm.images().pins(&tiny).unwrap().is_empty());
}

/// Prepared to be made from the base.
async fn prepared(farm: &Farm, id: &ClawId, change: impl FnOnce(&mut clawfarm_model::Placement)) {
    let wanted = placement(id, |it| {
        let vm = it.vm.as_mut().unwrap();
        vm.image = "debian:12".parse().unwrap();
        vm.from_snapshot = true;
        (it.resources.cpus, it.resources.memory_mib) = (2.0, 512);
        change(it);
    });
    farm.rt.ensure(&wanted, &NoProgress).await.unwrap();
}

/// And started from it.
async fn made(farm: &Farm, id: &ClawId, change: impl FnOnce(&mut clawfarm_model::Placement)) {
    prepared(farm, id, change).await;
    start(farm, id, 1).await;
}

async fn start(farm: &Farm, id: &ClawId, run: i64) {
    let mut launch = launch(id, run);
    (launch.resources.cpus, launch.resources.memory_mib) = (2.0, 512);
    let seen = farm.rt.start(&launch).await.unwrap();
    assert_eq!((seen.state, seen.run), (ObservedState::Running, run));
}

/// What only one machine may have.
async fn identity(farm: &Farm, id: &ClawId) -> Vec<String> {
    let mut all = Vec::new();
    for line in [
        "cat /etc/machine-id",
        "cat /etc/ssh/ssh_host_ed25519_key.pub",
        "cat /proc/sys/kernel/random/uuid",
        "hostname",
        "sha256sum < /var/lib/systemd/random-seed",
    ] {
        all.push(sh(farm, id, line).await);
    }
    all
}

#[tokio::test]
async fn e2e_machines_are_made_from_a_base_snapshot() {
    if !is_root() || std::env::consts::ARCH != "x86_64" {
        eprintln!("skipped: scripts/test-setup installs what an image needs for root on x86_64 alone");
        return;
    }
    let Some(agent) = agent() else {
        eprintln!("skipped: CLAWFARM_GUEST_AGENT names no agent (scripts/guest builds one)");
        return;
    };
    let debian = "debian:12".parse().unwrap();
    let shared =
        Images::open(ImagesConfig { kept: true, ..ImagesConfig::new(kept().join("images")) }).unwrap();
    shared.build(&debian, &NoProgress).await.unwrap();

    // In a folder of images of its own: what is made here goes with the test.
    let tiny = Farm::new().await;
    tiny.images().import(&shared.path_of(&debian), &debian, &NoProgress).await.unwrap();
    let mut farm = Farm::with(VmConfig { agent: Some(agent), ..tiny.config.clone() }).await;
    let begun = Instant::now();
    Bases::warm(&farm.rt, &debian, SIZE, &NoProgress).await.unwrap();
    eprintln!("warm: {:?}", begun.elapsed());
    let bases = farm.images().bases(&debian).await.unwrap();
    assert_eq!(bases.len(), 1);
    eprintln!("{bases:?}");
    // It is there: nothing is made again.
    let begun = Instant::now();
    Bases::warm(&farm.rt, &debian, SIZE, &NoProgress).await.unwrap();
    assert!(begun.elapsed().as_secs() < 20, "{:?}", begun.elapsed());
    assert_eq!(farm.images().bases(&debian).await.unwrap(), bases);

    let (alice, bob) = (id("alice-x7k2b"), id("bob-x7k2b"));
    let begun = Instant::now();
    made(&farm, &alice, |it| {
        volume(it, "a:/root/.openclaw");
        volume(it, "b:/root/.openclaw/inner");
    })
    .await;
    booted(&farm, &alice).await;
    assert_eq!(farm.rt.start_note(&alice).await, None, "{}", said(&farm, &alice));
    eprintln!("new: {:?}", begun.elapsed());
    sh(&farm, &alice, "true").await;
    eprintln!("and a command: {:?}", begun.elapsed());
    made(&farm, &bob, |_| ()).await;
    assert_eq!(farm.rt.start_note(&bob).await, None);
    let (one, other) = (identity(&farm, &alice).await, identity(&farm, &bob).await);
    for (one, other) in one.iter().zip(&other) {
        assert_ne!(one, other);
    }
    assert_eq!((one[3].trim(), other[3].trim()), (alice.as_str(), bob.as_str()));
    for id in [&alice, &bob] {
        let clock: i64 = sh(&farm, id, "date +%s").await.trim().parse().unwrap();
        let now = clawfarm_model::Timestamp::now().as_millis() / 1000;
        assert!((now - clock).abs() < 60, "{id}: {clock} instead of {now}");
    }

    // Its folders, both ways; one within another.
    let folder = farm.claw(&alice).join("volumes/a");
    std::fs::write(folder.join("from-host"), "hello").unwrap();
    assert_eq!(sh(&farm, &alice, "cat ~/.openclaw/from-host").await, "hello");
    sh(&farm, &alice, "echo made > ~/.openclaw/from-guest; echo in > ~/.openclaw/inner/file").await;
    assert_eq!(std::fs::read_to_string(folder.join("from-guest")).unwrap(), "made\n");
    assert_eq!(std::fs::read_to_string(farm.claw(&alice).join("volumes/b/file")).unwrap(), "in\n");
    // Its SSH is its own: the key was pinned before.
    let ssh = crate::farm::wait_within(LONG, "its SSH", || async {
        let stream = farm.rt.dial(&alice, 22).await.map_err(|e| e.to_string())?;
        let mut stream = tokio::io::BufReader::new(stream);
        let mut line = String::new();
        let read = tokio::io::AsyncBufReadExt::read_line(&mut stream, &mut line);
        match tokio::time::timeout(std::time::Duration::from_secs(5), read).await {
            Ok(Ok(_)) if line.starts_with("SSH-") => Ok(line),
            other => Err(format!("{other:?} {line}")),
        }
    });
    ssh.await;
    assert!(!farm.claw(&alice).join("keys/identity.json").exists());
    let known = std::fs::read_to_string(farm.claw(&alice).join("keys/known_hosts")).unwrap();
    assert!(known.contains(one[1].split(' ').nth(1).unwrap()), "{known}");

    // It is taken up by another server, suspended and resumed with its folders.
    farm.reopen().await;
    sh(&farm, &alice, "systemd-run -q --unit=writer sh -c 'exec 3>>/root/.openclaw/log; i=0; while :; do i=$((i+1)); echo $i >&3; sleep 0.1; done'").await;
    Suspend::suspend(&farm.rt, &alice).await.unwrap();
    start(&farm, &alice, 2).await;
    assert_eq!(farm.record(&alice).get("memory_lost"), None);
    assert_eq!(sh(&farm, &alice, "cat ~/.openclaw/from-guest").await, "made\n");
    let before = std::fs::read(folder.join("log")).unwrap().len();
    crate::farm::wait_for("the writer to go on", || async {
        let now = std::fs::read(folder.join("log")).unwrap().len();
        if now > before { Ok(()) } else { Err(now) }
    })
    .await;

    // A real boot: nothing is set up again, and it is who it was.
    let ended = farm.rt.stop(&alice, StopOptions { grace: LONG }).await.unwrap();
    assert_eq!(ended.exit.unwrap().code, Some(0), "{}", said(&farm, &alice));
    start(&farm, &alice, 3).await;
    booted(&farm, &alice).await;
    let mut again = identity(&farm, &alice).await;
    for (at, text) in again.iter_mut().enumerate() {
        // A stream of random numbers, and what begins it: not again the same.
        match at {
            2 | 4 => assert_ne!(*text, one[at]),
            _ => assert_eq!(*text, one[at], "{}", said(&farm, &alice)),
        }
    }
    assert_eq!(sh(&farm, &alice, "cat ~/.openclaw/from-guest ~/.openclaw/inner/file").await, "made\nin\n");
    assert_eq!(sh(&farm, &alice, "ls /var/lib/cloud/instances").await, format!("{alice}\n"));
    // And a suspension of that one, whose folders are devices like any other's.
    Suspend::suspend(&farm.rt, &alice).await.unwrap();
    start(&farm, &alice, 4).await;
    assert_eq!(farm.record(&alice).get("memory_lost"), None);
    assert_eq!(sh(&farm, &alice, "cat ~/.openclaw/from-guest").await, "made\n");

    // A server that is killed before the machine knows who it is leaves nothing of it; the next one
    // makes it anew, with other random numbers.
    let carol = id("carol-x7k2b");
    prepared(&farm, &carol, |it| volume(it, "a:/srv/a")).await;
    for point in [Point::BaseRestored, Point::BaseIdentified] {
        killed(&farm, "debian:12", point).await;
        farm.reopen().await;
        wait_for("the half one to have ended", || async {
            let state = farm.rt.observe(&carol).await.map_err(|e| e.to_string())?.state;
            if state == ObservedState::Exited { Ok(()) } else { Err(format!("{state:?}")) }
        })
        .await;
        assert!(farm.record(&carol)["base"].get("identified") == Some(&false.into()));
    }
    start(&farm, &carol, 1).await;
    assert_eq!(farm.rt.start_note(&carol).await, None);
    assert_eq!(
        sh(&farm, &carol, "hostname; mountpoint /srv/a").await,
        format!("{carol}\n/srv/a is a mountpoint\n")
    );

    // A base that can't be restored gives way to a boot, with the reason.
    let base = farm.images().bases(&debian).await.unwrap().remove(0);
    let memory = base.folder.join("memory/memory");
    let size = std::fs::metadata(&memory).unwrap().len();
    let file = std::fs::OpenOptions::new().write(true).truncate(true).open(&memory).unwrap();
    file.set_len(size).unwrap();
    let dora = id("dora-x7k2b");
    made(&farm, &dora, |_| ()).await;
    let why = farm.rt.start_note(&dora).await.unwrap();
    assert!(why.contains("could not be made from the base snapshot"), "{why}");
    let record = farm.record(&dora);
    assert!(record.get("base").is_none() && record["disk"]["how"] == "overlay", "{record}");

    let used = |images: Images| async move {
        images.bases(&"debian:12".parse().unwrap()).await.unwrap().remove(0).used_by
    };
    assert_eq!(used(farm.images()).await, [alice.to_string(), bob.to_string(), carol.to_string()]);
    assert_eq!(farm.images().remove(&debian).await.unwrap_err().code(), Code::Conflict);
    for id in [&alice, &bob, &carol, &dora] {
        farm.rt.destroy(id, DataFate::Purge).await.unwrap();
    }
    farm.images().remove(&debian).await.unwrap();
}
