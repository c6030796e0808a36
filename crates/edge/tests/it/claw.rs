//! A claw's gateway, as far as the edge can tell.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::StreamExt as _;
use http::{Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::{CancellationToken, DropGuard};

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// One that listens until it is dropped.
pub(crate) struct Claw {
    pub(crate) address: SocketAddr,
    /// Requests that it has seen.
    pub(crate) seen: Arc<AtomicU64>,
    /// Connections that it has accepted.
    pub(crate) connections: Arc<AtomicU64>,
    /// What it was asked for.
    pub(crate) targets: Arc<Mutex<Vec<String>>>,
    /// Lets `/sse` say one more thing.
    pub(crate) say: Arc<Semaphore>,
    /// Told when `/read` has begun, which then waits for a permit of `say` before it reads.
    pub(crate) reading: Arc<Notify>,
    _ends: DropGuard,
}

impl Claw {
    pub(crate) async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (seen, say, reading) =
            (Arc::new(AtomicU64::new(0)), Arc::new(Semaphore::new(0)), Arc::new(Notify::new()));
        let connections = Arc::new(AtomicU64::new(0));
        let accepts = connections.clone();
        let ends = CancellationToken::new();
        let targets = Arc::new(Mutex::new(Vec::new()));
        let (counts, says, reads, end) = (seen.clone(), say.clone(), reading.clone(), ends.clone());
        let asked = targets.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = tokio::select! {
                    () = end.cancelled() => return,
                    accepted = listener.accept() => accepted.unwrap(),
                };
                accepts.fetch_add(1, Ordering::Relaxed);
                let (counts, says, reads, end) = (counts.clone(), says.clone(), reads.clone(), end.clone());
                let asked = asked.clone();
                tokio::spawn(async move {
                    let service = service_fn(|request: Request<Incoming>| {
                        asked.lock().unwrap().push(request.uri().to_string());
                        counts.fetch_add(1, Ordering::Relaxed);
                        answer(request, says.clone(), reads.clone())
                    });
                    let connection =
                        http1::Builder::new().serve_connection(TokioIo::new(stream), service).with_upgrades();
                    tokio::select! {
                        _ = connection => {}
                        () = end.cancelled() => {}
                    }
                });
            }
        });
        Self { address, seen, connections, targets, say, reading, _ends: ends.drop_guard() }
    }

    pub(crate) fn seen(&self) -> u64 {
        self.seen.load(Ordering::Relaxed)
    }
}

/// 64 MiB: more than all buffers on the way.
fn big() -> Response<Body> {
    let piece = Bytes::from(vec![b'x'; 64 << 10]);
    let pieces = futures::stream::iter((0..1024).map(move |_| Ok(Frame::data(piece.clone()))));
    Response::new(StreamBody::new(pieces).boxed_unsync())
}

async fn answer(
    mut request: Request<Incoming>,
    say: Arc<Semaphore>,
    reading: Arc<Notify>,
) -> Result<Response<Body>, Infallible> {
    let path = request.uri().path().to_owned();
    Ok(match path.as_str() {
        "/ws" => websocket(&mut request),
        "/unasked" => {
            let mut response = text("");
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            response.headers_mut().insert("upgrade", "h2c".parse().unwrap());
            response
        }
        "/sse" => {
            let said = futures::stream::unfold((0, say), |(n, say)| async move {
                if n == 3 {
                    return None;
                }
                say.acquire().await.ok()?.forget();
                Some((Ok(Frame::data(Bytes::from(format!("data: {n}\n\n")))), (n + 1, say)))
            });
            Response::new(StreamBody::new(said.boxed()).boxed_unsync())
        }
        "/hooks/draining" => {
            let mut response = text("suspending");
            *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
            response
        }
        "/feishu/silent" | "/hooks/silent" => std::future::pending().await,
        "/hooks/missing" => {
            let mut response = text("nothing is here");
            *response.status_mut() = StatusCode::NOT_FOUND;
            response
        }
        "/hooks/page" => {
            let mut response = text("<!doctype html><title>a dashboard</title>");
            response.headers_mut().insert("content-type", "text/html; charset=utf-8".parse().unwrap());
            response
        }
        "/read" => {
            reading.notify_one();
            say.acquire().await.unwrap().forget();
            let read = request.into_body().collect().await.map_or(0, |body| body.to_bytes().len());
            text(read.to_string())
        }
        "/big" => big(),
        "/both" => {
            // It reads what it is sent whether its answer is taken or not.
            tokio::spawn(request.into_body().collect());
            big()
        }
        "/cookies" => {
            let mut response = text("");
            for cookie in ["mine=1; Path=/", "yours=1; Domain=claws.test", "clawfarm-session=forged"] {
                response.headers_mut().append("set-cookie", cookie.parse().unwrap());
            }
            response.headers_mut().insert("connection", "x-private".parse().unwrap());
            response.headers_mut().insert("x-private", "1".parse().unwrap());
            response.headers_mut().insert("alt-svc", "h3=\":1\"".parse().unwrap());
            response
        }
        "/power" => {
            let mut response = text("power");
            for (name, value) in [
                ("strict-transport-security", "max-age=31536000; includeSubDomains"),
                ("nel", r#"{"report_to":"evil","max_age":31536000}"#),
                ("report-to", r#"{"group":"evil","endpoints":[{"url":"https://evil.test/"}]}"#),
                ("reporting-endpoints", r#"default="https://evil.test/""#),
                ("refresh", "0; url=https://evil.test/"),
                ("location", "https://evil.test/"),
                ("link", "<https://evil.test/x.js>; rel=preload; as=script"),
                ("access-control-allow-origin", "*"),
                ("www-authenticate", "Basic"),
                ("x-accel-redirect", "/elsewhere"),
                ("content-type", "application/json"),
                ("etag", "\"1\""),
                ("openai-processing-ms", "7"),
            ] {
                response.headers_mut().insert(name, value.parse().unwrap());
            }
            response
        }
        _ => echo(request).await,
    })
}

/// What it was asked, as JSON.
async fn echo(request: Request<Incoming>) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let headers: serde_json::Map<String, serde_json::Value> = parts
        .headers
        .iter()
        .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into()))
        .collect();
    text(
        serde_json::json!({
            "method": parts.method.as_str(),
            "target": parts.uri.to_string(),
            "headers": headers,
            "body": String::from_utf8_lossy(&body),
        })
        .to_string(),
    )
}

/// Says back what it hears.
fn websocket(request: &mut Request<Incoming>) -> Response<Body> {
    let Some(key) = request.headers().get("sec-websocket-key").cloned() else {
        let mut response = text("no key");
        *response.status_mut() = StatusCode::BAD_REQUEST;
        return response;
    };
    let accept = tokio_tungstenite::tungstenite::handshake::derive_accept_key(key.as_bytes());
    let upgraded = hyper::upgrade::on(request);
    tokio::spawn(async move {
        let Ok(upgraded) = upgraded.await else { return };
        let (mut read, mut write) = tokio::io::split(TokioIo::new(upgraded));
        let _ = tokio::io::copy(&mut read, &mut write).await;
    });
    let mut response = text("");
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    for (name, value) in
        [("upgrade", "websocket"), ("connection", "Upgrade"), ("sec-websocket-accept", accept.as_str())]
    {
        response.headers_mut().insert(name, value.parse().unwrap());
    }
    response
}

fn text(text: impl Into<Bytes>) -> Response<Body> {
    Response::new(Full::new(text.into()).boxed_unsync())
}
