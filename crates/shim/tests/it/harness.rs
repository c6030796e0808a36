//! Starting a shim, asking it, and leaving nothing behind.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use clawfarm_model::resources::Resources;
use clawfarm_model::{Error, ObservedState, Result};
use clawfarm_shim::ShimState;
use clawfarm_shim::client::Client;
use clawfarm_shim::logline::LogRecord;
use clawfarm_shim::protocol::{Request, ShimStatus};
use clawfarm_shim::spec::{CgroupSpec, EnvVar, LogSpec, SPEC_VERSION, ShimSpec, StartReply, Started, User};
use secrecy::SecretString;

/// How long anything here may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) const TOKEN: &str = "0123456789abcdef0123456789abcdef";

/// A user id that no account has; tests that count its processes take different ones.
pub(crate) const USER: User = User { uid: 873_001, gid: 873_001 };

pub(crate) fn is_root() -> bool {
    // SAFETY: takes and changes nothing.
    let root = unsafe { libc::geteuid() } == 0;
    if !root {
        println!("skipped: this needs root");
    }
    root
}

/// An instance's folder and what is to run in it.
pub(crate) struct Instance {
    _temp: tempfile::TempDir,
    pub(crate) dir: PathBuf,
    pub(crate) spec: ShimSpec,
    pub(crate) started: Option<Started>,
    binary: PathBuf,
    user: Option<User>,
}

impl Instance {
    /// A shell script as the claw, without any confinement.
    pub(crate) fn new(script: &str) -> Self {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().to_owned();
        Self::at(temp, dir, script)
    }

    pub(crate) fn at(temp: tempfile::TempDir, dir: PathBuf, script: &str) -> Self {
        let name = temp.path().file_name().unwrap().to_string_lossy().to_lowercase();
        let suffix: String = name.chars().filter(char::is_ascii_alphanumeric).collect();
        std::fs::create_dir_all(dir.join("state")).unwrap();
        let spec = ShimSpec {
            version: SPEC_VERSION,
            id: format!("test-{suffix}").parse().unwrap(),
            run: 7,
            argv: ["/bin/sh", "-c", script].map(String::from).to_vec(),
            env: vec![
                EnvVar::new("PATH", "/usr/local/bin:/usr/bin:/bin"),
                EnvVar::new("MY_KEY", "sk-secret-value"),
            ],
            cwd: dir.join("state"),
            exec_cwd: None,
            user: None,
            groups: Vec::new(),
            landlock: None,
            claw_landlock: None,
            mounts: None,
            cgroup: None,
            resources: Resources { cpus: 1.0, memory_mib: 1024 },
            max_tasks: 500,
            logs: LogSpec::default(),
            token: SecretString::from(TOKEN),
            term_grace_ms: 1000,
            helpers: Vec::new(),
            ask: None,
        };
        let binary = env!("CARGO_BIN_EXE_clawfarm-shim").into();
        Self { _temp: temp, dir, spec, started: None, binary, user: None }
    }

    /// Cgroups of its own, where this machine lets us make some.
    pub(crate) fn with_cgroup(mut self) -> Self {
        let name =
            Path::new("clawfarm-test").join(std::process::id().to_string()).join(self.spec.id.as_str());
        self.spec.cgroup = Some(CgroupSpec { name, parent: None, loopback: None });
        self
    }

    /// Starts the shim itself as another user.
    pub(crate) fn run_as(&mut self, binary: &Path, user: User) {
        self.binary = binary.to_owned();
        self.user = Some(user);
    }

    pub(crate) fn try_start(&mut self) -> Result<Started> {
        let mut command = Command::new(&self.binary);
        if let Some(user) = self.user {
            command.uid(user.uid).gid(user.gid);
        }
        let mut child = command.arg(&self.dir).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let json = serde_json::to_vec(&self.spec).unwrap();
        child.stdin.take().unwrap().write_all(&json).unwrap();
        let output = child.wait_with_output().unwrap();
        let reply: StartReply = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&output.stdout)));
        assert_eq!(output.status.success(), matches!(reply, StartReply::Ok(_)));
        reply.into_result()
    }

    pub(crate) fn start(&mut self) -> Started {
        let started = self.try_start().unwrap_or_else(|error| panic!("did not start: {error:?}"));
        self.started = Some(started.clone());
        started
    }

    /// Started, as one expression.
    pub(crate) fn up(mut self) -> Self {
        self.start();
        self
    }

    pub(crate) fn pid(&self) -> u32 {
        self.started.as_ref().unwrap().pid
    }

    pub(crate) fn client(&self) -> Client {
        Client::connect(&self.dir, PATIENCE).unwrap()
    }

    pub(crate) fn ask(&self, request: &Request) -> ShimStatus {
        self.client().ask(request).unwrap()
    }

    pub(crate) fn state(&self) -> ShimState {
        ShimState::read(&self.dir).unwrap().unwrap()
    }

    /// Waits until the shim has ended, and answers what it has left.
    pub(crate) fn wait_end(&self) -> ShimState {
        wait_for("the end of the shim", || !clawfarm_shim::lock::is_held(&self.dir).unwrap());
        let state = self.state();
        assert!(!state.active, "{state:?}");
        assert!(!self.dir.join("run/shim.sock").exists(), "the socket is left");
        for dir in &state.cgroups {
            assert!(!dir.exists(), "{} is left", dir.display());
        }
        state
    }

    /// What the claw printed so far, notes too.
    pub(crate) fn printed(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.dir.join("logs/output.log")).unwrap_or_default();
        text.lines().filter_map(LogRecord::parse).map(|record| record.text.to_owned()).collect()
    }

    pub(crate) fn wait_printed(&self, line: &str) {
        wait_for(&format!("the line '{line}' in {:?}", self.printed()), || {
            self.printed().iter().any(|printed| printed == line)
        });
    }

    pub(crate) fn file(&self, name: &str) -> Option<String> {
        std::fs::read_to_string(self.dir.join("state").join(name)).ok()
    }

    /// A pid that the claw has written into a file.
    pub(crate) fn wait_pid(&self, name: &str) -> u32 {
        let read = || self.file(name).and_then(|text| text.trim().parse().ok());
        wait_for(name, || read().is_some());
        read().unwrap()
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        if let Ok(mut client) = Client::connect(&self.dir, PATIENCE) {
            let _ = client.ask(&Request::Kill);
        }
        let _ = clawfarm_shim::sweep(&self.dir);
    }
}

pub(crate) fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} for {what}");
        nap(10);
    }
}

#[expect(clippy::disallowed_methods, reason = "there is no async runtime here")]
pub(crate) fn nap(millis: u64) {
    std::thread::sleep(Duration::from_millis(millis));
}

/// Whether a process lives; a zombie does not.
pub(crate) fn lives(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z') && !rest.starts_with('X'))
}

pub(crate) fn signal(pid: u32, signal: i32) {
    // SAFETY: takes numbers only; the pid is of a process this test has started.
    assert_eq!(unsafe { libc::kill(pid.cast_signed(), signal) }, 0);
}

/// The error of something that must fail.
pub(crate) fn error_of<T: std::fmt::Debug>(result: Result<T>) -> Error {
    result.expect_err("this should have been refused")
}

pub(crate) fn is_running(status: &ShimStatus) -> bool {
    status.state == ObservedState::Running
}
