//! `/instances/{id}/send`: says something to a claw.

use axum::extract::State;
use axum::response::Response;
use clawfarm_adapters::SendEvent as Heard;
use clawfarm_api::stream::ANSWER;
use clawfarm_api::{SendEvent, SendRequest};
use futures::StreamExt;

use crate::error::ApiResult;
use crate::extract::{Ctx, IdText, Json, Segment};
use crate::state::ServerState;
use crate::stream::{Item, answer};

/// Sends a message, and streams the answer: `answer` events with a `SendEvent` each, then
/// `end`, or `error` with a problem when it breaks midway.
#[utoipa::path(
    post, path = "/api/v1/instances/{id}/send", tag = "instances",
    params(("id" = inline(IdText), Path, description = "Its id, its name when that is unique, or a unique prefix")),
    request_body(content = SendRequest, example = json!({"message": "Hello!"})),
    responses((status = 200, description = "The answer, as an event stream", body = SendEvent,
        content_type = "text/event-stream"))
)]
pub(super) async fn send(
    State(state): State<ServerState>,
    Ctx(context): Ctx,
    Segment(id): Segment<IdText>,
    Json { value: request, .. }: Json<SendRequest>,
) -> ApiResult<Response> {
    let heard = state.control().send(&context, &id.0, &request.message).await?;
    let pieces = heard.map(|piece| piece.map(|piece| Item::from(view(piece)))).boxed();
    Ok(answer(ANSWER, pieces, state.shutdown().clone(), context.request_id()))
}

fn view(heard: Heard) -> SendEvent {
    match heard {
        Heard::Text { text } => SendEvent::Text { text },
        Heard::Done { input_tokens, output_tokens } => SendEvent::Done { input_tokens, output_tokens },
    }
}
