//! The credential.
//!
//! Everything needs the admin's token, the unix socket too: a claw may reach the socket,
//! but can't read the token. What is open is listed here, so that a new route is closed
//! until somebody writes it down.

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use clawfarm_model::name::TenantName;
use clawfarm_model::{Code, Context, Error};
use http::header::AUTHORIZATION;

use super::frame::RequestId;
use crate::error::ApiError;
use crate::state::ServerState;

/// Health for load balancers, and the API's description, which is published anyway and
/// which a browser has to be able to open.
const OPEN: [&str; 4] = ["/healthz", "/readyz", "/api/docs", "/api/v1/openapi.json"];
/// A ticket in the path is the credential: a browser can't send a header with a WebSocket.
const TICKETS: &str = "/api/v1/consoles/";

pub(super) async fn check(State(state): State<ServerState>, mut request: Request, next: Next) -> Response {
    let path = request.uri().path();
    if OPEN.contains(&path) || path.starts_with(TICKETS) {
        return next.run(request).await;
    }
    match context(&state, &request) {
        Ok(context) => {
            request.extensions_mut().insert(context);
            next.run(request).await
        }
        Err(error) => error.into_response(),
    }
}

fn context(state: &ServerState, request: &Request) -> Result<Context, ApiError> {
    let given = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let refuse = |message: &str| {
        Err(Error::new(Code::Unauthenticated, message)
            .field("Authorization")
            .fix("send 'Authorization: Bearer <token>'; the token is in admin.token in the server's home folder")
            .into())
    };
    let Some(given) = given else { return refuse("the request carries no token") };
    match given.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") && state.knows(token.trim()) => {
            let id = request.extensions().get::<RequestId>().map_or("", |id| id.as_str());
            Ok(Context::owner("admin".to_owned(), TenantName::default_tenant(), id.to_owned()))
        }
        _ => refuse("the token is not this server's"),
    }
}
