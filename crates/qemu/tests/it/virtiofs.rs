//! A real virtiofsd beside a machine.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use clawfarm_qemu::machine::Share;
use clawfarm_qemu::{Sandbox, Virtiofsd, VirtiofsdProgram, qmp};

use crate::snapshot::{limits, snapshot, waiting};
use crate::support::{Home, LIMIT, Process, is_root};

/// Our own, as scripts/test builds it; without the feature the distribution's.
async fn program() -> VirtiofsdProgram {
    if let Some(own) = option_env!("CARGO_BIN_EXE_clawfarm-virtiofsd") {
        return VirtiofsdProgram::at(&[own.to_owned()]).await.unwrap();
    }
    match VirtiofsdProgram::find().await {
        Ok(program) => program,
        Err(error) => panic!("{error}; run the tests with --features clawfarm-qemu/virtiofsd"),
    }
}

fn share(home: &Home, name: &str) -> Virtiofsd {
    let folder = home.path(&format!("{name}, a=b"));
    std::fs::create_dir_all(&folder).unwrap();
    let sandbox = if is_root() { Sandbox::Namespace } else { Sandbox::None };
    let squash =
        (!is_root()).then(|| (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw()));
    Virtiofsd { folder, socket: home.path(&format!("{name}.sock")), sandbox, read_only: false, squash }
}

async fn started(home: &Home, program: &VirtiofsdProgram, share: &Virtiofsd) -> Process {
    let process = Process::start(&share.argv(program).unwrap(), &home.path("virtiofsd.log"));
    if let Err(error) = share.listens(LIMIT).await {
        panic!("{error}: {}", std::fs::read_to_string(home.path("virtiofsd.log")).unwrap());
    }
    let mode = std::fs::metadata(&share.socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o077, 0, "{mode:o}");
    process
}

#[tokio::test]
async fn what_is_no_virtiofsd_is_told() {
    for program in ["/bin/true", "/bin/false", "/bin/cat"] {
        let error = VirtiofsdProgram::at(&[program.to_owned()]).await.unwrap_err();
        assert!(error.message().contains(program) && error.fix_text().is_some(), "{error}");
    }
}

/// One share from the start, one plugged in while the machine runs; both are there again after
/// it was saved and restored, with new virtiofsds.
#[tokio::test]
async fn shares_are_kept_over_a_restore() {
    let home = Home::new().await;
    let program = program().await;
    assert!(program.saves, "{program:?}");
    let (first, second) = (share(&home, "first"), share(&home, "second"));
    let mut machine = home.machine();
    machine.hotplug_slots = 2;
    machine.shares = vec![Share { tag: "first".into(), socket: first.socket.clone(), slot: None }];
    let at = {
        let mut daemons = [started(&home, &program, &first).await, started(&home, &program, &second).await];
        let running = home.start(&machine).await;
        home.counts_beyond(0).await;
        let plug = qmp::Share { tag: "second", socket: &second.socket, slot: 1 };
        running.qmp.plug_share(&plug).await.unwrap();
        running.qmp.plug_share(&plug).await.unwrap();
        machine.shares.push(Share { tag: "second".into(), socket: second.socket.clone(), slot: Some(1) });
        snapshot(&home).save(&running.qmp, &machine.shape(), limits(), |_, _| ()).await.unwrap();
        // They end with the machine that they served.
        for daemon in &mut daemons {
            daemon.ended().await;
        }
        home.count().unwrap()
    };
    let mut daemons = [started(&home, &program, &first).await, started(&home, &program, &second).await];
    let running = home.start(&waiting(&machine)).await;
    snapshot(&home).restore(&running.qmp, &machine.shape(), limits(), true).await.unwrap();
    home.counts_beyond(at).await;
    home.counted_without_a_gap();
    assert!(daemons.iter_mut().all(Process::runs));
}

/// A socket that nobody listens on refuses the device and leaves nothing behind.
#[tokio::test]
async fn a_share_without_a_virtiofsd_is_refused_and_can_be_plugged_in_later() {
    let home = Home::new().await;
    let program = program().await;
    let share = share(&home, "late");
    let mut machine = home.machine();
    machine.hotplug_slots = 1;
    let running = home.start(&machine).await;
    home.counts_beyond(0).await;
    let plug = qmp::Share { tag: "late", socket: &share.socket, slot: 0 };
    running.qmp.plug_share(&plug).await.unwrap_err();
    let _daemon = started(&home, &program, &share).await;
    running.qmp.plug_share(&plug).await.unwrap();
}

/// As a user of its own, which can give no file away.
#[tokio::test]
async fn it_runs_without_any_right() {
    if !is_root() {
        return;
    }
    let home = Home::new().await;
    let user = 64_322;
    let program = readable(&home, &program().await);
    std::os::unix::fs::chown(home.folder.path(), Some(user), Some(user)).unwrap();
    let mut share = share(&home, "own");
    std::os::unix::fs::chown(&share.folder, Some(user), Some(user)).unwrap();
    share.sandbox = Sandbox::None;
    share.squash = Some((user, user));
    let argv = share.argv(&program).unwrap();
    let log = std::fs::File::create(home.path("virtiofsd.log")).unwrap();
    let mut command = Command::new(&argv[0]);
    command.args(&argv[1..]).uid(user).gid(user).stdin(Stdio::null()).stderr(log);
    let mut process = Process(command.spawn().unwrap());
    if let Err(error) = share.listens(LIMIT).await {
        panic!("{error}: {}", std::fs::read_to_string(home.path("virtiofsd.log")).unwrap());
    }
    let mut machine = home.machine();
    machine.shares = vec![Share { tag: "own".into(), socket: share.socket.clone(), slot: None }];
    let _running = home.start(&machine).await;
    home.counts_beyond(0).await;
    assert!(process.runs());
}

/// A copy that another user can execute: ours is in a home that only we can enter.
fn readable(home: &Home, program: &VirtiofsdProgram) -> VirtiofsdProgram {
    let copy: PathBuf = home.path("virtiofsd");
    std::fs::copy(&program.command[0], &copy).unwrap();
    VirtiofsdProgram { command: vec![copy.to_str().unwrap().to_owned()], saves: program.saves }
}
