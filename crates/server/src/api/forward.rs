//! `/instances/{id}/port-forward`: a connection to a port of an instance.

use axum::extract::State;
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::response::Response;
use clawfarm_api::ForwardQuery;
use clawfarm_model::Result;

use super::console::no_websocket;
use crate::error::ApiResult;
use crate::extract::{Ctx, IdText, Query, Segment};
use crate::forward::{MESSAGE_MAX, pump};
use crate::state::ServerState;

/// Opens a connection to a TCP port of an instance, as a WebSocket. Only what the instance itself
/// listens on at 127.0.0.1 is reached; without `port` it is its gateway. One that sleeps is
/// woken. Binary messages carry the bytes both ways; an empty one says that no more follow in
/// that direction, and the WebSocket is closed when both have ended. The client pings at least
/// every minute.
#[utoipa::path(
    get, path = "/api/v1/instances/{id}/port-forward", tag = "console",
    params(
        ("id" = String, Path, description = "Its id, its name when that is unique, or a unique prefix"),
        ForwardQuery,
    ),
    responses((status = 101, description = "The connection is open"))
)]
pub(super) async fn open(
    State(state): State<ServerState>,
    Ctx(context): Ctx,
    Segment(id): Segment<IdText>,
    Query(query): Query<ForwardQuery>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> ApiResult<Response> {
    let upgrade = upgrade.map_err(|rejection| no_websocket(&rejection))?;
    let id = state.control().id_of(&context, &id.0).await?;
    let place = state.forwards().place(&id)?;
    let connection = state.control().forward(&context, id.as_str(), query.port).await?;
    let stop = state.shutdown().clone();
    Ok(upgrade
        .max_message_size(MESSAGE_MAX)
        .max_frame_size(MESSAGE_MAX)
        .on_upgrade(move |socket| pump(socket, connection, stop, place)))
}
