//! Bodies of requests and answers.

use std::io;

use bytes::Bytes;
use futures::Stream;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use serde_json::{Value, json};

/// The largest request body, in bytes.
pub(super) const BODY_LIMIT: usize = 4 << 20;

/// The body of an answer. Its error breaks the connection off.
pub(super) type Body = BoxBody<Bytes, io::Error>;

pub(super) async fn read_json(request: Request<Incoming>) -> std::result::Result<Value, String> {
    let body = Limited::new(request.into_body(), BODY_LIMIT).collect().await.map_err(|e| e.to_string())?;
    serde_json::from_slice(&body.to_bytes()).map_err(|e| format!("the body is no JSON: {e}"))
}

pub(super) fn full(text: impl Into<Bytes>) -> Body {
    Full::new(text.into()).map_err(|never| match never {}).boxed()
}

pub(super) fn json_response(status: StatusCode, body: &Value) -> Response<Body> {
    let mut response = Response::new(full(body.to_string()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    let json = HeaderValue::from_static("application/json; charset=utf-8");
    headers.insert(header::CONTENT_TYPE, json);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

pub(super) fn failure(status: StatusCode, message: &str, code: &str) -> Response<Body> {
    json_response(status, &json!({"error": {"message": message, "type": code, "code": code}}))
}

/// Server-sent events as they come.
pub(super) fn event_stream(
    events: impl Stream<Item = io::Result<Frame<Bytes>>> + Send + Sync + 'static,
) -> Response<Body> {
    typed(BodyExt::boxed(StreamBody::new(events)), "text/event-stream")
}

/// A page.
pub(super) fn page(text: &'static str) -> Response<Body> {
    typed(full(text), "text/html; charset=utf-8")
}

fn typed(body: Body, content_type: &'static str) -> Response<Body> {
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
