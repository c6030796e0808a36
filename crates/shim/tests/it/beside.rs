//! Helpers beside a claw, and asking it to end by a message.

use std::os::unix::fs::MetadataExt;

use clawfarm_model::Code;
use clawfarm_shim::protocol::{ExecRequest, Frame, Request};
use clawfarm_shim::spec::{AskSpec, HelperSpec, LandlockSpec, RunsAs, ServedSpec, User, WakeSpec};

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
    let helper =
        HelperSpec { name: "helper".into(), argv, user, listens: Some(socket), landlock: None, serves: None };
    instance.spec.helpers.push(helper);
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
    assert_eq!(instance.ask(&Request::Status).lost, ["helper"]);
    instance.ask(&Request::Kill);
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

/// As QEMU that has the group of `/dev/kvm`: what runs beside it has nothing to do with that.
#[test]
fn a_group_is_the_claws_alone() {
    if !is_root() {
        return;
    }
    let group = 873_031;
    let mut instance = with_helper("exec sleep 600", LISTENER, RunsAs::Claw);
    (instance.spec.user, instance.spec.groups) = (Some(USER), vec![group]);
    for folder in [instance.dir.clone(), instance.dir.join("state")] {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o777);
        std::fs::set_permissions(folder, mode).unwrap();
    }
    let instance = instance.up();
    let (beside, _) = helper(&instance);
    let groups_of = |pid: u32| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("Groups:")).unwrap();
        line.split_whitespace().map(|group| group.parse().unwrap()).collect::<Vec<u32>>()
    };
    assert_eq!((groups_of(instance.pid()), groups_of(beside)), (vec![group], vec![]));
    let request = ExecRequest { argv: vec!["id".into(), "-G".into()], ..ExecRequest::default() };
    let mut exec = instance.client().exec(request).unwrap();
    let mut said = Vec::new();
    while let Some(frame) = exec.receive().unwrap() {
        if let Frame::Stdout(bytes) = frame {
            said.extend(bytes);
        }
    }
    assert_eq!(String::from_utf8_lossy(&said).trim(), USER.gid.to_string());
}

#[test]
fn a_claw_is_asked_by_a_message_until_it_ends() {
    let mut instance = Instance::new("");
    let (argv, socket) = python(&instance, "ask.sock", ASKED);
    instance.spec.argv = argv;
    instance.spec.ask = Some(AskSpec { socket, text: "end\n".into(), wake: None });
    instance.start();
    instance.wait_printed("up");
    let ended = instance.ask(&Request::Stop { grace_ms: 60_000 });
    let exit = ended.exit.unwrap();
    assert_eq!((exit.code, exit.requested), (Some(7), true));
}

/// Prints what it hears on the socket of its first argument.
const HEARS: &str = r#"
import socket, sys
s = socket.socket(socket.AF_UNIX)
s.bind(sys.argv[1])
s.listen(1)
print("up", flush=True)
c, _ = s.accept()
for line in c.makefile():
    print("heard " + line.strip(), flush=True)
"#;

#[test]
fn only_a_claw_that_is_meant_to_stand_still_is_let_go_on_before_it_is_asked() {
    let mut instance = Instance::new("");
    let (argv, socket) = python(&instance, "ask.sock", HEARS);
    instance.spec.argv = argv;
    let file = instance.dir.join("about.json");
    let wake = WakeSpec { file: file.clone(), field: "frozen".into(), text: "go on\n".into() };
    instance.spec.ask = Some(AskSpec { socket, text: "end\n".into(), wake: Some(wake) });
    std::fs::write(&file, r#"{"frozen": false}"#).unwrap();
    instance.start();
    instance.wait_printed("up");
    // What goes to every process when a machine shuts down says nothing to it.
    for number in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
        signal(instance.pid(), number);
    }
    let mut client = instance.client();
    std::thread::scope(|scope| {
        scope.spawn(move || client.ask(&Request::Stop { grace_ms: 60_000 }));
        instance.wait_printed("heard end");
        assert!(!instance.printed().iter().any(|line| line == "heard go on"), "{:?}", instance.printed());
        // It is looked at again each time that it is asked.
        std::fs::write(&file, r#"{"frozen": true}"#).unwrap();
        instance.wait_printed("heard go on");
        wait_for("both, in this order", || {
            let heard = instance.printed();
            let last: Vec<&str> = heard.iter().rev().take(2).map(String::as_str).collect();
            last == ["heard end", "heard go on"]
        });
        assert!(lives(instance.pid()));
        instance.ask(&Request::Kill);
    });
}

/// What a helper tries in the folder that it serves, which is its working folder's `served`, and
/// beside it.
const TRIES: &str = r#"
import os, socket, sys
def attempt(name, what):
    try:
        what()
        print(name + " done", flush=True)
    except OSError as e:
        print(name + " " + os.strerror(e.errno), flush=True)
def make(path, mode):
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode))
os.umask(0)
attempt("write", lambda: make("served/a", 0o644))
attempt("plain", lambda: os.chmod("served/a", 0o755))
attempt("setuid", lambda: os.chmod("served/a", 0o4755))
attempt("setgid", lambda: os.chmod("served/a", 0o2755))
attempt("open", lambda: make("served/b", 0o4755))
attempt("node", lambda: os.mknod("served/c", 0o104755))
attempt("fifo", lambda: os.mknod("served/d", 0o010644))
attempt("beside", lambda: make("beside", 0o644))
attempt("read", lambda: open("secret").read())
attempt("up", lambda: make("served/../e", 0o644))
s = socket.socket(socket.AF_UNIX)
s.bind(sys.argv[1])
s.listen(1)
print("tried", flush=True)
import time
time.sleep(600)
"#;

fn serving(instance: &mut Instance) -> std::path::PathBuf {
    let state = instance.dir.join("state");
    for name in ["served", "sock"] {
        std::fs::create_dir(state.join(name)).unwrap();
    }
    std::fs::write(state.join("secret"), "of the claw").unwrap();
    let folder = state.join("served").canonicalize().unwrap();
    let about = std::fs::metadata(&folder).unwrap();
    let (argv, socket) = python(instance, "sock/s", TRIES);
    let mut all = LandlockSpec::system(false);
    all.write.push(state.clone());
    let mut own = LandlockSpec::system(false);
    own.write.push(state.join("sock"));
    instance.spec.landlock = Some(all);
    instance.spec.claw_landlock = Some(LandlockSpec::system(false));
    instance.spec.helpers.push(HelperSpec {
        name: "helper".into(),
        argv,
        user: RunsAs::Claw,
        listens: Some(socket),
        landlock: Some(own),
        serves: Some(ServedSpec {
            folder: folder.clone(),
            inode: (about.dev(), about.ino()),
            read_only: false,
        }),
    });
    folder
}

#[test]
fn what_serves_a_folder_reaches_no_other_and_makes_nothing_setuid() {
    let mut instance = Instance::new("cat secret 2>&1; echo mine > served/x; echo end; sleep 600");
    serving(&mut instance);
    let instance = instance.up();
    instance.wait_printed("tried");
    instance.wait_printed("end");
    let printed = instance.printed();
    for line in [
        "write done",
        "plain done",
        "setuid Operation not permitted",
        "setgid Operation not permitted",
        "open Operation not permitted",
        "node Operation not permitted",
        "fifo done",
        "beside Permission denied",
        "read Permission denied",
        "up Permission denied",
    ] {
        assert!(printed.iter().any(|it| it == line), "{line}: {printed:#?}");
    }
    // Nor may the claw itself use what its helper serves.
    assert!(printed.iter().any(|it| it.contains("cat: secret: Permission denied")), "{printed:#?}");
    assert!(!instance.dir.join("state/served/x").exists());
}

#[test]
fn a_folder_that_was_replaced_is_not_served() {
    let replacements: [fn(&std::path::Path); 2] = [
        |folder| std::fs::create_dir(folder).unwrap(),
        |folder| std::os::unix::fs::symlink(folder.with_file_name("old"), folder).unwrap(),
    ];
    for replace in replacements {
        let mut instance = Instance::new("echo never; sleep 600");
        let folder = serving(&mut instance);
        std::fs::rename(&folder, folder.with_file_name("old")).unwrap();
        replace(&folder);
        let error = error_of(instance.try_start());
        assert_eq!(error.code(), Code::Conflict, "{error}");
        assert!(error.message().contains("is not the one that it was"), "{error}");
        assert!(instance.printed().is_empty(), "{:?}", instance.printed());
    }
}

#[test]
fn one_that_can_not_be_asked_is_ended_when_its_grace_is_over() {
    let mut instance = Instance::new("echo up; sleep 600");
    let socket = instance.dir.join("state/nobody.sock");
    instance.spec.ask = Some(AskSpec { socket, text: "end\n".into(), wake: None });
    instance.start();
    instance.wait_printed("up");
    let ended = instance.ask(&Request::Stop { grace_ms: 100 });
    assert_eq!(ended.exit.unwrap().signal, Some(libc::SIGKILL));
    wait_for("a note", || instance.printed().iter().any(|line| line.contains("could not be asked to end")));
}
