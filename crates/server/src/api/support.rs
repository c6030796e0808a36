//! `/support-bundle`: what somebody who is asked for help needs to see.

use axum::extract::State;
use axum::response::IntoResponse;
use clawfarm_api::SupportRequest;
use clawfarm_model::Error;
use http::HeaderMap;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use utoipa::ToSchema;

use crate::error::ApiResult;
use crate::extract::{Ctx, IdText, JsonOrDefault};
use crate::state::ServerState;
use crate::support;

/// The most instances of one bundle: what is had of each is bounded, so the whole is.
const INSTANCES_MAX: usize = 20;

/// A `.tar.gz`.
#[derive(ToSchema)]
#[schema(value_type = String, format = Binary)]
pub(super) struct SupportBundle(Vec<u8>);

/// Makes a support bundle: versions, checks, the fleet, the last operations and events,
/// measurements, the end of the server's log, and of the named instances their configuration and
/// output. Every secret that the server holds is taken out, and what looks like one. It is
/// audited. Unpacked it has at most 48 MiB.
#[utoipa::path(
    post, path = "/api/v1/support-bundle", tag = "server", request_body = SupportRequest,
    responses((status = 200, description = "The bundle, a `.tar.gz`", body = SupportBundle,
        content_type = "application/gzip"))
)]
pub(super) async fn bundle(
    State(state): State<ServerState>,
    Ctx(context): Ctx,
    headers: HeaderMap,
    JsonOrDefault(request): JsonOrDefault<SupportRequest>,
) -> ApiResult<impl IntoResponse> {
    if request.instances.len() > INSTANCES_MAX {
        return Err(Error::invalid("instances", format!("{} instances are named", request.instances.len()))
            .fix(format!("name at most {INSTANCES_MAX}, and make another bundle for the others"))
            .into());
    }
    let mut instances = Vec::new();
    for text in &request.instances {
        let id = text.parse::<IdText>().map_err(|error| error.field("instances"))?;
        instances.push(state.control().get(&context, &id.0).await?);
    }
    // The credential it was asked for with: the state holds no more than its hash.
    let given = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let token = given.and_then(|text| text.split_once(' ')).map(|(_, token)| token.trim().into());
    let bundle = SupportBundle(support::make(&state, &context, instances, token).await?);
    Ok(([(CONTENT_TYPE, "application/gzip")], bundle.0))
}
