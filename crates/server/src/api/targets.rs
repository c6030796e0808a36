//! `/targets`: the places that instances run on.

use axum::Json;
use axum::extract::State;
use clawfarm_api::{TargetList, TargetView};

use crate::error::ApiResult;
use crate::extract::Ctx;
use crate::state::ServerState;

/// The targets, with what they have at the moment.
#[utoipa::path(
    get, path = "/api/v1/targets", tag = "targets",
    responses((status = 200, description = "The targets", body = TargetList))
)]
pub(super) async fn list(State(state): State<ServerState>, Ctx(context): Ctx) -> ApiResult<Json<TargetList>> {
    let targets = state.control().targets(&context).await?;
    let view = |(target, capacity, instances)| TargetView { target, capacity, instances };
    Ok(Json(TargetList { items: targets.into_iter().map(view).collect() }))
}
