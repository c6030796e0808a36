//! How an error becomes an answer.
//!
//! A handler's error puts itself into the response's extensions; the outermost layer, which
//! knows the request's id, writes the [`Problem`] ([`render`]). So everything that fails,
//! be it a handler, an extractor, a layer or axum itself, looks the same.

use std::sync::Arc;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use clawfarm_api::Problem;
use clawfarm_api::problem::status;
use clawfarm_model::{Code, Error};
use http::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderMap, StatusCode};

use crate::peers::PassedOn;

/// What a handler answers with.
pub(crate) type ApiResult<T> = Result<T, ApiError>;

/// An error on its way out.
#[derive(Clone, Debug)]
pub(crate) struct ApiError {
    error: Arc<Error>,
    /// A status of HTTP itself, which no code stands for, and its title.
    http: Option<(StatusCode, &'static str)>,
}

impl ApiError {
    /// An error under a status of HTTP itself.
    pub(crate) fn http(status: StatusCode, title: &'static str, error: Error) -> Self {
        Self { error: Arc::new(error), http: Some((status, title)) }
    }

    pub(crate) fn error(&self) -> &Error {
        &self.error
    }

    pub(crate) fn problem(&self, request_id: &str) -> Problem {
        let problem = Problem::new(&self.error, request_id);
        match self.http {
            Some((status, title)) => problem.with_status(status.as_u16(), title),
            None => problem,
        }
    }

    fn status(&self) -> StatusCode {
        self.http.map_or_else(
            || StatusCode::from_u16(status(self.error.code())).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
            |(status, _)| status,
        )
    }

    fn headers(&self, headers: &mut HeaderMap) {
        match self.error.code() {
            Code::Unauthenticated => {
                headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"clawfarm\""));
            }
            Code::Overloaded | Code::Unavailable => {
                headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
            }
            _ => {}
        }
    }
}

impl From<Error> for ApiError {
    fn from(error: Error) -> Self {
        Self { error: Arc::new(error), http: None }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = self.status().into_response();
        self.headers(response.headers_mut());
        response.extensions_mut().insert(self);
        response
    }
}

/// Writes the problem of a response that is an error, whoever made it.
pub(crate) fn render(response: Response, request_id: &str) -> Response {
    let status = response.status();
    let told = response.extensions().get::<PassedOn>().is_some();
    if told || !(status.is_client_error() || status.is_server_error()) {
        return response;
    }
    let (mut parts, _) = response.into_parts();
    let failure = parts.extensions.remove::<ApiError>().unwrap_or_else(|| plain(status));
    let problem = failure.problem(request_id);
    parts.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    parts.headers.remove(http::header::CONTENT_LENGTH);
    let body = serde_json::to_vec(&problem).unwrap_or_default();
    parts.extensions.insert(failure);
    Response::from_parts(parts, Body::from(body))
}

/// The error behind a bare status, which axum or hyper answered with.
fn plain(status: StatusCode) -> ApiError {
    match status {
        StatusCode::NOT_FOUND => Error::new(Code::NotFound, "there is nothing at this path")
            .field("path")
            .fix("GET /api/v1/openapi.json lists what there is")
            .into(),
        StatusCode::METHOD_NOT_ALLOWED => ApiError::http(
            status,
            "Method not allowed",
            Error::new(Code::InvalidInput, "this path does not know this method")
                .field("method")
                .fix("the header Allow lists those it knows"),
        ),
        _ => ApiError::http(
            status,
            "The request can't be served",
            Error::new(
                if status.is_server_error() { Code::Internal } else { Code::InvalidInput },
                status.canonical_reason().unwrap_or("the request can't be served").to_lowercase(),
            ),
        ),
    }
}
