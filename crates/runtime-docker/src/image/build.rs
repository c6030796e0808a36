//! Making images.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use bollard::errors::Error as EngineError;
use bollard::query_parameters::BuildImageOptionsBuilder;
use clawfarm_files::{blocking, io_error};
use clawfarm_model::image::{Image, ImageReference};
use clawfarm_model::launch::{GitSource, ImageRecipe, SourceRecipe};
use clawfarm_model::{Code, Error, Result};
use clawfarm_runtime::Progress;
use futures::StreamExt;
use sha2::{Digest, Sha256};
use tokio_util::io::ReaderStream;

use super::log::BuildLog;
use super::source::{self, Fetched};
use super::{BASE, CLAW_TYPE, RECIPE, SOURCE, VERSION, digest, inspect, label, list, lock};
use crate::fault::failed;
use crate::inner::{Inner, hex};

/// How many lines of a failed build are told.
const TOLD: usize = 15;
/// How many characters of a commit stand in a tag, as git itself shortens one of a large history.
const SHORT: usize = 12;
/// Where Linux distributions keep the certificates that the machine trusts.
const CERTIFICATES: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem"];

/// What is to be made.
struct Job<'a> {
    reference: String,
    dockerfile: &'static str,
    base: &'a str,
    args: Vec<(&'static str, String)>,
    labels: Vec<(&'static str, String)>,
    /// What is copied in beside the certificates.
    source: Option<&'a Fetched>,
    about_lines: u64,
}

/// Makes an image by its recipe; one that was made from the same is left as it is. Returns its
/// digest.
pub(super) async fn build(
    inner: &Inner,
    recipe: &ImageRecipe,
    base: Option<&str>,
    progress: &dyn Progress,
) -> Result<String> {
    let job = Job {
        reference: recipe.reference.clone(),
        dockerfile: recipe.dockerfile,
        base: base.unwrap_or(recipe.base),
        args: recipe.args.clone(),
        labels: vec![
            (CLAW_TYPE, recipe.claw_type.as_str().to_owned()),
            (VERSION, recipe.version.clone()),
            (SOURCE, format!("{}@{}", recipe.claw_type, recipe.version)),
        ],
        source: None,
        about_lines: recipe.about_lines,
    };
    make(inner, &job, progress).await
}

/// [`clawfarm_runtime::Images::build`].
pub(crate) async fn build_and_tell(
    inner: &Inner,
    recipe: &ImageRecipe,
    base: Option<&str>,
    progress: &dyn Progress,
) -> Result<Image> {
    build(inner, recipe, base.or(inner.config.base_image.as_deref()), progress).await?;
    tell(inner, &recipe.reference).await
}

/// [`clawfarm_runtime::Images::build_source`].
pub(crate) async fn build_source_and_tell(
    inner: &Inner,
    recipe: &SourceRecipe,
    source: &GitSource,
    base: Option<&str>,
    progress: &dyn Progress,
) -> Result<Image> {
    let fetched = source::fetch(inner, source, &recipe.mark, progress).await?;
    let short = fetched.commit.get(..SHORT).unwrap_or(&fetched.commit);
    let version = format!("{}-g{short}", fetched.version);
    let mut args = recipe.args.clone();
    args.push(("PACKAGE_MANAGER", fetched.package_manager.clone()));
    let job = Job {
        reference: format!("{}:{version}", recipe.name),
        dockerfile: recipe.dockerfile,
        base: base.or(inner.config.base_image.as_deref()).unwrap_or(recipe.base),
        args,
        labels: vec![
            (CLAW_TYPE, recipe.mark.claw_type.as_str().to_owned()),
            (VERSION, version),
            (SOURCE, format!("{}#{}", source.repository, fetched.commit)),
            ("org.opencontainers.image.revision", fetched.commit.clone()),
        ],
        source: Some(&fetched),
        about_lines: recipe.about_lines,
    };
    make(inner, &job, progress).await?;
    tell(inner, &job.reference).await
}

async fn tell(inner: &Inner, reference: &str) -> Result<Image> {
    list::one(inner, &ImageReference::new(reference)?)
        .await?
        .ok_or_else(|| Error::internal("an image that was made is not there", reference.to_owned()))
}

async fn make(inner: &Inner, job: &Job<'_>, progress: &dyn Progress) -> Result<String> {
    let made_from = fingerprint(job);
    // Who comes second finds what the first has made, whichever server that was.
    let _building = inner.building.lock().await;
    let _alone = lock::take(inner, &made_from, progress).await?;
    if let Some(image) = inspect(inner, &job.reference).await?
        && label(&image, RECIPE) == Some(made_from.as_str())
        && let Some(id) = image.id
    {
        return Ok(id);
    }
    progress.step(
        "build",
        &format!("building the image {} on {}", job.reference, job.base),
        Some(job.about_lines),
        "lines",
    );
    let mut log = BuildLog::begin(inner, &job.reference).await?;
    match run(inner, job, &made_from, &mut log, progress).await {
        Ok(()) => digest(inner, &job.reference).await,
        Err(error) => {
            log.say(error.message()).await;
            Err(error)
        }
    }
}

async fn run(
    inner: &Inner,
    job: &Job<'_>,
    made_from: &str,
    log: &mut BuildLog,
    progress: &dyn Progress,
) -> Result<()> {
    let mut args: HashMap<String, String> =
        job.args.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
    args.insert("BASE".to_owned(), job.base.to_owned());
    let mut labels: HashMap<String, String> =
        job.labels.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
    labels.insert(RECIPE.to_owned(), made_from.to_owned());
    labels.insert(BASE.to_owned(), job.base.to_owned());
    let options = BuildImageOptionsBuilder::default()
        .t(&job.reference)
        .buildargs(&args)
        .labels(&labels)
        .rm(true)
        .forcerm(true)
        .build();
    let body = match context(inner, job).await? {
        Archive::Bytes(bytes) => bollard::body_full(bytes.into()),
        Archive::File(file) => bollard::body_try_stream(ReaderStream::new(tokio::fs::File::from_std(file))),
    };
    let client = inner.engine.docker().await?;
    let mut said = client.build_image(options, None, Some(body));
    let mut last: Vec<String> = Vec::new();
    let mut lines = 0;
    while let Some(piece) = said.next().await {
        let piece = piece.map_err(|e| failed_build(&job.reference, &last, e))?;
        let text = plain(piece.stream.as_deref().unwrap_or_default());
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            tracing::debug!(image = %job.reference, "{}", line.trim_end());
            progress.say(line.trim_end());
            log.say(line.trim_end()).await;
            lines += 1;
            progress.advance(lines.min(job.about_lines));
            if last.len() == TOLD {
                last.remove(0);
            }
            last.push(line.trim().to_owned());
        }
    }
    progress.advance(job.about_lines);
    Ok(())
}

/// A text without the colours that programs and engines put into it.
fn plain(text: &str) -> String {
    let mut parts = text.split("\u{1b}[");
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        // A sequence ends with its first letter.
        let end = part.find(|c: char| c.is_ascii_alphabetic()).map_or(part.len(), |at| at + 1);
        plain.push_str(&part[end..]);
    }
    plain
}

fn failed_build(reference: &str, last: &[String], error: EngineError) -> Error {
    let what = format!("build the image {reference}");
    // The engine repeats the whole step, which is the recipe's and says nothing new.
    let ended = match &error {
        EngineError::DockerStreamError { error } => error.rsplit_once("returned a non-zero code: "),
        _ => None,
    };
    let told = match ended {
        Some((_, code)) => {
            Error::new(Code::Unavailable, format!("could not {what}: its step ended with code {code}"))
        }
        None => failed(what, error),
    };
    if last.is_empty() {
        return told;
    }
    Error::new(told.code(), format!("{}; its last lines: {}", told.message(), last.join("\n")))
        .field("version")
        .fix("mend what it says; for another base: clawfarm image build --base IMAGE")
}

fn fingerprint(job: &Job<'_>) -> String {
    let mut hash = Sha256::new();
    let source = job.source.map_or("", |fetched| fetched.commit.as_str());
    for part in [job.dockerfile, job.base, source]
        .into_iter()
        .chain(job.args.iter().flat_map(|(name, value)| [*name, value.as_str()]))
    {
        hash.update(part.as_bytes());
        hash.update([0]);
    }
    hex(&hash.finalize()[..16])
}

/// What a build is given.
enum Archive {
    Bytes(Vec<u8>),
    File(File),
}

/// The recipe and what it copies, as an archive: in memory, or from a file where it holds a
/// whole source.
async fn context(inner: &Inner, job: &Job<'_>) -> Result<Archive> {
    let (dockerfile, given) = (job.dockerfile, inner.config.certificates.clone());
    let Some(fetched) = job.source else {
        let bytes = blocking(move || pack(Vec::new(), dockerfile, given.as_deref(), None)).await?;
        return Ok(Archive::Bytes(bytes));
    };
    let (source, whole) = (fetched.archive(), fetched.folder.path().join("context.tar"));
    let file = blocking(move || {
        let file = File::create_new(&whole).map_err(|e| io_error("put a source into an archive", e))?;
        pack(file, dockerfile, given.as_deref(), Some(&source))?;
        File::open(&whole).map_err(|e| io_error("read the archive of a source", e))
    })
    .await?;
    Ok(Archive::File(file))
}

fn pack<W: io::Write>(
    into: W,
    dockerfile: &str,
    certificates_at: Option<&Path>,
    source: Option<&Path>,
) -> Result<W> {
    let failed = |e| io_error("put a recipe into an archive", e);
    let trusted = certificates(certificates_at)?;
    let mut archive = tar::Builder::new(into);
    for (name, contents) in [("Dockerfile", dockerfile.as_bytes()), ("ca-certificates.crt", &trusted)] {
        let mut header = tar::Header::new_gnu();
        header.set_size(contents.len() as u64);
        header.set_mode(0o644);
        // No time, so that the engine finds it unchanged and uses what it has.
        header.set_mtime(0);
        archive.append_data(&mut header, name, contents).map_err(failed)?;
    }
    if let Some(source) = source {
        archive.append_path_with_name(source, "source.tar").map_err(failed)?;
    }
    archive.into_inner().map_err(failed)
}

/// What this machine trusts; nothing where it says so nowhere.
fn certificates(given: Option<&Path>) -> Result<Vec<u8>> {
    let found = match given {
        Some(path) => Some(path.to_owned()),
        None => CERTIFICATES.iter().map(PathBuf::from).find(|path| path.exists()),
    };
    match found {
        Some(path) => std::fs::read(&path).map_err(|e| io_error(format!("read '{}'", path.display()), e)),
        None => Ok(Vec::new()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_are_left_out() {
        assert_eq!(plain("\u{1b}[91mnpm\u{1b}[0m ERR!\u{1b}["), "npm ERR!");
    }

    #[test]
    fn a_failed_build_tells_its_last_lines_and_not_its_recipe() {
        let error = "The command '/bin/sh -c a long one' returned a non-zero code: 7".to_owned();
        let error =
            failed_build("x:1", &["no such package".into()], EngineError::DockerStreamError { error });
        assert_eq!(
            error.message(),
            "could not build the image x:1: its step ended with code 7; its last lines: no such package"
        );
        assert_eq!(error.field_name(), Some("version"));
    }
}
