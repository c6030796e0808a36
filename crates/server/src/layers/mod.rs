//! What every request goes through, from the outside in: its frame (id, time, log, headers,
//! the problem of an error), a net under panics, the credential, and the load limit of its
//! kind of route.

mod auth;
mod frame;
mod load;

use std::any::Any;

use axum::Extension;
use axum::extract::DefaultBodyLimit;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use clawfarm_model::{Code, Error};
use tower_http::catch_panic::CatchPanicLayer;

use crate::error::ApiError;
use crate::state::ServerState;
pub(crate) use load::{Load, held};

/// The largest body that is taken, in bytes. The largest that is of use is a configuration.
pub(crate) const BODY_MAX: usize = 1 << 20;

/// Puts the layers around every route.
pub(crate) fn around(router: axum::Router, state: &ServerState) -> axum::Router {
    // The last one added is the outermost.
    router
        .layer(DefaultBodyLimit::max(BODY_MAX))
        .layer(Extension(state.clone()))
        .layer(from_fn_with_state(state.clone(), auth::check))
        .layer(CatchPanicLayer::custom(|panic: Box<dyn Any + Send>| panicked(panic.as_ref())))
        .layer(from_fn(frame::around))
}

/// As [`around`], without a credential and with room for `body_max` bytes: for the listener
/// whose routes check their own.
pub(crate) fn around_claws(router: axum::Router, body_max: usize) -> axum::Router {
    router
        .layer(DefaultBodyLimit::max(body_max))
        .layer(CatchPanicLayer::custom(|panic: Box<dyn Any + Send>| panicked(panic.as_ref())))
        .layer(from_fn(frame::around))
}

fn panicked(panic: &(dyn Any + Send)) -> Response {
    let what = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("a panic without words");
    let error = Error::internal("the server has a defect here", what.to_owned())
        .fix("report it, with the request's id and the server's log");
    ApiError::from(error).into_response()
}

/// The error of a request that found no room.
fn overloaded() -> ApiError {
    Error::new(Code::Overloaded, "the server has as many requests as it can serve")
        .fix("try again in a second")
        .into()
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::routing::get;
    use clawfarm_api::Problem;
    use tower::ServiceExt;

    use super::*;

    async fn broken() -> &'static str {
        panic!("the inside: {}", "a secret");
    }

    #[tokio::test]
    async fn a_panic_is_a_problem_that_tells_nothing_of_the_inside() {
        let app = around_claws(axum::Router::new().route("/", get(broken)), 10);
        let request = axum::extract::Request::builder().uri("/").body(Body::empty()).unwrap();
        let response = app.oneshot(request).await.unwrap();
        assert_eq!(response.status(), 500);
        assert_eq!(response.headers()["content-type"], "application/problem+json");
        let body = axum::body::to_bytes(response.into_body(), 10_000).await.unwrap();
        let problem: Problem = serde_json::from_slice(&body).unwrap();
        assert_eq!(problem.code, Code::Internal);
        assert!(!String::from_utf8_lossy(&body).contains("inside"));
    }
}
