//! Running an installer: no shell, a time limit, ended with everything it started when nobody
//! waits for it any more.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use clawfarm_files::io_error;
use clawfarm_model::Result;
use clawfarm_runtime::Progress;
use rustix::process::{Pid, Signal, kill_process_group};

const POLL: Duration = Duration::from_millis(200);

/// What npm's log has in each line that tells of something fetched.
pub(super) const FETCHED: &[u8] = b"http fetch";
/// What pip's log has in each line that tells of a package.
pub(super) const COLLECTING: &[u8] = b"Collecting ";

/// How a run ended.
pub(super) enum End {
    /// By itself.
    Status(ExitStatus),
    /// It could not be begun.
    NotStarted(std::io::Error),
    /// It took too long, and was ended.
    TooSlow,
}

/// Runs `command` to its end, telling how many lines of its log have `sign` in them.
///
/// `lock` becomes its standard input: so that one which outlives a killed server keeps the next
/// installation waiting instead of writing into its folder.
pub(super) async fn to_end(
    mut command: tokio::process::Command,
    log_path: &Path,
    lock: &File,
    limit: Duration,
    sign: &'static [u8],
    progress: &dyn Progress,
) -> Result<End> {
    let failed = |e| io_error(format!("write '{}'", log_path.display()), e);
    let log = File::create(log_path).map_err(failed)?;
    let out = log.try_clone().map_err(failed)?;
    let input = lock.try_clone().map_err(|e| io_error("hand on the installation's lock", e))?;
    command.stdin(Stdio::from(input)).stdout(Stdio::from(out)).stderr(Stdio::from(log)).process_group(0);
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => return Ok(End::NotStarted(error)),
    };
    let _group = Group(child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)));
    let deadline = tokio::time::Instant::now() + limit;
    let mut count = LineCount::of(sign);
    let status = loop {
        match tokio::time::timeout(POLL, child.wait()).await {
            Ok(status) => break status.map_err(|e| io_error("wait for an installer", e))?,
            Err(_) => progress.advance(count.update(log_path)),
        }
        if tokio::time::Instant::now() > deadline {
            return Ok(End::TooSlow);
        }
    };
    progress.advance(count.update(log_path));
    Ok(End::Status(status))
}

/// Ends an installer and everything it started, when its run ends in whatever way.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // Already gone is what is hoped for.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

/// Counts the lines of a log that tell of a package, reading only what is new.
pub(super) struct LineCount {
    sign: &'static [u8],
    offset: u64,
    found: u64,
    rest: Vec<u8>,
}

impl LineCount {
    pub(super) const fn of(sign: &'static [u8]) -> Self {
        Self { sign, offset: 0, found: 0, rest: Vec::new() }
    }

    pub(super) fn update(&mut self, log: &Path) -> u64 {
        let mut new = Vec::new();
        if let Ok(mut file) = File::open(log)
            && file.seek(SeekFrom::Start(self.offset)).is_ok()
            && file.take(16 << 20).read_to_end(&mut new).is_ok()
        {
            self.offset += new.len() as u64;
            self.rest.extend(new);
            while let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                // `npm http fetch GET 200 https://... 85ms`, `Collecting httpx==0.28.1 ...`
                self.found += u64::from(line.windows(self.sign.len()).any(|part| part == self.sign));
            }
        }
        self.found
    }
}

/// The last lines an installer wrote, those that say what went wrong, without control characters.
pub(super) fn log_end(log: &Path) -> String {
    const LAST: u64 = 64 * 1024;
    let mut text = Vec::new();
    let read = File::open(log).and_then(|mut file| {
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(LAST)))?;
        file.take(LAST).read_to_end(&mut text)
    });
    if let Err(error) = read {
        tracing::warn!(%error, log = %log.display(), "an installer's log could not be read");
    }
    String::from_utf8_lossy(&text).chars().filter(|c| *c == '\n' || !c.is_control()).collect()
}
