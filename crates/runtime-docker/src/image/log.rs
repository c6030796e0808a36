//! What builds print, kept in the server's home.

use std::io::SeekFrom;
use std::path::PathBuf;

use clawfarm_files::{blocking, io_error, make_private};
use clawfarm_model::image::ImageReference;
use clawfarm_model::{Error, Result};
use tokio::fs::{File, OpenOptions};
use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt};

use crate::inner::Inner;

/// More than this is not kept of one build.
const MOST: u64 = 16 << 20;
/// What is read of it at most.
const TOLD: u64 = 1 << 20;

/// The log of the build that is under way.
pub(super) struct BuildLog {
    file: File,
    path: PathBuf,
    written: u64,
}

impl BuildLog {
    /// Begins one, over that of the last build of the same name.
    pub(super) async fn begin(inner: &Inner, reference: &str) -> Result<Self> {
        let folder = inner.paths.images();
        let made = folder.clone();
        blocking(move || make_private(&made).map_err(|e| io_error("make the folder of images", e))).await?;
        let path = folder.join(name(reference));
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path).await;
        let file = file.map_err(|e| io_error(format!("write '{}'", path.display()), e))?;
        Ok(Self { file, path, written: 0 })
    }

    /// Keeps a line. One that can't be kept (the disk is full) fails no build.
    pub(super) async fn say(&mut self, line: &str) {
        if self.written >= MOST {
            return;
        }
        let line = format!("{line}\n");
        self.written += line.len() as u64;
        let rest = if self.written >= MOST { "(the rest was not kept)\n" } else { "" };
        let text = line + rest;
        let written = async {
            self.file.write_all(text.as_bytes()).await?;
            self.file.flush().await
        };
        if let Err(error) = written.await {
            tracing::warn!(%error, path = %self.path.display(), "a build's log can't be written");
            self.written = MOST;
        }
    }
}

/// [`clawfarm_runtime::Images::build_log`].
pub(crate) async fn read(inner: &Inner, reference: &ImageReference) -> Result<String> {
    let path = inner.paths.images().join(name(&reference.whole()));
    let mut file = match File::open(&path).await {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            return Err(Error::not_found("build", reference)
                .fix("see 'clawfarm image ls'; only what was built by this server has a log"));
        }
        Err(e) => return Err(io_error(format!("read '{}'", path.display()), e)),
    };
    let mut bytes = Vec::new();
    let read = async {
        let length = file.metadata().await?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TOLD))).await?;
        file.take(TOLD).read_to_end(&mut bytes).await
    };
    read.await.map_err(|e| io_error(format!("read '{}'", path.display()), e))?;
    let text = String::from_utf8_lossy(&bytes);
    // The first line may be cut.
    let from = if bytes.len() as u64 == TOLD { text.find('\n').map_or(0, |at| at + 1) } else { 0 };
    Ok(text[from..].to_owned())
}

/// Removes the log of an image that is removed.
pub(super) async fn remove(inner: &Inner, reference: &str) {
    // It may never have had one.
    let _ = tokio::fs::remove_file(inner.paths.images().join(name(reference))).await;
}

/// A file name for a reference, whose characters are few.
fn name(reference: &str) -> String {
    format!("{}.log", reference.replace('/', "+"))
}
