//! `/images`: images of claw types on the targets that run such.

use axum::extract::State;
use axum::response::Response;
use clawfarm_api::stream::BUILD;
use clawfarm_api::{BuildEvent, BuildImage, ImageList};
use clawfarm_control::{BuildNews, NewImage};
use futures::StreamExt;

use crate::error::ApiResult;
use crate::extract::{Ctx, Json};
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
    Ok(axum::Json(ImageList { items: state.control().images(&context).await? }))
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
    Json { value: request, .. }: Json<BuildImage>,
) -> ApiResult<Response> {
    let BuildImage { claw_type, version, target, base } = request;
    let new = NewImage { claw_type, version, target, base };
    let news = state.control().build_image(&context, new).await?;
    let pieces = news.map(|piece| piece.map(|piece| Item::from(view(piece)))).boxed();
    Ok(answer(BUILD, pieces, state.shutdown().clone(), context.request_id()))
}

fn view(news: BuildNews) -> BuildEvent {
    match news {
        BuildNews::Line(text) => BuildEvent::Line { text },
        BuildNews::Done(image) => BuildEvent::Done { image },
    }
}
