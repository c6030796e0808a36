//! `/operations`: what was asked for, and how far it is.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use clawfarm_api::{OperationList, OperationQuery, OperationsQuery};
use clawfarm_model::{Context, Error, Operation, Result};

use super::limit;
use crate::error::ApiResult;
use crate::extract::{Ctx, IdText, Query, Segment};
use crate::state::ServerState;

/// The longest long poll, in seconds. Proxies give up at 60 s.
const WAIT_MAX: u32 = 60;

/// Operations, newest first.
#[utoipa::path(
    get, path = "/api/v1/operations", tag = "operations", params(OperationsQuery),
    responses((status = 200, description = "One page", body = OperationList))
)]
pub(super) async fn list(
    State(state): State<ServerState>,
    Ctx(context): Ctx,
    Query(query): Query<OperationsQuery>,
) -> ApiResult<Json<OperationList>> {
    let limit = limit(query.limit)?;
    let instance = query.instance.map(|text| instance_id(&text)).transpose()?;
    let page =
        state.control().operations(&context, instance.as_deref(), query.cursor.as_deref(), limit).await?;
    Ok(Json(OperationList { items: page.items, next: page.next }))
}

/// The id of a query's `instance`, whose error names that.
fn instance_id(text: &str) -> Result<String> {
    text.parse::<IdText>().map(|id| id.0).map_err(|error| {
        Error::invalid("instance", error.message()).fix(error.fix_text().unwrap_or_default().to_owned())
    })
}

/// One operation: as it stands, or, with `wait`, when it has changed after `after`.
#[utoipa::path(
    get, path = "/api/v1/operations/{id}", tag = "operations",
    params(("id" = inline(IdText), Path, description = "Its id"), OperationQuery),
    responses((status = 200, description = "The operation", body = Operation))
)]
pub(super) async fn get(
    State(state): State<ServerState>,
    Ctx(context): Ctx,
    Segment(id): Segment<IdText>,
    Query(query): Query<OperationQuery>,
) -> ApiResult<Json<Operation>> {
    if query.wait.is_some_and(|wait| wait > WAIT_MAX) {
        return Err(Error::invalid("wait", "no answer is held back for so long")
            .fix(format!("give at most {WAIT_MAX} seconds, and ask again"))
            .into());
    }
    Ok(Json(waited(&state, &context, &id.0, query).await?))
}

async fn waited(
    state: &ServerState,
    context: &Context,
    id: &str,
    query: OperationQuery,
) -> Result<Operation> {
    let control = state.control();
    let now = control.operation(context, id).await?;
    let after = query.after.unwrap_or(now.updated_at);
    let Some(wait) = query.wait.filter(|_| !now.state.ended() && now.updated_at <= after) else {
        return Ok(now);
    };
    tokio::select! {
        changed = control.operation_changed(context, id, after, Duration::from_secs(u64::from(wait))) => changed,
        () = state.shutdown().cancelled() => Ok(now),
    }
}
