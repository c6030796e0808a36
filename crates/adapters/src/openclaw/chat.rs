//! A message of the claw's user, over OpenClaw's own chat endpoint.

use clawfarm_model::Result;
use futures::stream::BoxStream;
use serde_json::Value;

use super::areas::MAIN;
use super::http::request;
use crate::{Access, SendEvent};

const PATH: &str = "/v1/chat/completions";
/// What OpenClaw's endpoint calls the claw.
const MODEL: &str = "openclaw";

/// Sends a message and streams the answer.
pub(super) async fn send(
    access: &Access<'_>,
    message: &str,
) -> Result<BoxStream<'static, Result<SendEvent>>> {
    let request = |body: &Value| request(http::Method::POST, PATH, Some(access.token), Some(body));
    let other = |status, refusal: &[u8]| wants_an_agent(status, refusal).then(|| format!("{MODEL}/{MAIN}"));
    crate::shared::chat::send(access.dial, MODEL, message, request, other).await
}

/// Whether a claw of several agents asks for which of them a message is ("Multiple agents are
/// configured, but this operation has no explicit owner", 2026.9.6).
fn wants_an_agent(status: http::StatusCode, body: &[u8]) -> bool {
    status == http::StatusCode::BAD_REQUEST
        && serde_json::from_slice::<Value>(body).is_ok_and(|body| {
            body["error"]["message"].as_str().is_some_and(|said| said.contains("no explicit owner"))
        })
}
