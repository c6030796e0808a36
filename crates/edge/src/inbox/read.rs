//! Reading a message whole: it has a largest size, and a time in which it must have come.

use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, Response, StatusCode};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::Incoming;
use tokio::time::timeout;

use crate::body::Body;
use crate::problem;

/// The largest body, in bytes: what OpenClaw takes of Telegram. Its hooks take a quarter.
pub(super) const LARGEST: usize = 1 << 20;
/// As long as OpenClaw gives a body.
const LIMIT: Duration = Duration::from_secs(30);

/// The body, or what its sender is told.
pub(super) async fn whole(headers: &HeaderMap, body: Incoming) -> Result<Bytes, Response<Body>> {
    let said = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    if said.is_some_and(|length| length > LARGEST) {
        return Err(too_large());
    }
    match timeout(LIMIT, Limited::new(body, LARGEST).collect()).await {
        Ok(Ok(whole)) => Ok(whole.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
        Ok(Err(_)) => Err(problem::bad_request("the message broke off")),
        Err(_) => Err(problem::problem(
            StatusCode::REQUEST_TIMEOUT,
            "timeout",
            "the message did not come within 30 s",
            None,
        )),
    }
}

fn too_large() -> Response<Body> {
    problem::problem(
        StatusCode::PAYLOAD_TOO_LARGE,
        "invalid_input",
        "the message is larger than 1 MiB",
        Some("send a reference to what is large"),
    )
}
