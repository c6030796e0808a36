//! Requests to OpenClaw's gateway.

use bytes::Bytes;
use clawfarm_model::{Error, Result};
use http_body_util::Full;
use secrecy::SecretString;

use super::entrance;
pub(super) use crate::shared::http::{Http, Response};

/// A request to the gateway, as its owner's where there is a token.
pub(super) fn request(
    method: http::Method,
    path: &'static str,
    token: Option<&SecretString>,
    body: Option<&serde_json::Value>,
) -> Result<http::Request<Full<Bytes>>> {
    let mut request = crate::shared::http::request(method, path, token, body)?;
    let headers = request.headers_mut();
    // What comes from an address of the edge's must say whom it is for; from any but the
    // loopback device it is refused otherwise, probes too.
    headers.insert("x-forwarded-for", http::HeaderValue::from_static(entrance::CALLER));
    headers.insert("x-forwarded-proto", http::HeaderValue::from_static("http"));
    if let Some(token) = token {
        let (name, owner) = entrance::owner(token);
        let name = http::HeaderName::try_from(name)
            .map_err(|e| Error::internal("a request to the claw could not be made", e))?;
        headers.insert(name, http::HeaderValue::from_static(owner));
    }
    Ok(request)
}
