//! `/instances/{id}/{start,stop,restart,kill,suspend,resume,update}`.
//!
//! Each writes what is wanted and answers at once with the operation to wait for.

use axum::extract::State;
use axum::response::IntoResponse;
use clawfarm_api::{Accepted, StopRequest, SuspendRequest, UpdateSoftware};

use super::instances::accepted;
use crate::error::ApiResult;
use crate::extract::{Ctx, IdText, JsonOrDefault, Segment};
use crate::state::ServerState;

/// Starts an instance that is down. Up already is a success.
#[utoipa::path(
    post, path = "/api/v1/instances/{id}/start", tag = "lifecycle",
    params(("id" = inline(IdText), Path, description = "Its id, its name when that is unique, or a unique prefix")),
    responses((status = 202, description = "It is being started", body = Accepted,
        headers(("location" = String, description = "The operation"))))
)]
pub(super) async fn start(
    State(state): State<ServerState>,
    Ctx(context): Ctx,
    Segment(id): Segment<IdText>,
) -> ApiResult<impl IntoResponse> {
    Ok(accepted(state.control().start(&context, &id.0).await?))
}

/// Stops an instance: it finishes its work first, unless `force`.
#[utoipa::path(
    post, path = "/api/v1/instances/{id}/stop", tag = "lifecycle",
    params(("id" = inline(IdText), Path, description = "Its id, its name when that is unique, or a unique prefix")),
    request_body = StopRequest,
    responses((status = 202, description = "It is being stopped", body = Accepted,
        headers(("location" = String, description = "The operation"))))
)]
pub(super) async fn stop(
    State(state): State<ServerState>,
    Ctx(context): Ctx,
    Segment(id): Segment<IdText>,
    JsonOrDefault(request): JsonOrDefault<StopRequest>,
) -> ApiResult<impl IntoResponse> {
    Ok(accepted(state.control().stop(&context, &id.0, request.force).await?))
}

/// Stops an instance and starts it again.
#[utoipa::path(
    post, path = "/api/v1/instances/{id}/restart", tag = "lifecycle",
    params(("id" = inline(IdText), Path, description = "Its id, its name when that is unique, or a unique prefix")),
    responses((status = 202, description = "It is being restarted", body = Accepted,
        headers(("location" = String, description = "The operation"))))
)]
pub(super) async fn restart(
    State(state): State<ServerState>,
    Ctx(context): Ctx,
    Segment(id): Segment<IdText>,
) -> ApiResult<impl IntoResponse> {
    Ok(accepted(state.control().restart(&context, &id.0).await?))
}

/// Ends an instance at once, without asking it. It stays stopped.
#[utoipa::path(
    post, path = "/api/v1/instances/{id}/kill", tag = "lifecycle",
    params(("id" = inline(IdText), Path, description = "Its id, its name when that is unique, or a unique prefix")),
    responses((status = 202, description = "It is being ended", body = Accepted,
        headers(("location" = String, description = "The operation"))))
)]
pub(super) async fn kill(
    State(state): State<ServerState>,
    Ctx(context): Ctx,
    Segment(id): Segment<IdText>,
) -> ApiResult<impl IntoResponse> {
    Ok(accepted(state.control().kill(&context, &id.0).await?))
}

/// Puts an instance to sleep: drained and ended, or frozen in memory with `warm`. One that
/// works is refused with what it works on, unless `force`.
#[utoipa::path(
    post, path = "/api/v1/instances/{id}/suspend", tag = "lifecycle",
    params(("id" = inline(IdText), Path, description = "Its id, its name when that is unique, or a unique prefix")),
    request_body = SuspendRequest,
    responses((status = 202, description = "It is being put to sleep", body = Accepted,
        headers(("location" = String, description = "The operation"))))
)]
pub(super) async fn suspend(
    State(state): State<ServerState>,
    Ctx(context): Ctx,
    Segment(id): Segment<IdText>,
    JsonOrDefault(request): JsonOrDefault<SuspendRequest>,
) -> ApiResult<impl IntoResponse> {
    Ok(accepted(state.control().suspend(&context, &id.0, request.warm, request.force).await?))
}

/// Wakes an instance that sleeps. Awake already is a success.
#[utoipa::path(
    post, path = "/api/v1/instances/{id}/resume", tag = "lifecycle",
    params(("id" = inline(IdText), Path, description = "Its id, its name when that is unique, or a unique prefix")),
    responses((status = 202, description = "It is being woken", body = Accepted,
        headers(("location" = String, description = "The operation"))))
)]
pub(super) async fn resume(
    State(state): State<ServerState>,
    Ctx(context): Ctx,
    Segment(id): Segment<IdText>,
) -> ApiResult<impl IntoResponse> {
    Ok(accepted(state.control().resume(&context, &id.0).await?))
}

/// Has an instance run another version of its software. The new version has to pass its startup
/// probe; otherwise the old one comes back with its data, and the operation fails. One that is
/// down stays down, and the new version is tried at its next start.
#[utoipa::path(
    post, path = "/api/v1/instances/{id}/update", tag = "lifecycle",
    params(("id" = inline(IdText), Path, description = "Its id, its name when that is unique, or a unique prefix")),
    request_body = UpdateSoftware,
    responses((status = 202, description = "It is being updated", body = Accepted,
        headers(("location" = String, description = "The operation"))))
)]
pub(super) async fn update(
    State(state): State<ServerState>,
    Ctx(context): Ctx,
    Segment(id): Segment<IdText>,
    JsonOrDefault(request): JsonOrDefault<UpdateSoftware>,
) -> ApiResult<impl IntoResponse> {
    let accepted_as = state.control().update_software(&context, &id.0, request.version.as_deref()).await?;
    Ok(accepted(accepted_as))
}
