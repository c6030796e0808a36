//! Images: looked for, made where a recipe says how, fetched where somebody else has made them.

mod build;
mod credentials;
mod list;
mod lock;
mod log;
mod look;
mod pull;
mod pulled;
mod source;

use bollard::models::ImageInspect;
use clawfarm_model::image::ImageReference;
use clawfarm_model::launch::{ImageMark, ImageRecipe};
use clawfarm_model::{Code, Error, Result, Software};
use clawfarm_runtime::Progress;

pub(crate) use build::{build_and_tell, build_source_and_tell};
pub(crate) use list::{images, remove};
pub(crate) use log::read as build_log;
pub(crate) use look::{Contents, file};
pub(crate) use pull::pull;

use crate::engine::found;
use crate::inner::Inner;

/// Which claw type an image holds.
const CLAW_TYPE: &str = "io.clawfarm.claw-type";
/// Which version of it.
const VERSION: &str = "io.clawfarm.version";
/// What it was made from: recipe, base and arguments.
const RECIPE: &str = "io.clawfarm.recipe";
/// What it was made of: a package, or a commit of a repository.
const SOURCE: &str = "io.clawfarm.source";
/// What it was made on.
const BASE: &str = "io.clawfarm.base";

/// Makes sure of the image of some software: whatever has its name is taken, be it made here or
/// pulled; where nothing has, it is made by the recipe, or pulled where somebody else has made
/// it. Such a one must have in it what `mark` says.
pub(crate) async fn ensure(
    inner: &Inner,
    software: &Software,
    recipe: Option<&ImageRecipe>,
    mark: Option<&ImageMark>,
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
    let there = inspect(inner, reference).await?;
    if let Some(mark) = mark {
        let reference = ImageReference::new(reference.as_str())?;
        if there.is_none() {
            pull::fetch(inner, &reference, progress).await?;
        }
        return pull::is_version(inner, &reference, mark, &software.version).await;
    }
    if there.is_some() {
        return Ok(());
    }
    match recipe {
        Some(recipe) => {
            build::build(inner, recipe, inner.config.base_image.as_deref(), progress).await.map(drop)
        }
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

fn label<'a>(image: &'a ImageInspect, name: &str) -> Option<&'a str> {
    image.config.as_ref()?.labels.as_ref()?.get(name).map(String::as_str)
}
