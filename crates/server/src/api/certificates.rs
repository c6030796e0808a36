//! `/certificates`: what the edge shows callers over TLS.

use axum::Json;
use axum::extract::State;
use clawfarm_api::CertificateList;
use clawfarm_model::certificate::{Certificate, CertificateName};
use http::StatusCode;

use crate::error::ApiResult;
use crate::extract::{Ctx, Segment};
use crate::state::ServerState;

/// The certificates of the edge, without their keys.
#[utoipa::path(
    get, path = "/api/v1/certificates", tag = "server",
    responses((status = 200, description = "The certificates", body = CertificateList))
)]
pub(super) async fn list(
    State(state): State<ServerState>,
    Ctx(context): Ctx,
) -> ApiResult<Json<CertificateList>> {
    Ok(Json(CertificateList { items: state.control().certificates(&context)? }))
}

/// One certificate of the edge.
#[utoipa::path(
    get, path = "/api/v1/certificates/{name}", tag = "server",
    params(("name" = inline(CertificateName), Path, description = "The first of its host names")),
    responses((status = 200, description = "The certificate", body = Certificate))
)]
pub(super) async fn get(
    State(state): State<ServerState>,
    Ctx(context): Ctx,
    Segment(name): Segment<CertificateName>,
) -> ApiResult<Json<Certificate>> {
    Ok(Json(state.control().certificate(&context, name.as_str())?))
}

/// Has another certificate got now, though the one that is shown is still good. The answer tells of
/// the one that is shown; when the other has come, its number is another.
#[utoipa::path(
    post, path = "/api/v1/certificates/{name}/renew", tag = "server",
    params(("name" = inline(CertificateName), Path, description = "The first of its host names")),
    responses((status = 202, description = "It is being got", body = Certificate))
)]
pub(super) async fn renew(
    State(state): State<ServerState>,
    Ctx(context): Ctx,
    Segment(name): Segment<CertificateName>,
) -> ApiResult<(StatusCode, Json<Certificate>)> {
    Ok((StatusCode::ACCEPTED, Json(state.control().renew_certificate(&context, name.as_str()).await?)))
}
