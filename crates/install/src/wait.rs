//! Waiting for someone else's installation of the same version.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;

use clawfarm_model::{Code, Error, Result};
use clawfarm_runtime::Progress;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::run::LineCount;
use super::site::Site;
use clawfarm_files::io_error;

const POLL: Duration = Duration::from_millis(200);

/// How long the other may take: three runs of an installer, each within its own limit.
const LIMIT: Duration = Duration::from_secs(60 * 60);

/// What an installation does, latest first: the log that it begins with, and what tells of it.
type Steps<'a> = [(&'static str, &'a (dyn Fn() + Sync))];

/// Takes the lock of an installation, waiting while another holds it and telling how far it is: by
/// its `steps`, and by the lines of their logs with `sign` in them.
pub(super) async fn for_lock(
    site: &Site,
    steps: &Steps<'_>,
    sign: &'static [u8],
    progress: &dyn Progress,
) -> Result<File> {
    let path = site.lock_path();
    let file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(|e| io_error(format!("open '{}'", path.display()), e))?;
    let deadline = tokio::time::Instant::now() + LIMIT;
    let mut watched = Watched { step: None, count: LineCount::of(sign), sign };
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(Errno::WOULDBLOCK | Errno::INTR) => {}
            Err(e) => return Err(io_error(format!("lock '{}'", path.display()), e.into())),
        }
        if tokio::time::Instant::now() > deadline {
            return Err(Error::new(
                Code::Timeout,
                "another installation of the same version did not come to its end within an hour",
            )
            .fix(format!("end the process that holds it: `fuser {}`", path.display())));
        }
        watched.report(site, steps, progress);
        tokio::time::sleep(POLL).await;
    }
}

/// What is known of the other's progress.
struct Watched {
    step: Option<&'static str>,
    count: LineCount,
    sign: &'static [u8],
}

impl Watched {
    fn report(&mut self, site: &Site, steps: &Steps<'_>, progress: &dyn Progress) {
        let found = steps.iter().find(|(log, _)| site.work().join(log).exists());
        let step = found.map(|(log, _)| *log);
        if step != self.step {
            self.step = step;
            self.count = LineCount::of(self.sign);
            if let Some((_, tell)) = found {
                tell();
            }
        }
        if let Some(step) = step {
            progress.advance(self.count.update(&site.work().join(step)));
        }
    }
}
