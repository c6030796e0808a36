//! Helpers beside a claw, and asking it to end by a message.

use clawfarm_model::Code;
use clawfarm_shim::protocol::Request;
use clawfarm_shim::spec::{AskSpec, HelperSpec, RunsAs, User};

use crate::harness::{Instance, USER, error_of, is_root, lives, signal, wait_for};

/// Listens on the socket of its first argument after a while, and goes on.
const LISTENER: &str = r#"
import os, socket, sys, time
print("helper " + str(os.getpid()) + " of " + str(os.geteuid()), flush=True)
time.sleep(0.2)
s = socket.socket(socket.AF_UNIX)
s.bind(sys.argv[1])
s.listen(1)
time.sleep(600)
"#;

/// Ends with code 7 when it is told to on the socket of its first argument; SIGTERM means nothing.
const ASKED: &str = r#"
import signal, socket, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
s = socket.socket(socket.AF_UNIX)
s.bind(sys.argv[1])
s.listen(1)
print("up", flush=True)
c, _ = s.accept()
heard = b""
while heard.count(b"end\n") < 2:
    heard += c.recv(100)
sys.exit(7)
"#;

fn python(instance: &Instance, name: &str, program: &str) -> (Vec<String>, std::path::PathBuf) {
    let socket = instance.dir.join("state").join(name);
    let text = socket.to_str().unwrap().to_owned();
    (vec!["/usr/bin/python3".into(), "-c".into(), program.into(), text], socket)
}

fn with_helper(script: &str, program: &str, user: RunsAs) -> Instance {
    let mut instance = Instance::new(script);
    let (argv, socket) = python(&instance, "helper.sock", program);
    instance.spec.helpers.push(HelperSpec { name: "helper".into(), argv, user, listens: Some(socket) });
    instance
}

/// The process of the helper, which told it.
fn helper(instance: &Instance) -> (u32, u32) {
    let told = || {
        instance.printed().iter().find_map(|line| {
            let (pid, uid) = line.strip_prefix("helper ")?.split_once(" of ")?;
            Some((pid.parse().ok()?, uid.parse().ok()?))
        })
    };
    wait_for("the helper's line", || told().is_some());
    told().unwrap()
}

#[test]
fn a_helper_listens_before_the_claw_begins_and_ends_with_it() {
    let script = "test -S helper.sock && echo there; sleep 600";
    let instance = with_helper(script, LISTENER, RunsAs::Claw).up();
    instance.wait_printed("there");
    let (pid, _) = helper(&instance);
    assert!(lives(pid));
    instance.ask(&Request::Kill);
    instance.wait_end();
    wait_for("the helper's end", || !lives(pid));
}

#[test]
fn a_helper_that_ends_is_told_and_takes_nothing_with_it() {
    let instance = with_helper("sleep 600", LISTENER, RunsAs::Claw).up();
    let (pid, _) = helper(&instance);
    signal(pid, libc::SIGKILL);
    wait_for("a note of its end", || {
        instance.printed().iter().any(|line| line.contains("helper, which the claw needs beside it, ended"))
    });
    assert!(lives(instance.pid()));
}

#[test]
fn one_that_does_not_come_up_keeps_the_claw_from_being_started() {
    let mut instance = with_helper("echo never; sleep 600", "import sys; sys.exit('no luck')", RunsAs::Claw);
    let error = error_of(instance.try_start());
    assert_eq!(error.code(), Code::ClawFailed);
    assert!(error.message().contains("no luck"), "{error}");
    assert!(instance.printed().is_empty(), "{:?}", instance.printed());
    assert!(!instance.dir.join("state.json").exists());
}

#[test]
fn a_helper_may_have_another_user_and_the_claw_its_socket() {
    if !is_root() {
        return;
    }
    let other = User { uid: 873_021, gid: 873_021 };
    for (user, uid) in [(RunsAs::Server, 0), (RunsAs::User(other), other.uid), (RunsAs::Claw, USER.uid)] {
        // The folder is anybody's: what is looked at is whom the socket belongs to.
        let script = "stat -c '%u' helper.sock; sleep 600";
        let mut instance = with_helper(script, LISTENER, user);
        instance.spec.user = Some(USER);
        for folder in [instance.dir.clone(), instance.dir.join("state")] {
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o777);
            std::fs::set_permissions(folder, mode).unwrap();
        }
        let instance = instance.up();
        instance.wait_printed(&USER.uid.to_string());
        let (pid, told) = helper(&instance);
        assert_eq!(told, uid, "{user:?}");
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        assert!(status.contains("CapEff:\t0000000000000000"), "{status}");
    }
}

#[test]
fn a_claw_is_asked_by_a_message_until_it_ends() {
    let mut instance = Instance::new("");
    let (argv, socket) = python(&instance, "ask.sock", ASKED);
    instance.spec.argv = argv;
    instance.spec.ask = Some(AskSpec { socket, text: "end\n".into() });
    instance.start();
    instance.wait_printed("up");
    let ended = instance.ask(&Request::Stop { grace_ms: 60_000 });
    let exit = ended.exit.unwrap();
    assert_eq!((exit.code, exit.requested), (Some(7), true));
}

#[test]
fn one_that_can_not_be_asked_is_ended_when_its_grace_is_over() {
    let mut instance = Instance::new("echo up; sleep 600");
    let socket = instance.dir.join("state/nobody.sock");
    instance.spec.ask = Some(AskSpec { socket, text: "end\n".into() });
    instance.start();
    instance.wait_printed("up");
    let ended = instance.ask(&Request::Stop { grace_ms: 100 });
    assert_eq!(ended.exit.unwrap().signal, Some(libc::SIGKILL));
    wait_for("a note", || instance.printed().iter().any(|line| line.contains("could not be asked to end")));
}
