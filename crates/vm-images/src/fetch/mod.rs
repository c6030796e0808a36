//! Fetching an image from its maker's site, or a mirror of it.

mod http;
mod part;
mod sums;

use clawfarm_files::blocking;
use clawfarm_model::vm_image::VmImageReference;
use clawfarm_model::{Code, Error, Result, Timestamp};
use clawfarm_runtime::Progress;

use self::http::Http;
use self::part::Piece;
pub(crate) use self::part::{Part, free, hex};
use crate::config::ImagesConfig;
use crate::record::{Origin, Record, Signature};
use crate::store::{IMAGE, Making};
use crate::supported::{Place, Supported};

/// The longest list of digests, in bytes; Ubuntu's has 8 KiB.
const SUMS_MAX: usize = 1 << 20;
/// The longest signature, in bytes.
const SIGNATURE_MAX: usize = 1 << 16;

/// How often a list is asked for: of a site that does not answer people want to hear soon, and nothing
/// has come yet that would be lost.
const ASKED: u32 = 3;

/// Fetches into a folder that is ours alone; what is there of an earlier attempt is gone on with.
///
/// # Errors
/// What the site, the connection or the disk did; what came so far is kept for the next
/// attempt, but for a file that has another digest than its site says.
pub(crate) async fn fetch(
    config: &ImagesConfig,
    one: &Supported,
    reference: &VmImageReference,
    making: &Making,
    progress: &dyn Progress,
) -> Result<Record> {
    let place = one.place(reference.day(), std::env::consts::ARCH)?;
    let base = format!("{}{}", config.site(one.distribution), place.folder);
    let http = Http::new(config.site_ca.as_deref(), config.limits)?;
    progress.step("check", &format!("asking for the digest of {reference}"), None, "");
    let (expected, signature) = digest(config, one, &http, &base, &place, making, progress).await?;
    let url = format!("{base}{}", place.file);
    let piece = Piece { url: &url, expected: &expected, reference };
    let got = match Part::download(&http, config, making, &piece, progress).await {
        // What was there of an earlier attempt may have been of another file.
        Err(part::Failed::Digest { resumed: true, .. }) => {
            Part::forget(making)?;
            Part::download(&http, config, making, &piece, progress).await
        }
        other => other,
    }
    .map_err(|failed| failed.told(making))?;
    let path = making.folder().join(IMAGE);
    let max = config.limits.image_max;
    let checked = blocking(move || {
        let file = std::fs::File::open(&path)
            .map_err(|error| clawfarm_files::io_error("open what was downloaded", error))?;
        crate::format::shape_of(&file, max)
    })
    .await;
    let shape = match checked {
        Ok(shape) => shape,
        Err(error) => {
            Part::forget(making)?;
            return Err(error.field("image"));
        }
    };
    Part::done(making)?;
    Ok(Record {
        reference: reference.clone(),
        format: shape.format,
        size_bytes: got.size,
        disk_bytes: shape.disk_bytes,
        digest: format!("sha256:{}", got.sha256),
        origin: Origin::Fetched { url, signature },
        made_at: Timestamp::now(),
    })
}

/// The digest that the file must have, and who says so.
async fn digest(
    config: &ImagesConfig,
    one: &Supported,
    http: &Http,
    base: &str,
    place: &Place,
    making: &Making,
    progress: &dyn Progress,
) -> Result<(sums::Expected, Signature)> {
    let asking = Asking { config, http, base, progress };
    let list = asking.get(place.sums, SUMS_MAX).await?;
    let signature = match (place.signature, config.keyring(one.distribution)) {
        (Some(file), Some(keyring)) if keyring.exists() => {
            let signature = asking.get(file, SIGNATURE_MAX).await.map_err(|error| match error.code() {
                Code::NotFound => Error::new(
                    Code::Forbidden,
                    format!("the site has a list of digests without its signature {file}"),
                )
                .field("image")
                .fix("let the mirror have it too, or fetch from the maker's own site"),
                _ => error,
            })?;
            sums::check_signature(making.folder(), &list, &signature, keyring, progress).await?
        }
        (Some(_), _) => Signature::NoKeyring,
        (None, _) => Signature::NotSigned,
    };
    Ok((sums::expected(&list, place.sums, &place.file)?, signature))
}

/// Where small files of a folder are asked for.
struct Asking<'a> {
    config: &'a ImagesConfig,
    http: &'a Http,
    base: &'a str,
    progress: &'a dyn Progress,
}

impl Asking<'_> {
    /// Asks for a file, again a few times where that may well work in a moment.
    async fn get(&self, file: &str, max: usize) -> Result<Vec<u8>> {
        let url = format!("{}{file}", self.base);
        let mut pause = self.config.limits.pause;
        for _ in 1..self.config.limits.tries.min(ASKED) {
            match self.http.get_small(&url, max).await {
                Err(failure) if failure.again => {
                    self.progress.say(&format!("{}; trying again", failure.error.message()));
                    tokio::time::sleep(pause).await;
                    pause *= 2;
                }
                other => return Ok(other?),
            }
        }
        Ok(self.http.get_small(&url, max).await?)
    }
}
