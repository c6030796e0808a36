//! Turning what the operating system says into errors that say what to do.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use clawfarm_model::{Code, Error};
use rustix::io::Errno;

/// An error about a file or folder. `what` completes "could not ...".
pub fn io_error(what: impl fmt::Display, error: io::Error) -> Error {
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    let message = format!("could not {what}: {}", plain(&error));
    match errno {
        Some(Errno::NOSPC | Errno::DQUOT) => Error::new(Code::Insufficient, message)
            .fix("free some disk space (`df -h` shows what is full), then try again"),
        Some(Errno::ROFS) => {
            Error::new(Code::Internal, message).fix("the disk is mounted read-only: mount it writable")
        }
        Some(Errno::MFILE | Errno::NFILE) => Error::new(Code::Unavailable, message).fix(
            "too many files are open: raise the limit with `ulimit -n 65536` and start the server again",
        ),
        Some(Errno::ACCESS | Errno::PERM) => Error::new(Code::Internal, message)
            .fix("make the folder belong to the user that runs the server (`chown -R`)"),
        Some(Errno::LOOP | Errno::XDEV | Errno::NOTDIR) => Error::new(Code::InvalidInput, message)
            .fix("a link or a file stands where a folder is expected: remove it"),
        _ => Error::new(Code::Internal, message),
    }
    .source(error)
}

/// The text of an I/O error, without "(os error N)".
fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    match text.find(" (os error") {
        Some(at) => text[..at].to_lowercase(),
        None => text,
    }
}

/// What a blocking task's panic or a runtime's end becomes.
pub fn join_error(error: tokio::task::JoinError) -> Error {
    Error::internal("a task on files was broken off", error)
}

/// Runs blocking work apart from the asynchronous threads.
///
/// # Errors
/// Those of the work; `Internal` when it panicked.
pub async fn blocking<T, F>(work: F) -> clawfarm_model::Result<T>
where
    T: Send + 'static,
    F: FnOnce() -> clawfarm_model::Result<T> + Send + 'static,
{
    tokio::task::spawn_blocking(work).await.map_err(join_error)?
}

/// How often work that goes on tells how far it is.
const TELL: Duration = Duration::from_millis(100);

/// Runs blocking work that can take minutes: `tell` hears now and then how far it is. The work
/// gets a function to say so with, which answers `false` when nobody waits any more, because
/// the future was dropped; then it is to end.
///
/// # Errors
/// Those of the work; `Internal` when it panicked.
pub async fn told<T, F>(mut tell: impl FnMut(u64), work: F) -> clawfarm_model::Result<T>
where
    T: Send + 'static,
    F: FnOnce(&mut dyn FnMut(u64) -> bool) -> clawfarm_model::Result<T> + Send + 'static,
{
    let far = Arc::new(AtomicU64::new(0));
    let nobody_waits = CancelOnDrop::default();
    let (so_far, ended) = (Arc::clone(&far), Arc::clone(&nobody_waits.0));
    let mut working = tokio::task::spawn_blocking(move || {
        work(&mut |now| {
            so_far.store(now, Ordering::Relaxed);
            !ended.load(Ordering::Relaxed)
        })
    });
    loop {
        match tokio::time::timeout(TELL, &mut working).await {
            Ok(done) => return done.map_err(join_error)?,
            Err(_) => tell(far.load(Ordering::Relaxed)),
        }
    }
}

/// Says so when it is dropped.
#[derive(Default)]
struct CancelOnDrop(Arc<AtomicBool>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_no_defect_and_says_what_to_do() {
        let error = io_error("write 'a'", Errno::NOSPC.into());
        assert_eq!(error.code(), Code::Insufficient);
        assert_eq!(error.message(), "could not write 'a': no space left on device");
        assert!(error.fix_text().unwrap_or_default().contains("df -h"));
    }
}
