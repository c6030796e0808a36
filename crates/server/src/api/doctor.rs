//! `/doctor`: what works here, and what would mend the rest.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use clawfarm_api::Doctor;
use clawfarm_model::{Code, Error};
use tokio::time::timeout;

use crate::error::ApiResult;
use crate::extract::Ctx;
use crate::state::ServerState;

/// It starts programs and asks daemons; one that hangs must not hang the answer for ever.
const LIMIT: Duration = Duration::from_secs(80);

/// Looks at the server and at each runtime: usable or not, why, and the command that mends it.
#[utoipa::path(
    get, path = "/api/v1/doctor", tag = "server",
    responses((status = 200, description = "What was found", body = Doctor))
)]
pub(super) async fn doctor(State(state): State<ServerState>, Ctx(context): Ctx) -> ApiResult<Json<Doctor>> {
    let found = timeout(LIMIT, state.control().doctor(&context)).await;
    let (server, runtimes) = found.map_err(|_| {
        Error::new(Code::Timeout, format!("the checks were not done within {} s", LIMIT.as_secs()))
            .fix("look at the server's log for the check that hangs")
    })??;
    Ok(Json(Doctor { server, runtimes }))
}
