//! One request and its answer over HTTP/1.1.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use clawfarm_api::{CLIENT_VERSION_HEADER, PREFIX, Problem};
use clawfarm_model::{Code, Error, Result};
use futures::TryStreamExt;
use futures::stream::BoxStream;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderValue};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::connect::connect;
use crate::endpoint::Endpoint;
use crate::patience::{ATTEMPTS, Refused, later, spread};
use crate::{CALL_TIMEOUT, Client};

/// Idle connections that are kept for the next call.
const IDLE_MAX: usize = 4;
/// The longest answer that is read whole: 10,000 log lines of the greatest length the
/// runtimes keep stay below it.
const ANSWER_MAX: usize = 64 << 20;

type Connection = SendRequest<Full<Bytes>>;
/// An answer, or what came instead.
type Answered<T> = std::result::Result<T, Refused>;

pub(crate) struct Inner {
    pub(crate) endpoint: Endpoint,
    token: SecretString,
    idle: Mutex<Vec<Connection>>,
}

impl Inner {
    pub(crate) const fn new(endpoint: Endpoint, token: SecretString) -> Self {
        Self { endpoint, token, idle: Mutex::new(Vec::new()) }
    }

    /// What presents the token.
    pub(crate) fn credential(&self) -> Result<HeaderValue> {
        bearer(&self.token)
    }

    fn take_idle(&self) -> Option<Connection> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        std::iter::from_fn(|| idle.pop()).find(SendRequest::is_ready)
    }

    fn keep(&self, connection: Connection) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE_MAX && !connection.is_closed() {
            idle.push(connection);
        }
    }
}

/// A call, before it is made.
#[derive(Clone)]
pub(crate) struct Call {
    method: Method,
    target: String,
    headers: HeaderMap,
    body: Option<Bytes>,
    limit: Duration,
}

impl Call {
    /// A call of a path below the API's prefix, made of segments that are escaped here.
    pub(crate) fn new(method: Method, segments: &[&str]) -> Self {
        let mut target = String::from(PREFIX);
        for segment in segments {
            target.push('/');
            escape(segment, &mut target);
        }
        Self { method, target, headers: HeaderMap::new(), body: None, limit: CALL_TIMEOUT }
    }

    /// A call of a path outside of the API's prefix.
    pub(crate) fn absolute(method: Method, path: &str) -> Self {
        Self { target: path.to_owned(), ..Self::new(method, &[]) }
    }

    pub(crate) fn get(segments: &[&str]) -> Self {
        Self::new(Method::GET, segments)
    }

    pub(crate) fn post(segments: &[&str]) -> Self {
        Self::new(Method::POST, segments)
    }

    pub(crate) fn query(mut self, query: &impl Serialize) -> Result<Self> {
        let text = serde_html_form::to_string(query)
            .map_err(|error| Error::internal("the query can't be written", error))?;
        if !text.is_empty() {
            self.target.push('?');
            self.target.push_str(&text);
        }
        Ok(self)
    }

    pub(crate) fn json(mut self, body: &impl Serialize) -> Result<Self> {
        let bytes = serde_json::to_vec(body)
            .map_err(|error| Error::internal("the request can't be written as JSON", error))?;
        self.body = Some(bytes.into());
        Ok(self)
    }

    pub(crate) fn header(mut self, name: &'static str, value: &str) -> Result<Self> {
        let value = HeaderValue::from_str(value)
            .map_err(|_| Error::invalid(name, format!("{value:?} can't be sent in a header")))?;
        self.headers.insert(name, value);
        Ok(self)
    }

    pub(crate) const fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Its path and query.
    pub(crate) fn target(&self) -> &str {
        &self.target
    }

    fn request(&self, inner: &Inner) -> Result<Request<Full<Bytes>>> {
        let path = self.target.split('?').next().unwrap_or_default();
        if path.ends_with('/') || path.contains("//") {
            // An empty segment would be another path.
            return Err(Error::invalid("id", "it is empty")
                .fix("give an id, a name, or the beginning of one: 'clawfarm ps' lists them"));
        }
        let mut request = Request::builder()
            .method(self.method.clone())
            .uri(&self.target)
            .header(HOST, inner.endpoint.authority())
            .header(CLIENT_VERSION_HEADER, env!("CARGO_PKG_VERSION"))
            .header(AUTHORIZATION, bearer(&inner.token)?)
            .body(Full::new(self.body.clone().unwrap_or_default()))
            .map_err(|error| Error::internal("the request can't be made", error))?;
        let headers = request.headers_mut();
        headers.extend(self.headers.clone());
        headers.entry(ACCEPT).or_insert(HeaderValue::from_static("application/json"));
        if self.body.is_some() {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        Ok(request)
    }
}

fn bearer(token: &SecretString) -> Result<HeaderValue> {
    let mut value = HeaderValue::from_str(&format!("Bearer {}", token.expose_secret()))
        .map_err(|_| Error::invalid("token", "the token has characters that no header can carry"))?;
    value.set_sensitive(true);
    Ok(value)
}

impl Client {
    /// Makes a call whose answer is JSON.
    pub(crate) async fn call<T: DeserializeOwned>(&self, call: Call) -> Result<T> {
        understood(&self.bytes(call).await?)
    }

    /// Makes a call whose answer is of no interest.
    pub(crate) async fn done(&self, call: Call) -> Result<()> {
        self.bytes(call).await.map(drop)
    }

    /// Makes a call and reads its answer whole, within the call's limit each time.
    pub(crate) async fn bytes(&self, call: Call) -> Result<Bytes> {
        let mut attempt = 1;
        loop {
            match self.bytes_once(&call).await {
                Ok(bytes) => return Ok(bytes),
                Err(refused) => self.pause(&mut attempt, refused).await?,
            }
        }
    }

    /// Makes a call whose answer is a stream: the limit is for its head alone.
    pub(crate) async fn open(&self, call: Call) -> Result<Incoming> {
        let mut attempt = 1;
        loop {
            match self.open_once(&call).await {
                Ok(body) => return Ok(body),
                Err(refused) => self.pause(&mut attempt, refused).await?,
            }
        }
    }

    /// Returns after the pause before the next attempt, or with why there is none.
    async fn pause(&self, attempt: &mut u32, refused: Refused) -> Result<()> {
        let (Some(pause), Some(tell)) = (refused.later, &self.tell) else { return Err(refused.error) };
        if *attempt == ATTEMPTS {
            return Err(refused.error);
        }
        *attempt += 1;
        let pause = spread(pause);
        tell(&refused.error, pause);
        tokio::time::sleep(pause).await;
        Ok(())
    }

    async fn bytes_once(&self, call: &Call) -> Answered<Bytes> {
        let limit = call.limit;
        let whole = async {
            let (response, connection) = self.exchange(call).await?;
            let (parts, body) = response.into_parts();
            let bytes = read(body).await?;
            self.inner.keep(connection);
            if parts.status.is_success() { Ok(bytes) } else { Err(refused(call, &parts, &bytes)) }
        };
        match tokio::time::timeout(limit, whole).await {
            Ok(result) => result,
            Err(_) => Err(Error::new(
                Code::Timeout,
                format!("the server at {} did not answer within {} s", self.inner.endpoint, limit.as_secs()),
            )
            .fix("look at the server's log, or try again")
            .into()),
        }
    }

    async fn open_once(&self, call: &Call) -> Answered<Incoming> {
        let limit = call.limit;
        let head = async {
            let (response, _connection) = self.exchange(call).await?;
            let (parts, body) = response.into_parts();
            if parts.status.is_success() {
                return Ok(body);
            }
            Err(refused(call, &parts, &read(body).await?))
        };
        match tokio::time::timeout(limit, head).await {
            Ok(result) => result,
            Err(_) => Err(Error::new(
                Code::Timeout,
                format!(
                    "the server at {} did not begin to answer within {} s",
                    self.inner.endpoint,
                    limit.as_secs()
                ),
            )
            .into()),
        }
    }

    /// Sends the request over an idle connection, or a new one when none is left or the
    /// server hung up on the idle one before it took the request.
    async fn exchange(&self, call: &Call) -> Result<(Response<Incoming>, Connection)> {
        let mut request = call.request(&self.inner)?;
        if let Some(mut idle) = self.inner.take_idle() {
            match idle.try_send_request(request).await {
                Ok(response) => return Ok((response, idle)),
                Err(mut error) => match error.take_message() {
                    Some(unsent) => request = unsent,
                    None if call.method.is_idempotent() => request = call.request(&self.inner)?,
                    None => return Err(self.broken(error.into_error())),
                },
            }
        }
        let mut connection = self.connection().await?;
        let response = connection.send_request(request).await.map_err(|error| self.broken(error))?;
        Ok((response, connection))
    }

    /// Makes a call with a body that is streamed, on a connection of its own. It is not made again:
    /// what was sent is gone. It may take as long as it takes; a silent network is noticed.
    pub(crate) async fn upload<T: DeserializeOwned>(
        &self,
        call: Call,
        kind: &'static str,
        length: u64,
        body: BoxStream<'static, std::io::Result<Bytes>>,
    ) -> Result<T> {
        let mut request = call.request(&self.inner)?.map(|_| StreamBody::new(body.map_ok(Frame::data)));
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        request.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(length));
        let io = TokioIo::new(connect(&self.inner.endpoint).await?);
        let (mut sender, connection) = http1::handshake(io).await.map_err(|error| self.broken(error))?;
        let connection = tokio::spawn(async move {
            let _ = connection.await;
        });
        let response = sender.send_request(request).await.map_err(|error| self.broken(error))?;
        let (parts, body) = response.into_parts();
        let bytes = read(body).await?;
        // Of a request that was refused, the rest is not sent.
        connection.abort();
        if !parts.status.is_success() {
            return Err(refused(&call, &parts, &bytes).error);
        }
        understood(&bytes)
    }

    async fn connection(&self) -> Result<Connection> {
        let io = TokioIo::new(connect(&self.inner.endpoint).await?);
        let (sender, connection) = http1::handshake(io).await.map_err(|error| self.broken(error))?;
        tokio::spawn(async move {
            // Its error reaches the one who waits for the answer; nobody else needs it.
            let _ = connection.await;
        });
        Ok(sender)
    }

    fn broken(&self, error: hyper::Error) -> Error {
        Error::new(
            Code::Unavailable,
            format!("the connection to the server at {} broke", self.inner.endpoint),
        )
        .fix("see whether the server runs: 'clawfarm doctor'")
        .source(error)
    }
}

fn understood<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|error| {
        Error::internal("the server's answer is not understood", error)
            .fix("make client and server the same version: 'clawfarm version'")
    })
}

async fn read(body: Incoming) -> Result<Bytes> {
    let whole = Limited::new(body, ANSWER_MAX).collect().await;
    whole.map(http_body_util::Collected::to_bytes).map_err(|error| {
        Error::new(Code::Unavailable, "the server's answer was cut off").fix("try again").source(error)
    })
}

fn refused(call: &Call, parts: &http::response::Parts, body: &[u8]) -> Refused {
    let is_ours = serde_json::from_slice::<Problem>(body).is_ok();
    let later = later(parts.status, &parts.headers, &call.method, is_ours);
    Refused { error: problem(parts.status, body), later }
}

/// The error in an answer. Something else than our server (a proxy in between) may have
/// written it, so that it need not be a [`Problem`].
pub(crate) fn problem(status: StatusCode, body: &[u8]) -> Error {
    if let Ok(problem) = serde_json::from_slice::<Problem>(body) {
        return problem.into();
    }
    let code = match status.as_u16() {
        401 => Code::Unauthenticated,
        403 => Code::Forbidden,
        404 => Code::NotFound,
        429 => Code::Overloaded,
        502..=504 => Code::Unavailable,
        400..=499 => Code::InvalidInput,
        _ => Code::Internal,
    };
    Error::new(code, format!("the server answered {status}, and not as clawfarm does"))
        .fix("check that the address is a clawfarm server's")
}

/// Escapes what may not stand in a path's segment (RFC 3986: unreserved characters stay).
fn escape(segment: &str, to: &mut String) {
    for byte in segment.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~') {
            to.push(char::from(byte));
        } else {
            to.push('%');
            for digit in [byte >> 4, byte & 15] {
                to.push(char::from(b"0123456789ABCDEF"[usize::from(digit)]));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hostile_name_stays_one_segment() {
        let call = Call::get(&["instances", "../a b?x#é", "logs"]);
        assert_eq!(call.target, "/api/v1/instances/..%2Fa%20b%3Fx%23%C3%A9/logs");
    }

    #[test]
    fn an_answer_of_something_else_is_an_error_all_the_same() {
        let error = problem(StatusCode::BAD_GATEWAY, b"<html>");
        assert_eq!(error.code(), Code::Unavailable);
        let given = Error::invalid("port", "taken").fix("another");
        let body = serde_json::to_vec(&Problem::new(&given, "r")).unwrap();
        assert_eq!(problem(StatusCode::BAD_REQUEST, &body).report(), given.report());
    }

    #[test]
    fn fuzz_problems() {
        let given = Error::invalid("port", "taken").fix("another");
        let body = serde_json::to_vec(&Problem::new(&given, "r")).unwrap();
        clawfarm_fuzz::fuzz(&[&body, b"<html>", b"{}"], |bytes| {
            assert!(!problem(StatusCode::BAD_REQUEST, bytes).message().is_empty() || bytes.len() > 2);
        });
    }
}
