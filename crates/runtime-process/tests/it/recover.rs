//! What a killed shim and a machine that went down leave.

use std::process::{Child, Command};

use clawfarm_model::ObservedState;
use clawfarm_runtime::Runtime;
use clawfarm_shim::ShimState;
use rustix::process::{Pid, Signal, kill_process};

use crate::farm::{Farm, SERVER, alive, id, python, wait_for};

fn kill(pid: u32) {
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    kill_process(pid, Signal::KILL).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_shim_takes_all_of_its_claw_along() {
    let farm = Farm::new().await;
    let claw = id("bob-1");
    let program = "import subprocess, time\np = subprocess.Popen(['sleep', '1000'], start_new_session=True)\nprint('child', p.pid, flush=True)\ntime.sleep(1000)";
    let (place, seen) = farm.run(&claw, 1, program).await;
    farm.wait_until_printed(&claw, "child").await;
    let printed = farm.printed(&claw);
    let child: u32 =
        printed.split("child ").nth(1).unwrap().split_whitespace().next().unwrap().parse().unwrap();
    kill(farm.shim_state(&claw).shim_pid);
    let ended = wait_for("the end to be seen", || async {
        let seen = farm.rt.observe(&claw).await.unwrap();
        if seen.state == ObservedState::Exited { Ok(seen) } else { Err(seen) }
    })
    .await;
    let exit = ended.exit.unwrap();
    assert!(!exit.known() && !exit.requested, "{exit:?}");
    assert!(!alive(seen.pid.unwrap()) && !alive(child));
    let state = farm.shim_state(&claw);
    assert_eq!((state.active, state.source.as_str()), (false, "sweep"));
    farm.rt.start(&python(&claw, 1, &place, SERVER)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_reboot_nobody_else_is_taken_for_the_claw() {
    let farm = Farm::new().await;
    let mut innocent = Innocent(Command::new("sleep").arg("1000").spawn().unwrap());
    let this_boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap().trim().to_owned();
    for (name, boot_id) in [("bob-2", "another-boot".to_owned()), ("bob-3", this_boot)] {
        let claw = id(name);
        let (_, _) = farm.run(&claw, 4, "pass").await;
        wait_for("its end", || async {
            let seen = farm.rt.observe(&claw).await.unwrap();
            if seen.state == ObservedState::Exited { Ok(()) } else { Err(seen) }
        })
        .await;
        // As it was while it ran; its number has gone to someone else since.
        let state = ShimState {
            active: true,
            pid: innocent.0.id(),
            start_ticks: 1,
            boot_id,
            exit: None,
            uid: None,
            cgroups: Vec::new(),
            source: "shim".into(),
            ..farm.shim_state(&claw)
        };
        state.write(&farm.claw(&claw)).unwrap();
        let seen = farm.rt.observe(&claw).await.unwrap();
        assert_eq!((seen.state, seen.run), (ObservedState::Exited, 4));
        let exit = seen.exit.unwrap();
        assert!(!exit.known() && !exit.requested, "{exit:?}");
        assert!(!farm.shim_state(&claw).active);
        assert!(innocent.0.try_wait().unwrap().is_none(), "an innocent process was ended");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shim_that_does_not_answer_is_never_taken_for_absent() {
    let farm = Farm::new().await;
    let claw = id("bob-4");
    let (_, seen) = farm.run(&claw, 1, "import time; time.sleep(1000)").await;
    let shim = Pid::from_raw(i32::try_from(farm.shim_state(&claw).shim_pid).unwrap()).unwrap();
    kill_process(shim, Signal::STOP).unwrap();
    let error = farm.rt.observe(&claw).await.unwrap_err();
    assert_eq!(error.code(), clawfarm_model::Code::Unavailable, "{error:?}");
    let listed = farm.rt.list().await.unwrap();
    assert_eq!((listed[0].state, listed[0].pid), (ObservedState::Running, seen.pid));
    // The last resort works all the same.
    let killed = farm.rt.kill(&claw).await.unwrap();
    assert_eq!(killed.state, ObservedState::Exited);
    assert!(!alive(seen.pid.unwrap()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_home_with_a_very_long_path_works() {
    let farm = Farm::with(|config| {
        let long = "a-folder-with-quite-a-long-name".repeat(4);
        config.home = config.home.join(&long).join(long);
        config.cache_dir = config.home.join("cache");
    })
    .await;
    let claw = id("bob-5");
    let (_, seen) = farm.run(&claw, 1, "import time; time.sleep(1000)").await;
    assert_eq!(farm.rt.observe(&claw).await.unwrap().pid, seen.pid);
    farm.rt.kill(&claw).await.unwrap();
}

struct Innocent(Child);

impl Drop for Innocent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
