//! `/targets`: the places that instances run on.

use axum::Json;
use axum::extract::State;
use clawfarm_api::{AddTarget, TargetList, TargetView};
use clawfarm_control::NewTarget;
use clawfarm_model::Error;
use clawfarm_model::name::TargetName;
use clawfarm_model::target::Target;
use http::StatusCode;

use crate::error::ApiResult;
use crate::extract::{Ctx, Json as Body, Segment};
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

/// Adds a target that answers. The same once more is a success.
#[utoipa::path(
    post, path = "/api/v1/targets", tag = "targets",
    request_body = AddTarget,
    responses((status = 201, description = "It is there", body = Target))
)]
pub(super) async fn add(
    State(state): State<ServerState>,
    Ctx(context): Ctx,
    Body { value: request, .. }: Body<AddTarget>,
) -> ApiResult<(StatusCode, Json<Target>)> {
    let settings = serde_json::to_value(&request.settings)
        .map_err(|e| Error::internal("settings could not be put into JSON", e))?;
    let AddTarget { name, runtime, labels, .. } = request;
    let added = state.control().add_target(&context, NewTarget { name, runtime, labels, settings }).await?;
    Ok((StatusCode::CREATED, Json(added)))
}

/// Removes a target that nothing is on.
#[utoipa::path(
    delete, path = "/api/v1/targets/{name}", tag = "targets",
    params(("name" = TargetName, Path, description = "The target")),
    responses((status = 204, description = "It is gone"))
)]
pub(super) async fn remove(
    State(state): State<ServerState>,
    Ctx(context): Ctx,
    Segment(name): Segment<TargetName>,
) -> ApiResult<StatusCode> {
    state.control().remove_target(&context, &name).await?;
    Ok(StatusCode::NO_CONTENT)
}
