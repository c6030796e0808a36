//! Putting a configuration in place: tried first, replaced by rename, tried as a whole, and taken
//! back when nginx does not like it.
//!
//! What was there is kept beside it until nginx is known to have read what is there now. Whoever is
//! ended in between leaves it, and the next one goes on from there: it is tried again, read again,
//! or taken back.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use clawfarm_model::{Code, Error, Result};
use tokio::process::Command;
use tokio::time::timeout;

use super::text::MARK;

/// How long nginx may take to read its configuration.
const LIMIT: Duration = Duration::from_secs(60);

/// The nginx that a configuration is for.
#[derive(Debug)]
pub(crate) struct Nginx {
    /// Its program.
    pub(crate) program: PathBuf,
    /// Its own configuration, when it is not where nginx was built to look.
    pub(crate) config: Option<PathBuf>,
    /// The file that its configuration includes, which is ours.
    pub(crate) file: PathBuf,
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Placed {
    /// It was so already.
    Unchanged,
    /// It is in place, and nginx has read it.
    Reloaded,
    /// It is in place; nginx does not run.
    NotRunning,
}

impl Nginx {
    /// Puts a text in place of ours.
    ///
    /// # Errors
    /// `Conflict` when there is a file of somebody else's, `InvalidInput` with nginx's own words when
    /// it refuses it; what was there before is there again then.
    pub(crate) async fn place(&self, text: &str) -> Result<Placed> {
        let mut before = self.before()?;
        let mut unread = self.kept()?;
        if unread.is_some()
            && let Err(refused) = self.test(self.config.as_deref()).await
        {
            if refused.code() != Code::InvalidInput {
                return Err(refused);
            }
            // An nginx that is started now is not to find it.
            self.take_back()?;
            tracing::warn!(file = %self.file.display(), %refused, "what was left in place is taken back");
            (before, unread) = (self.before()?, None);
        }
        if before.as_deref() == Some(text.as_bytes()) {
            // In place is not read: that may have failed, or nobody was left to tell nginx.
            return if unread.is_some() { self.have_it_read().await } else { Ok(Placed::Unchanged) };
        }
        self.try_alone(text).await?;
        // What nginx has read last stays what is kept, however often it could not be told since.
        if unread.is_none() {
            self.replace(&self.beside("old"), before.as_deref().unwrap_or_default())?;
        }
        self.replace(&self.file, text.as_bytes())?;
        // The whole may refuse what is right by itself: another server of the same name.
        if let Err(refused) = self.test(self.config.as_deref()).await {
            self.take_back()?;
            return Err(refused);
        }
        self.have_it_read().await
    }

    /// Has nginx read what is in place; then there is no going back.
    async fn have_it_read(&self) -> Result<Placed> {
        let placed = self.reload().await?;
        fs::remove_file(self.beside("old")).map_err(|e| self.failed(e))?;
        Ok(placed)
    }

    /// What was in place before what nginx is not known to have read; empty when there was none.
    fn kept(&self) -> Result<Option<Vec<u8>>> {
        match fs::read(self.beside("old")) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(self.failed(e)),
        }
    }

    /// Puts back what is kept.
    fn take_back(&self) -> Result<()> {
        let old = self.beside("old");
        let result = match self.kept()? {
            Some(bytes) if !bytes.is_empty() => fs::rename(&old, &self.file),
            // There was none. The file goes first: what is kept says that it is to.
            _ => remove(&self.file).and_then(|()| remove(&old)),
        };
        result.map_err(|e| self.failed(e))
    }

    /// A file beside ours that nginx includes by no pattern: those take no name that begins with a
    /// dot (glob(7)), while Debian's `sites-enabled/*` takes all others.
    fn beside(&self, what: &str) -> PathBuf {
        let name = self.file.file_name().unwrap_or_default().to_string_lossy();
        self.file.with_file_name(format!(".{name}.clawfarm-{what}"))
    }

    /// What is there now, when it is ours.
    fn before(&self) -> Result<Option<Vec<u8>>> {
        match fs::read(&self.file) {
            Ok(bytes) if bytes.starts_with(MARK.as_bytes()) => Ok(Some(bytes)),
            Ok(_) => Err(Error::new(
                Code::Conflict,
                format!("{} is there already, and was not written by clawfarm", self.file.display()),
            )
            .field("--to")
            .fix("give another file, or move it away")),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(self.failed(e)),
        }
    }

    /// Has nginx read it with nothing beside it, before anything is changed.
    async fn try_alone(&self, text: &str) -> Result<()> {
        let folder = tempfile::Builder::new().prefix("cfn").tempdir().map_err(|e| self.failed(e))?;
        let at = |name: &str| folder.path().join(name);
        fs::write(at("clawfarm.conf"), text).map_err(|e| self.failed(e))?;
        let around = format!(
            "pid {0}/pid;\nerror_log {0}/log;\nevents {{}}\nhttp {{\n    access_log off;\n    include {0}/clawfarm.conf;\n}}\n",
            folder.path().display()
        );
        fs::write(at("nginx.conf"), around).map_err(|e| self.failed(e))?;
        self.test(Some(&at("nginx.conf"))).await
    }

    async fn test(&self, config: Option<&Path>) -> Result<()> {
        let output = self.run(config, "-t", &[]).await?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let said: Vec<&str> =
            said.lines().filter(|line| line.contains("[emerg]") || line.contains("[alert]")).collect();
        Err(Error::invalid("--to", format!("nginx refuses the configuration: {}", said.join("; ")))
            .fix("mend what it names; what was in place before is in place"))
    }

    async fn reload(&self) -> Result<Placed> {
        let output = self.run(self.config.as_deref(), "-s", &["reload"]).await?;
        if output.status.success() {
            return Ok(Placed::Reloaded);
        }
        let said = String::from_utf8_lossy(&output.stderr);
        // No file of its number, or nobody of that number (nginx's own words, 1.22).
        if said.contains("invalid PID number")
            || said.contains(".pid\" failed")
            || said.contains("No such process")
        {
            return Ok(Placed::NotRunning);
        }
        let last = said.lines().last().unwrap_or("it says nothing");
        Err(Error::new(Code::Unavailable, format!("nginx could not be told to read it again: {last}"))
            .field("--nginx")
            .fix("run this as the user that nginx was started by, or reload it by hand"))
    }

    async fn run(&self, config: Option<&Path>, what: &str, more: &[&str]) -> Result<Output> {
        let mut command = Command::new(&self.program);
        if let Some(config) = config {
            command.arg("-c").arg(config);
        }
        command.arg(what).args(more).stdin(Stdio::null()).kill_on_drop(true);
        let missing = |why: String| {
            Error::new(Code::Unavailable, format!("{} can't be run: {why}", self.program.display()))
                .field("--nginx")
                .fix("install nginx, or say where it is with --nginx")
        };
        match timeout(LIMIT, command.output()).await {
            Ok(Ok(output)) => Ok(output),
            Ok(Err(error)) => Err(missing(error.to_string())),
            Err(_) => Err(missing(format!("it did not end within {} s", LIMIT.as_secs()))),
        }
    }

    /// Replaces a file: the old one or the new one, whatever happens.
    fn replace(&self, file: &Path, bytes: &[u8]) -> Result<()> {
        let new = self.beside("new");
        let write = || {
            let mut options = fs::OpenOptions::new();
            let mut part = options.write(true).create(true).truncate(true).mode(0o644).open(&new)?;
            part.write_all(bytes)?;
            part.sync_all()?;
            fs::rename(&new, file)
        };
        write().map_err(|e| {
            // On a full disk it is best to leave nothing.
            let _ = fs::remove_file(&new);
            self.failed(e)
        })
    }

    fn failed(&self, error: io::Error) -> Error {
        let code =
            if error.kind() == io::ErrorKind::PermissionDenied { Code::Forbidden } else { Code::Internal };
        Error::new(code, format!("{} can't be written: {error}", self.file.display()))
            .source(error)
            .field("--to")
            .fix("check the folder and whose it is, and that the disk is not full")
    }
}

/// Removes a file, if it is there.
fn remove(file: &Path) -> io::Result<()> {
    match fs::remove_file(file) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}
