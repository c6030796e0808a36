//! What instances use, and what the server measures of itself.

use axum::Json;
use axum::extract::State;
use axum::response::IntoResponse;
use clawfarm_api::MetricsView;
use clawfarm_model::{Code, Error, Instance, Timestamp};
use http::header::CONTENT_TYPE;

use crate::error::ApiResult;
use crate::extract::{Ctx, IdText, Segment};
use crate::state::ServerState;

/// What an instance uses now.
#[utoipa::path(
    get, path = "/api/v1/instances/{id}/metrics", tag = "instances",
    params(("id" = inline(IdText), Path, description = "Its id, its name when that is unique, or a unique prefix")),
    responses((status = 200, description = "What it uses", body = MetricsView))
)]
pub(super) async fn instance(
    State(state): State<ServerState>,
    Ctx(context): Ctx,
    Segment(id): Segment<IdText>,
) -> ApiResult<Json<MetricsView>> {
    let (instance, usage) = state.control().usage(&context, &id.0).await?;
    let uptime_secs = uptime_secs(&instance);
    Ok(Json(MetricsView { id: instance.id, usage, restarts_total: instance.restarts_total, uptime_secs }))
}

fn uptime_secs(instance: &Instance) -> u64 {
    let up = instance.observed.as_ref().filter(|o| o.state.is_up());
    up.and_then(|o| o.started_at).map_or(0, |started| Timestamp::now().since(started).as_secs())
}

/// The server's measurements, in Prometheus' text format.
#[utoipa::path(
    get, path = "/metrics", tag = "health",
    responses((status = 200, description = "The measurements", body = String, content_type = "text/plain"))
)]
pub(super) async fn prometheus(State(state): State<ServerState>, _: Ctx) -> ApiResult<impl IntoResponse> {
    let control = state.control();
    let phases = control.fleet_gauges().await?;
    let text = state.metrics().render(&phases, control.queue_length(), control.starts_waiting()).ok_or_else(
        || Error::new(Code::Unavailable, "this process measures nothing: another recorder is in its place"),
    )?;
    Ok(([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text))
}
