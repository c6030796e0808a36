//! Messages of services that wait for an instance, or were given up.

use axum::Json;
use axum::extract::State;
use clawfarm_api::{InboxChanged, InboxHeader, InboxList, InboxMessageView, InboxQuery};

use crate::error::ApiResult;
use crate::extract::{Ctx, IdText, Query, Segment, Segments};
use crate::state::ServerState;

/// What stands in the place of a value that proves a sender.
const HIDDEN: &str = "(not shown)";

/// The messages that wait for an instance or were given up, in the order they came.
#[utoipa::path(
    get, path = "/api/v1/instances/{id}/inbox", tag = "inbox",
    params(("id" = inline(IdText), Path, description = "Its id, its name when that is unique, or a unique prefix"), InboxQuery),
    responses((status = 200, description = "The messages", body = InboxList))
)]
pub(super) async fn list(
    State(state): State<ServerState>,
    Ctx(context): Ctx,
    Segment(id): Segment<IdText>,
    Query(query): Query<InboxQuery>,
) -> ApiResult<Json<InboxList>> {
    let limit = super::limit(query.limit)?;
    let after = query.after.as_deref();
    Ok(Json(InboxList { items: state.control().messages(&context, &id.0, query.state, after, limit).await? }))
}

/// One message, with what it says.
#[utoipa::path(
    get, path = "/api/v1/instances/{id}/inbox/{message}", tag = "inbox",
    params(
        ("id" = inline(IdText), Path, description = "Its id, its name when that is unique, or a unique prefix"),
        ("message" = inline(IdText), Path, description = "The message's id"),
    ),
    responses((status = 200, description = "The message", body = InboxMessageView))
)]
pub(super) async fn get(
    State(state): State<ServerState>,
    Ctx(context): Ctx,
    Segments(id, message): Segments,
) -> ApiResult<Json<InboxMessageView>> {
    let (message, request, body) = state.control().message(&context, &id.0, &message.0).await?;
    let shown = |(name, value): (String, Vec<u8>)| {
        let hides =
            ["authorization", "cookie", "token", "secret", "signature"].iter().any(|it| name.contains(it));
        let value = if hides { HIDDEN.to_owned() } else { String::from_utf8_lossy(&value).into_owned() };
        InboxHeader { name, value }
    };
    Ok(Json(InboxMessageView {
        message,
        target: request.target,
        headers: request.headers.into_iter().map(shown).collect(),
        body: String::from_utf8_lossy(&body).into_owned(),
    }))
}

/// Has all messages that were given up tried again.
#[utoipa::path(
    post, path = "/api/v1/instances/{id}/inbox/replay", tag = "inbox",
    params(("id" = inline(IdText), Path, description = "Its id, its name when that is unique, or a unique prefix")),
    responses((status = 200, description = "They are tried again", body = InboxChanged))
)]
pub(super) async fn replay_all(
    State(state): State<ServerState>,
    Ctx(context): Ctx,
    Segment(id): Segment<IdText>,
) -> ApiResult<Json<InboxChanged>> {
    Ok(Json(InboxChanged { messages: state.control().replay(&context, &id.0, None).await? }))
}

/// Has a message that was given up tried again.
#[utoipa::path(
    post, path = "/api/v1/instances/{id}/inbox/{message}/replay", tag = "inbox",
    params(
        ("id" = inline(IdText), Path, description = "Its id, its name when that is unique, or a unique prefix"),
        ("message" = inline(IdText), Path, description = "The message's id"),
    ),
    responses((status = 200, description = "It is tried again", body = InboxChanged))
)]
pub(super) async fn replay(
    State(state): State<ServerState>,
    Ctx(context): Ctx,
    Segments(id, message): Segments,
) -> ApiResult<Json<InboxChanged>> {
    Ok(Json(InboxChanged { messages: state.control().replay(&context, &id.0, Some(&message.0)).await? }))
}

/// Drops all messages that were given up, for good.
#[utoipa::path(
    delete, path = "/api/v1/instances/{id}/inbox", tag = "inbox",
    params(("id" = inline(IdText), Path, description = "Its id, its name when that is unique, or a unique prefix")),
    responses((status = 200, description = "They are gone", body = InboxChanged))
)]
pub(super) async fn remove_all(
    State(state): State<ServerState>,
    Ctx(context): Ctx,
    Segment(id): Segment<IdText>,
) -> ApiResult<Json<InboxChanged>> {
    Ok(Json(InboxChanged { messages: state.control().drop_messages(&context, &id.0, None).await? }))
}

/// Drops a message for good, whether it waits or was given up.
#[utoipa::path(
    delete, path = "/api/v1/instances/{id}/inbox/{message}", tag = "inbox",
    params(
        ("id" = inline(IdText), Path, description = "Its id, its name when that is unique, or a unique prefix"),
        ("message" = inline(IdText), Path, description = "The message's id"),
    ),
    responses((status = 200, description = "It is gone", body = InboxChanged))
)]
pub(super) async fn remove(
    State(state): State<ServerState>,
    Ctx(context): Ctx,
    Segments(id, message): Segments,
) -> ApiResult<Json<InboxChanged>> {
    Ok(Json(InboxChanged {
        messages: state.control().drop_messages(&context, &id.0, Some(&message.0)).await?,
    }))
}
