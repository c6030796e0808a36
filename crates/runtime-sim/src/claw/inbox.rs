//! Messages of services: written down in the world, so that a test can count what a claw was
//! given, whatever became of the server meanwhile.

use std::io;
use std::sync::atomic::Ordering;

use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use serde_json::json;

use super::http::{BODY_LIMIT, Body, failure, full, json_response};
use super::{Gateway, Moment};
use crate::inbox::Received;

/// What a message has to say to be refused for good.
const REFUSED: &str = "refuse-this";
/// What OpenClaw's channels answer with when a message is in their own queue.
const ACCEPTED: &str = "x-openclaw-delivery-accepted";

impl Gateway {
    pub(super) async fn message(
        &self,
        request: Request<Incoming>,
        moment: &Moment,
    ) -> io::Result<Response<Body>> {
        if moment.up.suspension(moment.now).is_some() || moment.now < moment.up.ready_at {
            let message = "Gateway is temporarily unavailable while suspending or restarting";
            return Ok(failure(StatusCode::SERVICE_UNAVAILABLE, message, "gateway_unavailable"));
        }
        let (parts, body) = request.into_parts();
        let body = Limited::new(body, BODY_LIMIT).collect().await.map_err(io::Error::other)?.to_bytes();
        let text =
            |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let received = Received {
            key: text("idempotency-key").unwrap_or_default(),
            target: parts.uri.to_string(),
            authorization: text(header::AUTHORIZATION.as_str()).unwrap_or_default(),
            body: String::from_utf8_lossy(&body).into_owned(),
        };
        if received.body.contains(REFUSED) {
            return Ok(failure(StatusCode::UNPROCESSABLE_ENTITY, "it is refused", "refused"));
        }
        let nth = self.chats.asked.fetch_add(1, Ordering::Relaxed);
        let behaviour = self.world.behaviour().map_err(io::Error::other)?;
        if let Some(range) = moment.claw.channels_ms {
            let after = behaviour.draw(range, &[self.id.as_str(), "channels"], 0);
            if moment.now < moment.up.ready_at.saturating_add_unsigned(after) {
                return Ok(nobody_s(nth));
            }
        }
        let fails = moment.claw.messages_fail.unwrap_or(0.0);
        let key = [self.id.as_str(), received.key.as_str(), "message"];
        let fails = behaviour.happens(fails, &key, nth);
        // Each way to fail as often as the others.
        let how = if fails { behaviour.draw((0, 3), &key, nth) } else { u64::MAX };
        match how {
            0 => return Ok(failure(StatusCode::INTERNAL_SERVER_ERROR, "it failed", "internal")),
            1 => return Ok(failure(StatusCode::TOO_MANY_REQUESTS, "not so fast", "rate_limited")),
            2 => return Err(io::Error::other("the simulated claw crashed over a message")),
            _ => {}
        }
        let (world, id) = (self.world.clone(), self.id.clone());
        tokio::task::spawn_blocking(move || world.receive(&id, &received))
            .await
            .map_err(io::Error::other)?
            .map_err(io::Error::other)?;
        if how == 3 {
            // It has it, and nobody hears of that.
            return Err(io::Error::other("the simulated claw crashed after a message"));
        }
        let mut response = json_response(StatusCode::OK, &json!({"ok": true, "runId": format!("sim-{nth}")}));
        response.headers_mut().insert(ACCEPTED, header::HeaderValue::from_static("durable"));
        Ok(response)
    }
}

/// What OpenClaw answers with at a path that is nobody's: that there is nothing, or its dashboard.
fn nobody_s(nth: u64) -> Response<Body> {
    if nth.is_multiple_of(2) {
        return failure(StatusCode::NOT_FOUND, "not found", "not_found");
    }
    let mut response = Response::new(full("<!doctype html>\n<html><title>OpenClaw</title></html>"));
    let html = header::HeaderValue::from_static("text/html; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, html);
    response
}
