//! A home whose claws are real, and what can be seen of them from outside.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use clawfarm_runtime::NoProgress;
use clawfarm_vm_images::{Images, ImagesConfig};
use serde_json::Value;

use crate::support::{Done, Home, pause};

/// How long a real claw may take for anything: its start takes 8 to 22 s on two idle cores,
/// and other tests use them too.
const LIMIT: Duration = Duration::from_secs(240);

/// A home with real claws, removed with them at the end.
pub(crate) struct Farm {
    home: Home,
    cache: PathBuf,
    /// Whether it has what it needs of itself, as a person's has, instead of sharing the cache of the tests.
    own_cache: bool,
    /// How long a command may take.
    limit: Duration,
}

impl Farm {
    pub(crate) fn new() -> Self {
        let install = std::env::var_os("CLAWFARM_TEST_OPENCLAW")
            .map(PathBuf::from)
            .expect("CLAWFARM_TEST_OPENCLAW names an installed OpenClaw; `make test` makes one and sets it");
        // The installation lies in <cache>/installs/<name>, as the product lays it out.
        let cache = install.ancestors().nth(2).expect("a cache around the installation").to_owned();
        Self { home: Home::new(), cache, own_cache: false, limit: LIMIT }
    }

    /// One for virtual machines: its images are in its home, and `image` is there already. It is the
    /// one that tests keep; it is built first where there is none.
    pub(crate) fn of_machines(image: &str) -> Self {
        let mut farm = Self::new();
        (farm.own_cache, farm.limit) = (true, LIMIT * 4);
        let kept = farm.cache.join("images");
        let built = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        built.block_on(async {
            let images = Images::open(ImagesConfig::new(&kept)).expect("a folder of images");
            images.build(&image.parse().expect("an image"), &NoProgress).await.expect("it is built");
        });
        let (from, to) = (kept.join(image), farm.folder().join("images").join(image));
        fs::create_dir_all(to.join("pins")).expect("a folder");
        for name in ["image.img", "image.json"] {
            // Nobody writes to them.
            if fs::hard_link(from.join(name), to.join(name)).is_err() {
                fs::copy(from.join(name), to.join(name)).expect("copied");
            }
        }
        farm
    }

    /// Where it is, with all that it made.
    pub(crate) fn path(&self) -> &Path {
        self.home.path()
    }

    pub(crate) fn folder(&self) -> PathBuf {
        self.home.farm()
    }

    /// Lets its claws have other software, before there is any.
    pub(crate) fn take_software_from(&mut self, cache: PathBuf) {
        self.run(&["down"]).ends(0);
        self.cache = cache;
    }

    /// Where the software of its claws is.
    pub(crate) fn installs(&self) -> PathBuf {
        self.cache.join("installs")
    }

    pub(crate) fn claw_folder(&self, id: &str) -> PathBuf {
        self.folder().join("claws").join(id)
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.home.command(arguments);
        command.env("CLAWFARM_CACHE_DIR", &self.cache).env_remove("CLAWFARM_SIM_WORLD");
        if self.own_cache {
            command.env_remove("CLAWFARM_CACHE_DIR");
        }
        command
    }

    pub(crate) fn start(&self, arguments: &[&str]) -> Child {
        self.command(arguments).spawn().expect("the program starts")
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Done {
        finish_within(self.start(arguments), self.limit)
    }

    pub(crate) fn run_with_input(&self, arguments: &[&str], input: &str) -> Done {
        use std::io::Write as _;
        let mut command = self.command(arguments);
        let mut child = command.stdin(std::process::Stdio::piped()).spawn().expect("the program starts");
        child.stdin.take().expect("a pipe").write_all(input.as_bytes()).expect("written");
        finish_within(child, self.limit)
    }

    /// A new claw that is ready; its id.
    pub(crate) fn new_claw(&self, name: &str, more: &[&str]) -> String {
        self.new_of("openclaw", name, more)
    }

    /// The same of another type.
    pub(crate) fn new_of(&self, claw_type: &str, name: &str, more: &[&str]) -> String {
        let mut arguments = vec!["new", claw_type, name, "--json"];
        arguments.extend(more);
        let made = self.run(&arguments).ends(0).json();
        let id = made["instance"]["id"].as_str().or(made["id"].as_str()).expect("an id").to_owned();
        assert!(id.starts_with(&format!("{name}-")), "{id}");
        id
    }

    pub(crate) fn status(&self, id: &str) -> Value {
        let status = self.run(&["status", id, "--json"]).ends(0).json();
        if status["instance"].is_object() { status["instance"].clone() } else { status }
    }

    pub(crate) fn phase(&self, id: &str) -> String {
        self.status(id)["phase"].as_str().expect("a phase").to_owned()
    }

    pub(crate) fn pid(&self, id: &str) -> u32 {
        u32::try_from(self.status(id)["pid"].as_u64().expect("a pid")).expect("a pid")
    }

    pub(crate) fn until_phase(&self, id: &str, phase: &str) {
        until(&format!("{id} is {phase}"), || self.phase(id) == phase);
    }

    pub(crate) fn server_pid(&self) -> u32 {
        let info = self.run(&["version", "--json"]).ends(0).json();
        u32::try_from(info["server"]["pid"].as_u64().expect("a server")).expect("a pid")
    }

    /// What the claw answers.
    pub(crate) fn send(&self, id: &str, message: &str) -> String {
        self.run(&["send", id, message]).ends(0).out
    }
}

impl Drop for Farm {
    fn drop(&mut self) {
        let Ok(listed) = self.command(&["ps", "-q"]).output() else { return };
        for id in String::from_utf8_lossy(&listed.stdout).lines() {
            let _ = self.command(&["rm", id, "--purge", "--force"]).output();
        }
    }
}

/// Waits for a program's end.
pub(crate) fn finish(child: Child) -> Done {
    finish_within(child, LIMIT)
}

fn finish_within(child: Child, limit: Duration) -> Done {
    use std::sync::mpsc;
    let pid = child.id();
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || {
        let _ = tell.send(child.wait_with_output());
    });
    let output = told.recv_timeout(limit).unwrap_or_else(|_| {
        kill(pid, nix::sys::signal::Signal::SIGKILL);
        panic!("the program did not end within {limit:?}");
    });
    let output = output.expect("waited");
    Done {
        code: output.status.code(),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

pub(crate) fn until(what: &str, is: impl Fn() -> bool) {
    until_within(LIMIT, what, is, String::new);
}

/// The same with a limit of its own, and what there is to be seen when it is over.
pub(crate) fn until_within(limit: Duration, what: &str, is: impl Fn() -> bool, seen: impl Fn() -> String) {
    let begun = Instant::now();
    while !is() {
        assert!(begun.elapsed() < limit, "waited {limit:?} until {what}\n{}", seen());
        pause();
    }
}

pub(crate) fn kill(pid: u32, signal: nix::sys::signal::Signal) {
    let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).expect("a pid"));
    let _ = nix::sys::signal::kill(pid, signal);
}

/// Whether a process runs (a zombie does not).
pub(crate) fn runs(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| stat.rsplit(')').next().is_some_and(|rest| !rest.trim_start().starts_with('Z')))
}

/// Processes whose command line mentions `text`.
pub(crate) fn processes_with(text: &str) -> Vec<String> {
    let own = std::process::id();
    fs::read_dir("/proc")
        .expect("/proc")
        .flatten()
        .filter_map(|entry| entry.file_name().to_string_lossy().parse::<u32>().ok())
        .filter(|pid| *pid != own && runs(*pid))
        .filter_map(|pid| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            line.contains(text).then(|| format!("{pid}: {line}"))
        })
        .collect()
}

/// The files below `folder` that hold `text`, links not followed.
pub(crate) fn files_with(folder: &Path, text: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let Ok(kind) = entry.file_type() else { continue };
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file() {
                let bytes = fs::read(entry.path()).unwrap_or_default();
                if bytes.windows(text.len()).any(|w| w == text.as_bytes()) {
                    found.push(entry.path());
                }
            }
        }
    }
    found
}
