//! `/datasets`: data that outlived its instance.

use axum::Json;
use axum::extract::State;
use clawfarm_api::DatasetList;
use clawfarm_model::ClawId;
use http::StatusCode;

use crate::error::ApiResult;
use crate::extract::{Ctx, Segment};
use crate::state::ServerState;

/// The datasets.
#[utoipa::path(
    get, path = "/api/v1/datasets", tag = "datasets",
    responses((status = 200, description = "The datasets", body = DatasetList))
)]
pub(super) async fn list(
    State(state): State<ServerState>,
    Ctx(context): Ctx,
) -> ApiResult<Json<DatasetList>> {
    Ok(Json(DatasetList { items: state.control().datasets(&context).await? }))
}

/// Removes a dataset for good.
#[utoipa::path(
    delete, path = "/api/v1/datasets/{id}", tag = "datasets",
    params(("id" = ClawId, Path, description = "The dataset: the id of the instance it was of, in full")),
    responses((status = 204, description = "It is gone"))
)]
pub(super) async fn remove(
    State(state): State<ServerState>,
    Ctx(context): Ctx,
    Segment(id): Segment<ClawId>,
) -> ApiResult<StatusCode> {
    state.control().remove_dataset(&context, &id).await?;
    Ok(StatusCode::NO_CONTENT)
}
