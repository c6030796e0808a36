//! Images: looked for, and made where a recipe says how.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use bollard::errors::Error as EngineError;
use bollard::models::{ImageInspect, ImageSummary};
use bollard::query_parameters::{BuildImageOptionsBuilder, ListImagesOptionsBuilder};
use clawfarm_files::{blocking, io_error};
use clawfarm_model::image::Image;
use clawfarm_model::launch::ImageRecipe;
use clawfarm_model::name::ClawType;
use clawfarm_model::{Code, Error, Result, Software, Timestamp};
use clawfarm_runtime::Progress;
use futures::StreamExt;
use sha2::{Digest, Sha256};

use crate::engine::found;
use crate::fault::failed;
use crate::inner::{Inner, hex};

/// Which claw type an image holds.
const CLAW_TYPE: &str = "io.clawfarm.claw-type";
/// Which version of it.
const VERSION: &str = "io.clawfarm.version";
/// What it was made from: recipe, base and arguments.
const RECIPE: &str = "io.clawfarm.recipe";
/// How many lines of a failed build are told.
const TOLD: usize = 15;
/// Where Linux distributions keep the certificates that the machine trusts.
const CERTIFICATES: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem"];

/// Makes sure of the image of some software: whatever has its name is taken, be it made here or
/// pulled; where nothing has, it is made by the recipe.
pub(crate) async fn ensure(
    inner: &Inner,
    software: &Software,
    recipe: Option<&ImageRecipe>,
    progress: &dyn Progress,
) -> Result<()> {
    let Some(reference) = &software.image else {
        return Err(Error::new(
            Code::Unsupported,
            format!("there is no container image of {}", software.claw_type),
        )
        .field("runtime")
        .fix("use another runtime, such as process"));
    };
    if inspect(inner, reference).await?.is_some() {
        return Ok(());
    }
    match recipe {
        Some(recipe) => build(inner, recipe, inner.config.base_image.as_deref(), progress).await.map(drop),
        None => Err(missing(reference)),
    }
}

pub(crate) fn missing(reference: &str) -> Error {
    Error::new(Code::InvalidInput, format!("the engine has no image '{reference}'"))
        .field("version")
        .fix(format!("build or pull one, and call it so: docker tag <image> {reference}"))
}

/// An image by its name; `None` when there is none.
pub(crate) async fn inspect(inner: &Inner, reference: &str) -> Result<Option<ImageInspect>> {
    let client = inner.engine.docker().await?;
    found(client.inspect_image(reference).await, || format!("look at the image '{reference}'"))
}

/// The digest of an image that must be there.
pub(crate) async fn digest(inner: &Inner, reference: &str) -> Result<String> {
    let image = inspect(inner, reference).await?.ok_or_else(|| missing(reference))?;
    image.id.ok_or_else(|| Error::internal("an image has no digest", reference.to_owned()))
}

/// Makes an image; one that was made from the same is left as it is. Returns its digest.
pub(crate) async fn build(
    inner: &Inner,
    recipe: &ImageRecipe,
    base: Option<&str>,
    progress: &dyn Progress,
) -> Result<String> {
    let base = base.unwrap_or(recipe.base);
    let made_from = fingerprint(recipe, base);
    // Who comes second finds what the first has made.
    let _building = inner.building.lock().await;
    if let Some(image) = inspect(inner, &recipe.reference).await?
        && label(&image, RECIPE) == Some(made_from.as_str())
        && let Some(id) = image.id
    {
        return Ok(id);
    }
    progress.step(
        "build",
        &format!("building the image {} on {base}", recipe.reference),
        Some(recipe.about_lines),
        "lines",
    );
    let context = context(inner, recipe).await?;
    let mut args: HashMap<String, String> =
        recipe.args.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
    args.insert("BASE".to_owned(), base.to_owned());
    let labels = HashMap::from(
        [
            (CLAW_TYPE, recipe.claw_type.as_str().to_owned()),
            (VERSION, recipe.version.clone()),
            (RECIPE, made_from),
        ]
        .map(|(name, value)| (name.to_owned(), value)),
    );
    let options = BuildImageOptionsBuilder::default()
        .t(&recipe.reference)
        .buildargs(&args)
        .labels(&labels)
        .rm(true)
        .forcerm(true)
        .build();
    let client = inner.engine.docker().await?;
    let mut said = client.build_image(options, None, Some(bollard::body_full(context.into())));
    let mut last: Vec<String> = Vec::new();
    let mut lines = 0;
    while let Some(piece) = said.next().await {
        let piece = piece.map_err(|e| failed_build(recipe, &last, e))?;
        let text = plain(piece.stream.as_deref().unwrap_or_default());
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            tracing::debug!(image = %recipe.reference, "{}", line.trim_end());
            progress.say(line.trim_end());
            lines += 1;
            progress.advance(lines.min(recipe.about_lines));
            if last.len() == TOLD {
                last.remove(0);
            }
            last.push(line.trim().to_owned());
        }
    }
    drop(said);
    progress.advance(recipe.about_lines);
    digest(inner, &recipe.reference).await
}

/// [`clawfarm_runtime::Images::build`].
pub(crate) async fn build_and_tell(
    inner: &Inner,
    recipe: &ImageRecipe,
    base: Option<&str>,
    progress: &dyn Progress,
) -> Result<Image> {
    let digest = build(inner, recipe, base.or(inner.config.base_image.as_deref()), progress).await?;
    let all = images(inner).await?;
    all.into_iter()
        .find(|image| image.digest == digest && image.reference == recipe.reference)
        .ok_or_else(|| Error::internal("an image that was made is not there", digest))
}

/// [`clawfarm_runtime::Images::images`].
pub(crate) async fn images(inner: &Inner) -> Result<Vec<Image>> {
    let client = inner.engine.docker().await?;
    let filters = HashMap::from([("label".to_owned(), vec![CLAW_TYPE.to_owned()])]);
    let options = ListImagesOptionsBuilder::default().filters(&filters).build();
    let found = client.list_images(Some(options)).await.map_err(|e| failed("list the images", e))?;
    let mut all: Vec<Image> = found.iter().flat_map(|image| of(inner, image)).collect();
    all.sort_by(|a, b| a.reference.cmp(&b.reference));
    Ok(all)
}

/// An image under each of its names.
fn of(inner: &Inner, image: &ImageSummary) -> Vec<Image> {
    let claw_type = image.labels.get(CLAW_TYPE).and_then(|text| ClawType::new(text.as_str()).ok());
    let (Some(claw_type), Some(version)) = (claw_type, image.labels.get(VERSION)) else { return Vec::new() };
    let names = image.repo_tags.iter().filter(|name| !name.starts_with("<none>"));
    names
        .map(|name| Image {
            reference: name.clone(),
            digest: image.id.clone(),
            target: inner.config.target.clone(),
            claw_type: claw_type.clone(),
            version: version.clone(),
            size_bytes: u64::try_from(image.size).unwrap_or(0),
            created_at: Timestamp::from_millis(image.created.saturating_mul(1000)),
        })
        .collect()
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

fn failed_build(recipe: &ImageRecipe, last: &[String], error: EngineError) -> Error {
    let what = format!("build the image {}", recipe.reference);
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

fn label<'a>(image: &'a ImageInspect, name: &str) -> Option<&'a str> {
    image.config.as_ref()?.labels.as_ref()?.get(name).map(String::as_str)
}

fn fingerprint(recipe: &ImageRecipe, base: &str) -> String {
    let mut hash = Sha256::new();
    for part in [recipe.dockerfile, base]
        .into_iter()
        .chain(recipe.args.iter().flat_map(|(name, value)| [*name, value.as_str()]))
    {
        hash.update(part.as_bytes());
        hash.update([0]);
    }
    hex(&hash.finalize()[..16])
}

/// The recipe and what it copies, as an archive.
async fn context(inner: &Inner, recipe: &ImageRecipe) -> Result<Vec<u8>> {
    let (dockerfile, given) = (recipe.dockerfile, inner.config.certificates.clone());
    blocking(move || {
        let failed = |e| io_error("put a recipe into an archive", e);
        let trusted = certificates(given.as_deref())?;
        let mut archive = tar::Builder::new(Vec::new());
        for (name, contents) in [("Dockerfile", dockerfile.as_bytes()), ("ca-certificates.crt", &trusted)] {
            let mut header = tar::Header::new_gnu();
            header.set_size(contents.len() as u64);
            header.set_mode(0o644);
            // No time, so that the engine finds it unchanged and uses what it has.
            header.set_mtime(0);
            archive.append_data(&mut header, name, contents).map_err(failed)?;
        }
        archive.into_inner().map_err(failed)
    })
    .await
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
        let recipe = ImageRecipe {
            reference: "x:1".into(),
            dockerfile: "",
            base: "",
            args: Vec::new(),
            claw_type: ClawType::new("openclaw").unwrap(),
            version: "1".into(),
            about_lines: 1,
        };
        let error = "The command '/bin/sh -c a long one' returned a non-zero code: 7".to_owned();
        let error =
            failed_build(&recipe, &["no such package".into()], EngineError::DockerStreamError { error });
        assert_eq!(
            error.message(),
            "could not build the image x:1: its step ended with code 7; its last lines: no such package"
        );
        assert_eq!(error.field_name(), Some("version"));
    }
}
