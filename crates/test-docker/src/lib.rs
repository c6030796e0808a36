//! A private container engine for tests and benchmarks: a Docker daemon, or Podman's service.
//!
//! It has a network namespace of its own, so that it shares no firewall rule, bridge or port
//! with this machine's Docker or with another of its kind: tests enter it ([`Engine::enter`]).
//! Containers get out through slirp4netns.
//!
//! [`Engine::shared`] is one for all runs of this machine, because starting one takes seconds
//! and the image of a real claw a gigabyte: its images stay, in the user's cache; its
//! containers and networks do not. [`Engine::private`] is one for a test that kills it.
//!
//! Whoever uses one holds a lock on a file for as long as its process lives. A keeper (a shell
//! of its own session) ends the daemon some seconds after the last lock is gone.

mod claw;

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;
use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

pub use claw::{TINY_CLAW, TINY_CLAW_VERSION};

const KEEPER: &str = include_str!("keeper.sh");
/// How long a daemon may take to start or to end: 4 s on an idle machine.
const LIMIT: Duration = Duration::from_secs(90);
/// How many seconds nobody uses the shared one until it is ended: tests begin one after another.
const IDLE: u32 = 20;
/// An image of busybox alone. Another number when its contents change.
pub const TINY: &str = "clawfarm-test/tiny:2";
/// The version of OpenClaw that [`STAND_IN`] passes for. Another number when its contents change.
pub const STAND_IN_VERSION: &str = "2026.1.1-standin3";
/// An image with something in the place of OpenClaw that answers its probes, in a megabyte.
pub const STAND_IN: &str = "clawfarm/openclaw:2026.1.1-standin3";
/// The image that `scripts/test-setup` makes of Debian's packages.
pub const DEBIAN: &str = "clawfarm-test/debian:12";

/// Which engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Docker's daemon.
    Docker,
    /// Podman's service, which speaks Docker's language.
    Podman,
}

impl Kind {
    /// Where the shared one is, in the user's cache. Another number when its form changes.
    fn shared(self) -> &'static str {
        match self {
            Self::Docker => "clawfarm-test/docker-1",
            Self::Podman => "clawfarm-test/podman-1",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::Podman => "podman",
        }
    }

    /// Its program, which is the name of its process too.
    fn program(self) -> &'static str {
        match self {
            Self::Docker => "dockerd",
            Self::Podman => "podman",
        }
    }
}

/// What an image holds in the place of OpenClaw.
#[derive(Clone, Copy, Debug)]
pub struct StandIn {
    /// The version that it passes for.
    pub version: &'static str,
    /// The schema that its state has.
    pub schema: u32,
    /// It ends at once instead of answering.
    pub broken: bool,
}

/// A container engine.
#[derive(Debug)]
pub struct Engine {
    kind: Kind,
    folder: PathBuf,
    private: bool,
    /// The daemon in whose network it is, when it has none of its own.
    beside: Option<Pid>,
    /// Its lock is ours for as long as this is open.
    _users: File,
}

impl Engine {
    /// Whether there can be one here: it takes root. Tests that need one do nothing without.
    #[must_use]
    pub fn possible() -> bool {
        rustix::process::geteuid().is_root()
    }

    /// The one of this machine's tests: Docker.
    ///
    /// # Panics
    /// When it is not installed or does not start; with its log.
    #[must_use]
    pub fn shared() -> Self {
        Self::shared_of(Kind::Docker)
    }

    /// The one of this machine's tests, of either kind.
    ///
    /// # Panics
    /// As for [`Engine::shared`].
    #[must_use]
    pub fn shared_of(kind: Kind) -> Self {
        Self::begin(kind, cache().join(kind.shared()), false, None)
    }

    /// A Docker of its own, without images; gone with this.
    ///
    /// # Panics
    /// As for [`Engine::shared`].
    #[must_use]
    pub fn private() -> Self {
        Self::private_of(Kind::Docker)
    }

    /// One of its own, of either kind.
    ///
    /// # Panics
    /// As for [`Engine::shared`].
    #[must_use]
    pub fn private_of(kind: Kind) -> Self {
        Self::begin(kind, own_folder(kind), true, None)
    }

    /// A further Docker of its own in the network of this one, so that a thread which has entered
    /// that reaches both. Its containers do not get out into the world.
    ///
    /// # Panics
    /// As for [`Engine::shared`].
    #[must_use]
    pub fn beside(&self) -> Self {
        let pid = self.pid().expect("it runs");
        Self::begin(Kind::Docker, own_folder(Kind::Docker), true, Some(pid))
    }

    fn begin(kind: Kind, folder: PathBuf, private: bool, beside: Option<Pid>) -> Self {
        fs::create_dir_all(&folder).expect("the folder can be made");
        let users = File::create(folder.join("users")).expect("the folder can be written");
        rustix::fs::flock(&users, FlockOperation::LockShared).expect("a file can be locked");
        let engine = Self { kind, folder, private, beside, _users: users };
        let lock = engine.lock();
        if !engine.answers() {
            engine.start_keeper();
        }
        drop(lock);
        engine
    }

    fn lock(&self) -> File {
        self.lock_for("lock")
    }

    fn lock_for(&self, what: &str) -> File {
        let lock = File::create(self.folder.with_extension(what)).expect("the folder can be written");
        rustix::fs::flock(&lock, FlockOperation::LockExclusive).expect("a file can be locked");
        lock
    }

    /// Which engine it is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Its socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.folder.join(self.kind.name()).with_extension("sock")
    }

    /// Moves the calling thread, and those that it starts from now on, to the daemon's network,
    /// where its published ports are.
    ///
    /// # Panics
    /// When the daemon does not run.
    pub fn enter(&self) {
        let pid = self.pid().expect("it runs");
        let net = File::open(format!("/proc/{}/ns/net", pid.as_raw_nonzero())).expect("it runs");
        move_into_link_name_space(net.as_fd(), Some(LinkNameSpaceType::Network))
            .expect("root may enter another network");
    }

    /// Runs Docker's own command line against it, and returns what it prints.
    ///
    /// # Panics
    /// When the command fails.
    #[must_use]
    pub fn docker(&self, args: &[&str]) -> String {
        self.try_docker(args, None).unwrap_or_else(|error| panic!("docker {args:?}: {error}"))
    }

    /// Removes an image. Another test's server may look into it just now, which it does by a
    /// container of its own: it is waited for.
    ///
    /// # Panics
    /// When it can't be removed.
    pub fn remove_image(&self, name: &str) {
        let begun = Instant::now();
        while let Err(error) = self.try_docker(&["rmi", name], None) {
            // Podman takes the name away before it says so.
            if ["image not known", "No such image"].iter().any(|words| error.contains(words)) {
                return;
            }
            let used = ["in use", "being used", "is using"].iter().any(|words| error.contains(words));
            assert!(used && begun.elapsed() < LIMIT, "the image {name} can't be removed: {error}");
            pause();
        }
    }

    fn try_docker(&self, args: &[&str], input: Option<&[u8]>) -> Result<String, String> {
        let mut child = Command::new("docker")
            .arg("--host")
            .arg(format!("unix://{}", self.socket().display()))
            .args(args)
            .env_remove("DOCKER_HOST")
            .stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|e| format!("{e}; Debian, Ubuntu: apt-get install docker.io"))?;
        if let (Some(mut pipe), Some(input)) = (child.stdin.take(), input) {
            pipe.write_all(input).map_err(|e| e.to_string())?;
        }
        let output = child.wait_with_output().map_err(|e| e.to_string())?;
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into_owned())
        }
    }

    /// Makes sure of [`TINY`], from this machine's static busybox.
    ///
    /// # Panics
    /// When there is no busybox.
    pub fn with_tiny(&self) {
        let _one = self.lock();
        if self.try_docker(&["image", "inspect", TINY], None).is_err() {
            let made = self.try_docker(&["import", "-", TINY], Some(&busybox()));
            made.unwrap_or_else(|error| panic!("the image {TINY} can't be made: {error}"));
        }
    }

    /// Makes sure of [`STAND_IN`], from this machine's static busybox.
    ///
    /// # Panics
    /// When there is no busybox.
    pub fn with_stand_in(&self) {
        self.with(StandIn { version: STAND_IN_VERSION, schema: 1, broken: false });
    }

    /// Makes sure of an image with something in the place of a version of OpenClaw.
    ///
    /// # Panics
    /// When there is no busybox.
    pub fn with(&self, it: StandIn) {
        let _one = self.lock();
        let name = format!("clawfarm/openclaw:{}", it.version);
        if self.try_docker(&["image", "inspect", &name], None).is_err() {
            let made = self.try_docker(&["import", "-", &name], Some(&stand_in(it)));
            made.unwrap_or_else(|error| panic!("the image {name} can't be made: {error}"));
        }
    }

    /// Makes sure of [`DEBIAN`], from what `scripts/test-setup` has made.
    ///
    /// # Panics
    /// When it was not run.
    pub fn with_debian(&self) {
        let _one = self.lock();
        if self.try_docker(&["image", "inspect", DEBIAN], None).is_err() {
            let file = cache().join("clawfarm-test/debian-12.tar");
            assert!(file.exists(), "there is no {}: run scripts/test-setup", file.display());
            let file = file.to_str().expect("the cache has a UTF-8 name");
            let made = self.try_docker(&["import", file, DEBIAN], None);
            made.unwrap_or_else(|error| panic!("the image {DEBIAN} can't be made: {error}"));
        }
    }

    /// Makes sure of an image of a real OpenClaw: of what `scripts/test-setup` has installed from
    /// npm, which is quicker than to install it once more. One that is there is left as it is.
    ///
    /// # Panics
    /// When there is no such installation, or no [`DEBIAN`].
    pub fn with_openclaw(&self, version: &str, installed: &Path) {
        // Not the lock that all others wait for: this takes minutes.
        let _one = self.lock_for("openclaw.lock");
        let name = format!("clawfarm/openclaw:{version}");
        if self.try_docker(&["image", "inspect", &name], None).is_ok() {
            return;
        }
        let (parent, folder) = (installed.parent(), installed.file_name().and_then(|name| name.to_str()));
        let (Some(parent), Some(folder)) = (parent, folder) else { panic!("{}", installed.display()) };
        assert!(installed.exists(), "there is no {}: run scripts/test-setup", installed.display());
        let recipe = std::env::temp_dir().join(format!("clawfarm-openclaw-{}", std::process::id()));
        fs::create_dir_all(&recipe).expect("the folder can be made");
        fs::write(recipe.join("Dockerfile"), include_str!("openclaw.Dockerfile"))
            .expect("the folder can be written");
        let mut packed = Command::new("tar")
            .args(["--create", "--directory"])
            .arg(&recipe)
            .arg("Dockerfile")
            .arg("--directory")
            .arg(parent)
            .arg(format!("--transform=s,^{folder},tree,"))
            .arg(folder)
            .stdout(Stdio::piped())
            .spawn()
            .expect("tar can be run");
        let built = Command::new("docker")
            .arg("--host")
            .arg(format!("unix://{}", self.socket().display()))
            .args(["build", "--quiet", "--tag", &name, "-"])
            .env("DOCKER_BUILDKIT", "0")
            .stdin(packed.stdout.take().expect("a pipe"))
            .output()
            .expect("docker can be run");
        let _ = fs::remove_dir_all(recipe);
        let said = String::from_utf8_lossy(&built.stderr);
        assert!(built.status.success(), "the image {name} can't be made: {said}");
        assert!(packed.wait().is_ok_and(|status| status.success()), "tar failed");
    }

    /// The daemon's process.
    #[must_use]
    pub fn pid(&self) -> Option<Pid> {
        let text = fs::read_to_string(self.folder.join("daemon")).ok()?;
        let pid = text.trim().parse().ok().and_then(Pid::from_raw)?;
        // Its number could be another process by now.
        let name = fs::read_to_string(format!("/proc/{}/comm", pid.as_raw_nonzero())).ok()?;
        (name.trim() == self.kind.program()).then_some(pid)
    }

    /// Ends it as a crash would: its containers go on without it. Only for a private one.
    ///
    /// # Panics
    /// When it does not end.
    pub fn crash(&self) {
        assert!(self.private, "others use it");
        fs::write(self.folder.join("held"), "").expect("the folder can be written");
        let Some(pid) = self.pid() else { return };
        let _ = kill_process(pid, Signal::KILL);
        until("the daemon ends", || self.pid().is_none());
    }

    /// Starts one that was ended by [`Self::crash`] again.
    ///
    /// # Panics
    /// When it does not start.
    pub fn revive(&self) {
        fs::write(self.folder.join("revived"), "").expect("the folder can be written");
        let _ = fs::remove_file(self.folder.join("held"));
        until("the daemon answers again", || self.answers());
    }

    fn answers(&self) -> bool {
        let asked = || -> io::Result<bool> {
            let mut stream = UnixStream::connect(self.socket())?;
            stream.set_read_timeout(Some(Duration::from_secs(10)))?;
            stream.write_all(b"GET /_ping HTTP/1.0\r\n\r\n")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer.starts_with("HTTP/1.0 200") || answer.starts_with("HTTP/1.1 200"))
        };
        asked().unwrap_or(false)
    }

    fn start_keeper(&self) {
        for program in [self.kind.program(), "docker", "slirp4netns", "unshare", "nsenter", "flock", "ip"] {
            let found = std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
                .any(|dir| dir.join(program).exists());
            assert!(found, "{program} is missing: run scripts/test-setup");
        }
        let mut keeper = Command::new("sh");
        keeper
            .args(["-c", KEEPER, "keeper.sh"])
            .arg(&self.folder)
            .arg(if self.private { "2".to_owned() } else { IDLE.to_string() })
            .arg(if self.private { "yes" } else { "no" })
            .arg(self.kind.name())
            .args(self.beside.map(|pid| pid.as_raw_nonzero().to_string()))
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        // SAFETY: setsid is async-signal-safe. In a session of its own it outlives a test
        // whose process group is killed.
        unsafe {
            keeper.pre_exec(|| rustix::process::setsid().map(drop).map_err(io::Error::from));
        }
        let mut child = keeper.spawn().expect("sh can be run");
        // Reaped when it ends before this process does.
        std::thread::spawn(move || drop(child.wait()));
        let begun = Instant::now();
        while !self.answers() {
            if begun.elapsed() > LIMIT {
                let log = fs::read_to_string(self.folder.join("log")).unwrap_or_default();
                let tail: Vec<&str> = log.lines().rev().take(20).collect();
                panic!("{} did not answer within {LIMIT:?}: {tail:?}", self.kind.program());
            }
            pause();
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if self.private {
            if let Some(pid) = self.pid() {
                let _ = kill_process(pid, Signal::TERM);
            }
            // The keeper removes the folder.
            let begun = Instant::now();
            while self.folder.exists() && begun.elapsed() < LIMIT {
                pause();
            }
            let _ = fs::remove_file(self.folder.with_extension("lock"));
        }
    }
}

fn own_folder(kind: Kind) -> PathBuf {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    std::env::temp_dir().join(format!("clawfarm-{}-{}-{number}", kind.name(), std::process::id()))
}

fn cache() -> PathBuf {
    let home = || PathBuf::from(std::env::var_os("HOME").expect("HOME is set")).join(".cache");
    std::env::var_os("XDG_CACHE_HOME").filter(|v| !v.is_empty()).map_or_else(home, PathBuf::from)
}

/// The archive of an image with busybox under the names of its commands.
fn busybox() -> Vec<u8> {
    base().into_inner().expect("memory can be written")
}

/// The same with a Node that runs no JavaScript.
fn stand_in(it: StandIn) -> Vec<u8> {
    let mut archive = base();
    let package = format!(
        r#"{{"name":"openclaw","version":"{}","openclaw":{{"schemaVersions":{{"state":{},"agent":1}}}}}}"#,
        it.version, it.schema
    );
    let version = format!("{}\n", it.version);
    let mut add = |path: &str, mode, contents: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(contents.len() as u64);
        header.set_mode(mode);
        archive.append_data(&mut header, path, contents).expect("memory can be written");
    };
    add("usr/local/bin/node", 0o755, include_bytes!("stand-in.sh"));
    add("app/package.json", 0o644, package.as_bytes());
    add("app/version", 0o644, version.as_bytes());
    if it.broken {
        add("app/broken", 0o644, b"");
    }
    archive.into_inner().expect("memory can be written")
}

fn base() -> tar::Builder<Vec<u8>> {
    let program = ["/bin/busybox", "/usr/bin/busybox"].iter().map(Path::new).find(|path| path.exists());
    let program = program.expect("busybox is missing: run scripts/test-setup");
    let mut archive = tar::Builder::new(Vec::new());
    archive.append_path_with_name(program, "bin/busybox").expect("busybox can be read");
    for name in [
        "sh", "sleep", "cat", "echo", "nc", "httpd", "kill", "id", "touch", "wget", "ls", "env", "stty",
        "head", "tail", "dd", "true", "false", "test", "printf", "rm", "mkdir", "tr", "ps",
    ] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        header.set_mode(0o777);
        archive.append_link(&mut header, format!("bin/{name}"), "busybox").expect("memory can be written");
    }
    // Who makes this folder for a container's tmpfs gives it to root alone from the second start on.
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Directory);
    header.set_size(0);
    header.set_mode(0o1777);
    archive.append_data(&mut header, "tmp/", std::io::empty()).expect("memory can be written");
    archive
}

fn until(what: &str, done: impl Fn() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < LIMIT, "waited {LIMIT:?} until {what}");
        pause();
    }
}

#[allow(
    clippy::disallowed_methods,
    reason = "it waits between two looks, with a limit, and runs in no runtime"
)]
fn pause() {
    std::thread::sleep(Duration::from_millis(20));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shared_engine_runs_a_container_in_a_network_of_its_own() {
        if !Engine::possible() {
            return;
        }
        let engine = Engine::shared();
        engine.with_tiny();
        assert_eq!(engine.docker(&["run", "--rm", "--network=none", TINY, "echo", "hello"]), "hello");
        let before = fs::read_link("/proc/thread-self/ns/net").unwrap();
        engine.enter();
        assert_ne!(fs::read_link("/proc/thread-self/ns/net").unwrap(), before);
    }

    #[test]
    fn a_private_engine_leaves_nothing() {
        if !Engine::possible() {
            return;
        }
        let engine = Engine::private();
        let (folder, pid) = (engine.folder.clone(), engine.pid().expect("it runs"));
        drop(engine);
        assert!(!folder.exists());
        assert!(!Path::new(&format!("/proc/{}", pid.as_raw_nonzero())).exists());
    }
}
