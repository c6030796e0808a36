//! An instance's gateway token, and its dashboard.

use axum::Json;
use axum::extract::State;
use axum::response::IntoResponse;
use clawfarm_api::{Accepted, DashboardView, TokenView};
use secrecy::ExposeSecret;

use super::instances::accepted;
use crate::error::ApiResult;
use crate::extract::{Ctx, IdText, Segment};
use crate::state::ServerState;

/// Reads the gateway token. Its owner only; it is audited, and told as an event.
#[utoipa::path(
    post, path = "/api/v1/instances/{id}/token/reveal", tag = "instances",
    params(("id" = inline(IdText), Path, description = "Its id, its name when that is unique, or a unique prefix")),
    responses((status = 200, description = "The token", body = TokenView))
)]
pub(super) async fn reveal(
    State(state): State<ServerState>,
    Ctx(context): Ctx,
    Segment(id): Segment<IdText>,
) -> ApiResult<Json<TokenView>> {
    let revealed = state.control().reveal_token(&context, &id.0).await?;
    Ok(Json(TokenView {
        token: revealed.token.expose_secret().to_owned(),
        dashboard_url: revealed.dashboard_url,
    }))
}

/// Gives the gateway a new token, which restarts the instance.
#[utoipa::path(
    post, path = "/api/v1/instances/{id}/token/rotate", tag = "instances",
    params(("id" = inline(IdText), Path, description = "Its id, its name when that is unique, or a unique prefix")),
    responses((status = 202, description = "It is being restarted with it", body = Accepted,
        headers(("location" = String, description = "The operation"))))
)]
pub(super) async fn rotate(
    State(state): State<ServerState>,
    Ctx(context): Ctx,
    Segment(id): Segment<IdText>,
) -> ApiResult<impl IntoResponse> {
    Ok(accepted(state.control().rotate_token(&context, &id.0).await?))
}

/// Where the dashboard is, without the token.
#[utoipa::path(
    get, path = "/api/v1/instances/{id}/dashboard", tag = "instances",
    params(("id" = inline(IdText), Path, description = "Its id, its name when that is unique, or a unique prefix")),
    responses((status = 200, description = "Its address", body = DashboardView))
)]
pub(super) async fn dashboard(
    State(state): State<ServerState>,
    Ctx(context): Ctx,
    Segment(id): Segment<IdText>,
) -> ApiResult<Json<DashboardView>> {
    Ok(Json(DashboardView { url: state.control().dashboard_url(&context, &id.0).await? }))
}
