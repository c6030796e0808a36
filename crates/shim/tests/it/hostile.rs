//! A claw that does what a model was talked into: it tries to get at everything that is not
//! its own. Each probe is also run without confinement, to see that it would succeed there.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use clawfarm_model::ObservedState;
use clawfarm_shim::protocol::{ExecRequest, Frame, Request, TtySize};
use clawfarm_shim::spec::{Bind, EnvVar, LandlockSpec, MountSpec, User};

use crate::harness::{Instance, USER, is_root, lives, wait_for};

/// A home as the server makes it, with a second claw and a process outside.
struct Home {
    instance: Instance,
    home: PathBuf,
    /// A claw as the server's own user, with as few privileges as any.
    outsider: Instance,
}

/// What the claw must not be able to do.
const FORBIDDEN: [&str; 11] = [
    "read the master key",
    "read its own state.json",
    "read its token",
    "read another claw's file",
    "list the other claws",
    "write another claw's folder",
    "write beside its folders",
    "write the install",
    "write to /tmp",
    "read the outsider's environment",
    "signal the outsider",
];

/// What it must be able to do.
const ALLOWED: [&str; 6] = [
    "write its state",
    "write its log folder",
    "read the install",
    "run the install",
    "use /dev/null",
    "signal its own",
];

impl Home {
    fn new(user: Option<User>) -> Self {
        let temp = tempfile::tempdir().unwrap();
        let home = temp.path().join("home");
        let dir = home.join("claws/alice");
        for folder in ["claws/alice/logs/claw", "claws/alice/volumes", "claws/bob/state", "install/bin"] {
            std::fs::create_dir_all(home.join(folder)).unwrap();
        }
        for (file, mode) in
            [("master.key", 0o600), ("claws/bob/state/secret", 0o600), ("install/bin/tool", 0o755)]
        {
            std::fs::write(home.join(file), "#!/bin/sh\necho ran\n").unwrap();
            std::fs::set_permissions(home.join(file), PermissionsExt::from_mode(mode)).unwrap();
        }
        let mut instance = Instance::at(temp, dir.clone(), "");
        for own in ["state", "volumes", "logs/claw"] {
            let user = user.unwrap_or(User { uid: 0, gid: 0 });
            chown(dir.join(own), Some(user.uid), Some(user.gid)).unwrap();
        }
        instance.spec.user = user;
        let outsider = Instance::new("exec sleep 300").up();
        Self { instance, home, outsider }
    }

    fn own(&self) -> [PathBuf; 3] {
        ["state", "volumes", "logs/claw"].map(|folder| self.instance.dir.join(folder))
    }

    fn with_mounts(mut self) -> Self {
        let bind = |path: PathBuf, read_only| Bind { path, read_only };
        let mut binds: Vec<_> = self.own().into_iter().map(|path| bind(path, false)).collect();
        binds.push(bind(self.home.join("install"), true));
        let hide = self.home.parent().unwrap().to_owned();
        self.instance.spec.mounts = Some(MountSpec { hide: vec![hide], binds });
        self
    }

    fn with_landlock(mut self) -> Self {
        let install = self.home.join("install");
        let own = LandlockSpec { read: vec![], write: self.own().to_vec(), execute: vec![install] };
        let system = LandlockSpec::system(self.instance.spec.user.is_some());
        self.instance.spec.landlock = Some(system.with(own));
        self
    }

    /// Lets the claw try everything; what it could do.
    fn attack(&mut self) -> BTreeMap<String, bool> {
        let script = self.probes();
        self.instance.spec.argv[2] = script;
        self.instance.start();
        self.instance.wait_printed("that was all");
        let parse = |line: String| line.split_once(": ").map(|(name, done)| (name.to_owned(), done == "yes"));
        self.instance.printed().into_iter().filter_map(parse).collect()
    }

    fn probes(&self) -> String {
        let home = self.home.display();
        let own = self.instance.dir.display();
        let outsider = self.outsider.pid();
        let temporary = format!("/tmp/clawfarm-hostile-{}", self.instance.spec.id);
        let tries = [
            ("read the master key", format!("cat {home}/master.key")),
            ("read its own state.json", format!("cat {own}/state.json")),
            ("read its token", format!("cat {own}/run/shim.token")),
            ("read another claw's file", format!("cat {home}/claws/bob/state/secret")),
            ("list the other claws", format!("ls {home}/claws/bob")),
            ("write another claw's folder", format!("echo x > {home}/claws/bob/state/x")),
            ("write beside its folders", format!("echo x > {own}/x")),
            ("write the install", format!("echo x > {home}/install/x")),
            ("write to /tmp", format!("echo x > {temporary} && rm {temporary}")),
            ("read the outsider's environment", format!("cat /proc/{outsider}/environ")),
            ("signal the outsider", format!("kill -CONT {outsider}")),
            ("lower its oom score", "echo 0 > /proc/self/oom_score_adj".into()),
            ("write its state", format!("echo x > {own}/state/x")),
            ("write its log folder", format!("echo x > {own}/logs/claw/x")),
            ("read the install", format!("cat {home}/install/bin/tool")),
            ("run the install", format!("{home}/install/bin/tool")),
            ("use /dev/null", "echo x > /dev/null".into()),
            ("signal its own", "kill -CONT $$".into()),
        ];
        let mut script = String::new();
        for (name, attempt) in tries {
            let _ = writeln!(
                script,
                "if ({attempt}) >/dev/null 2>&1; then echo \"{name}: yes\"; else echo \"{name}: no\"; fi"
            );
        }
        script.push_str("grep -E '^(Cap|NoNewPrivs|Groups|Uid)' /proc/self/status; umask; ulimit -c\n");
        script + "echo 'that was all'; sleep 300"
    }

    fn check(&mut self) {
        let could = self.attack();
        println!("{:#?}\n{could:#?}", self.instance.started.as_ref().unwrap().confinement);
        for name in ALLOWED {
            assert_eq!(could.get(name), Some(&true), "can't {name}");
        }
        for name in FORBIDDEN {
            assert_eq!(could.get(name), Some(&false), "could {name}");
        }
        assert_eq!(could.get("lower its oom score"), Some(&false));
        let printed = self.instance.printed();
        for line in ["CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1", "0077", "0"]
        {
            assert!(printed.iter().any(|printed| printed == line), "no '{line}' in {printed:#?}");
        }
        assert!(printed.iter().any(|line| line.trim_end() == "Groups:"), "{printed:#?}");
    }
}

#[test]
fn without_confinement_every_probe_succeeds() {
    if !is_root() {
        return;
    }
    let mut home = Home::new(None);
    let could = home.attack();
    for name in FORBIDDEN.iter().chain(&ALLOWED) {
        assert_eq!(could.get(*name), Some(&true), "'{name}' proves nothing");
    }
    let missing = home.instance.started.as_ref().unwrap().confinement.missing.join("\n");
    for what in ["Landlock", "private mounts", "user of its own", "cgroups"] {
        assert!(missing.contains(what), "{what} is not said to be missing in:\n{missing}");
    }
}

#[test]
fn user_mounts_and_landlock_together() {
    if !is_root() {
        return;
    }
    let mut home = Home::new(Some(USER)).with_mounts().with_landlock();
    home.instance = home.instance.with_cgroup();
    home.check();
    let confinement = home.instance.started.clone().unwrap().confinement;
    assert!(confinement.isolates_files() && confinement.private_mounts, "{confinement:?}");
    assert_eq!(confinement.own_uid, Some(USER.uid));
    // A command beside it is in the same box.
    let mut exec = home
        .instance
        .client()
        .exec(command("id -u; ls /proc | grep -c '^[0-9]'; kill -CONT $PPID; ls -A", &home))
        .unwrap();
    let mut printed = String::new();
    while let Some(frame) = exec.receive().unwrap() {
        match frame {
            Frame::Stdout(bytes) => printed.push_str(&String::from_utf8_lossy(&bytes)),
            Frame::Exit(code) => assert_eq!(code, 0, "{printed}"),
            _ => {}
        }
    }
    let lines: Vec<_> = printed.lines().collect();
    assert_eq!(lines[0], USER.uid.to_string());
    let visible: u32 = lines[1].parse().unwrap();
    assert!(visible < 20, "{visible} processes are visible");
    assert_eq!(lines[2], "x", "it works in the claw's folder");
}

fn command(script: &str, home: &Home) -> ExecRequest {
    let script = script.replace("$PPID", &home.instance.pid().to_string());
    ExecRequest { argv: vec!["sh".into(), "-c".into(), script], ..ExecRequest::default() }
}

/// Node sizes its heap by what it reads there.
#[test]
fn a_claw_can_read_its_limits_but_not_change_them() {
    if !is_root() {
        return;
    }
    let mut home = Home::new(Some(USER)).with_mounts().with_landlock();
    home.instance = home.instance.with_cgroup();
    let name = home.instance.spec.cgroup.clone().unwrap().name;
    let script = format!(
        "for f in /sys/fs/cgroup/{{memory/{name}/memory.limit_in_bytes,{name}/memory.max}}; do \
           test -e $f && cat $f && (echo 1 > $f) 2>/dev/null && echo changed; done; echo end; sleep 60",
        name = name.display()
    );
    home.instance.spec.argv = vec!["/bin/bash".into(), "-c".into(), script];
    if home.instance.start().confinement.memory.as_deref() == Some("watchdog") {
        println!("skipped: this machine gives us no memory cgroup");
        return;
    }
    home.instance.wait_printed("end");
    assert_eq!(home.instance.printed(), [(1024 << 20).to_string(), "end".into()]);
}

#[test]
fn user_and_mounts_without_landlock() {
    if !is_root() {
        return;
    }
    let mut home = Home::new(Some(USER)).with_mounts();
    let could = home.attack();
    for name in FORBIDDEN.iter().filter(|name| **name != "write to /tmp") {
        assert_eq!(could.get(*name), Some(&false), "could {name}");
    }
    for name in ALLOWED {
        assert_eq!(could.get(name), Some(&true), "can't {name}");
    }
}

#[test]
fn landlock_alone_under_the_servers_own_user() {
    if !is_root() {
        return;
    }
    let mut home = Home::new(None).with_landlock();
    if home.instance.spec.landlock.is_some() {
        home.check();
    }
    let status = home.instance.started.clone().unwrap().confinement;
    assert!(status.isolates_files() && status.own_uid.is_none() && !status.private_mounts);
    // A second command can signal the first: they are in one domain.
    let mut exec = home.instance.client().exec(command("kill -CONT $PPID", &home)).unwrap();
    assert_eq!(exec.receive().unwrap(), Some(Frame::Exit(0)));
}

/// Whatever it knows, a claw is not served by its own shim.
#[test]
fn a_claw_can_not_use_its_shim_with_the_right_token() {
    let script = "import json,os,socket,sys\n\
        token=open('../run/shim.token').read()\n\
        def ask():\n \
          s=socket.socket(socket.AF_UNIX); s.connect('../run/shim.sock')\n \
          try:\n  \
            s.send((json.dumps({'version':1,'token':token})+'\\n').encode()); return s.recv(1000)\n \
          except OSError as e: return b''\n\
        answers=[ask()]\n\
        r,w=os.pipe()\n\
        if os.fork()==0:\n \
          os.setsid()\n \
          if os.fork()==0: os.write(w,b'got:'+ask())\n \
          os._exit(0)\n\
        answers.append(os.read(r,1000)[4:])\n\
        print('answers',answers,flush=True)\n\
        import time; time.sleep(60)";
    let mut instance = Instance::new("");
    instance.spec.argv = vec!["/usr/bin/python3".into(), "-c".into(), script.into()];
    if !Path::new("/usr/bin/python3").exists() {
        println!("skipped: there is no /usr/bin/python3");
        return;
    }
    let instance = instance.up();
    wait_for("the answers", || !instance.printed().is_empty());
    assert_eq!(instance.printed(), ["answers [b'', b'']"]);
    assert_eq!(instance.ask(&Request::Status).state, ObservedState::Running, "the server is served");
}

#[test]
fn a_terminal_belongs_to_the_claws_user() {
    if !is_root() {
        return;
    }
    let home = Home::new(Some(USER)).with_mounts().with_landlock();
    let mut home = home;
    home.instance.spec.argv[2] = "sleep 300".into();
    home.instance.start();
    let tty = Some(TtySize { cols: 80, rows: 24 });
    let mut request = command("stty -echo; test -O $(tty) && echo mine > /dev/tty", &home);
    request.tty = tty;
    let mut exec = home.instance.client().exec(request).unwrap();
    let mut printed = String::new();
    while let Some(Frame::Stdout(bytes)) = exec.receive().unwrap() {
        printed.push_str(&String::from_utf8_lossy(&bytes));
    }
    assert_eq!(printed, "mine\r\n");
}

#[test]
fn an_unconfinable_claw_is_refused_where_it_was_asked_for() {
    if !is_root() {
        return;
    }
    let mut home = Home::new(Some(USER)).with_mounts();
    let gone = Bind { path: home.home.join("no-such-folder"), read_only: false };
    home.instance.spec.mounts.as_mut().unwrap().binds.push(gone);
    let error = home.instance.try_start().unwrap_err();
    assert!(error.message().contains("no-such-folder"), "{error}");
    home.instance.spec.user = Some(User { uid: 0, gid: 1 });
    let error = home.instance.try_start().unwrap_err();
    assert_eq!(error.field_name(), Some("user"));
}

/// The whole shim under a user that is not root: everything works that can, the rest is said.
#[test]
fn a_server_without_root_does_what_it_can() {
    if !is_root() {
        return;
    }
    let user = User { uid: 873_077, gid: 873_077 };
    let temp = tempfile::tempdir().unwrap();
    // The test's own binary lies where this user may not go.
    let binary = temp.path().join("clawfarm-shim");
    std::fs::copy(env!("CARGO_BIN_EXE_clawfarm-shim"), &binary).unwrap();
    let dir = temp.path().join("claw");
    let script = "kill -CONT $OUTSIDER 2>/dev/null && echo signalled; cat ../state.json >/dev/null 2>&1 && echo read; \
                  echo up; sleep 300 & sleep 300";
    let root = temp.path().to_owned();
    let mut instance = Instance::at(temp, dir.clone(), script);
    for path in [&root, &dir, &dir.join("state")] {
        chown(path, Some(user.uid), Some(user.gid)).unwrap();
    }
    let mut outsider = std::os::unix::process::CommandExt::uid(&mut Command::new("sleep"), user.uid)
        .arg("300")
        .spawn()
        .unwrap();
    instance.spec.env.push(EnvVar::new("OUTSIDER", outsider.id().to_string()));
    let own = LandlockSpec { write: vec![dir.join("state")], ..LandlockSpec::default() };
    instance.spec.landlock = Some(LandlockSpec::system(false).with(own));
    instance.spec.mounts = Some(MountSpec { hide: vec![root], binds: vec![] });
    let mut instance = instance.with_cgroup();
    instance.run_as(&binary, user);
    let confinement = instance.start().confinement;
    println!("{confinement:#?}");
    assert!(confinement.landlock_abi.is_some() && confinement.own_uid.is_none());
    assert_eq!(confinement.freezer.as_deref(), Some("SIGSTOP"));
    assert_eq!(confinement.memory.as_deref(), Some("watchdog"));
    for what in ["private mounts", "user of its own", "memory"] {
        assert!(confinement.missing.iter().any(|m| m.contains(what)), "{what} is not said to be missing");
    }
    instance.wait_printed("up");
    assert_eq!(instance.printed(), ["up"]);
    assert_eq!(oom_score(instance.pid()), 300);
    assert_eq!(instance.ask(&Request::Freeze).state, ObservedState::Frozen);
    assert_eq!(instance.ask(&Request::Thaw).state, ObservedState::Running);
    let mut request =
        ExecRequest { argv: vec!["sh".into(), "-c".into(), "test -t 0".into()], ..ExecRequest::default() };
    request.tty = Some(TtySize { cols: 80, rows: 24 });
    let mut exec = instance.client().exec(request).unwrap();
    assert_eq!(exec.receive().unwrap(), Some(Frame::Exit(0)));
    let usage = instance.client().usage().unwrap();
    assert_eq!(usage.tasks, 3, "{usage:?}");

    // The claw can end the process that starts commands, which is of its own user; no more.
    let spawner = children(instance.started.as_ref().unwrap().shim_pid);
    let spawner = spawner.into_iter().find(|pid| *pid != instance.pid()).unwrap();
    crate::harness::signal(spawner, libc::SIGKILL);
    wait_for("the end of the spawner", || !lives(spawner));
    let refused = instance.client().exec(ExecRequest::default()).unwrap_err();
    assert_eq!(refused.code(), clawfarm_model::Code::Unavailable);
    assert_eq!(instance.ask(&Request::Kill).state, ObservedState::Exited);
    instance.wait_end();
    outsider.kill().unwrap();
    outsider.wait().unwrap();
}

fn oom_score(pid: u32) -> i32 {
    std::fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap().trim().parse().unwrap()
}

fn children(pid: u32) -> Vec<u32> {
    let path = format!("/proc/{pid}/task/{pid}/children");
    let text = std::fs::read_to_string(Path::new(&path)).unwrap();
    text.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
}
