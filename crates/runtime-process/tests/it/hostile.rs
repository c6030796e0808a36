//! A claw that does what it should not.

use clawfarm_model::{Code, DataFate, ObservedState};
use clawfarm_runtime::Runtime;

use crate::farm::{Farm, file, id, python};

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[tokio::test(flavor = "multi_thread")]
async fn links_that_it_plants_lead_the_server_nowhere() {
    let farm = Farm::new().await;
    let claw = id("mallory-1");
    let master = farm.home().join("master.key");
    std::fs::write(&master, "the master key").unwrap();
    let place = farm.prepared(&claw).await;
    let program = format!(
        "import os\nos.symlink('{0}', 'openclaw.json')\nos.symlink('{1}', 'conf')\nos.rmdir('workspace'); os.symlink('{1}', 'workspace')\nos.mkfifo('pipe')\nprint('planted')",
        master.display(),
        farm.home().display()
    );
    farm.rt.start(&python(&claw, 1, &place, &program)).await.unwrap();
    farm.wait_until_printed(&claw, "planted").await;
    let files = farm.rt.files().unwrap();
    for path in ["openclaw.json", "conf/master.key", "workspace/master.key", "pipe"] {
        let error = files.read(&claw, path.as_ref(), 1000).await.unwrap_err();
        assert_eq!(error.code(), Code::InvalidInput, "{path}: {error:?}");
        assert!(!error.to_string().contains("the master key"));
    }
    let error = files.write(&claw, "conf/master.key".as_ref(), b"x", false).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidInput, "{error:?}");
    farm.stop(&claw).await;

    // The next start replaces the link by the file, and does not write through it.
    let mut launch = python(&claw, 2, &place, "print(open('openclaw.json').read())");
    launch.files = vec![file("openclaw.json", "mine", true)];
    farm.rt.start(&launch).await.unwrap();
    farm.wait_until_printed(&claw, "mine").await;
    farm.rt.destroy(&claw, DataFate::Purge).await.unwrap();
    assert_eq!(std::fs::read_to_string(&master).unwrap(), "the master key");
    assert!(!farm.claw(&claw).exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn it_reads_nothing_of_the_server_s_or_of_another_s() {
    for own_users in [is_root(), false] {
        let farm = Farm::with(|config| config.own_users = own_users).await;
        let (victim, claw) = (id("victim-1"), id("mallory-2"));
        std::fs::write(farm.home().join("master.key"), "the master key").unwrap();
        let (_, seen) = farm
            .run(&victim, 1, "import time; open('private', 'w').write('x'); print('up'); time.sleep(1000)")
            .await;
        farm.wait_until_printed(&victim, "up").await;
        let victim_pid = seen.pid.unwrap();
        let victim_dir = farm.claw(&victim);
        let targets = [
            farm.home().join("master.key"),
            victim_dir.join("state/private"),
            victim_dir.join("run/shim.token"),
            farm.claw(&claw).join("run/shim.token"),
            farm.claw(&claw).join("instance.json"),
            format!("/proc/{victim_pid}/environ").into(),
            format!("/proc/{victim_pid}/root{}", victim_dir.join("state/private").display()).into(),
        ];
        let list: Vec<String> = targets.iter().map(|path| format!("'{}'", path.display())).collect();
        let program = format!(
            "import os\nfor p in [{}]:\n  try: open(p).read(); print('READ', p)\n  except OSError as e: print('refused', p)\ntry: os.kill({victim_pid}, 9); print('KILLED')\nexcept OSError: print('spared')\ntry: open('{}/x', 'w'); print('WROTE')\nexcept OSError: print('unwritten')\nprint('done')",
            list.join(","),
            farm.claw(&claw).display()
        );
        farm.run(&claw, 1, &program).await;
        farm.wait_until_printed(&claw, "done").await;
        let printed = farm.printed(&claw);
        for bad in ["READ", "KILLED", "WROTE"] {
            assert!(!printed.contains(bad), "own users {own_users}: {printed}");
        }
        assert_eq!(farm.rt.observe(&victim).await.unwrap().state, ObservedState::Running);
        let confinement = farm.rt.observe(&victim).await.unwrap().confinement.unwrap();
        assert_eq!(confinement.own_uid.is_some(), own_users, "{confinement:?}");
        assert!(confinement.isolates_files(), "{confinement:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_has_a_user_of_its_own() {
    if !is_root() {
        return;
    }
    use std::os::unix::fs::MetadataExt;
    let farm = Farm::new().await;
    let mut uids = std::collections::BTreeSet::new();
    for name in ["one-1", "two-1", "three-1"] {
        let place = farm.prepared(&id(name)).await;
        let uid = std::fs::metadata(&place.state_dir).unwrap().uid();
        assert!(clawfarm_runtime_process::is_ours(uid), "{uid}");
        assert_eq!(std::fs::metadata(&place.log_dir).unwrap().uid(), uid);
        assert_eq!(std::fs::metadata(farm.claw(&id(name)).join("logs")).unwrap().uid(), 0);
        uids.insert(uid);
    }
    assert_eq!(uids.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn it_can_not_put_its_folder_in_the_way_of_its_own_removal() {
    let farm = Farm::new().await;
    let claw = id("mallory-3");
    let outside = farm.path("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("kept"), "x").unwrap();
    let program = format!(
        "import os, subprocess, time\nfor n in range(300):\n  os.mkdir('d'); os.chdir('d')\nos.symlink('{}', 'l')\nos.chmod('.', 0)\nos.chdir('/'); os.chmod(os.environ['HOME'], 0)\nsubprocess.Popen(['sleep', '1000'], start_new_session=True)\nprint('planted', flush=True)\ntime.sleep(1000)",
        outside.display()
    );
    let (_, seen) = farm.run(&claw, 1, &program).await;
    farm.wait_until_printed(&claw, "planted").await;
    let cgroups = farm.shim_state(&claw).cgroups;
    farm.rt.destroy(&claw, DataFate::Purge).await.unwrap();
    assert!(!farm.claw(&claw).exists());
    assert!(!crate::farm::alive(seen.pid.unwrap()));
    assert!(cgroups.iter().all(|folder| !folder.exists()), "{cgroups:?}");
    assert!(outside.join("kept").exists());
    let names: Vec<_> = std::fs::read_dir(farm.home().join("claws")).unwrap().collect();
    assert!(names.is_empty(), "{names:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_folder_that_openclaw_insists_on_is_made_for_it_and_goes_with_it() {
    let farm = Farm::new().await;
    let claw = id("oscar-1");
    let mut placement = farm.placement(&claw);
    placement.software.claw_type = clawfarm_model::name::ClawType::new("openclaw").unwrap();
    let place = farm.rt.ensure(&placement, &clawfarm_runtime::NoProgress).await.unwrap();
    let uid = farm.rt.records().await.unwrap()[0].uid;
    let folder = std::path::PathBuf::from(format!(
        "/tmp/openclaw-state-locks-{}",
        uid.unwrap_or_else(|| rustix::process::geteuid().as_raw())
    ));
    if is_root() {
        // Someone else was there first.
        std::fs::create_dir(&folder).unwrap();
        std::os::unix::fs::chown(&folder, Some(4242), Some(4242)).unwrap();
        let error = farm.rt.start(&python(&claw, 1, &place, "pass")).await.unwrap_err();
        assert_eq!(error.code(), Code::Unavailable, "{error:?}");
        assert!(error.fix_text().unwrap().contains("rm -rf"), "{error:?}");
        std::fs::remove_dir(&folder).unwrap();
    }
    let lock = folder.join(format!("clawfarm-test-{}", std::process::id()));
    let program = format!(
        "open('{0}', 'w'); print('locked')\ntry: open('/tmp/clawfarm-test-x', 'w'); print('WROTE')\nexcept OSError: print('done')",
        lock.display()
    );
    farm.rt.start(&python(&claw, 1, &place, &program)).await.unwrap();
    farm.wait_until_printed(&claw, "done").await;
    assert!(farm.printed(&claw).contains("locked"), "{}", farm.printed(&claw));
    farm.rt.destroy(&claw, DataFate::Purge).await.unwrap();
    if uid.is_some() {
        assert!(!folder.exists());
    } else {
        std::fs::remove_file(&lock).unwrap();
    }
}
