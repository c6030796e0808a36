//! When claws sleep: `/instances/{id}/sleep`, `/instances/{id}/policy`, `/policies`.

use axum::Json as Answer;
use axum::extract::State;
use axum::response::IntoResponse;
use clawfarm_api::{ChangePolicy, SleepView};
use clawfarm_control::{Control, PolicyChange, PolicyOf};
use clawfarm_model::name::ProjectName;
use clawfarm_model::{Context, Result, RuntimePolicy};

use super::instances::tagged;
use crate::error::ApiResult;
use crate::extract::{Ctx, IdText, IfMatch, Json, Segment};
use crate::state::ServerState;

/// What holds for an instance's sleep and who said it, what keeps it up, when it sleeps and when
/// it is woken.
#[utoipa::path(
    get, path = "/api/v1/instances/{id}/sleep", tag = "sleep",
    params(("id" = inline(IdText), Path, description = "Its id, its name when that is unique, or a unique prefix")),
    responses((status = 200, description = "How it stands with its sleep", body = SleepView))
)]
pub(super) async fn outlook(
    State(state): State<ServerState>,
    Ctx(context): Ctx,
    Segment(id): Segment<IdText>,
) -> ApiResult<Answer<SleepView>> {
    let control = state.control();
    let instance = control.get(&context, &id.0).await?;
    let outlook = control.outlook(&context, instance.id.as_str()).await?;
    Ok(Answer(SleepView {
        id: instance.id,
        policy: outlook.policy,
        kept_awake_by: outlook.kept_awake_by,
        sleeps_at: outlook.sleeps_at,
        wakes_at: outlook.wakes_at.map(|(at, _)| at),
        wakes_for: outlook.wakes_at.map(|(_, cause)| cause),
        next_run_at: outlook.next_run_at,
        last_used_at: outlook.last_used,
        open_requests: outlook.traffic.requests as u64,
        open_sockets: outlook.traffic.sockets as u64,
        last_wake: outlook.last_wake,
    }))
}

/// Changes an instance's own policy, and nothing of what runs. What is left out stays; `null` is
/// said no more.
#[utoipa::path(
    patch, path = "/api/v1/instances/{id}/policy", tag = "sleep",
    params(
        ("id" = inline(IdText), Path, description = "Its id, its name when that is unique, or a unique prefix"),
        ("if-match" = inline(IfMatch), Header, description = "The ETag that the change is based on", example = "\"7\""),
    ),
    request_body(content = ChangePolicy, example = json!({"idle_seconds": 900})),
    responses((status = 200, description = "Its own policy now", body = RuntimePolicy,
        headers(("etag" = String, description = "Its new version"))))
)]
pub(super) async fn change(
    State(state): State<ServerState>,
    Ctx(context): Ctx,
    Segment(id): Segment<IdText>,
    IfMatch(version): IfMatch,
    Json { value: change, .. }: Json<ChangePolicy>,
) -> ApiResult<impl IntoResponse> {
    let instance = state.control().change_policy(&context, &id.0, version, &of(change)).await?;
    Ok((tagged(&instance), Answer(instance.spec.policy)))
}

/// What the server says of sleep, for all of its instances.
#[utoipa::path(
    get, path = "/api/v1/policies/server", tag = "sleep",
    responses((status = 200, description = "The server's policy", body = RuntimePolicy))
)]
pub(super) async fn server(
    State(state): State<ServerState>,
    Ctx(context): Ctx,
) -> ApiResult<Answer<RuntimePolicy>> {
    Ok(Answer(state.control().policy_of(&context, &PolicyOf::Server).await?))
}

/// Changes it.
#[utoipa::path(
    patch, path = "/api/v1/policies/server", tag = "sleep",
    request_body(content = ChangePolicy, example = json!({"idle_seconds": 1800})),
    responses((status = 200, description = "The server's policy now", body = RuntimePolicy))
)]
pub(super) async fn change_server(
    State(state): State<ServerState>,
    Ctx(context): Ctx,
    Json { value, .. }: Json<ChangePolicy>,
) -> ApiResult<Answer<RuntimePolicy>> {
    changed(state.control(), &context, &PolicyOf::Server, value).await
}

/// What the tenant says of sleep, for its instances.
#[utoipa::path(
    get, path = "/api/v1/policies/tenant", tag = "sleep",
    responses((status = 200, description = "The tenant's policy", body = RuntimePolicy))
)]
pub(super) async fn tenant(
    State(state): State<ServerState>,
    Ctx(context): Ctx,
) -> ApiResult<Answer<RuntimePolicy>> {
    Ok(Answer(state.control().policy_of(&context, &tenant_of(&context)?).await?))
}

/// Changes it.
#[utoipa::path(
    patch, path = "/api/v1/policies/tenant", tag = "sleep",
    request_body(content = ChangePolicy, example = json!({"idle_seconds": 1800})),
    responses((status = 200, description = "The tenant's policy now", body = RuntimePolicy))
)]
pub(super) async fn change_tenant(
    State(state): State<ServerState>,
    Ctx(context): Ctx,
    Json { value, .. }: Json<ChangePolicy>,
) -> ApiResult<Answer<RuntimePolicy>> {
    changed(state.control(), &context, &tenant_of(&context)?, value).await
}

/// What a project says of sleep, for its instances.
#[utoipa::path(
    get, path = "/api/v1/policies/projects/{project}", tag = "sleep",
    params(("project" = ProjectName, Path, description = "Its name", example = "default")),
    responses((status = 200, description = "The project's policy", body = RuntimePolicy))
)]
pub(super) async fn project(
    State(state): State<ServerState>,
    Ctx(context): Ctx,
    Segment(project): Segment<ProjectName>,
) -> ApiResult<Answer<RuntimePolicy>> {
    Ok(Answer(state.control().policy_of(&context, &Control::project_of(&context, project)?).await?))
}

/// Changes it.
#[utoipa::path(
    patch, path = "/api/v1/policies/projects/{project}", tag = "sleep",
    params(("project" = ProjectName, Path, description = "Its name", example = "default")),
    request_body(content = ChangePolicy, example = json!({"idle_seconds": 1800})),
    responses((status = 200, description = "The project's policy now", body = RuntimePolicy))
)]
pub(super) async fn change_project(
    State(state): State<ServerState>,
    Ctx(context): Ctx,
    Segment(project): Segment<ProjectName>,
    Json { value, .. }: Json<ChangePolicy>,
) -> ApiResult<Answer<RuntimePolicy>> {
    changed(state.control(), &context, &Control::project_of(&context, project)?, value).await
}

fn tenant_of(context: &Context) -> Result<PolicyOf> {
    Ok(PolicyOf::Tenant(context.tenant()?.clone()))
}

async fn changed(
    control: &Control,
    context: &Context,
    whose: &PolicyOf,
    change: ChangePolicy,
) -> ApiResult<Answer<RuntimePolicy>> {
    Ok(Answer(control.change_policy_of(context, whose, &of(change)).await?))
}

fn of(change: ChangePolicy) -> PolicyChange {
    PolicyChange {
        never: change.never,
        idle_seconds: change.idle_seconds,
        min_warm_seconds: change.min_warm_seconds,
        min_running_seconds: change.min_running_seconds,
        drain_timeout_seconds: change.drain_timeout_seconds,
        hours: change.hours,
        prewake: change.prewake,
    }
}
