//! Machines as their command line says them.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use clawfarm_qemu::machine::{Channel, Forward, Network, Serial};
use clawfarm_qemu::{Machine, Qemu};
use serde_json::json;

use crate::guest;
use crate::support::{Home, Process, is_root, wait_for};

#[tokio::test]
async fn the_installed_one_is_known() {
    let qemu = Qemu::find().await.unwrap();
    assert!(qemu.version >= clawfarm_qemu::Version::OLDEST);
    assert!(qemu.machine.starts_with("pc-q35-"), "{}", qemu.machine);
    assert!(qemu.devices.contains("vhost-user-fs-pci") && qemu.devices.len() > 100);
}

#[tokio::test]
async fn what_is_no_qemu_is_told() {
    for program in ["/bin/true", "/bin/false", "/nowhere/qemu"] {
        let error = Qemu::at(program.as_ref(), &[]).await.unwrap_err();
        assert!(error.message().contains(program), "{error}");
    }
}

#[tokio::test]
async fn a_guest_boots_with_everything_in_it_and_the_sandbox_on() {
    let home = Home::new().await;
    let mut machine = home.machine();
    machine.channels = vec![Channel { name: "clawfarm.agent".into(), socket: home.path("agent") }];
    machine.generation = Some("6f0c2c6e-94a1-4a44-8d3c-6c7ab1b3f1aa".into());
    machine.balloon = true;
    machine.hotplug_slots = 4;
    machine.cpus = 2;
    machine.firmware_log = Some(home.path("firmware.log"));
    machine.pid_file = Some(home.path("pid"));
    let with_port = |port| {
        let forwards = vec![Forward { host: port, guest: 22 }];
        let network = Network { mac: "52:54:00:12:34:56".into(), forwards, closed: false };
        Machine { network: Some(network), ..machine.clone() }
    };
    let (running, port) = home.start_with_port(with_port).await;
    home.counts_beyond(0).await;

    let pid = running.process.id();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let is = |line: &str| status.lines().any(|l| l.split_whitespace().collect::<Vec<_>>().join(" ") == line);
    assert!(is("Seccomp: 2") && is("NoNewPrivs: 1"), "{status}");
    assert_eq!(std::fs::read_to_string(home.path("pid")).unwrap().trim(), pid.to_string());
    for socket in ["qmp", "agent"] {
        let mode = std::fs::metadata(home.path(socket)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777 & !0o700, 0, "{socket}: {mode:o}");
    }
    // 127.0.0.1, as the kernel writes it, and no other address.
    let tcp = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let end = format!(":{port:04X}");
    let local = |line: &str| line.split_whitespace().nth(1).unwrap_or_default().to_owned();
    let listening: Vec<String> = tcp.lines().map(local).filter(|local| local.ends_with(&end)).collect();
    assert!(!listening.is_empty() && listening.iter().all(|l| l.starts_with("0100007F")), "{listening:?}");
    assert!(!std::fs::read_to_string("/proc/net/tcp6").unwrap().contains(&end));

    let devices = running.qmp.execute("qom-list", &json!({"path": "/machine/peripheral"})).await.unwrap();
    let names: Vec<&str> = devices.as_array().unwrap().iter().filter_map(|d| d["name"].as_str()).collect();
    for name in ["disk-root", "nic0", "port-clawfarm.agent", "balloon0", "generation0", "slot3", "rng0"] {
        assert!(names.contains(&name), "{name} is not in {names:?}");
    }
    running.qmp.balloon(48 << 20).await.unwrap();
    assert!(!std::fs::read_to_string(home.path("firmware.log")).unwrap().is_empty());
}

/// Each of these means something to QEMU, a shell or JSON.
#[tokio::test]
async fn paths_may_have_any_letters() {
    let home = Home::new().await;
    let odd = home.path("a,path=b \"c\" 'd' {e}\\ $f;é");
    std::fs::create_dir(&odd).unwrap();
    std::fs::rename(home.path("disk.img"), odd.join("disk,format=x.img")).unwrap();
    let mut machine = home.machine();
    machine.disks[0].path = odd.join("disk,format=x.img");
    machine.qmp = odd.join("q,p");
    machine.pid_file = Some(odd.join("p,d"));
    machine.serial = Serial::File(odd.join("s,append=off"));
    let _running = home.start(&machine).await;
    wait_for("the guest's first number", || async {
        let said = std::fs::read_to_string(odd.join("s,append=off")).ok()?;
        said.contains('\n').then_some(())
    })
    .await;
    let mut names: Vec<_> =
        odd.read_dir().unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, ["disk,format=x.img", "p,d", "q,p", "s,append=off"]);
}

#[tokio::test]
async fn the_console_can_go_to_standard_output() {
    let home = Home::new().await;
    let mut machine = home.machine();
    machine.serial = Serial::Output;
    let _running = home.start(&machine).await;
    wait_for("numbers in the output", || async {
        let said = std::fs::read_to_string(home.path("qemu.log")).ok()?;
        said.contains("0002\n").then_some(())
    })
    .await;
}

/// The sandbox forbids QEMU to change its user, so its starter does.
#[tokio::test]
async fn it_runs_as_a_user_of_its_own_where_we_are_root() {
    if !is_root() {
        return;
    }
    let home = Home::new().await;
    let user = 64_321;
    std::os::unix::fs::chown(home.folder.path(), Some(user), Some(user)).unwrap();
    std::os::unix::fs::chown(home.path("disk.img"), Some(user), Some(user)).unwrap();
    let machine = home.machine();
    let argv = machine.argv(&home.qemu).unwrap();
    let mut command = Command::new(&argv[0]);
    command.args(&argv[1..]).uid(user).gid(user).stdin(Stdio::null());
    let process = Process(command.spawn().unwrap());
    let _qmp = home.connect(&machine).await;
    home.counts_beyond(0).await;
    assert_eq!(std::fs::metadata(format!("/proc/{}", process.id())).unwrap().uid(), user);
}

/// Two machines with one disk would destroy what is on it.
#[tokio::test]
async fn a_disk_that_another_machine_uses_is_refused() {
    let home = Home::new().await;
    let _first = home.start(&home.machine()).await;
    let mut second = home.machine();
    second.qmp = home.path("qmp2");
    let mut process = home.spawn(&second);
    assert!(!process.ended().await);
    let log = std::fs::read_to_string(home.path("qemu.log")).unwrap();
    assert!(log.contains("lock"), "{log}");
}

#[tokio::test]
async fn a_system_that_crashes_ends_its_process_as_a_failure() {
    let home = Home::new().await;
    std::fs::write(home.path("disk.img"), guest::crashing()).unwrap();
    let mut machine = home.machine();
    machine.paused = true;
    let mut running = home.start(&machine).await;
    let mut events = running.qmp.events();
    running.qmp.cont().await.unwrap();
    while events.recv().await.unwrap().name != "GUEST_PANICKED" {}
    assert!(!running.process.ended().await, "one that was switched off ends with success");
}
