//! The images that there are.

use std::collections::HashMap;

use bollard::models::ImageSummary;
use bollard::query_parameters::{
    ListContainersOptionsBuilder, ListImagesOptionsBuilder, RemoveImageOptionsBuilder,
};
use clawfarm_model::image::{Image, ImageKind, ImageReference};
use clawfarm_model::name::ClawType;
use clawfarm_model::{Code, Error, Result, Timestamp};

use super::pulled::{self, Pulled};
use super::{BASE, CLAW_TYPE, SOURCE, VERSION, log};
use crate::fault::{failed, is_missing, is_state};
use crate::inner::Inner;
use crate::spec::INSTANCE;

/// [`clawfarm_runtime::Images::images`].
pub(crate) async fn images(inner: &Inner) -> Result<Vec<Image>> {
    let pulled = pulled::all(inner).await?;
    let client = inner.engine.docker().await?;
    let options = ListImagesOptionsBuilder::default().build();
    let found = client.list_images(Some(options)).await.map_err(|e| failed("list the images", e))?;
    let uses = uses(inner).await?;
    let mut all: Vec<Image> = found
        .iter()
        .flat_map(|image| {
            let used_by = uses.get(&image.id).copied().unwrap_or(0);
            of(inner, image, &pulled).into_iter().map(move |image| Image { used_by, ..image })
        })
        .collect();
    all.sort_by(|a, b| a.reference.cmp(&b.reference));
    Ok(all)
}

/// How many instances there are of each image, whichever server's.
async fn uses(inner: &Inner) -> Result<HashMap<String, u64>> {
    let client = inner.engine.docker().await?;
    let filters = HashMap::from([("label".to_owned(), vec![INSTANCE.to_owned()])]);
    let options = ListContainersOptionsBuilder::default().all(true).filters(&filters).build();
    let found = client.list_containers(Some(options)).await.map_err(|e| failed("list the containers", e))?;
    let mut uses = HashMap::new();
    for image in found.into_iter().filter_map(|container| container.image_id) {
        *uses.entry(image).or_insert(0) += 1;
    }
    Ok(uses)
}

/// An image under each of its names: those of one that was made here, and those by which one
/// was pulled.
fn of(inner: &Inner, image: &ImageSummary, pulled: &[Pulled]) -> Vec<Image> {
    let label = |name: &str| image.labels.get(name).cloned();
    let like = |reference: String, claw_type: ClawType, version: String, source: Option<String>| Image {
        kind: ImageKind::Container,
        reference,
        digest: image.id.clone(),
        target: inner.config.target.clone(),
        claw_type,
        version,
        source,
        base: label(BASE),
        size_bytes: u64::try_from(image.size).unwrap_or(0),
        used_by: 0,
        created_at: Timestamp::from_millis(image.created.saturating_mul(1000)),
    };
    let made = label(CLAW_TYPE).and_then(|text| ClawType::new(text).ok()).zip(label(VERSION));
    let mut all: Vec<Image> = Vec::new();
    if let Some((claw_type, version)) = made {
        for name in names(image) {
            all.push(like(name.to_owned(), claw_type.clone(), version.clone(), label(SOURCE)));
        }
    }
    for known in pulled.iter().filter(|known| is(image, &known.reference)) {
        if all.iter().all(|other| other.reference != known.reference.whole()) {
            let registry = known.reference.registry().unwrap_or("docker.io").to_owned();
            let (claw_type, version) = (known.claw_type.clone(), known.version.clone());
            all.push(like(known.reference.whole(), claw_type, version, Some(registry)));
        }
    }
    all
}

fn names(image: &ImageSummary) -> impl Iterator<Item = &str> {
    image.repo_tags.iter().map(|name| familiar(name)).filter(|name| !name.starts_with("<none>"))
}

/// A name as people write it: Podman gives each its registry, and `localhost` where it has none.
fn familiar(name: &str) -> &str {
    let name = name.strip_prefix("localhost/").unwrap_or(name);
    let name = name.strip_prefix("docker.io/").unwrap_or(name);
    name.strip_prefix("library/").unwrap_or(name)
}

/// Whether an image goes by a reference.
fn is(image: &ImageSummary, reference: &ImageReference) -> bool {
    let whole = reference.whole();
    let by_digest = reference.digest().is_some_and(|digest| {
        let name = whole.split('@').next().unwrap_or(&whole);
        let name = match reference.tag() {
            Some(tag) => name.strip_suffix(&format!(":{tag}")).unwrap_or(name),
            None => name,
        };
        let pinned = format!("{name}@{digest}");
        image.repo_digests.iter().any(|known| familiar(known) == familiar(&pinned))
    });
    by_digest || image.repo_tags.iter().any(|known| familiar(known) == familiar(&whole))
}

/// The image that goes by a name, if it is one of a claw type.
pub(super) async fn one(inner: &Inner, reference: &ImageReference) -> Result<Option<Image>> {
    let whole = reference.whole();
    Ok(images(inner).await?.into_iter().find(|image| image.reference == whole))
}

/// [`clawfarm_runtime::Images::remove_image`].
pub(crate) async fn remove(inner: &Inner, reference: &ImageReference) -> Result<()> {
    let whole = reference.whole();
    let missing = || {
        Error::not_found("image", reference)
            .field("image")
            .fix(format!("see 'clawfarm image ls' for what target '{}' has", inner.config.target))
    };
    let image = one(inner, reference).await?.ok_or_else(missing)?;
    if image.used_by > 0 {
        return Err(Error::new(
            Code::Conflict,
            format!("the image '{whole}' is used by {} instances", image.used_by),
        )
        .field("image")
        .fix("remove those first, or have them run another version: clawfarm ps, clawfarm update"));
    }
    let client = inner.engine.docker().await?;
    let options = RemoveImageOptionsBuilder::default().build();
    match client.remove_image(&whole, Some(options), None).await {
        Ok(_) => {}
        Err(error) if is_missing(&error) => {}
        Err(error) if is_state(&error) => {
            let told = failed(format!("remove the image '{whole}'"), error);
            return Err(Error::new(Code::Conflict, told.message().to_owned())
                .field("image")
                .fix("something else of the engine uses it: docker ps --all")
                .source(told));
        }
        Err(error) => return Err(failed(format!("remove the image '{whole}'"), error)),
    }
    pulled::remove(inner, reference).await?;
    log::remove(inner, &whole).await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_known_by_each_of_its_names() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let image = ImageSummary {
            repo_tags: vec![
                "localhost/clawfarm/openclaw:1".into(),
                "docker.io/library/busybox:latest".into(),
            ],
            repo_digests: vec![format!("127.0.0.1:5000/openclaw@{digest}")],
            ..ImageSummary::default()
        };
        let known = |text: &str| is(&image, &ImageReference::new(text).unwrap());
        assert_eq!(names(&image).collect::<Vec<_>>(), ["clawfarm/openclaw:1", "busybox:latest"]);
        assert!(known("clawfarm/openclaw:1") && known("busybox") && !known("openclaw:1"));
        assert!(known(&format!("127.0.0.1:5000/openclaw@{digest}")));
        assert!(known(&format!("127.0.0.1:5000/openclaw:2@{digest}")));
        assert!(!known(&format!("127.0.0.1:5000/openclaw@sha256:{}", "b".repeat(64))));
    }
}
