//! HTTP/1.1 to a claw's gateway over a connection that somebody else opened. Everything has
//! a limit in time and size: what answers is a program that runs what a model tells it to.

use std::time::Duration;

use bytes::Bytes;
use clawfarm_model::{Code, Error, Result};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use secrecy::{ExposeSecret as _, SecretString};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::{Connection, Dial};

/// How long opening a connection may take.
const CONNECT: Duration = Duration::from_secs(5);
/// The largest head of a response, in bytes.
const HEAD_MAX: usize = 32 << 10;

/// One kept connection. Dropping it closes it.
pub(crate) struct Http {
    sender: SendRequest<Full<Bytes>>,
    driver: JoinHandle<()>,
}

impl Drop for Http {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// A whole response.
pub(crate) struct Response {
    pub(crate) status: http::StatusCode,
    pub(crate) body: Bytes,
}

impl Http {
    /// Opens a connection.
    pub(crate) async fn open(dial: &dyn Dial) -> Result<Self> {
        let connection: Box<dyn Connection> = timeout(CONNECT, dial.dial())
            .await
            .map_err(|_| no_answer("the connection was not accepted", CONNECT))??;
        let mut builder = http1::Builder::new();
        builder.max_buf_size(HEAD_MAX);
        let (sender, connection) = timeout(CONNECT, builder.handshake(TokioIo::new(connection)))
            .await
            .map_err(|_| no_answer("the connection was not set up", CONNECT))?
            .map_err(|e| broken("the connection could not be set up", e))?;
        let driver = tokio::spawn(async move {
            // Its errors reach the request that waits on it.
            let _ = connection.await;
        });
        Ok(Self { sender, driver })
    }

    /// Sends a request, and waits for the head of its response.
    pub(crate) async fn start(
        &mut self,
        request: http::Request<Full<Bytes>>,
        limit: Duration,
    ) -> Result<http::Response<Incoming>> {
        let work = async {
            self.sender.ready().await?;
            self.sender.send_request(request).await
        };
        timeout(limit, work)
            .await
            .map_err(|_| no_answer("it did not answer", limit))?
            .map_err(|e| broken("the connection broke", e))
    }

    /// Sends a request and reads its whole response, of at most `max` bytes.
    pub(crate) async fn whole(
        &mut self,
        request: http::Request<Full<Bytes>>,
        limit: Duration,
        max: usize,
    ) -> Result<Response> {
        let work = async {
            let response = self.start(request, limit).await?;
            let status = response.status();
            let body = collect(response.into_body(), max).await?;
            Ok(Response { status, body })
        };
        timeout(limit, work).await.map_err(|_| no_answer("it did not answer in full", limit))?
    }
}

/// Reads a body of at most `max` bytes.
pub(crate) async fn collect(body: Incoming, max: usize) -> Result<Bytes> {
    let whole = Limited::new(body, max).collect().await.map_err(|e| {
        Error::new(Code::Unavailable, format!("the claw's answer broke off or is larger than {max} bytes"))
            .source(e)
    })?;
    Ok(whole.to_bytes())
}

/// A request to a claw.
///
/// # Errors
/// `Internal` when the path or a header can't be sent.
pub(crate) fn request(
    method: http::Method,
    path: &str,
    token: Option<&SecretString>,
    body: Option<&serde_json::Value>,
) -> Result<http::Request<Full<Bytes>>> {
    let mut builder = http::Request::builder()
        .method(method)
        .uri(path)
        // A name of the loopback device: gateways check what they are called by.
        .header(http::header::HOST, "127.0.0.1")
        .header(http::header::ACCEPT, "application/json, text/event-stream");
    if let Some(token) = token {
        let mut value =
            http::HeaderValue::try_from(format!("Bearer {}", token.expose_secret())).map_err(|_| {
                Error::new(
                    Code::Internal,
                    "the gateway token can't be sent: it has characters that no header may have",
                )
            })?;
        value.set_sensitive(true);
        builder = builder.header(http::header::AUTHORIZATION, value);
    }
    let bytes = match body {
        Some(body) => {
            builder = builder.header(http::header::CONTENT_TYPE, "application/json");
            Bytes::from(body.to_string())
        }
        None => Bytes::new(),
    };
    builder.body(Full::new(bytes)).map_err(|e| Error::internal("a request to the claw could not be made", e))
}

/// The claw did not answer in time.
pub(crate) fn no_answer(what: &str, limit: Duration) -> Error {
    Error::new(Code::Unavailable, format!("the claw does not answer: {what} within {} s", limit.as_secs()))
        .fix("look at what it prints: clawfarm logs <id>")
}

fn broken(what: &str, error: hyper::Error) -> Error {
    Error::new(Code::Unavailable, format!("the claw does not answer: {what}"))
        .fix("look at what it prints: clawfarm logs <id>")
        .source(error)
}
