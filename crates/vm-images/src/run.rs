//! Running programs: their lines told, their time limited, their end theirs and their children's.

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use clawfarm_files::io_error;
use clawfarm_model::{Code, Error, Result};
use clawfarm_runtime::Progress;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::Command;

use crate::lock::Lock;

/// How many of the last lines are in the message of a failure.
const LAST: usize = 8;
/// The longest line that is told, in bytes.
const LINE_MAX: usize = 500;

/// A program to run.
pub(crate) struct Program<'a> {
    /// Its name, found in PATH and the folders of administrators' programs.
    pub(crate) name: &'a str,
    /// Debian's packages that bring it, for the message when it is missing.
    pub(crate) packages: &'a str,
    /// What it is given.
    pub(crate) arguments: Vec<OsString>,
    /// Variables of its environment beside ours.
    pub(crate) env: Vec<(&'a str, OsString)>,
    /// How long it may take.
    pub(crate) limit: Duration,
    /// Where it is run; where we are when absent.
    folder: Option<&'a Path>,
    /// How it is ended before its own end.
    end: Signal,
}

impl<'a> Program<'a> {
    pub(crate) fn new(name: &'a str, packages: &'a str, limit: Duration) -> Self {
        Self {
            name,
            packages,
            arguments: Vec::new(),
            env: Vec::new(),
            limit,
            folder: None,
            end: Signal::KILL,
        }
    }

    pub(crate) fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.arguments.push(argument.as_ref().to_owned());
        self
    }

    pub(crate) fn args<I: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = I>) -> Self {
        self.arguments.extend(arguments.into_iter().map(|argument| argument.as_ref().to_owned()));
        self
    }

    /// Runs it in a folder.
    pub(crate) fn inside(mut self, folder: &'a Path) -> Self {
        self.folder = Some(folder);
        self
    }

    /// It tidies up when it is asked to end; that may take it a while, in which it holds its lock.
    pub(crate) fn gentle(mut self) -> Self {
        self.end = Signal::TERM;
        self
    }

    /// Runs it to its end; each line that it prints is told to `progress`. `lock` becomes its
    /// standard input, so that it stays held should the program outlive this process.
    ///
    /// # Errors
    /// `Unsupported` when there is no such program, `Timeout`, `Internal` with its last lines
    /// when it fails. A full disk is `Insufficient`.
    pub(crate) async fn run(self, lock: Option<&Lock>, progress: &dyn Progress) -> Result<()> {
        let input = match lock {
            Some(lock) => Stdio::from(
                lock.file().try_clone().map_err(|error| io_error("hand a lock to a program", error))?,
            ),
            None => Stdio::null(),
        };
        let mut command = Command::new(self.name);
        command
            .args(&self.arguments)
            .env("PATH", path())
            .env("LC_ALL", "C.UTF-8")
            .envs(self.env)
            .stdin(input)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        if let Some(folder) = self.folder {
            command.current_dir(folder);
        }
        let mut child = command.spawn().map_err(|error| missing(self.name, self.packages, error))?;
        let pid = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        let mut group = Group { pid, end: self.end };
        let (out, err) = (child.stdout.take(), child.stderr.take());
        let last = std::sync::Mutex::new(std::collections::VecDeque::new());
        let tell = |line: &str| {
            progress.say(line);
            let Ok(mut last) = last.lock() else { return };
            if last.len() == LAST {
                last.pop_front();
            }
            last.push_back(line.to_owned());
        };
        let all = async {
            let ((), (), status) = tokio::join!(lines(out, &tell), lines(err, &tell), child.wait());
            status
        };
        let status = match tokio::time::timeout(self.limit, all).await {
            Ok(status) => {
                // Its number may be another's from now on.
                group.pid = None;
                status.map_err(|error| io_error(format!("wait for {}", self.name), error))?
            }
            Err(_) => {
                return Err(Error::new(
                    Code::Timeout,
                    format!("{} did not end within {} s", self.name, self.limit.as_secs()),
                )
                .fix("look at what it printed, and try again when the machine is less busy"));
            }
        };
        if status.success() {
            return Ok(());
        }
        let last: Vec<String> = last.into_inner().unwrap_or_default().into();
        Err(failed(self.name, &status.to_string(), &last))
    }
}

fn failed(name: &str, status: &str, last: &[String]) -> Error {
    let text = last.join(" | ");
    let message = format!("{name} failed ({status}): {text}");
    if text.contains("No space left on device") {
        Error::new(Code::Insufficient, message)
            .fix("free some disk space (`df -h` shows what is full), then try again")
    } else {
        Error::new(Code::Internal, message).fix("its last lines say why; mend that, then try again")
    }
}

fn missing(name: &str, packages: &str, error: std::io::Error) -> Error {
    match error.kind() {
        std::io::ErrorKind::NotFound | std::io::ErrorKind::PermissionDenied => {
            Error::new(Code::Unsupported, format!("the program {name} is needed, and is not on this machine"))
                .fix(format!("install it (Debian, Ubuntu: sudo apt-get install {packages}), then try again"))
        }
        _ => io_error(format!("run {name}"), error),
    }
}

/// PATH, and behind it where Debian keeps administrators' programs, which others' PATH leaves out.
fn path() -> OsString {
    let mut path = std::env::var_os("PATH").unwrap_or_default();
    path.push(":/usr/local/sbin:/usr/sbin:/sbin");
    path
}

/// Where a program is, if it is on this machine.
pub(crate) fn find(name: &str) -> Option<std::path::PathBuf> {
    std::env::split_paths(&path()).map(|folder| folder.join(name)).find(|path| {
        rustix::fs::access(path.as_path(), rustix::fs::Access::EXEC_OK).is_ok() && path.is_file()
    })
}

/// Refuses to begin where a program is missing that is needed later.
pub(crate) fn need(programs: &[(&str, &str)]) -> Result<()> {
    let missing: Vec<&(&str, &str)> = programs.iter().filter(|(name, _)| find(name).is_none()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = missing.iter().map(|(name, _)| *name).collect();
    let mut packages: Vec<&str> = missing.iter().map(|(_, package)| *package).collect();
    packages.dedup();
    Err(Error::new(
        Code::Unsupported,
        format!("programs are needed that are not on this machine: {}", names.join(", ")),
    )
    .fix(format!(
        "install them (Debian, Ubuntu: sudo apt-get install {}), then try again",
        packages.join(" ")
    )))
}

/// A path as an argument that no program takes for an option.
pub(crate) fn is_absolute(path: &Path) -> Result<&Path> {
    if path.is_absolute() {
        Ok(path)
    } else {
        Err(Error::invalid("folder", format!("'{}' is no absolute path", path.display())))
    }
}

async fn lines(from: Option<impl AsyncRead + Unpin>, tell: &impl Fn(&str)) {
    let Some(from) = from else { return };
    let mut reader = BufReader::new(from);
    let mut line = Vec::new();
    loop {
        line.clear();
        // Programs that draw a bar end its states by a carriage return, lines by a newline.
        match reader.read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {
                line.truncate(LINE_MAX);
                let text = String::from_utf8_lossy(&line);
                let shown = text.trim_end().rsplit('\r').next().unwrap_or_default();
                if !shown.is_empty() {
                    tell(shown);
                }
            }
        }
    }
}

/// Ends a program and everything it started, when its run ends in whatever way.
struct Group {
    pid: Option<Pid>,
    end: Signal,
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.pid {
            // Already gone is what is hoped for.
            let _ = kill_process_group(group, self.end);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[derive(Default)]
    struct Heard(Mutex<Vec<String>>);

    impl Progress for Heard {
        fn step(&self, _name: &str, _message: &str, _total: Option<u64>, _unit: &str) {}
        fn advance(&self, _done: u64) {}
        fn say(&self, line: &str) {
            self.0.lock().unwrap().push(line.to_owned());
        }
    }

    fn shell(script: &str) -> Program<'static> {
        Program::new("sh", "dash", Duration::from_secs(60)).arg("-c").arg(script)
    }

    #[tokio::test]
    async fn lines_are_told_and_a_failure_has_the_last_ones() {
        let heard = Heard::default();
        shell("echo one; printf 'a\\rb\\n'").run(None, &heard).await.unwrap();
        assert_eq!(*heard.0.lock().unwrap(), ["one", "b"]);
        let error =
            shell("for i in 1 2 3 4 5 6 7 8 9 10; do echo line $i; done; exit 3").run(None, &heard).await;
        let error = error.unwrap_err();
        assert!(error.message().contains("line 3 | ") && !error.message().contains("line 2"), "{error}");
        let full = shell("echo x: No space left on device >&2; false").run(None, &heard).await.unwrap_err();
        assert_eq!(full.code(), Code::Insufficient);
    }

    #[tokio::test]
    async fn one_that_never_ends_is_ended_with_its_children() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let lock = Lock::try_take(&path, crate::lock::For::Change).unwrap().unwrap();
        let mut program = shell("sleep 600 & wait");
        program.limit = Duration::from_millis(300);
        let error = program.run(Some(&lock), &Heard::default()).await.unwrap_err();
        assert_eq!(error.code(), Code::Timeout);
        drop(lock);
        // The children had the lock as their standard input: it is free when they are gone.
        let freed = Lock::take(&path, crate::lock::For::Change, || {});
        tokio::time::timeout(Duration::from_secs(60), freed).await.expect("its children were ended").unwrap();
    }

    #[tokio::test]
    async fn what_is_missing_says_what_to_install() {
        let program = Program::new("no-such-program", "some-package", Duration::from_secs(60));
        let error = program.run(None, &Heard::default()).await.unwrap_err();
        assert_eq!(error.code(), Code::Unsupported);
        assert!(error.fix_text().unwrap().contains("some-package"), "{error}");
        let error = need(&[("sh", "dash"), ("no-such-program", "some-package")]).unwrap_err();
        assert!(!error.to_string().contains("dash"), "{error}");
    }
}
