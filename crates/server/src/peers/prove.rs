//! Whether it is really that server which answers at its address.
//!
//! A server that was killed is listed for some seconds more, and meanwhile any user of its machine
//! can listen on its port. So the first request on a connection asks for a proof, and tells
//! nothing but that; what is passed on, with what is secret in it, is sent when the answer is
//! right. Over TLS the certificate says it already, and this costs one more round trip.

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use clawfarm_model::{Code, Error, Result};
use http::header::{HOST, HeaderMap};
use http::{Method, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::SendRequest;

use super::Peers;
use super::sign::{HEADER, Signed, To};
use super::there::authority;
use crate::error::ApiError;
use crate::state::ServerState;

/// Where it is asked. No route of the API: only the servers' own signature opens it.
pub(crate) const PATH: &str = "/api/v1/peer-proof";
/// The longest answer, in bytes: a session and a code are some hundred.
const ANSWER_MAX: usize = 1024;

/// Has whoever answers on this connection prove that it is server `node`; its session.
///
/// # Errors
/// `Unavailable` when it does not.
pub(super) async fn ask(
    sender: &mut SendRequest<Full<Bytes>>,
    state: &ServerState,
    peers: &Peers,
    node: &str,
    address: &str,
) -> Result<String> {
    let control = state.control();
    let own = control.node().unwrap_or_default();
    let headers = HeaderMap::new();
    let signed = Signed { method: Method::GET.as_str(), target: PATH, headers: &headers };
    let value =
        peers.signer.sign(own, To { node, session: "" }, control.database_time(), signed, b"", None)?;
    let request = hyper::Request::builder()
        .uri(PATH)
        .header(HOST, authority(address))
        .header(HEADER, value.as_str())
        .body(Full::default())
        .map_err(|e| Error::internal("a proof can't be asked for", e))?;
    let failed = || Error::new(Code::Unavailable, "no proof was given");
    let answer = sender.send_request(request).await.map_err(|e| failed().source(e))?;
    if answer.status() != StatusCode::OK {
        return Err(failed().source(Error::new(Code::Unavailable, answer.status().to_string())));
    }
    // Read to its end, or the connection would not be free for what is passed on.
    let body = Limited::new(answer.into_body(), ANSWER_MAX).collect().await;
    let body = body.map_err(|e| failed().source(Error::internal("the proof broke off", e.to_string())))?;
    let text = String::from_utf8(body.to_bytes().to_vec()).map_err(|e| failed().source(e))?;
    peers.signer.proven(&text, &value, node, address)?.ok_or_else(failed)
}

/// The answer to another server's question.
pub(crate) fn answer(state: &ServerState, peers: &Peers, method: &Method, headers: &HeaderMap) -> Response {
    let control = state.control();
    let own = control.node().unwrap_or_default();
    let value = headers.get(HEADER).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let signed = Signed { method: method.as_str(), target: PATH, headers };
    let proof = peers
        .signer
        .check(value, own, control.database_time(), signed)
        .and_then(|_| peers.signer.proof(value, own, control.peer_address().unwrap_or_default()));
    match proof {
        Ok(proof) => Response::new(Body::from(proof)),
        Err(error) => ApiError::from(error).into_response(),
    }
}
