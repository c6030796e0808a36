//! Waiting for someone else's installation of the same version.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;

use clawfarm_model::{Code, Error, Result};
use clawfarm_runtime::Progress;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::npm::FetchCount;
use super::{CLAW_LOG, Install, NODE_LOG};
use clawfarm_files::io_error;

const POLL: Duration = Duration::from_millis(200);

/// How long the other may take: three runs of npm, each within its own limit.
const LIMIT: Duration = Duration::from_secs(60 * 60);

/// Takes the lock of an installation, waiting while another holds it and telling how far it is.
pub(super) async fn for_lock(install: &Install, progress: &dyn Progress) -> Result<File> {
    let path = install.lock_path();
    let file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(|e| io_error(format!("open '{}'", path.display()), e))?;
    let deadline = tokio::time::Instant::now() + LIMIT;
    let mut watched = Watched::default();
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
        watched.report(install, progress);
        tokio::time::sleep(POLL).await;
    }
}

/// What is known of the other's progress.
#[derive(Default)]
struct Watched {
    step: Option<&'static str>,
    count: FetchCount,
}

impl Watched {
    fn report(&mut self, install: &Install, progress: &dyn Progress) {
        let step = [CLAW_LOG, NODE_LOG].into_iter().find(|log| install.work().join(log).exists());
        if step != self.step {
            self.step = step;
            self.count = FetchCount::default();
            match step {
                Some(CLAW_LOG) => install.step_claw(progress),
                Some(_) => install.step_node(progress),
                None => {}
            }
        }
        if let Some(step) = step {
            progress.advance(self.count.update(&install.work().join(step)));
        }
    }
}
