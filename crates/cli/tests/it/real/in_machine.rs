//! The real OpenClaw in a virtual machine of its own, emulated, with the demo model: as `clawfarm run`
//! makes it.

use std::net::TcpListener;
use std::time::Duration;

use super::farm::{Farm, files_with, processes_with, until};
use crate::support::{Done, finish_within};

/// How long what boots a machine, or starts an OpenClaw in an emulated one, may take on a machine
/// that does much else: four minutes on an idle one.
const LONG: Duration = Duration::from_secs(40 * 60);

/// A command that may take long.
fn patiently(farm: &Farm, arguments: &[&str]) -> Done {
    finish_within(farm.command(arguments).spawn().expect("it starts"), LONG)
}

#[test]
fn an_openclaw_in_a_machine_of_its_own_remembers_over_suspension_and_leaves_nothing() {
    if !rustix::process::geteuid().is_root() || std::env::consts::ARCH != "x86_64" {
        eprintln!("skipped: scripts/test-setup installs what an image needs for root on x86_64 alone");
        return;
    }
    let farm = Farm::new();
    patiently(&farm, &["image", "build", "debian:12"]).ends(0);
    let beside = farm.folder().parent().expect("a folder").canonicalize().expect("a path");
    let project = beside.join("project");
    std::fs::create_dir(&project).expect("a workspace");
    std::fs::write(project.join("README"), "of the host").expect("written");
    let free = TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr()).expect("a port").port();
    let (workspace, publish) = (project.to_str().expect("UTF-8"), format!("{free}:8080"));
    let made = patiently(
        &farm,
        &[
            "run",
            "debian:12",
            "olga",
            "--workspace",
            workspace,
            "--publish",
            &publish,
            "--cpus",
            "2",
            "--memory-mib",
            "3072",
            "--ready-timeout-secs",
            "2300",
            "--json",
        ],
    )
    .ends(0)
    .json();
    let id = made["instance"]["id"].as_str().expect("an id").to_owned();
    assert_eq!(farm.phase(&id), "ready");
    keeps_its_secrets(&farm, &id);

    let answer = patiently(&farm, &["send", &id, "hello from the test"]).ends(0).out;
    assert!(answer.contains("[clawfarm demo model]") && answer.contains("hello from the test"), "{answer}");
    // Beside it: its programs, where it works, which is our folder.
    let said = patiently(&farm, &["exec", &id, "--", "sh", "-c", "pwd; cat README; openclaw --version"]);
    let said = said.ends(0).out;
    assert!(said.starts_with("/workspace\nof the host") && said.contains("2026.9.6"), "{said}");
    patiently(&farm, &["exec", &id, "--", "sh", "-c", "echo made > copy"]).ends(0);
    assert_eq!(std::fs::read_to_string(project.join("copy")).expect("there"), "made\n");
    // Nobody in the machine can change the software that all machines share.
    let refused = patiently(&farm, &["exec", &id, "--", "touch", "/opt/clawfarm/software/x"]);
    assert!(refused.code != Some(0) && refused.err.contains("Read-only"), "{refused:?}");
    assert!(farm.run(&["logs", &id]).ends(0).out.contains("gateway"), "what it prints is kept");

    // Asleep without a byte of memory, and awake with all that it knew.
    until("it is idle", || patiently(&farm, &["suspend", &id]).code == Some(0));
    assert_eq!(farm.phase(&id), "suspended");
    assert!(processes_with(&format!("guest={id}")).is_empty(), "QEMU still runs");
    patiently(&farm, &["resume", &id]).ends(0);
    assert_eq!(farm.phase(&id), "ready");
    let answer = patiently(&farm, &["send", &id, "are you there?"]).ends(0).out;
    assert!(answer.contains("it began with: hello from the test"), "it lost its memory: {answer}");

    // A claw that ends is started again by its machine; its memory is in its home, which is ours.
    patiently(&farm, &["exec", &id, "--", "systemctl", "kill", "-s", "KILL", "clawfarm-claw"]).ends(0);
    until("it was started again", || {
        let shown =
            patiently(&farm, &["exec", &id, "--", "systemctl", "show", "-P", "NRestarts", "clawfarm-claw"]);
        shown.out.trim() == "1"
    });

    let file = beside.join("olga.tar.zst");
    let path = file.to_str().expect("UTF-8");
    patiently(&farm, &["backup", &id, "-o", path]).ends(0);
    patiently(&farm, &["rm", &id]).ends(0);
    assert!(!farm.claw_folder(&id).exists(), "its folder is still there");
    assert!(processes_with(&id).is_empty(), "{:?}", processes_with(&id));
    let data = farm.folder().join("datasets").join(&id);
    assert!(data.join("state/openclaw.json").exists(), "its home was not kept");
    // What it knew goes on as a process of this machine.
    let restored = patiently(&farm, &["restore", path, "--runtime", "process", "--json"]).ends(0).json();
    let again = restored["instance"]["id"].as_str().expect("an id").to_owned();
    let answer = farm.send(&again, "and now?");
    assert!(answer.contains("it began with: hello from the test"), "it lost its memory: {answer}");
}

/// Its token is nowhere on this machine's disk but in the store, and in no argument.
fn keeps_its_secrets(farm: &Farm, id: &str) {
    let token = farm.run(&["token", "reveal", id]).ends(0).out.trim().to_owned();
    assert!(token.len() > 20);
    let claw = farm.claw_folder(id);
    assert_eq!(files_with(&claw.join("vm"), &token), Vec::<std::path::PathBuf>::new());
    assert_eq!(files_with(&claw.join("logs"), &token), Vec::<std::path::PathBuf>::new());
    assert!(processes_with(&token).is_empty(), "in an argument");
}
