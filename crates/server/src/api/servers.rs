//! `/servers`: the servers that share one database.

use axum::Json;
use axum::extract::State;
use clawfarm_api::{ServerList, ServerView};
use clawfarm_model::Timestamp;
use clawfarm_model::server::Peer;

use crate::error::ApiResult;
use crate::extract::Ctx;
use crate::peers::plain_address;
use crate::state::ServerState;

/// The servers that share this one's database, itself among them. A server that is alone lists
/// itself.
#[utoipa::path(
    get, path = "/api/v1/servers", tag = "server",
    responses((status = 200, description = "The servers", body = ServerList))
)]
pub(super) async fn list(State(state): State<ServerState>, Ctx(context): Ctx) -> ApiResult<Json<ServerList>> {
    let control = state.control();
    let own = control.node();
    let mut items: Vec<ServerView> = control
        .servers(&context)
        .await?
        .into_iter()
        .map(|server| Peer {
            address: server.address.as_deref().map(|address| plain_address(address).to_owned()),
            ..server
        })
        .map(|server| ServerView { this: own == Some(server.node.as_str()), server })
        .collect();
    if own.is_none() {
        items.push(ServerView { this: true, server: alone(&state) });
    }
    Ok(Json(ServerList { items }))
}

fn alone(state: &ServerState) -> Peer {
    Peer {
        node: "local".to_owned(),
        name: "local".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        address: None,
        targets: state.control().own_targets(),
        live: true,
        started_at: state.started_at(),
        seen_at: Timestamp::now(),
        leases: 0,
    }
}
