use clawfarm_model::{Code, ObservedState};
use clawfarm_shim::client::Client;
use clawfarm_shim::protocol::{Hello, PROTOCOL_VERSION, Request};

use crate::harness::{
    Instance, PATIENCE, TOKEN, error_of, is_root, is_running, lives, nap, signal, wait_for,
};

#[test]
fn an_exit_code_is_recorded_with_the_last_lines() {
    let mut instance = Instance::new("echo one; printf '\\033[31mred\\033[0m\\n' >&2; exit 3");
    let started = instance.start();
    assert!(started.pid > 0 && started.shim_pid > 0);
    let state = instance.wait_end();
    let exit = state.exit.unwrap();
    assert_eq!((exit.code, exit.signal, exit.requested, exit.out_of_memory), (Some(3), None, false, false));
    let mut tail: Vec<_> = exit.log_tail.lines().collect();
    tail.sort_unstable();
    assert_eq!(tail, ["one", "red"]);
    assert_eq!((state.run, state.pid, state.source.as_str()), (7, started.pid, "shim"));
    assert_eq!(instance.printed().len(), 2);
}

#[test]
fn a_signal_is_recorded() {
    let instance = Instance::new("kill -SEGV $$").up();
    let exit = instance.wait_end().exit.unwrap();
    assert_eq!((exit.code, exit.signal), (None, Some(libc::SIGSEGV)));
}

#[test]
fn state_is_written_before_the_claw_is_executed() {
    let instance = Instance::new("cat ../state.json; sleep 60").up();
    wait_for("the state in the output", || !instance.printed().is_empty());
    let seen: clawfarm_shim::ShimState = serde_json::from_str(&instance.printed()[0]).unwrap();
    assert!(seen.active);
    assert_eq!(seen.pid, instance.pid());
    assert!(clawfarm_shim::is_same_process(seen.pid, seen.start_ticks));
    assert_eq!(seen.boot_id, clawfarm_shim::boot_id().unwrap());
}

#[test]
fn the_lock_is_the_shims_alone() {
    let mut instance = Instance::new("sleep 60").up();
    assert!(clawfarm_shim::lock::is_held(&instance.dir).unwrap());
    let error = error_of(instance.try_start());
    assert_eq!(error.code(), Code::Conflict);
    assert!(error.message().contains("already runs"), "{error}");
    assert!(is_running(&instance.ask(&Request::Status)), "the first one is not disturbed");
    let fds = std::fs::read_dir(format!("/proc/{}/fd", instance.pid())).unwrap();
    let fds: Vec<_> = fds.map(|fd| std::fs::read_link(fd.unwrap().path()).unwrap()).collect();
    assert_eq!(fds.len(), 3, "the claw has more than its three streams: {fds:?}");
}

#[test]
fn stop_lets_the_claw_end_by_itself() {
    let script = "trap 'echo bye; exit 4' TERM; echo ready; while :; do sleep 0.05; done";
    let instance = Instance::new(script).up();
    instance.wait_printed("ready");
    let status = instance.ask(&Request::Stop { grace_ms: 20_000 });
    let exit = status.exit.unwrap();
    assert_eq!((status.state, exit.code, exit.requested), (ObservedState::Exited, Some(4), true));
    assert!(exit.log_tail.ends_with("bye"), "{}", exit.log_tail);
    instance.wait_end();
    instance.wait_printed("bye");
}

#[test]
fn stop_kills_when_the_grace_is_over_and_a_second_stop_can_hurry() {
    let instance = Instance::new("trap '' TERM; echo ready; while :; do sleep 0.05; done").up();
    instance.wait_printed("ready");
    let mut patient = instance.client();
    patient.send(&Request::Stop { grace_ms: 60_000 }).unwrap();
    wait_for("the stop to begin", || instance.ask(&Request::Status).stopping);
    let exit = instance.ask(&Request::Stop { grace_ms: 100 }).exit.unwrap();
    assert_eq!((exit.signal, exit.requested), (Some(libc::SIGKILL), true));
    assert_eq!(patient.next_status().unwrap().exit, Some(exit), "both are answered");
}

const DAEMON: &str =
    "setsid sh -c 'trap \"\" TERM HUP; (echo $$ > daemon; exec sleep 60) & wait' >/dev/null 2>&1 &";

#[test]
fn what_has_run_away_ends_with_the_claw() {
    for request in [None, Some(Request::Kill), Some(Request::Stop { grace_ms: 100 })] {
        let end =
            if request.is_some() { "sleep 60" } else { "while [ ! -s daemon ]; do sleep 0.05; done; exit 0" };
        let instance = Instance::new(&format!("{DAEMON} {end}")).up();
        let daemon = instance.wait_pid("daemon");
        if let Some(request) = &request {
            assert!(lives(daemon));
            instance.ask(request);
        }
        instance.wait_end();
        assert!(!lives(daemon), "{request:?} has left a process");
    }
}

#[test]
fn a_killed_shim_takes_its_claw_along_and_sweep_does_the_rest() {
    for cgroup in [false, true] {
        let instance = Instance::new(&format!("{DAEMON} sleep 60"));
        let instance = if cgroup && is_root() { instance.with_cgroup() } else { instance }.up();
        let daemon = instance.wait_pid("daemon");
        signal(instance.started.as_ref().unwrap().shim_pid, libc::SIGKILL);
        wait_for("the claw's end", || !lives(instance.pid()));
        assert!(instance.state().active, "nobody has written anything");
        let state = clawfarm_shim::sweep(&instance.dir).unwrap().unwrap();
        let exit = state.exit.clone().unwrap();
        assert_eq!(
            (state.active, state.source.as_str(), exit.code, exit.requested),
            (false, "sweep", None, false)
        );
        assert!(!lives(daemon), "the sweep has left a process (cgroup: {cgroup})");
        instance.wait_end();
        assert_eq!(
            clawfarm_shim::sweep(&instance.dir).unwrap(),
            Some(state),
            "a second sweep changes nothing"
        );
    }
}

#[test]
fn the_next_start_cleans_up_after_a_killed_shim() {
    let mut instance = Instance::new(&format!("{DAEMON} sleep 60")).up();
    let daemon = instance.wait_pid("daemon");
    signal(instance.started.as_ref().unwrap().shim_pid, libc::SIGKILL);
    wait_for("the claw's end", || !lives(instance.pid()));
    std::fs::remove_file(instance.dir.join("state/daemon")).unwrap();
    instance.start();
    assert!(!lives(daemon));
    assert!(is_running(&instance.ask(&Request::Status)));
}

#[test]
fn sigterm_to_the_shim_is_a_stop() {
    let instance = Instance::new("trap 'exit 9' TERM; echo ready; while :; do sleep 0.05; done").up();
    instance.wait_printed("ready");
    signal(instance.started.as_ref().unwrap().shim_pid, libc::SIGTERM);
    let exit = instance.wait_end().exit.unwrap();
    assert_eq!((exit.code, exit.requested), (Some(9), true));
}

#[test]
fn watchers_are_told_of_every_change() {
    let instance = Instance::new("sleep 60").up();
    let mut watcher = instance.client();
    assert!(is_running(&watcher.ask(&Request::Watch).unwrap()));
    instance.ask(&Request::Freeze);
    assert_eq!(watcher.next_status().unwrap().state, ObservedState::Frozen);
    instance.ask(&Request::Thaw);
    assert!(is_running(&watcher.next_status().unwrap()));
    signal(instance.pid(), libc::SIGKILL);
    let last = watcher.next_status().unwrap();
    assert_eq!((last.state, last.pid, last.exit.unwrap().signal), (ObservedState::Exited, None, Some(9)));
    assert_eq!(error_of(watcher.next_status()).code(), Code::Unavailable);
}

#[test]
fn an_instance_can_be_started_again_as_soon_as_its_stop_is_answered() {
    let mut instance = Instance::new("sleep 60").up();
    for run in 8..12 {
        instance.ask(&Request::Stop { grace_ms: 5000 });
        instance.spec.run = run;
        instance.start();
        assert_eq!(instance.ask(&Request::Status).run, run);
    }
}

#[test]
fn strangers_and_nonsense_are_refused() {
    let instance = Instance::new("sleep 60").up();
    let connect = |hello: &Hello| Client::connect_with(&instance.dir, hello, PATIENCE);
    let wrong = error_of(connect(&Hello::new("wrong")));
    assert_eq!(wrong.code(), Code::Unauthenticated);
    assert_eq!(error_of(connect(&Hello::new(""))).code(), Code::Unauthenticated);
    let newer =
        Hello { version: PROTOCOL_VERSION + 5, oldest: Some(PROTOCOL_VERSION + 4), token: TOKEN.into() };
    assert_eq!(error_of(connect(&newer)).code(), Code::Unsupported);
    let also_newer = Hello { oldest: Some(PROTOCOL_VERSION), ..newer };
    assert_eq!(connect(&also_newer).unwrap().hello.version, PROTOCOL_VERSION);

    let mut client = instance.client();
    client.send(&serde_json::json!({"verb": "teleport"})).unwrap();
    assert_eq!(error_of(client.next_status()).code(), Code::Unsupported);
    assert!(is_running(&client.ask(&Request::Status).unwrap()), "the conversation goes on");
    let mut client = instance.client();
    client.send(&"x".repeat(400_000)).unwrap();
    assert_eq!(error_of(client.next_status()).code(), Code::InvalidInput);
    assert_eq!(error_of(client.next_status()).code(), Code::Unavailable);
    assert!(is_running(&instance.ask(&Request::Status)), "others are still served");
}

#[test]
fn too_many_connections_are_refused_and_room_is_found_again() {
    let instance = Instance::new("sleep 60").up();
    let connect = || Client::connect(&instance.dir, PATIENCE);
    let clients: Vec<_> = (0..64).map(|_| connect().unwrap()).collect();
    // On a busy machine the connection may be gone before its last word was read.
    wait_for("a refusal that says why", || error_of(connect()).code() == Code::Overloaded);
    drop(clients);
    wait_for("room for a connection", || connect().is_ok());
}

#[test]
fn who_does_not_say_who_it_is_keeps_no_place_from_the_server() {
    let instance = Instance::new("sleep 60").up();
    let knock = || {
        // By a short name: the folder's path may be longer than a socket's address.
        let folder = std::fs::File::open(instance.dir.join("run")).unwrap();
        let socket = format!("/proc/self/fd/{}/shim.sock", std::os::fd::AsRawFd::as_raw_fd(&folder));
        std::os::unix::net::UnixStream::connect(socket).unwrap()
    };
    // Twice as many as there are places, and none says a word.
    let _strangers: Vec<_> = (0..128).map(|_| knock()).collect();
    // Not after the ten seconds that each of them has: all along, as often as it is asked.
    for _ in 0..5 {
        assert!(is_running(&instance.ask(&Request::Status)));
    }
}

#[test]
fn a_path_longer_than_a_socket_address_works() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("a-long-name".repeat(10)).join("b".repeat(100));
    std::fs::create_dir_all(&dir).unwrap();
    assert!(dir.as_os_str().len() > 200);
    let instance = Instance::at(temp, dir, "sleep 60").up();
    assert!(is_running(&instance.ask(&Request::Status)));
}

#[test]
fn a_start_that_fails_says_why_and_leaves_nothing() {
    type Change = fn(&mut Instance);
    let cases: [(Change, Code, &str); 6] = [
        (|i| i.spec.argv = vec!["/no/such/program".into()], Code::NotFound, "argv"),
        (|i| i.spec.argv = vec!["no-such-program".into()], Code::NotFound, "argv"),
        (|i| i.spec.argv = vec!["/etc/passwd".into()], Code::InvalidInput, "argv"),
        (|i| i.spec.cwd = "/no/such/folder".into(), Code::Internal, "cwd"),
        (|i| i.spec.version = 99, Code::Unsupported, "spec.version"),
        (|i| i.spec.argv.clear(), Code::InvalidInput, "argv"),
    ];
    for (change, code, field) in cases {
        let mut instance = Instance::new("true").with_cgroup();
        change(&mut instance);
        let error = error_of(instance.try_start());
        assert_eq!((error.code(), error.field_name()), (code, Some(field)), "{error:?}");
        assert!(!instance.dir.join("state.json").exists() && !instance.dir.join("run/shim.sock").exists());
        wait_for("the shim's end", || !clawfarm_shim::lock::is_held(&instance.dir).unwrap());
    }
}

#[test]
fn secrets_are_only_in_the_claws_environment() {
    let instance = Instance::new("case $MY_KEY in sk-sec*-value) echo has it;; esac; sleep 60").up();
    instance.wait_printed("has it");
    for file in ["state.json", "logs/output.log", "logs/shim.err"] {
        let text = std::fs::read_to_string(instance.dir.join(file)).unwrap_or_default();
        assert!(!text.contains("sk-secret-value"), "{file} has the secret");
        assert!(!text.contains(TOKEN), "{file} has the token");
    }
    let shim = instance.started.as_ref().unwrap().shim_pid;
    for pid in [shim, instance.pid()] {
        let line = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap();
        assert!(!line.contains("sk-secret-value") && !line.contains(TOKEN), "{line}");
    }
    let environment = std::fs::read(format!("/proc/{shim}/environ")).unwrap();
    assert!(!String::from_utf8_lossy(&environment).contains("sk-secret-value"));
}

#[test]
fn the_shim_is_nobodys_child_and_small() {
    let instance = Instance::new("echo up; sleep 60").up();
    instance.wait_printed("up");
    let shim = instance.started.as_ref().unwrap().shim_pid;
    let status = |pid: u32| std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let field = |text: &str, name: &str| -> u64 {
        let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    };
    let own = u64::from(std::process::id());
    assert_ne!(field(&status(shim), "PPid:"), own);
    assert_eq!(field(&status(instance.pid()), "PPid:"), u64::from(shim));
    assert_eq!(field(&status(shim), "Threads:"), 1);
    nap(100);
    let resident = field(&status(shim), "VmRSS:");
    println!("the shim holds {resident} KiB, {} of its own", field(&status(shim), "RssAnon:"));
    assert!(field(&status(shim), "RssAnon:") < 2048, "the shim holds {resident} KiB");
}

#[test]
fn a_sweep_spares_processes_that_only_have_an_old_number() {
    let mut stranger = std::process::Command::new("sleep").arg("60").spawn().unwrap();
    let instance = Instance::new("exit 0").up();
    let ended = instance.wait_end();
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", stranger.id())).unwrap();
    let start_ticks = stat.rsplit_once(") ").unwrap().1.split(' ').nth(19).unwrap().parse().unwrap();
    let stale =
        clawfarm_shim::ShimState { active: true, pid: stranger.id(), start_ticks, exit: None, ..ended };
    // Another boot of the machine; and this one, in which the number has gone round.
    let other_boot = clawfarm_shim::ShimState { boot_id: "another".into(), ..stale.clone() };
    let reused = clawfarm_shim::ShimState { start_ticks: start_ticks - 1, ..stale };
    for state in [other_boot, reused] {
        state.write(&instance.dir).unwrap();
        let swept = clawfarm_shim::sweep(&instance.dir).unwrap().unwrap();
        assert!(!swept.active && swept.exit.is_some());
        assert!(lives(stranger.id()), "a stranger was killed");
    }
    stranger.kill().unwrap();
    stranger.wait().unwrap();
}
