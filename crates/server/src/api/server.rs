//! `/server`: this server itself.

use axum::Json;
use axum::extract::State;
use clawfarm_api::{ServerInfo, Shutdown};
use clawfarm_model::{Action, Error, Resource, authorize};
use http::StatusCode;

use crate::error::ApiResult;
use crate::extract::{Ctx, JsonOrDefault};
use crate::state::ServerState;

/// Which server this is.
#[utoipa::path(
    get, path = "/api/v1/server", tag = "server",
    responses((status = 200, description = "This server", body = ServerInfo))
)]
pub(super) async fn info(State(state): State<ServerState>, _: Ctx) -> Json<ServerInfo> {
    Json(ServerInfo {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        home: state.home().display().to_string(),
        started_at: state.started_at(),
        listen: state.listen().map(|address| address.to_string()),
        // sd_notify(3): set by a manager that waits to be told.
        supervised: std::env::var_os("NOTIFY_SOCKET").is_some(),
    })
}

/// Stops the server. Instances go on, unless `claws`: then each is stopped first, and the
/// answer comes when they are down. What could not be stopped is told; the server ends
/// all the same.
#[utoipa::path(
    post, path = "/api/v1/server/shutdown", tag = "server", request_body = Shutdown,
    responses((status = 202, description = "It ends"))
)]
pub(super) async fn shutdown(
    State(state): State<ServerState>,
    Ctx(context): Ctx,
    JsonOrDefault(request): JsonOrDefault<Shutdown>,
) -> ApiResult<StatusCode> {
    let server = Resource::new(context.tenant()?.clone(), "server", "this");
    authorize(&context, Action::ServerAdmin, &server)?;
    // On a task of its own: a caller who hangs up must not leave half of the claws stopped.
    let outcome = tokio::spawn(async move {
        let outcome = match request.claws {
            true => state.control().shutdown(Some(&context), true).await,
            false => Ok(()),
        };
        state.shutdown().cancel();
        outcome
    });
    outcome.await.map_err(|error| Error::internal("stopping failed", error))??;
    Ok(StatusCode::ACCEPTED)
}
