//! The credential.
//!
//! Everything needs the admin's token, the unix socket too: a claw may reach the socket,
//! but can't read the token. What is open is listed here, so that a new route is closed
//! until somebody writes it down.

use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use clawfarm_api::schema::{NAMES, SCHEMAS};
use clawfarm_model::name::TenantName;
use clawfarm_model::{Code, Context, Error};
use http::header::AUTHORIZATION;

use super::frame::RequestId;
use crate::error::{ApiError, ApiResult};
use crate::peers::PassedOn;
use crate::peers::forward::whole;
use crate::peers::prove;
use crate::peers::sign::{HEADER, Signed, Signer};
use crate::state::ServerState;

/// Health for load balancers, and the API's description and its schemas, which are published
/// anyway and which a browser and an editor have to be able to open.
const OPEN: [&str; 4] = ["/healthz", "/readyz", "/api/docs", "/api/v1/openapi.json"];
/// A ticket in the path is the credential: a browser can't send a header with a WebSocket.
const TICKETS: &str = "/api/v1/consoles/";

pub(super) async fn check(State(state): State<ServerState>, mut request: Request, next: Next) -> Response {
    if request.headers().contains_key(HEADER)
        && let Some(peers) = state.peers()
    {
        if request.uri().path() == prove::PATH {
            return prove::answer(&state, peers, request.method(), request.headers());
        }
        return match passed_on(&state, &peers.signer, request).await {
            Ok(request) => next.run(request).await,
            Err(error) => error.into_response(),
        };
    }
    let path = request.uri().path();
    if is_open(path) || path.starts_with(TICKETS) {
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

/// Whether a path is for everybody.
fn is_open(path: &str) -> bool {
    let schema = path.strip_prefix(SCHEMAS).and_then(|rest| rest.strip_prefix('/'));
    OPEN.contains(&path) || schema.is_some_and(|name| NAMES.contains(&name))
}

/// A request that another server of the database vouches for, in its caller's name.
async fn passed_on(state: &ServerState, signer: &Signer, request: Request) -> ApiResult<Request> {
    let (mut parts, body) = request.into_parts();
    let value = parts.headers.get(HEADER).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let target = parts.uri.path_and_query().map_or("/", |p| p.as_str());
    let signed = Signed { method: parts.method.as_str(), target, headers: &parts.headers };
    let control = state.control();
    let own = control.node().unwrap_or_default();
    let vouched = signer.check(value, own, control.database_time(), signed)?;
    let body = whole(body).await?;
    vouched.check_body(&body)?;
    match vouched.context {
        Some(context) => {
            parts.extensions.insert(context);
        }
        // Nobody asks: then what is asked for must be its own credential.
        None if parts.uri.path().starts_with(TICKETS) => {}
        None => return Err(Error::new(Code::Unauthenticated, "nobody is named who asks for this").into()),
    }
    parts.extensions.insert(PassedOn);
    Ok(Request::from_parts(parts, Body::from(body)))
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
    match bearer(given) {
        Some(token) if state.knows(token) => {
            let id = request.extensions().get::<RequestId>().map_or("", |id| id.as_str());
            Ok(Context::owner("admin".to_owned(), TenantName::default_tenant(), id.to_owned()))
        }
        _ => refuse("the token is not this server's"),
    }
}

/// The token in a credential of the scheme `Bearer` (RFC 6750, 2.1); the scheme's case does not
/// count (RFC 9110, 11.1).
fn bearer(given: &str) -> Option<&str> {
    let (scheme, token) = given.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fuzz_authorization() {
        assert_eq!(bearer("bEaReR  abc "), Some("abc"));
        clawfarm_fuzz::fuzz_text(&["Bearer abc", "Basic abc", "bearer  a b", "Bearer ", ""], |given| {
            let Some(token) = bearer(given) else { return };
            // Nothing is added, and what is no bearer is never one.
            assert!(!token.is_empty() && given.ends_with(&given[given.find(token).unwrap()..]));
            assert!(given.to_ascii_lowercase().starts_with("bearer "));
        });
    }
}
