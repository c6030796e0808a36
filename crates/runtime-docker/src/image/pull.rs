//! Images that somebody else has made: fetched from their registry, and looked into.

use std::collections::HashMap;

use bollard::errors::Error as EngineError;
use bollard::models::ImageInspect;
use bollard::query_parameters::CreateImageOptionsBuilder;
use clawfarm_model::image::{Image, ImageReference};
use clawfarm_model::launch::ImageMark;
use clawfarm_model::{Code, Error, Result};
use clawfarm_runtime::Progress;
use futures::StreamExt;

use super::look::{self, Contents};
use super::pulled::{self, Pulled};
use super::{VERSION, credentials, inspect, label, list};
use crate::fault::failed;
use crate::inner::Inner;

/// [`clawfarm_runtime::Images::pull`].
pub(crate) async fn pull(
    inner: &Inner,
    reference: &ImageReference,
    mark: &ImageMark,
    progress: &dyn Progress,
) -> Result<Image> {
    let was_there = inspect(inner, &reference.whole()).await?.is_some();
    fetch(inner, reference, progress).await?;
    if let Err(error) = check(inner, reference, mark).await {
        // What is of no use here is not left; what was there before is somebody's.
        if !was_there && error.code() == Code::InvalidInput {
            let client = inner.engine.docker().await?;
            let options = bollard::query_parameters::RemoveImageOptionsBuilder::default().build();
            if let Err(error) = client.remove_image(&reference.whole(), Some(options), None).await {
                tracing::warn!(%reference, ?error, "an image that is of no use could not be removed");
            }
        }
        return Err(error);
    }
    list::one(inner, reference).await?.ok_or_else(|| {
        Error::new(Code::Unavailable, format!("the image '{reference}' was removed meanwhile"))
    })
}

/// Fetches an image; what it is, is not looked at.
pub(super) async fn fetch(inner: &Inner, reference: &ImageReference, progress: &dyn Progress) -> Result<()> {
    let whole = reference.whole();
    progress.step("pull", &format!("pulling the image {whole}"), None, "bytes");
    let client = inner.engine.docker().await?;
    // Without a tag all that a repository has would be fetched.
    let options = CreateImageOptionsBuilder::default().from_image(&whole).build();
    let mut told = client.create_image(Some(options), None, credentials::of(reference).await);
    let mut layers: HashMap<String, u64> = HashMap::new();
    while let Some(piece) = told.next().await {
        let piece = piece.map_err(|e| refused(reference, e))?;
        let (id, status) = (piece.id.unwrap_or_default(), piece.status.unwrap_or_default());
        let done = piece.progress_detail.and_then(|detail| detail.current);
        match done.and_then(|bytes| u64::try_from(bytes).ok()) {
            Some(bytes) if status == "Downloading" => {
                layers.insert(id, bytes);
                progress.advance(layers.values().sum());
            }
            Some(_) => {}
            None if id.is_empty() => progress.say(&status),
            None => progress.say(&format!("{id}: {status}")),
        }
    }
    Ok(())
}

/// Looks whether an image that is there can be run as one of the claw type, and writes it down.
async fn check(inner: &Inner, reference: &ImageReference, mark: &ImageMark) -> Result<Contents> {
    let image = inspect(inner, &reference.whole()).await?.ok_or_else(|| gone(reference))?;
    is_for_this_engine(inner, reference, &image).await?;
    let id =
        image.id.clone().ok_or_else(|| Error::internal("an image has no digest", reference.to_string()))?;
    let Some(found) = look::contents(inner, &id, mark).await? else {
        return Err(Error::invalid(
            "image",
            format!(
                "'{reference}' is no image of {}: it has no {}/{}",
                mark.claw_type, mark.folder, mark.program
            ),
        )
        .fix(format!("give one that is laid out as the official image of {}", mark.claw_type)));
    };
    // One that was made here from a commit says more than its package.
    let version = label(&image, VERSION).map_or(found.version, str::to_owned);
    let claw_type = mark.claw_type.clone();
    pulled::add(inner, Pulled { reference: reference.clone(), claw_type, version: version.clone() }).await?;
    Ok(Contents { version })
}

/// Looks whether an image is of the version that is wanted: what an instance runs is pinned.
pub(super) async fn is_version(
    inner: &Inner,
    reference: &ImageReference,
    mark: &ImageMark,
    wanted: &str,
) -> Result<()> {
    let found = check(inner, reference, mark).await?.version;
    if found == wanted {
        return Ok(());
    }
    let shown: String = found.chars().take(60).flat_map(char::escape_default).collect();
    Err(Error::invalid(
        "version",
        format!("the image '{reference}' has {} {shown}, not {wanted}", mark.claw_type),
    )
    .fix(format!("make the instance with --version {shown}, or with another image")))
}

/// Engines take images for other processors, and tell so when they can't run them.
async fn is_for_this_engine(inner: &Inner, reference: &ImageReference, image: &ImageInspect) -> Result<()> {
    let client = inner.engine.docker().await?;
    let version = client.version().await.map_err(|e| failed("ask the engine for its version", e))?;
    let (Some(of), Some(here)) = (image.architecture.as_deref(), version.arch.as_deref()) else {
        return Ok(());
    };
    let os = image.os.as_deref().unwrap_or("linux");
    if of.is_empty() || (of == here && os == "linux") {
        return Ok(());
    }
    Err(Error::invalid("image", format!("'{reference}' is for {os}/{of}, and the engine runs linux/{here}"))
        .fix(format!("give an image for linux/{here}")))
}

fn gone(reference: &ImageReference) -> Error {
    Error::new(Code::Unavailable, format!("the image '{reference}' was removed while it was looked at"))
        .fix("it is tried again by itself")
}

/// What a refusal means: the engine's words are all there is to tell a wrong name from a
/// registry that is down.
fn refused(reference: &ImageReference, error: EngineError) -> Error {
    let text = match &error {
        EngineError::DockerResponseServerError { message, .. } => message.clone(),
        EngineError::DockerStreamError { error } => error.clone(),
        _ => return failed(format!("pull the image '{reference}'"), error),
    };
    let lower = text.to_lowercase();
    let has = |all: &[&str]| all.iter().any(|part| lower.contains(part));
    let registry = reference.registry().unwrap_or("docker.io");
    if has(&["no matching manifest", "does not match the specified platform"]) {
        return Error::invalid(
            "image",
            format!("'{reference}' is not there for this engine's processor: {text}"),
        )
        .fix("give an image that was made for it")
        .source(error);
    }
    if has(&["unauthorized", "authentication required", "no basic auth", "denied"]) {
        return Error::invalid("image", format!("{registry} does not hand out '{reference}': {text}"))
            .fix(format!(
                "look at its name; for a registry that wants a password, as the server's user: docker login {registry}"
            ))
            .source(error);
    }
    if has(&["manifest unknown", "not found", "name unknown", "does not exist", "repository name not known"])
        && !has(&["no such host", "lookup "])
    {
        return Error::invalid("image", format!("{registry} has no image '{reference}': {text}"))
            .fix("look at its name and its tag")
            .source(error);
    }
    if has(&["no space left on device"]) {
        return failed(format!("pull the image '{reference}'"), error);
    }
    Error::new(Code::Unavailable, format!("could not pull '{reference}' from {registry}: {text}"))
        .field("image")
        .fix(format!("look whether the engine's machine reaches {registry}; it is tried again by itself"))
        .source(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registry_that_is_down_is_tried_again_and_a_wrong_name_is_not() {
        let reference = ImageReference::new("127.0.0.1:5000/openclaw:1").unwrap();
        let told = |message: &str| {
            let error = EngineError::DockerStreamError { error: message.to_owned() };
            refused(&reference, error).code()
        };
        assert_eq!(
            told("manifest for 127.0.0.1:5000/openclaw:1 not found: manifest unknown"),
            Code::InvalidInput
        );
        assert_eq!(told("pull access denied for x, repository does not exist"), Code::InvalidInput);
        assert_eq!(told("no matching manifest for linux/arm64 in the manifest list"), Code::InvalidInput);
        assert_eq!(
            told("Get \"http://127.0.0.1:5000/v2/\": dial tcp: connection refused"),
            Code::Unavailable
        );
        assert_eq!(told("dial tcp: lookup r.example: no such host"), Code::Unavailable);
        assert_eq!(told("write /x: no space left on device"), Code::Insufficient);
    }
}
