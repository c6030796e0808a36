//! `/rollouts`: revisions on their way to their instances.

use axum::Json as Answer;
use axum::extract::State;
use clawfarm_api::{MemberList, MembersQuery, RolloutList, RolloutsQuery};
use clawfarm_config::Rollout;

use super::limit;
use crate::error::ApiResult;
use crate::extract::{Ctx, IdText, Query, Segment};
use crate::state::ServerState;

/// Rollouts, the newest first.
#[utoipa::path(
    get, path = "/api/v1/rollouts", tag = "configs", params(RolloutsQuery),
    responses((status = 200, description = "The newest of them", body = RolloutList))
)]
pub(super) async fn list(
    State(state): State<ServerState>,
    Ctx(context): Ctx,
    Query(query): Query<RolloutsQuery>,
) -> ApiResult<Answer<RolloutList>> {
    let limit = limit(query.limit)?;
    Ok(Answer(RolloutList { items: state.control().rollouts(&context, query.config.as_ref(), limit).await? }))
}

/// One rollout: where it is, and how many of its instances are where.
#[utoipa::path(
    get, path = "/api/v1/rollouts/{id}", tag = "configs",
    params(("id" = inline(IdText), Path, description = "Its id")),
    responses((status = 200, description = "The rollout", body = Rollout))
)]
pub(super) async fn get(
    State(state): State<ServerState>,
    Ctx(context): Ctx,
    Segment(id): Segment<IdText>,
) -> ApiResult<Answer<Rollout>> {
    Ok(Answer(state.control().rollout(&context, &id.0).await?))
}

/// Its instances in the order of their turns, page by page.
#[utoipa::path(
    get, path = "/api/v1/rollouts/{id}/instances", tag = "configs",
    params(("id" = inline(IdText), Path, description = "Its id"), MembersQuery),
    responses((status = 200, description = "One page", body = MemberList))
)]
pub(super) async fn instances(
    State(state): State<ServerState>,
    Ctx(context): Ctx,
    Segment(id): Segment<IdText>,
    Query(query): Query<MembersQuery>,
) -> ApiResult<Answer<MemberList>> {
    let limit = limit(query.limit)?;
    let items = state.control().rollout_members(&context, &id.0, query.state, query.after, limit).await?;
    let next = items.last().map(|it| it.place).filter(|_| items.len() >= limit as usize);
    Ok(Answer(MemberList { items, next }))
}

/// Begins with no more instances; those on their way go on.
#[utoipa::path(
    post, path = "/api/v1/rollouts/{id}/pause", tag = "configs",
    params(("id" = inline(IdText), Path, description = "Its id")),
    responses((status = 200, description = "The rollout now", body = Rollout))
)]
pub(super) async fn pause(
    State(state): State<ServerState>,
    Ctx(context): Ctx,
    Segment(id): Segment<IdText>,
) -> ApiResult<Answer<Rollout>> {
    Ok(Answer(state.control().pause_rollout(&context, &id.0).await?))
}

/// Goes on with one that was paused.
#[utoipa::path(
    post, path = "/api/v1/rollouts/{id}/resume", tag = "configs",
    params(("id" = inline(IdText), Path, description = "Its id")),
    responses((status = 200, description = "The rollout now", body = Rollout))
)]
pub(super) async fn resume(
    State(state): State<ServerState>,
    Ctx(context): Ctx,
    Segment(id): Segment<IdText>,
) -> ApiResult<Answer<Rollout>> {
    Ok(Answer(state.control().resume_rollout(&context, &id.0).await?))
}

/// Ends it where it is: who has the new revision keeps it.
#[utoipa::path(
    post, path = "/api/v1/rollouts/{id}/abort", tag = "configs",
    params(("id" = inline(IdText), Path, description = "Its id")),
    responses((status = 200, description = "The rollout now", body = Rollout))
)]
pub(super) async fn abort(
    State(state): State<ServerState>,
    Ctx(context): Ctx,
    Segment(id): Segment<IdText>,
) -> ApiResult<Answer<Rollout>> {
    Ok(Answer(state.control().abort_rollout(&context, &id.0).await?))
}

/// Goes on to the next step without waiting any longer.
#[utoipa::path(
    post, path = "/api/v1/rollouts/{id}/promote", tag = "configs",
    params(("id" = inline(IdText), Path, description = "Its id")),
    responses((status = 200, description = "The rollout now", body = Rollout))
)]
pub(super) async fn promote(
    State(state): State<ServerState>,
    Ctx(context): Ctx,
    Segment(id): Segment<IdText>,
) -> ApiResult<Answer<Rollout>> {
    Ok(Answer(state.control().promote_rollout(&context, &id.0).await?))
}

/// Gives those that were changed back what they had.
#[utoipa::path(
    post, path = "/api/v1/rollouts/{id}/rollback", tag = "configs",
    params(("id" = inline(IdText), Path, description = "Its id")),
    responses((status = 200, description = "The rollout now", body = Rollout))
)]
pub(super) async fn roll_back(
    State(state): State<ServerState>,
    Ctx(context): Ctx,
    Segment(id): Segment<IdText>,
) -> ApiResult<Answer<Rollout>> {
    Ok(Answer(state.control().turn_round(&context, &id.0).await?))
}
