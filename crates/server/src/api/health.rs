//! `/healthz` and `/readyz`: for whoever keeps the server running.

use axum::extract::State;

use crate::error::ApiResult;
use crate::state::ServerState;

/// Whether the process is alive.
#[utoipa::path(
    get, path = "/healthz", tag = "health", security(()),
    responses((status = 200, description = "It is alive", body = String, content_type = "text/plain", example = "ok"))
)]
pub(super) async fn alive() -> &'static str {
    "ok"
}

/// Whether requests can be served; 503 while they can not.
#[utoipa::path(
    get, path = "/readyz", tag = "health", security(()),
    responses((status = 200, description = "Requests are served", body = String, content_type = "text/plain", example = "ok"))
)]
pub(super) async fn ready(State(state): State<ServerState>) -> ApiResult<&'static str> {
    state.control().ready().await?;
    Ok("ok")
}
