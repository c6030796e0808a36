//! `/secrets`: set, listed by name, removed; never read.

use axum::extract::State;
use clawfarm_api::{SecretList, SecretQuery, SetSecret};
use clawfarm_model::ClawId;
use clawfarm_model::secret::{SecretInfo, SecretName};
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

/// Sets a secret, of the tenant or of one instance. An instance that uses it gets the new
/// value at its next start.
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
    let instance = secret.instance.as_ref().map(ClawId::as_str);
    let value = SecretString::from(secret.value);
    Ok(axum::Json(state.control().set_secret(&context, instance, &name, &value).await?))
}

/// Removes a secret that no instance refers to.
#[utoipa::path(
    delete, path = "/api/v1/secrets/{name}", tag = "secrets",
    params(("name" = SecretName, Path, description = "Its name"), SecretQuery),
    responses((status = 204, description = "It is gone"))
)]
pub(super) async fn remove(
    State(state): State<ServerState>,
    Ctx(context): Ctx,
    Segment(name): Segment<SecretName>,
    Query(query): Query<SecretQuery>,
) -> ApiResult<StatusCode> {
    let instance = query.instance.as_ref().map(ClawId::as_str);
    state.control().remove_secret(&context, instance, &name).await?;
    Ok(StatusCode::NO_CONTENT)
}
