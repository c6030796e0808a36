//! Passing a request on to the server that can answer it, and its answer back: plain answers,
//! streams, and consoles.

use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use clawfarm_model::{Code, Context, Error, Result};
use http::header::{
    ACCEPT, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue, IF_MATCH,
    TRANSFER_ENCODING, UPGRADE,
};
use http::request::Parts;
use http::{StatusCode, Uri};
use http_body_util::Full;
use hyper::client::conn::http1;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio_util::sync::CancellationToken;

use super::route::{Needs, needs, other};
use super::sign::{HEADER, Signed};
use super::{PassedOn, PeerStream, Peers};
use crate::console;
use crate::error::ApiError;
use crate::layers::BODY_MAX;
use crate::state::ServerState;

/// What is passed on of a request's head. Not the caller's token: the signature vouches for it.
const PASSED: [HeaderName; 11] = [
    ACCEPT,
    CONTENT_TYPE,
    IF_MATCH,
    HeaderName::from_static("idempotency-key"),
    HeaderName::from_static("last-event-id"),
    HeaderName::from_static("clawfarm-client-version"),
    HeaderName::from_static("x-request-id"),
    HeaderName::from_static("sec-websocket-key"),
    HeaderName::from_static("sec-websocket-version"),
    HeaderName::from_static("sec-websocket-protocol"),
    HeaderName::from_static("prefer"),
];

/// The layer: answers here, or has it answered there.
pub(crate) async fn around(request: Request, next: Next) -> Response {
    let Some(state) = request.extensions().get::<ServerState>().cloned() else {
        return next.run(request).await;
    };
    let wanted = needs(request.method(), request.extensions());
    // What was passed on is answered here or not at all: it must not go round.
    let here = wanted == Needs::Nothing
        || state.peers().is_none()
        || request.extensions().get::<PassedOn>().is_some();
    if here {
        return next.run(request).await;
    }
    match decide(&state, wanted, request).await {
        Ok(Way::Here(request)) => next.run(request).await,
        Ok(Way::Answered(response)) => response,
        Err(error) => ApiError::from(error).into_response(),
    }
}

enum Way {
    Here(Request),
    Answered(Response),
}

async fn decide(state: &ServerState, wanted: Needs, request: Request) -> Result<Way> {
    let (parts, body) = request.into_parts();
    let Ok(body) = axum::body::to_bytes(body, BODY_MAX).await else {
        return Err(Error::invalid("body", "the request is too long, or was cut off")
            .fix(format!("send at most {BODY_MAX} bytes")));
    };
    let context = parts.extensions.get::<Context>().cloned();
    let found = other(state.control(), wanted, context.as_ref(), &parts.uri, &body).await?;
    let Some((node, address)) = found else {
        return Ok(Way::Here(Request::from_parts(parts, Body::from(body))));
    };
    let Some(peers) = state.peers() else {
        return Err(Error::new(Code::Internal, "this server has no others"));
    };
    tracing::debug!(to = node, "passed on");
    let mut request = Request::from_parts(parts, Body::empty());
    let upgrade = hyper::upgrade::on(&mut request);
    let (parts, _) = request.into_parts();
    let there = There { state, peers, node: &node, address: &address };
    let stream = match peers.connect.connect(&address).await {
        Ok(stream) => stream,
        // It ended since its last heartbeat; this can be answered here as well.
        Err(_) if wanted == Needs::RatherInstance => {
            return Ok(Way::Here(Request::from_parts(parts, Body::from(body))));
        }
        Err(error) => return Err(there.silent(error)),
    };
    let response = there.ask(stream, &parts, body, context.as_ref()).await?;
    Ok(Way::Answered(answer(state, response, upgrade)?))
}

/// The server that is asked.
struct There<'a> {
    state: &'a ServerState,
    peers: &'a Peers,
    node: &'a str,
    address: &'a str,
}

impl There<'_> {
    async fn ask(
        &self,
        stream: Box<dyn PeerStream>,
        request: &Parts,
        body: Bytes,
        context: Option<&Context>,
    ) -> Result<hyper::Response<hyper::body::Incoming>> {
        let target = request.uri.path_and_query().map_or("/", |p| p.as_str());
        let signed = Signed { method: request.method.as_str(), target };
        let control = self.state.control();
        let own = control.node().unwrap_or_default();
        let value =
            self.peers.signer.sign(own, self.node, control.database_time(), signed, &body, context)?;
        let host = self.address.parse::<Uri>().ok().and_then(|u| u.authority().map(ToString::to_string));
        let mut passed = hyper::Request::builder()
            .method(request.method.clone())
            .uri(target)
            .header(HOST, host.unwrap_or_default())
            .header(HEADER, value)
            .body(Full::new(body))
            .map_err(|e| Error::internal("the request can't be passed on", e))?;
        let headers = passed.headers_mut();
        for name in &PASSED {
            for value in request.headers.get_all(name) {
                headers.append(name.clone(), value.clone());
            }
        }
        if let Some(upgrade) = request.headers.get(UPGRADE) {
            headers.insert(UPGRADE, upgrade.clone());
            headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        }
        if let Some(context) = context
            && let Ok(id) = HeaderValue::from_str(context.request_id())
        {
            headers.insert("x-request-id", id);
        }
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|e| self.broke(e))?;
        tokio::spawn(async move {
            // Its error reaches whoever reads the answer.
            let _ = connection.with_upgrades().await;
        });
        sender.send_request(passed).await.map_err(|e| self.broke(e))
    }

    fn name(&self) -> String {
        self.state.control().peer(self.node).map_or_else(|| self.node.to_owned(), |p| p.name)
    }

    fn silent(&self, error: Error) -> Error {
        Error::new(Code::Unavailable, format!("server '{}', which this is for, does not answer", self.name()))
            .fix("see 'clawfarm server ls'; start that server again if it is gone")
            .source(error)
    }

    fn broke(&self, error: hyper::Error) -> Error {
        let name = self.name();
        Error::new(Code::Unavailable, format!("the connection to server '{name}', which this is for, broke"))
            .fix("look whether it was done, then try again; see 'clawfarm server ls'")
            .source(error)
    }
}

fn answer(
    state: &ServerState,
    mut response: hyper::Response<hyper::body::Incoming>,
    caller: OnUpgrade,
) -> Result<Response> {
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let place = state.consoles().place()?;
        let there = hyper::upgrade::on(&mut response);
        tokio::spawn(tunnel(caller, there, state.shutdown().clone(), place));
        let (parts, _) = response.into_parts();
        return Ok(Response::from_parts(parts, Body::empty()));
    }
    let (mut parts, body) = response.into_parts();
    hop_by_hop(&mut parts.headers);
    // What is wrong was told by the server that answers.
    parts.extensions.insert(PassedOn);
    Ok(Response::from_parts(parts, Body::new(body)))
}

/// What is between two neighbours only (RFC 9110, 7.6.1).
fn hop_by_hop(headers: &mut HeaderMap) {
    for name in [CONNECTION, TRANSFER_ENCODING, UPGRADE, HeaderName::from_static("keep-alive")] {
        headers.remove(name);
    }
    if headers.get_all(CONTENT_LENGTH).iter().count() > 1 {
        headers.remove(CONTENT_LENGTH);
    }
}

/// Carries a console's bytes both ways until one side hangs up or the server ends.
async fn tunnel(caller: OnUpgrade, there: OnUpgrade, stop: CancellationToken, _place: console::Place) {
    let carried = async {
        let (Ok(caller), Ok(there)) = tokio::join!(caller, there) else { return };
        let (mut caller, mut there) = (TokioIo::new(caller), TokioIo::new(there));
        let _ = tokio::io::copy_bidirectional(&mut caller, &mut there).await;
    };
    tokio::select! {
        () = carried => {}
        () = stop.cancelled() => {}
    }
}
