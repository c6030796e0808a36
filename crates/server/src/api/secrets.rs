//! `/secrets`: set, rotated, listed by name, removed; never read.

use axum::extract::State;
use clawfarm_api::{RotateSecret, SecretDetail, SecretList, SecretQuery, SecretRemovalQuery, SetSecret};
use clawfarm_control::SecretAt;
use clawfarm_model::name::ProjectName;
use clawfarm_model::secret::{SecretInfo, SecretName, SecretScope};
use clawfarm_model::{ClawId, Error};
use http::StatusCode;
use secrecy::SecretString;

use crate::error::ApiResult;
use crate::extract::{Ctx, Json, Query, Segment};
use crate::state::ServerState;

/// The secrets' names and owners. Values are never answered.
#[utoipa::path(
    get, path = "/api/v1/secrets", tag = "secrets",
    responses((status = 200, description = "What may be shown of them", body = SecretList))
)]
pub(super) async fn list(
    State(state): State<ServerState>,
    Ctx(context): Ctx,
) -> ApiResult<axum::Json<SecretList>> {
    Ok(axum::Json(SecretList { items: state.control().secrets(&context).await? }))
}

/// What may be shown of a secret, who is configured with it, and how each of them stands to its
/// present value. Values are never answered.
#[utoipa::path(
    get, path = "/api/v1/secrets/{name}", tag = "secrets",
    params(("name" = SecretName, Path, description = "Its name"), SecretQuery),
    responses((status = 200, description = "What may be shown of it", body = SecretDetail))
)]
pub(super) async fn get(
    State(state): State<ServerState>,
    Ctx(context): Ctx,
    Segment(name): Segment<SecretName>,
    Query(query): Query<SecretQuery>,
) -> ApiResult<axum::Json<SecretDetail>> {
    let at = at(query.scope, query.project, query.instance);
    let (secret, users) = state.control().secret(&context, at, &name).await?;
    Ok(axum::Json(SecretDetail { secret, instances: users.instances, configs: users.configs }))
}

/// Sets a secret: the whole farm's, the tenant's, a project's or an instance's. An instance that
/// uses it gets the new value at its next start.
#[utoipa::path(
    put, path = "/api/v1/secrets/{name}", tag = "secrets",
    params(("name" = SecretName, Path, description = "Its name")),
    request_body(content = SetSecret, example = json!({"value": "sk-..."})),
    responses((status = 200, description = "It is set", body = SecretInfo))
)]
pub(super) async fn set(
    State(state): State<ServerState>,
    Ctx(context): Ctx,
    Segment(name): Segment<SecretName>,
    Json { value: secret, .. }: Json<SetSecret>,
) -> ApiResult<axum::Json<SecretInfo>> {
    let at = at(secret.scope, secret.project, secret.instance);
    let value = SecretString::from(secret.value);
    Ok(axum::Json(state.control().set_secret(&context, at, &name, &value).await?))
}

/// Gives a secret a new value, and brings it to the instances that run with it, a few at a time.
/// The value before is kept until all of them have the new one, and can be had back.
#[utoipa::path(
    post, path = "/api/v1/secrets/{name}/rotate", tag = "secrets",
    params(("name" = SecretName, Path, description = "Its name")),
    request_body(content = RotateSecret, example = json!({"value": "sk-..."})),
    responses((status = 202, description = "It is on its way", body = SecretInfo))
)]
pub(super) async fn rotate(
    State(state): State<ServerState>,
    Ctx(context): Ctx,
    Segment(name): Segment<SecretName>,
    Json { value: asked, .. }: Json<RotateSecret>,
) -> ApiResult<(StatusCode, axum::Json<SecretInfo>)> {
    if asked.value.is_some() == asked.back {
        let why = "give a value, or the one before with \"back\": true";
        return Err(Error::invalid("value", "there must be one new value").fix(why).into());
    }
    let at = at(asked.scope, asked.project, asked.instance);
    let new = clawfarm_control::RotateSecret {
        value: asked.value.map(SecretString::from),
        parallel: asked.parallel,
        grace_secs: asked.grace_secs,
    };
    let info = state.control().rotate_secret(&context, at, &name, new).await?;
    Ok((StatusCode::ACCEPTED, axum::Json(info)))
}

/// Removes a secret that nobody is configured with.
#[utoipa::path(
    delete, path = "/api/v1/secrets/{name}", tag = "secrets",
    params(("name" = SecretName, Path, description = "Its name"), SecretRemovalQuery),
    responses((status = 204, description = "It is gone"))
)]
pub(super) async fn remove(
    State(state): State<ServerState>,
    Ctx(context): Ctx,
    Segment(name): Segment<SecretName>,
    Query(query): Query<SecretRemovalQuery>,
) -> ApiResult<StatusCode> {
    let at = at(query.scope, query.project, query.instance);
    state.control().remove_secret(&context, at, &name, query.force).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn at(scope: Option<SecretScope>, project: Option<ProjectName>, instance: Option<ClawId>) -> SecretAt {
    SecretAt { scope, project, instance: instance.map(|id| id.to_string()) }
}
