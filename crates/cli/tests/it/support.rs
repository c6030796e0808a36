//! Runs the built program in a home of its own, with a limit on everything.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// How long a command may take.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// A home for a server and its claws, removed with them at the end.
pub(crate) struct Home {
    folder: TempDir,
}

/// What a command did.
#[derive(Debug)]
pub(crate) struct Done {
    /// Its exit code; `None` when a signal ended it.
    pub(crate) code: Option<i32>,
    /// Its standard output.
    pub(crate) out: String,
    /// Its standard error.
    pub(crate) err: String,
}

impl Done {
    /// Its standard output as one JSON document.
    #[track_caller]
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// Checks the exit code.
    #[track_caller]
    pub(crate) fn ends(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{self:?}");
        self
    }
}

impl Home {
    /// An empty one.
    pub(crate) fn new() -> Self {
        Self { folder: tempfile::Builder::new().prefix("cf").tempdir().expect("a folder") }
    }

    /// Its folder.
    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The folder given as `--home`.
    pub(crate) fn farm(&self) -> PathBuf {
        self.folder.path().join("farm")
    }

    /// The program with arguments, in this home.
    pub(crate) fn command<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_clawfarm"));
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if text.starts_with("CLAWFARM") || text == "NO_COLOR" {
                command.env_remove(&name);
            }
        }
        command
            .args(arguments)
            .env("CLAWFARM_HOME", self.farm())
            .env("CLAWFARM_CACHE_DIR", self.path().join("cache"))
            // Trying KVM takes seconds where it is there and does not work.
            .env("CLAWFARM_VM_ACCELERATOR", "tcg")
            .env("CLAWFARM_SIM_WORLD", self.path().join("world"))
            .env("HOME", self.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Runs the program to its end.
    pub(crate) fn run<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Done {
        finish(self.command(arguments).spawn().expect("the program starts"))
    }

    /// Runs it with something on its standard input.
    pub(crate) fn run_with_input<S: AsRef<OsStr>>(&self, arguments: &[S], input: &str) -> Done {
        let mut child = self.command(arguments).stdin(Stdio::piped()).spawn().expect("the program starts");
        let mut stdin = child.stdin.take().expect("a pipe");
        // A program that refuses its arguments does not read.
        let _ = stdin.write_all(input.as_bytes());
        drop(stdin);
        finish(child)
    }

    /// The process of the server that runs here.
    pub(crate) fn server_pid(&self) -> Option<i64> {
        self.run(&["version", "--json"]).json()["server"]["pid"].as_i64()
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if self.farm().join("clawfarm.sock").exists() {
            let _ = self.command(&["down"]).status();
        }
    }
}

/// Waits for a program's end, and ends it when it takes too long.
pub(crate) fn finish(child: Child) -> Done {
    finish_within(child, LIMIT)
}

/// As [`finish`], for one that may take longer.
pub(crate) fn finish_within(mut child: Child, limit: Duration) -> Done {
    let out = child.stdout.take().map(|pipe| thread::spawn(|| read(pipe)));
    let err = child.stderr.take().map(|pipe| thread::spawn(|| read(pipe)));
    let begun = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().expect("waited") {
            break status;
        }
        if begun.elapsed() > limit {
            child.kill().expect("killed");
            child.wait().expect("waited");
            panic!("the program did not end within {limit:?}");
        }
        pause();
    };
    let text = |reader: Option<thread::JoinHandle<String>>| {
        reader.map(|r| r.join().expect("read")).unwrap_or_default()
    };
    Done { code: status.code(), out: text(out), err: text(err) }
}

fn read(mut pipe: impl Read) -> String {
    let mut bytes = Vec::new();
    pipe.read_to_end(&mut bytes).expect("read");
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Waits until `look` finds something.
pub(crate) fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    while begun.elapsed() < LIMIT {
        if let Some(found) = look() {
            return found;
        }
        pause();
    }
    panic!("waited {LIMIT:?} for {what}");
}

/// A short while between two looks. Tests have threads of their own to block.
#[expect(clippy::disallowed_methods, reason = "no async runtime here that it could block")]
pub(crate) fn pause() {
    thread::sleep(Duration::from_millis(20));
}
