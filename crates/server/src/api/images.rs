//! `/images`: images of claw types on the targets that run such.

use axum::extract::State;
use axum::response::Response;
use clawfarm_api::stream::BUILD;
use clawfarm_api::{BuildEvent, BuildImage, BuildLog, ImageList, ImageQuery, PullImage};
use clawfarm_control::{BuildNews, NewImage};
use clawfarm_model::image::ImageReference;
use clawfarm_model::launch::GitSource;
use clawfarm_model::{Context, Error, Result};
use futures::StreamExt;
use futures::stream::BoxStream;
use http::StatusCode;

use crate::error::ApiResult;
use crate::extract::{Ctx, IsLocal, Json, Query};
use crate::state::ServerState;
use crate::stream::{Item, answer};

/// The images.
#[utoipa::path(
    get, path = "/api/v1/images", tag = "images",
    responses((status = 200, description = "The images", body = ImageList))
)]
pub(super) async fn list(
    State(state): State<ServerState>,
    Ctx(context): Ctx,
) -> ApiResult<axum::Json<ImageList>> {
    let all = state.control().images(&context).await?;
    Ok(axum::Json(ImageList { items: all.images, unseen: all.unseen }))
}

/// Makes an image, and streams what the build prints: `build` events with a `BuildEvent` each,
/// then `end`, or `error` with a problem when it fails.
#[utoipa::path(
    post, path = "/api/v1/images", tag = "images",
    request_body = BuildImage,
    responses((status = 200, description = "What it prints, as an event stream", body = BuildEvent,
        content_type = "text/event-stream"))
)]
pub(super) async fn build(
    State(state): State<ServerState>,
    Ctx(context): Ctx,
    IsLocal(local): IsLocal,
    Json { value: request, .. }: Json<BuildImage>,
) -> ApiResult<Response> {
    let BuildImage { claw_type, version, source, reference, target, base } = request;
    let source = source_of(source, reference, local)?;
    let new = NewImage { claw_type, version, source, target, base };
    let news = state.control().build_image(&context, new).await?;
    Ok(stream(&state, &context, news))
}

/// Fetches an image from its registry, and streams how that goes, as for a build.
#[utoipa::path(
    post, path = "/api/v1/images/pull", tag = "images",
    request_body = PullImage,
    responses((status = 200, description = "How it goes, as an event stream", body = BuildEvent,
        content_type = "text/event-stream"))
)]
pub(super) async fn pull(
    State(state): State<ServerState>,
    Ctx(context): Ctx,
    Json { value: request, .. }: Json<PullImage>,
) -> ApiResult<Response> {
    let PullImage { image, claw_type, target } = request;
    let new = clawfarm_control::PullImage { reference: ImageReference::new(image)?, claw_type, target };
    let news = state.control().pull_image(&context, new).await?;
    Ok(stream(&state, &context, news))
}

/// Removes an image that no instance uses.
#[utoipa::path(
    delete, path = "/api/v1/images", tag = "images",
    params(ImageQuery),
    responses((status = 204, description = "It is gone"))
)]
pub(super) async fn remove(
    State(state): State<ServerState>,
    Ctx(context): Ctx,
    Query(query): Query<ImageQuery>,
) -> ApiResult<StatusCode> {
    state.control().remove_image(&context, &query.image, query.target.as_ref()).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// What the last build of an image printed.
#[utoipa::path(
    get, path = "/api/v1/images/log", tag = "images",
    params(ImageQuery),
    responses((status = 200, description = "What it printed", body = BuildLog))
)]
pub(super) async fn log(
    State(state): State<ServerState>,
    Ctx(context): Ctx,
    Query(query): Query<ImageQuery>,
) -> ApiResult<axum::Json<BuildLog>> {
    let text = state.control().build_log(&context, &query.image, query.target.as_ref()).await?;
    Ok(axum::Json(BuildLog { text }))
}

/// A path of the caller's machine would mean another folder here; and the server, which may be
/// root, must not read its machine's files for whoever reaches it from elsewhere.
fn source_of(source: Option<String>, reference: Option<String>, local: bool) -> Result<Option<GitSource>> {
    match (source, reference) {
        (Some(repository), _)
            if !local && (repository.starts_with('/') || repository.starts_with("file:")) =>
        {
            Err(Error::invalid("source", "a folder is built only from the server's own machine")
                .fix("give the repository's URL, or run this command there, without --host"))
        }
        (Some(repository), reference) => Ok(Some(GitSource { repository, reference })),
        (None, Some(_)) => {
            Err(Error::invalid("ref", "is of no use without a source").fix("give the repository as 'source'"))
        }
        (None, None) => Ok(None),
    }
}

fn stream(state: &ServerState, context: &Context, news: BoxStream<'static, Result<BuildNews>>) -> Response {
    let pieces = news.map(|piece| piece.map(|piece| Item::from(view(piece)))).boxed();
    answer(BUILD, pieces, state.shutdown().clone(), context.request_id())
}

fn view(news: BuildNews) -> BuildEvent {
    match news {
        BuildNews::Line(text) => BuildEvent::Line { text },
        BuildNews::Done(image) => BuildEvent::Done { image },
    }
}
