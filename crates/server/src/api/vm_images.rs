//! `/vm-images`: what virtual machines are made of.

use axum::extract::State;
use axum::response::Response;
use clawfarm_api::stream::BUILD;
use clawfarm_api::{AddVmImage, ImageSource, VmImageEvent, VmImageList, VmImageQuery, WarmVmImage};
use clawfarm_control::{HowImage, VmImageNews, WantedSize};
use clawfarm_model::{Error, Result};
use futures::StreamExt;
use http::StatusCode;

use crate::error::ApiResult;
use crate::extract::{Ctx, IsLocal, Json, Query};
use crate::state::ServerState;
use crate::stream::{Item, answer};

/// The images of virtual machines that are here, or can be fetched.
#[utoipa::path(
    get, path = "/api/v1/vm-images", tag = "images",
    responses((status = 200, description = "The images", body = VmImageList))
)]
pub(super) async fn list(
    State(state): State<ServerState>,
    Ctx(_context): Ctx,
) -> ApiResult<axum::Json<VmImageList>> {
    Ok(axum::Json(VmImageList { items: state.control().vm_images().await? }))
}

/// Has an image come to be here, and streams how that goes: `build` events with a `VmImageEvent`
/// each, then `end`, or `error` with a problem when it fails. One that is here is told at once.
#[utoipa::path(
    post, path = "/api/v1/vm-images", tag = "images",
    request_body(content = AddVmImage, example = json!({"image": "ubuntu:24.04"})),
    responses((status = 200, description = "How it goes, as an event stream", body = VmImageEvent,
        content_type = "text/event-stream"))
)]
pub(super) async fn add(
    State(state): State<ServerState>,
    Ctx(context): Ctx,
    IsLocal(local): IsLocal,
    Json { value: request, .. }: Json<AddVmImage>,
) -> ApiResult<Response> {
    let AddVmImage { image, from, file } = request;
    let news = state.control().add_vm_image(&context, image, how(from, file, local)?).await?;
    let pieces = news.map(|piece| piece.map(|piece| Item::from(view(piece)))).boxed();
    Ok(answer(BUILD, pieces, state.shutdown().clone(), context.request_id()))
}

/// Has a base snapshot of an image made: a machine of it is booted, made idle and saved, so that
/// others can be made from it (`from_snapshot`). Streams how that goes, as for an image. One that is
/// there is told at once.
#[utoipa::path(
    post, path = "/api/v1/vm-images/warm", tag = "images",
    request_body(content = WarmVmImage, example = json!({"image": "debian:12", "resources": {"cpus": 2.0, "memory_mib": 1024}})),
    responses((status = 200, description = "How it goes, as an event stream", body = VmImageEvent,
        content_type = "text/event-stream"))
)]
pub(super) async fn warm(
    State(state): State<ServerState>,
    Ctx(context): Ctx,
    Json { value: request, .. }: Json<WarmVmImage>,
) -> ApiResult<Response> {
    let WarmVmImage { image, resources } = request;
    let wanted = WantedSize { cpus: resources.cpus, memory_mib: resources.memory_mib };
    let news = state.control().warm_vm_image(&context, image, wanted).await?;
    let pieces = news.map(|piece| piece.map(|piece| Item::from(view(piece)))).boxed();
    Ok(answer(BUILD, pieces, state.shutdown().clone(), context.request_id()))
}

/// Removes an image that no disk is made on, and what came of one that was cut off.
#[utoipa::path(
    delete, path = "/api/v1/vm-images", tag = "images",
    params(VmImageQuery),
    responses((status = 204, description = "It is gone"))
)]
pub(super) async fn remove(
    State(state): State<ServerState>,
    Ctx(context): Ctx,
    Query(query): Query<VmImageQuery>,
) -> ApiResult<StatusCode> {
    state.control().remove_vm_image(&context, &query.image).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// A path of the caller's machine would mean another file here; and the server, which may be root,
/// must not read its machine's files for whoever reaches it from elsewhere.
fn how(from: ImageSource, file: Option<String>, local: bool) -> Result<HowImage> {
    match (from, file) {
        (ImageSource::Site, None) => Ok(HowImage::Fetch),
        (ImageSource::Packages, None) => Ok(HowImage::Build),
        (ImageSource::File, None) => {
            Err(Error::invalid("file", "no file was named")
                .fix("give its whole path on the server's machine"))
        }
        (ImageSource::File, Some(_)) if !local => {
            Err(Error::invalid("file", "a file is taken in only from the server's own machine")
                .fix("copy it there, and run this command there, without --host"))
        }
        (ImageSource::File, Some(file)) if !file.starts_with('/') => {
            Err(Error::invalid("file", "the path is not absolute").fix("give the whole path of the file"))
        }
        (ImageSource::File, Some(file)) if file.contains('\0') => {
            Err(Error::invalid("file", "the path contains a NUL byte").fix("remove it"))
        }
        (ImageSource::File, Some(file)) => Ok(HowImage::Import(file.into())),
        (_, Some(_)) => Err(Error::invalid("file", "a file is of no use for an image that is not taken in")
            .fix("leave it out, or give \"from\": \"file\"")),
    }
}

fn view(news: VmImageNews) -> VmImageEvent {
    match news {
        VmImageNews::Step { message, total, unit } => VmImageEvent::Step { message, total, unit },
        VmImageNews::Advance(done) => VmImageEvent::Advance { done },
        VmImageNews::Line(text) => VmImageEvent::Line { text },
        VmImageNews::Done(image) => VmImageEvent::Done { image },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_taken_in_only_for_who_is_on_this_machine() {
        let file = |text: &str, local| how(ImageSource::File, Some(text.into()), local);
        assert_eq!(file("/a", true).unwrap(), HowImage::Import("/a".into()));
        assert_eq!(how(ImageSource::Site, None, false).unwrap(), HowImage::Fetch);
        assert_eq!(how(ImageSource::Packages, None, false).unwrap(), HowImage::Build);
        for refused in [
            file("/a", false),
            file("a", true),
            file("/a\0", true),
            how(ImageSource::File, None, true),
            how(ImageSource::Site, Some("/a".into()), true),
        ] {
            assert_eq!(refused.unwrap_err().field_name(), Some("file"));
        }
    }
}
