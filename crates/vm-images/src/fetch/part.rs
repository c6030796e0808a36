//! A file on its way: begun, gone on with where it ended, and whole when its digest is right.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use ::http::{HeaderMap, HeaderValue, StatusCode, header};
use bytes::Bytes;
use clawfarm_files::{blocking, io_error, join_error};
use clawfarm_model::vm_image::VmImageReference;
use clawfarm_model::{Code, Error, Result};
use clawfarm_runtime::Progress;
use ring::digest::{Context, SHA256, SHA512};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::http::{Answer, Failure, Http};
use super::sums::Expected;
use crate::config::ImagesConfig;
use crate::store::{IMAGE, Making, PART};

/// How many pieces wait for the disk.
const PIECES: usize = 64;
/// In what steps a file is read, in bytes.
const STEP: usize = 1 << 20;
/// What is left free on the disk beside the file, in bytes.
const SPARE: u64 = 64 << 20;

/// What is to be downloaded.
pub(super) struct Piece<'a> {
    pub(super) url: &'a str,
    pub(super) expected: &'a Expected,
    pub(super) reference: &'a VmImageReference,
}

/// What is written down of a file that is on its way, beside it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Part {
    /// Where it comes from.
    url: String,
    /// The digest it must have; one with another is another file.
    digest: String,
    /// What tells the site which version of the file was begun (RFC 9110, 13.1.5).
    validator: Option<String>,
    /// How long it will be, in bytes.
    pub(crate) size: Option<u64>,
}

/// What was downloaded.
pub(super) struct Got {
    pub(super) size: u64,
    pub(super) sha256: String,
}

/// Why a download ended.
#[derive(Debug)]
pub(super) enum Failed {
    /// What came has another digest; `resumed` when some of it is of an earlier attempt.
    Digest { resumed: bool, host: String },
    /// Something else, and what came is kept.
    Other(Error),
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

impl Failed {
    /// As an error; what has the wrong digest is removed, and a file that nothing came of.
    pub(super) fn told(self, making: &Making) -> Error {
        match self {
            Self::Other(error) => {
                let begun = making.folder().join(IMAGE).metadata().is_ok_and(|file| file.len() > 0);
                match if begun { Ok(()) } else { Part::forget(making) } {
                    Ok(()) => error,
                    Err(worse) => worse,
                }
            }
            Self::Digest { host, .. } => {
                if let Err(error) = Part::forget(making) {
                    return error;
                }
                Error::new(
                    Code::Unavailable,
                    format!(
                        "what {host} sent has another digest than its list of digests says; it was removed"
                    ),
                )
                .field("image")
                .fix("try again in a while: a new image may be on its way there; else name another mirror")
            }
        }
    }
}

impl Part {
    /// What is written down of a download in `folder`.
    pub(crate) fn read(folder: &Path) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(folder.join(PART)).ok()?).ok()
    }

    fn write(&self, folder: &Path) -> Result<()> {
        let told = |error: io::Error| io_error("write down how far the download is", error);
        let text =
            serde_json::to_vec(self).map_err(|error| Error::internal("a download can't be told", error))?;
        // A half-written one is none, and the download is begun anew.
        std::fs::write(folder.join(PART), text).map_err(told)
    }

    /// Removes what came so far.
    pub(super) fn forget(making: &Making) -> Result<()> {
        for name in [IMAGE, PART] {
            match std::fs::remove_file(making.folder().join(name)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(io_error("remove a download", error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// It is whole: nothing needs to be known of the way any more.
    pub(super) fn done(making: &Making) -> Result<()> {
        std::fs::remove_file(making.folder().join(PART)).map_err(|error| io_error("finish a download", error))
    }

    /// Downloads, goes on when it is cut off, and checks the digest.
    pub(super) async fn download(
        http: &Http,
        config: &ImagesConfig,
        making: &Making,
        piece: &Piece<'_>,
        progress: &dyn Progress,
    ) -> std::result::Result<Got, Failed> {
        let wanted = piece.expected.hex.clone();
        let mut known = Self::read(making.folder())
            .filter(|part| part.url == piece.url && part.digest == wanted && part.validator.is_some());
        if known.is_none() {
            Self::forget(making)?;
        }
        let path = making.folder().join(IMAGE);
        let begun = path.clone();
        let algorithm = piece.expected.algorithm;
        progress.step("check", &format!("looking at what is here of {}", piece.reference), None, "");
        let mut sink = blocking(move || Sink::open(&begun, algorithm == &SHA512)).await?;
        let mut resumed = sink.len > 0;
        let mut idle = 0;
        let mut pause = config.limits.pause;
        loop {
            let before = sink.len;
            let (back, outcome) =
                Attempt { http, config, making, piece, progress }.run(sink, &mut known).await;
            sink = back?;
            let failure = match outcome {
                Ok(host) => {
                    let got = Got { size: sink.len, sha256: hex(sink.sha256.clone()) };
                    let digest = match &sink.sha512 {
                        Some(sha512) => hex(sha512.clone()),
                        None => got.sha256.clone(),
                    };
                    if digest != wanted {
                        return Err(Failed::Digest { resumed, host });
                    }
                    let file = sink.file;
                    blocking(move || file.sync_all().map_err(|error| io_error("write the image", error)))
                        .await?;
                    return Ok(got);
                }
                Err(failure) => failure,
            };
            if !failure.again {
                return Err(failure.error.into());
            }
            idle = if sink.len > before { 0 } else { idle + 1 };
            if idle == 0 {
                pause = config.limits.pause;
            }
            if idle >= config.limits.tries {
                return Err(failure.error.into());
            }
            resumed = resumed || sink.len > 0;
            progress.say(&format!("{}; going on at {} MiB", failure.error.message(), sink.len >> 20));
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
    }
}

/// One request.
struct Attempt<'a> {
    http: &'a Http,
    config: &'a ImagesConfig,
    making: &'a Making,
    piece: &'a Piece<'a>,
    progress: &'a dyn Progress,
}

impl Attempt<'_> {
    /// Asks for what is missing, and writes it. The sink comes back whatever happened, unless
    /// the disk can't be written to.
    async fn run(
        &self,
        mut sink: Sink,
        known: &mut Option<Part>,
    ) -> (std::result::Result<Sink, Failed>, std::result::Result<String, Failure>) {
        let mut answer = match self.ask(&mut sink, known).await {
            Ok(answer) => answer,
            Err(failure) => return (Ok(sink), Err(failure)),
        };
        let host = answer.host.clone();
        let total = known.as_ref().and_then(|part| part.size);
        let message = format!("downloading {} from {host}", self.piece.reference);
        self.progress.step("download", &message, total, "bytes");
        self.progress.advance(sink.len);
        let (pieces, waiting) = mpsc::channel::<Bytes>(PIECES);
        let mut far = sink.len;
        // Should nobody wait any more: no other attempt writes to the file before this has ended.
        let lock = std::sync::Arc::clone(self.making.lock());
        let writing = tokio::task::spawn_blocking(move || {
            let written = sink.write_all(waiting);
            drop(lock);
            written
        });
        let max = total.unwrap_or(self.config.limits.image_max);
        let read = loop {
            match answer.next().await {
                Ok(None) => break Ok(()),
                Ok(Some(piece)) => {
                    far += piece.len() as u64;
                    if far > max {
                        let why = format!("{host} sends more than the {max} bytes that it announced");
                        break Err(Error::new(Code::Unavailable, why).fix("name another mirror").into());
                    }
                    if pieces.send(piece).await.is_err() {
                        // The disk can't be written to; the writer says why.
                        break Ok(());
                    }
                    self.progress.advance(far);
                }
                Err(failure) => break Err(failure),
            }
        };
        drop(pieces);
        let sink = match writing.await.map_err(join_error) {
            Ok(Ok(sink)) => sink,
            Ok(Err(error)) | Err(error) => return (Err(error.into()), Ok(host)),
        };
        let cut = total.is_some_and(|total| sink.len < total);
        let outcome = match read {
            Ok(()) if cut => Err(Failure {
                error: Error::new(Code::Unavailable, format!("{host} broke off")),
                again: true,
            }),
            Ok(()) => Ok(host),
            Err(failure) => Err(failure),
        };
        (Ok(sink), outcome)
    }

    /// Asks for the file from where it ended; begins anew where the site has another one now.
    async fn ask(&self, sink: &mut Sink, known: &mut Option<Part>) -> std::result::Result<Answer, Failure> {
        let mut headers = HeaderMap::new();
        let validator = known.as_ref().and_then(|part| part.validator.as_deref());
        if sink.len > 0
            && let Some(validator) = validator.and_then(|it| HeaderValue::from_str(it).ok())
        {
            let range = format!("bytes={}-", sink.len);
            headers.insert(
                header::RANGE,
                HeaderValue::from_str(&range)
                    .map_err(|error| Error::internal("a range can't be asked for", error))?,
            );
            headers.insert(header::IF_RANGE, validator);
        } else {
            sink.begin_anew()?;
        }
        let url = self.piece.url;
        let answer = self.http.get(url, &headers).await?;
        let status = answer.status;
        if status == StatusCode::PARTIAL_CONTENT && content_range(&answer) == Some(sink.len) {
            return self.room(answer, sink.len);
        }
        if matches!(status, StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE) {
            // It has all there is and is not whole, or this is another part than was asked for.
            *known = None;
            sink.begin_anew()?;
            let why = format!("{} has another file than was begun", answer.host);
            return Err(Failure { error: Error::new(Code::Unavailable, why), again: true });
        }
        answer.expect(url, &[StatusCode::OK])?;
        sink.begin_anew()?;
        let size = length(&answer);
        if size.is_some_and(|size| size > self.config.limits.image_max) {
            let max = self.config.limits.image_max >> 30;
            return Err(Error::new(
                Code::Insufficient,
                format!("{} announces a file of more than {max} GiB", answer.host),
            )
            .fix("name another mirror")
            .into());
        }
        let part = Part {
            url: url.to_owned(),
            digest: self.piece.expected.hex.clone(),
            validator: validator_of(&answer),
            size,
        };
        part.write(self.making.folder())?;
        *known = Some(part);
        self.room(answer, 0)
    }

    /// Refuses early what the disk has no room for.
    fn room(&self, answer: Answer, have: u64) -> std::result::Result<Answer, Failure> {
        let Some(rest) = length(&answer) else { return Ok(answer) };
        let free = free(self.making.folder())?;
        if rest.saturating_add(SPARE) > free {
            return Err(Error::new(
                Code::Insufficient,
                format!(
                    "{} needs {} MiB more, and the disk of '{}' has {} MiB free",
                    self.piece.reference,
                    (rest + SPARE) >> 20,
                    self.making.folder().display(),
                    free >> 20
                ),
            )
            .fix("free some disk space, or choose a folder on another disk with CLAWFARM_CACHE_DIR")
            .into());
        }
        tracing::debug!(have, rest, "a download begins");
        Ok(answer)
    }
}

/// What is free on the disk of `folder` for this user, in bytes.
pub(crate) fn free(folder: &Path) -> Result<u64> {
    let disk = rustix::fs::statvfs(folder).map_err(|error| io_error("look at the disk", error.into()))?;
    Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
}

/// What tells this version of the file from others: a strong entity tag, else the day of its
/// last change.
fn validator_of(answer: &Answer) -> Option<String> {
    let text = |name| answer.headers.get(name).and_then(|value| value.to_str().ok());
    match text(header::ETAG) {
        Some(tag) if !tag.starts_with("W/") => Some(tag.to_owned()),
        _ => text(header::LAST_MODIFIED).map(str::to_owned),
    }
}

fn length(answer: &Answer) -> Option<u64> {
    answer.headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Where a part begins: `bytes 100-199/200`.
fn content_range(answer: &Answer) -> Option<u64> {
    let range = answer.headers.get(header::CONTENT_RANGE)?.to_str().ok()?;
    range.strip_prefix("bytes ")?.split_once('-')?.0.parse().ok()
}

/// Where pieces are written, and what they are so far.
struct Sink {
    file: File,
    len: u64,
    sha256: Context,
    sha512: Option<Context>,
}

impl Sink {
    /// Opens the file, and takes in what it holds.
    fn open(path: &Path, sha512: bool) -> Result<Self> {
        let told = |error: io::Error| io_error(format!("open '{}'", path.display()), error);
        let file = File::options()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o600)
            .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed())
            .open(path)
            .map_err(told)?;
        let sha512 = sha512.then(|| Context::new(&SHA512));
        let mut sink = Self { file, len: 0, sha256: Context::new(&SHA256), sha512 };
        let mut piece = vec![0; STEP];
        let mut from = File::open(path).map_err(told)?;
        loop {
            let count = from.read(&mut piece).map_err(told)?;
            if count == 0 {
                return Ok(sink);
            }
            sink.take(&piece[..count]);
        }
    }

    fn take(&mut self, piece: &[u8]) {
        self.len += piece.len() as u64;
        self.sha256.update(piece);
        if let Some(sha512) = &mut self.sha512 {
            sha512.update(piece);
        }
    }

    fn begin_anew(&mut self) -> Result<()> {
        self.file.set_len(0).map_err(|error| io_error("begin a download anew", error))?;
        self.len = 0;
        self.sha256 = Context::new(&SHA256);
        self.sha512 = self.sha512.is_some().then(|| Context::new(&SHA512));
        Ok(())
    }

    /// Writes what comes until nothing more does.
    fn write_all(mut self, mut waiting: mpsc::Receiver<Bytes>) -> Result<Self> {
        while let Some(piece) = waiting.blocking_recv() {
            self.file.write_all(&piece).map_err(|error| io_error("write the download", error))?;
            self.take(&piece);
        }
        Ok(self)
    }
}

/// A digest in hexadecimal.
pub(crate) fn hex(context: Context) -> String {
    let mut text = String::new();
    for byte in context.finish().as_ref() {
        // Writing to a text can't fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}
