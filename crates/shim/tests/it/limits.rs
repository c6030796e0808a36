use clawfarm_model::{Code, ObservedState};
use clawfarm_shim::protocol::{ExecRequest, Request};

use crate::harness::{Instance, error_of, is_root, nap, signal, wait_for};

const COUNTER: &str = "(i=0; while :; do i=$((i+1)); echo $i > child; sleep 0.01; done) & \
                       i=0; while :; do i=$((i+1)); echo $i > count; sleep 0.01; done";

fn frozen_means_standing_still(instance: &Instance, freezer: &str) {
    let confinement = instance.started.as_ref().unwrap().confinement.clone();
    println!("frozen by {:?}", confinement.freezer);
    assert!(confinement.freezer.unwrap().starts_with(freezer));
    let counts = || (instance.file("count").unwrap_or_default(), instance.file("child").unwrap_or_default());
    wait_for("the counters", || !counts().0.trim().is_empty() && !counts().1.trim().is_empty());
    for _ in 0..2 {
        assert_eq!(instance.ask(&Request::Freeze).state, ObservedState::Frozen);
    }
    nap(30);
    let before = counts();
    nap(200);
    assert_eq!(counts(), before, "it goes on although it is frozen");
    let refused = instance.client().exec(ExecRequest { argv: vec!["true".into()], ..ExecRequest::default() });
    assert_eq!(error_of(refused).code(), Code::Conflict);
    for _ in 0..2 {
        assert_eq!(instance.ask(&Request::Thaw).state, ObservedState::Running);
    }
    wait_for("the counters to go on", || counts().0 != before.0 && counts().1 != before.1);
    instance.ask(&Request::Freeze);
    let exit = instance.ask(&Request::Stop { grace_ms: 5000 }).exit.unwrap();
    assert_eq!((exit.signal, exit.requested), (Some(libc::SIGTERM), true), "it was thawed for its stop");
    instance.wait_end();
}

#[test]
fn freezing_by_signals() {
    frozen_means_standing_still(&Instance::new(COUNTER).up(), "SIGSTOP");
}

/// A shell makes each of them by vfork, and waits in the kernel until it has begun.
#[test]
fn what_waits_for_a_process_that_stands_still_is_frozen() {
    let instance = Instance::new("while :; do /bin/true; done").up();
    for _ in 0..40 {
        assert_eq!(instance.ask(&Request::Freeze).state, ObservedState::Frozen);
        assert_eq!(instance.ask(&Request::Thaw).state, ObservedState::Running);
    }
    instance.ask(&Request::Kill);
    instance.wait_end();
}

#[test]
fn freezing_by_cgroup() {
    if is_root() {
        frozen_means_standing_still(&Instance::new(COUNTER).with_cgroup().up(), "cgroup");
    }
}

#[test]
fn a_frozen_claw_can_be_killed() {
    for cgroup in [false, true] {
        let instance = Instance::new(COUNTER);
        let instance = if cgroup && is_root() { instance.with_cgroup() } else { instance }.up();
        instance.ask(&Request::Freeze);
        let exit = instance.ask(&Request::Kill).exit.unwrap();
        assert_eq!((exit.signal, exit.requested), (Some(libc::SIGKILL), true));
        instance.wait_end();
    }
}

/// Holds 200 MiB in two processes, then waits.
const GLUTTON: &str =
    "import os,time\nos.fork()\nx=bytearray(b'x')*(100<<20)\nprint('full',flush=True)\ntime.sleep(60)";

fn glutton() -> Instance {
    let mut instance = Instance::new("");
    let python =
        ["/usr/bin/python3", "/usr/local/bin/python3"].into_iter().find(|p| std::path::Path::new(p).exists());
    let python = python.map_or_else(|| "python3".to_owned(), str::to_owned);
    instance.spec.argv = vec![python, "-c".into(), GLUTTON.into()];
    if let Some(path) = std::env::var_os("PATH") {
        instance.spec.env[0] = clawfarm_shim::spec::EnvVar::new("PATH", path.to_string_lossy());
    }
    instance.spec.resources.memory_mib = 128;
    instance
}

#[test]
fn the_watchdog_ends_a_claw_that_holds_too_much() {
    let instance = glutton().up();
    assert_eq!(instance.started.as_ref().unwrap().confinement.memory.as_deref(), Some("watchdog"));
    let exit = instance.wait_end().exit.unwrap();
    assert_eq!(
        (exit.out_of_memory, exit.signal, exit.requested),
        (true, Some(libc::SIGKILL), false),
        "{exit:?}"
    );
    assert!(
        instance.printed().iter().any(|line| line.contains("128 MiB are allowed")),
        "{:?}",
        instance.printed()
    );
}

#[test]
fn the_kernel_ends_a_claw_that_holds_too_much() {
    if !is_root() {
        return;
    }
    let mut instance = glutton().with_cgroup();
    // One process, so that it is the main one that is chosen.
    instance.spec.argv[2] = GLUTTON.replace("os.fork()\n", "").replace("100<<20", "300<<20");
    let memory = instance.start().confinement.memory.unwrap();
    if !memory.starts_with("cgroup") {
        println!("skipped: this machine gives us no memory cgroup");
        return;
    }
    let exit = instance.wait_end().exit.unwrap();
    assert_eq!(
        (exit.out_of_memory, exit.signal, exit.requested),
        (true, Some(libc::SIGKILL), false),
        "{exit:?}"
    );
}

#[test]
fn a_kill_is_no_want_of_memory() {
    let instance = Instance::new("sleep 60").with_cgroup().up();
    signal(instance.pid(), libc::SIGKILL);
    let exit = instance.wait_end().exit.unwrap();
    assert_eq!((exit.out_of_memory, exit.signal, exit.requested), (false, Some(libc::SIGKILL), false));
}

#[test]
fn usage_is_measured_with_and_without_cgroups() {
    let busy = "head -c 3000000 /dev/zero > file; sync file; i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done; echo done; sleep 60 & sleep 60";
    for cgroup in [false, true] {
        let instance = Instance::new(busy);
        let instance = if cgroup { instance.with_cgroup() } else { instance }.up();
        instance.wait_printed("done");
        wait_for("three processes", || instance.client().usage().unwrap().tasks == 3);
        let usage = instance.client().usage().unwrap();
        println!("cgroup {cgroup}: {usage:?}");
        assert!(usage.cpu_millis >= 10 && usage.cpu_millis < 60_000, "{usage:?}");
        assert!(usage.memory_bytes > 100_000, "{usage:?}");
        assert_eq!(usage.memory_limit_bytes, 1024 << 20);
        instance.ask(&Request::Kill);
        instance.wait_end();
    }
}

/// Says of each address and port whether it may be connected to, or sent something.
const REACHES: &str = r#"
import socket, sys
taken = sys.argv[1:]
for family, address in [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET, "127.9.9.9"), (socket.AF_INET, "0.0.0.0"),
                        (socket.AF_INET6, "::1"), (socket.AF_INET6, "::ffff:127.0.0.1"), (socket.AF_INET6, "::")]:
    for port in map(int, taken):
        for kind, name in [(socket.SOCK_STREAM, "tcp"), (socket.SOCK_DGRAM, "udp")]:
            s = socket.socket(family, kind)
            try:
                if kind == socket.SOCK_STREAM: s.connect((address, port))
                else: s.sendto(b"x", (address, port))
                said = "reached"
            except PermissionError: said = "refused"
            except OSError: said = "reached"
            print(name, address, port, said, flush=True)
print("done", flush=True)
"#;

#[test]
fn this_machines_own_addresses_are_kept_from_a_claw_but_for_some_ports() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = |listener: &std::net::TcpListener| listener.local_addr().unwrap().port();
    let (open, shut) = (port(&listener), port(&other));
    let mut instance = Instance::new("").with_cgroup();
    instance.spec.argv = ["/usr/bin/python3", "-c", REACHES].map(String::from).to_vec();
    instance.spec.argv.extend([open.to_string(), shut.to_string()]);
    instance.spec.cgroup.as_mut().unwrap().loopback = Some(vec![open]);
    let started = instance.start();
    if !is_root() || started.confinement.missing.iter().any(|it| it.contains("127.0.0.1 can be reached")) {
        println!("skipped: {:?}", started.confinement.missing);
        return;
    }
    instance.wait_printed("done");
    let printed = instance.printed();
    let said = |port: u16, what: &str| {
        printed.iter().filter(|line| line.ends_with(&format!(" {port} {what}"))).count()
    };
    assert_eq!((said(open, "reached"), said(open, "refused")), (12, 0), "{printed:#?}");
    assert_eq!((said(shut, "reached"), said(shut, "refused")), (0, 12), "{printed:#?}");
    // Nobody else is kept from it.
    std::net::TcpStream::connect(("127.0.0.1", shut)).unwrap();
}
