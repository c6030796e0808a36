//! The frame of a request: its id, its time, its line in the log, the headers of its answer,
//! and the problem of its error.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{MatchedPath, Request};
use axum::middleware::Next;
use axum::response::Response;
use http::header::{
    CACHE_CONTROL, HeaderName, HeaderValue, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use http::{HeaderMap, Method};
use tracing::Instrument;

use crate::error::{ApiError, render};
use crate::metrics;
use crate::token::random_hex;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The id of a request, in its extensions.
#[derive(Clone, Debug)]
pub(super) struct RequestId(Arc<str>);

impl RequestId {
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    /// The caller's own id, when it is one that can be put into a log as it is.
    fn of(headers: &HeaderMap) -> Self {
        let given = headers.get(REQUEST_ID).and_then(|v| v.to_str().ok()).filter(|id| {
            (1..=64).contains(&id.len())
                && id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        });
        match given {
            Some(id) => Self(id.into()),
            None => Self(random_hex::<16>().unwrap_or_default().into()),
        }
    }
}

pub(super) async fn around(mut request: Request, next: Next) -> Response {
    let id = RequestId::of(request.headers());
    request.extensions_mut().insert(id.clone());
    let method = request.method().clone();
    // The template and never the path itself: ids would be read out of logs and series.
    let route = request.extensions().get::<MatchedPath>().map_or("unmatched", MatchedPath::as_str).to_owned();
    let span = tracing::info_span!("request", id = id.as_str(), %method, route);
    let begun = Instant::now();
    let response = next.run(request).instrument(span.clone()).await;
    let mut response = render(response, id.as_str());
    span.in_scope(|| log(&response, &route, &method, begun.elapsed()));
    dress(response.headers_mut(), &id);
    response
}

fn log(response: &Response, route: &str, method: &Method, took: Duration) {
    let status = response.status();
    metrics::request(route, method, status, took);
    let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    let failure = response.extensions().get::<ApiError>().map(ApiError::error);
    match failure {
        Some(error) if status.is_server_error() => {
            tracing::warn!(status = status.as_u16(), took_ms, error = ?error, "failed");
        }
        Some(error) => {
            tracing::debug!(status = status.as_u16(), took_ms, code = error.code().as_str(), "refused");
        }
        None => tracing::debug!(status = status.as_u16(), took_ms, "done"),
    }
}

fn dress(headers: &mut HeaderMap, id: &RequestId) {
    if let Ok(value) = HeaderValue::from_str(id.as_str()) {
        headers.insert(REQUEST_ID, value);
    }
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_sane_id_of_the_caller_is_taken() {
        let of = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(REQUEST_ID, HeaderValue::from_str(value).unwrap());
            RequestId::of(&headers).as_str().to_owned()
        };
        assert_eq!(of("abc-1_2.3"), "abc-1_2.3");
        for wrong in ["", "a b", "a\"b", &"x".repeat(65)] {
            assert_ne!(of(wrong), wrong);
            assert_eq!(of(wrong).len(), 32);
        }
    }
}
