//! Answers for programs: problem details (RFC 9457), as the API gives them.

use clawfarm_model::{Code, Error};
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{Response, StatusCode};

use crate::body::{Body, full};

/// A problem, in the form in which all of clawfarm tells of one.
pub(crate) fn problem(status: StatusCode, code: &str, detail: &str, fix: Option<&str>) -> Response<Body> {
    let document = serde_json::json!({
        "type": "about:blank",
        "title": status.canonical_reason().unwrap_or("Problem"),
        "status": status.as_u16(),
        "code": code,
        "detail": detail,
        "fix": fix,
    });
    let mut response = Response::new(full(document.to_string()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if status == StatusCode::UNAUTHORIZED {
        headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"clawfarm\""));
    }
    response
}

/// A request that can't be read in one way only.
pub(crate) fn bad_request(detail: &str) -> Response<Body> {
    problem(StatusCode::BAD_REQUEST, "invalid_input", detail, None)
}

/// No credential, or none that counts.
pub(crate) fn unauthorized() -> Response<Body> {
    problem(
        StatusCode::UNAUTHORIZED,
        "unauthenticated",
        "this address takes requests of those who are signed in or have its token",
        Some("send the gateway token as `Authorization: Bearer`, or open the address with `clawfarm open`"),
    )
}

/// Come again in a while.
pub(crate) fn later(detail: &str, seconds: u32) -> Response<Body> {
    let mut response = problem(
        StatusCode::SERVICE_UNAVAILABLE,
        "unavailable",
        detail,
        Some("try again after `Retry-After`"),
    );
    retry_after(&mut response, seconds);
    response
}

/// Says when to come again.
pub(crate) fn retry_after(response: &mut Response<Body>, seconds: u32) {
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
}

/// A method that a path does not have; `allowed` are those that it has (RFC 9110, 15.5.6).
pub(crate) fn not_allowed(allowed: &'static str) -> Response<Body> {
    let detail = format!("this path takes {allowed}");
    let mut response = problem(StatusCode::METHOD_NOT_ALLOWED, "unsupported", &detail, None);
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    response
}

/// What an error of the fleet's means to a caller.
pub(crate) fn of(error: &Error, seconds: Option<u32>) -> Response<Body> {
    let status = match error.code() {
        Code::Timeout => StatusCode::GATEWAY_TIMEOUT,
        Code::ClawFailed => StatusCode::BAD_GATEWAY,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    };
    let mut response = problem(status, error.code().as_str(), error.message(), error.fix_text());
    if let Some(seconds) = seconds {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}
