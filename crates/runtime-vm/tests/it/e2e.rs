//! A real machine, from its image to its end, in one boot and another.
//!
//! The image is the one that `clawfarm-vm-images` builds and keeps for tests; emulated, a boot
//! takes a minute of a processor's time.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clawfarm_model::{ClawId, DataFate, ObservedState, StopOptions};
use clawfarm_runtime::{Exec, ExecInput, ExecOutput, ExecRequest, NoProgress, Runtime, Suspend, TermSize};
use clawfarm_runtime_vm::VmConfig;
use clawfarm_vm_images::{Images, ImagesConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::farm::{Farm, id, is_root, launch, placement, volume};

/// How long a boot or a shutdown may take, on a machine that does much else.
pub(crate) const LONG: Duration = Duration::from_mins(25);

/// How long it sleeps.
const ASLEEP: Duration = Duration::from_secs(30);

/// The folder of what tests keep.
pub(crate) fn kept() -> PathBuf {
    if let Some(install) = std::env::var_os("CLAWFARM_TEST_OPENCLAW") {
        // <kept>/installs/<name>
        if let Some(kept) = Path::new(&install).ancestors().nth(2) {
            return kept.to_owned();
        }
    }
    let cache = std::env::var_os("XDG_CACHE_HOME").map_or_else(
        || PathBuf::from(std::env::var_os("HOME").expect("there is a home")).join(".cache"),
        PathBuf::from,
    );
    cache.join("clawfarm-test")
}

/// How a command in the machine ended, and what it printed.
pub(crate) async fn run(farm: &Farm, id: &ClawId, argv: &[&str]) -> (i32, String) {
    let argv = argv.iter().map(|&word| word.to_owned()).collect();
    let session = Exec::exec(&farm.rt, id, ExecRequest { argv, tty: None, term: None }).await.unwrap();
    drop(session.input);
    all(session.output).await
}

pub(crate) async fn all(mut output: tokio::sync::mpsc::Receiver<ExecOutput>) -> (i32, String) {
    let mut text = Vec::new();
    let told = async {
        while let Some(piece) = output.recv().await {
            match piece {
                ExecOutput::Stdout(bytes) | ExecOutput::Stderr(bytes) => text.extend_from_slice(&bytes),
                ExecOutput::Exit(code) => return code,
            }
        }
        panic!("no end was told");
    };
    let code = tokio::time::timeout(LONG, told).await.expect("the command ends");
    (code, String::from_utf8_lossy(&text).into_owned())
}

/// A line of the guest's shell, which must succeed.
pub(crate) async fn sh(farm: &Farm, id: &ClawId, line: &str) -> String {
    let (code, said) = run(farm, id, &["bash", "-lc", line]).await;
    assert_eq!(code, 0, "{line}: {said}");
    said
}

/// Waits until it has booted and its set-up is done.
pub(crate) async fn booted(farm: &Farm, id: &ClawId) {
    let begun = std::time::Instant::now();
    loop {
        match farm.rt.dial(id, 22).await {
            Ok(_) => return,
            Err(error) => {
                assert!(error.message().contains("still boots"), "{error}\n{}", said(farm, id));
                assert!(begun.elapsed() < LONG, "{error}\n{}", said(farm, id));
            }
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// What it told on its serial port.
pub(crate) fn said(farm: &Farm, id: &ClawId) -> String {
    std::fs::read_to_string(farm.claw(id).join("serial.log")).unwrap_or_default()
}

fn numbers(file: &Path) -> Vec<u64> {
    let text = std::fs::read_to_string(file).unwrap();
    text.split_terminator('\n').filter_map(|line| line.parse().ok()).collect()
}

#[tokio::test]
async fn e2e_a_machine_is_set_up_suspended_with_an_open_file_stopped_and_removed() {
    if !is_root() || std::env::consts::ARCH != "x86_64" {
        eprintln!("skipped: scripts/test-setup installs what an image needs for root on x86_64 alone");
        return;
    }
    let images =
        Images::open(ImagesConfig { kept: true, ..ImagesConfig::new(kept().join("images")) }).unwrap();
    let debian = "debian:12".parse().unwrap();
    images.build(&debian, &NoProgress).await.unwrap();

    let tiny = Farm::new().await;
    let workspace = tiny.root().join("project");
    std::fs::create_dir(&workspace).unwrap();
    std::fs::write(workspace.join("README"), "of the host").unwrap();
    let farm = Farm::with(VmConfig {
        images: ImagesConfig { kept: true, ..ImagesConfig::new(kept().join("images")) },
        agent: agent(),
        ..tiny.config.clone()
    })
    .await;
    // So called, a test that was ended leaves a pin that the next one takes away.
    let id = id(&format!("e2e-{}", std::process::id()));
    let port = crate::farm::free_port();
    let wanted = placement(&id, |it| {
        volume(it, ".openclaw:/root/.openclaw");
        let vm = it.vm.as_mut().unwrap();
        vm.image = debian;
        vm.workspace = Some(workspace.to_str().unwrap().to_owned());
        vm.publish = vec![format!("{port}:8080").parse().unwrap()];
        (it.resources.cpus, it.resources.memory_mib) = (2.0, 512);
    });
    farm.rt.ensure(&wanted, &NoProgress).await.unwrap();
    let mut first = launch(&id, 1);
    first.resources = wanted.resources;
    farm.rt.start(&first).await.unwrap();
    booted(&farm, &id).await;

    // Commands: their code, their words as they are, and a terminal that can be typed into.
    assert_eq!(run(&farm, &id, &["bash", "-lc", "echo ok > ~/new-ok; exit 7"]).await, (7, String::new()));
    let odd = "a b'c\"d$e\\f;g*\né";
    assert_eq!(run(&farm, &id, &["printf", "%s", odd]).await, (0, odd.to_owned()));
    assert_eq!(run(&farm, &id, &["no-such-program"]).await.0, 127);
    let size = TermSize { cols: 91, rows: 33 };
    let ask = "read -r -p 'name? ' name; stty size; echo \"hello $name\"";
    let request =
        ExecRequest { argv: ["bash", "-lc", ask].map(str::to_owned).to_vec(), tty: Some(size), term: None };
    let session = Exec::exec(&farm.rt, &id, request).await.unwrap();
    session.input.send(ExecInput::Stdin("bob\n".into())).await.unwrap();
    let (code, shown) = all(session.output).await;
    assert!(code == 0 && shown.contains("hello bob") && shown.contains("33 91"), "{code}: {shown}");

    // Folders, both ways. The workspace is where one works, and stays its owner's.
    let volume = farm.claw(&id).join("volumes/.openclaw");
    std::fs::write(volume.join("from-host"), "hello").unwrap();
    assert_eq!(sh(&farm, &id, "cat ~/.openclaw/from-host; pwd").await, "hello/workspace\n");
    sh(&farm, &id, "echo made > ~/.openclaw/from-guest; cat README > copy; mkdir -p ~/.openclaw/d/e").await;
    assert_eq!(std::fs::read_to_string(volume.join("from-guest")).unwrap(), "made\n");
    assert_eq!(std::fs::read_to_string(workspace.join("copy")).unwrap(), "of the host");

    // A published port, of a program that goes on.
    sh(&farm, &id, "systemd-run -q --unit=web python3 -m http.server 8080 -d /root/.openclaw").await;
    sh(
        &farm,
        &id,
        "systemd-run -q --unit=writer sh -c 'exec 3>>/root/.openclaw/log; i=0; while :; do i=$((i+1)); echo $i >&3; sleep 0.1; done'",
    )
    .await;
    assert!(get(&farm, &id, 8080, "/from-guest").await.ends_with("made\n"));

    reaches_no_host(&farm, &id).await;
    without_ssh(&farm, &id).await;

    // Suspended with a file open on the volume.
    let log = volume.join("log");
    let slept = farm.suspended(&id).await;
    assert_eq!(slept.state, ObservedState::Exited);
    let at = numbers(&log).len();
    assert!(at > 0);
    std::fs::write(volume.join("meanwhile"), "seen").unwrap();
    // Longer than anybody would overlook.
    tokio::time::sleep(ASLEEP).await;
    let mut second = first.clone();
    second.run = 2;
    assert_eq!(farm.rt.start(&second).await.unwrap().state, ObservedState::Running);
    assert_eq!(farm.record(&id).get("memory_lost"), None);
    assert_eq!(sh(&farm, &id, "cat ~/.openclaw/meanwhile").await, "seen");
    crate::farm::wait_for("its clock to be set", || async {
        let theirs: i64 = sh(&farm, &id, "date +%s").await.trim().parse().unwrap();
        let behind = clawfarm_model::Timestamp::now().as_millis() / 1000 - theirs;
        // It takes a moment to ask.
        if behind.abs() < i64::try_from(ASLEEP.as_secs()).unwrap() / 2 { Ok(()) } else { Err(behind) }
    })
    .await;
    refuses_setuid(&farm, &id, &volume, &workspace).await;
    crate::farm::wait_for("the writer to go on", || async {
        let now = numbers(&log).len();
        if now > at + 5 { Ok(()) } else { Err(now) }
    })
    .await;
    let written = numbers(&log);
    assert!(written.windows(2).all(|two| two[1] == two[0] + 1), "{written:?}");
    assert!(get(&farm, &id, 8080, "/meanwhile").await.ends_with("seen"));
    Suspend::resume(&farm.rt, &id).await.unwrap();
    without_ssh(&farm, &id).await;

    // Shut down by its own system, and started anew.
    let ended = farm.rt.stop(&id, StopOptions { grace: LONG }).await.unwrap();
    let exit = ended.exit.unwrap();
    assert!(exit.requested && exit.code == Some(0), "{exit:?}\n{}", said(&farm, &id));
    let mut third = first.clone();
    third.run = 3;
    farm.rt.start(&third).await.unwrap();
    // Nothing is set up again: it is there as soon as its SSH is.
    let look = ["bash", "-lc", "cat ~/new-ok ~/.openclaw/from-guest README"];
    crate::farm::wait_within(LONG, "its second boot", || async {
        let (code, said) = run(&farm, &id, &look).await;
        if (code, said.as_str()) == (0, "ok\nmade\nof the host") { Ok(()) } else { Err((code, said)) }
    })
    .await;

    assert!(farm.rt.destroy(&id, DataFate::Keep).await.unwrap() > 0);
    assert!(!farm.claw(&id).exists());
    let data = farm.config.home.join("datasets").join(id.as_str());
    assert_eq!(std::fs::read_to_string(data.join("volumes/.openclaw/from-guest")).unwrap(), "made\n");
    assert!(!images.pins(&"debian:12".parse().unwrap()).unwrap().contains(&id.to_string()));
    assert_eq!(std::fs::read_to_string(workspace.join("copy")).unwrap(), "of the host");
}

/// What listens on the host's own 127.0.0.1 is not for the machine.
async fn reaches_no_host(farm: &Farm, id: &ClawId) {
    let missing = farm.rt.observe(id).await.unwrap().confinement.unwrap().missing;
    if missing.iter().any(|it| it.contains("127.0.0.1 can be reached")) {
        eprintln!("left out: {missing:?}");
        return;
    }
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    let line = format!("timeout 20 bash -c 'exec 3<>/dev/tcp/10.0.2.2/{port}'");
    assert_ne!(run(farm, id, &["bash", "-lc", &line]).await.0, 0, "it was let in");
    assert!(listener.accept().is_err(), "it was let in");
}

/// Nothing that the machine makes in a folder of the host is setuid there; all else is as it says.
async fn refuses_setuid(farm: &Farm, id: &ClawId, volume: &Path, workspace: &Path) {
    for (guest, host) in [("/root/.openclaw", volume), ("/workspace", workspace)] {
        sh(farm, id, &format!("cp /bin/true {guest}/tool; chmod 755 {guest}/tool; ! chmod 4755 {guest}/tool; ! install -m 4755 /bin/true {guest}/other; mkdir {guest}/sub; echo x > {guest}/sub/y")).await;
        for name in ["tool", "other"] {
            if let Ok(about) = std::fs::metadata(host.join(name)) {
                assert_eq!(std::os::unix::fs::MetadataExt::mode(&about) & 0o6000, 0, "{guest}/{name}");
            }
        }
        let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(host.join("tool")).unwrap());
        assert_eq!(mode & 0o777, 0o755);
    }
}

/// The agent, which `scripts/guest` builds and `scripts/test` names.
pub(crate) fn agent() -> Option<bytes::Bytes> {
    let path = std::env::var_os("CLAWFARM_GUEST_AGENT")?;
    Some(std::fs::read(path).expect("the agent was built").into())
}

/// Commands go by the agent, so that they need no network in the machine.
async fn without_ssh(farm: &Farm, id: &ClawId) {
    if agent().is_none() {
        eprintln!("left out: CLAWFARM_GUEST_AGENT names no agent (scripts/guest builds one)");
        return;
    }
    sh(
        farm,
        id,
        "systemctl stop ssh.socket ssh 2>/dev/null; ip link set \"$(ls /sys/class/net | grep -v lo)\" down",
    )
    .await;
    assert_eq!(sh(farm, id, "ss -ltn | grep -c ':22 ' || true").await, "0\n");
    sh(farm, id, "ip link set \"$(ls /sys/class/net | grep -v lo)\" up; systemctl start ssh; networkctl renew \"$(ls /sys/class/net | grep -v lo)\" || true").await;
}

/// What a page of a program in the machine says.
async fn get(farm: &Farm, id: &ClawId, port: u16, path: &str) -> String {
    let asked = async {
        loop {
            if let Ok(mut stream) = farm.rt.dial(id, port).await {
                let request = format!("GET {path} HTTP/1.0\r\n\r\n");
                let mut answer = String::new();
                if stream.write_all(request.as_bytes()).await.is_ok()
                    && stream.read_to_string(&mut answer).await.is_ok()
                    && !answer.is_empty()
                {
                    return answer;
                }
            }
            // Python needs some seconds to begin.
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    };
    tokio::time::timeout(LONG, asked).await.expect("the program answers")
}
