//! Passing a request on to the server that can answer it, and its answer back: plain answers,
//! streams, and consoles.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use clawfarm_model::{Context, Error, Result};
use http::StatusCode;
use http::header::{CONNECTION, CONTENT_LENGTH, HeaderMap, HeaderName, TRANSFER_ENCODING, UPGRADE};
use http::request::Parts;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::time::timeout;

use super::PassedOn;
use super::route::{Needs, needs, other, segment};
use super::there::There;
use super::watch::Watched;
use crate::error::{ApiError, ApiResult};
use crate::forward;
use crate::layers::BODY_MAX;
use crate::state::ServerState;

/// How long the body of what is passed on may take to arrive.
const BODY_LIMIT: Duration = Duration::from_secs(30);

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
        Err(error) => error.into_response(),
    }
}

enum Way {
    Here(Request),
    Answered(Response),
}

async fn decide(state: &ServerState, wanted: Needs, request: Request) -> ApiResult<Way> {
    let Some(peers) = state.peers() else { return Ok(Way::Here(request)) };
    let (parts, body) = request.into_parts();
    // Whoever has only a ticket may be anybody: nothing of his is read or kept.
    let (read, body) = match wanted {
        Needs::Ticket => (Bytes::new(), Some(body)),
        _ => (whole(body).await?, None),
    };
    let context = parts.extensions.get::<Context>().cloned();
    let found = other(state.control(), &peers.signer, wanted, context.as_ref(), &parts.uri, &read).await?;
    let here = |parts, read: Bytes, body: Option<Body>| {
        Way::Here(Request::from_parts(parts, body.unwrap_or_else(|| Body::from(read))))
    };
    let Some((node, address)) = found else { return Ok(here(parts, read, body)) };
    tracing::debug!(to = node, "passed on");
    let mut request = Request::from_parts(parts, Body::empty());
    let upgrade = hyper::upgrade::on(&mut request);
    let (parts, _) = request.into_parts();
    // Before the other is asked: who has as many as it may costs it nothing.
    let place = connection_place(state, context.as_ref(), &parts).await?;
    let there = There { state: state.clone(), node, address };
    let line = match there.open().await {
        Ok(line) => line,
        // It ended since its last heartbeat; this can be answered here as well.
        Err(_) if wanted == Needs::RatherInstance => return Ok(here(parts, read, body)),
        Err(error) => return Err(error.into()),
    };
    let response = there.ask(line, &parts, read, context.as_ref()).await?;
    Ok(Way::Answered(answer(there, response, upgrade, place)?))
}

/// The place of a connection to a port of an instance; `None` for what is something else. The
/// edge's connections to claws that another server reaches are many: they are counted apart from
/// consoles, and each claw has its share.
async fn connection_place(
    state: &ServerState,
    context: Option<&Context>,
    parts: &Parts,
) -> Result<Option<forward::Place>> {
    let is_forward = parts.uri.path().ends_with("/port-forward");
    let (Some(context), Some(id), true) = (context, segment(&parts.uri, 4), is_forward) else {
        return Ok(None);
    };
    let id = state.control().id_of(context, &id).await?;
    state.forwards().place(&id).map(Some)
}

/// The body of a request, which is short and comes soon.
///
/// # Errors
/// A problem of the body's when it does not.
pub(crate) async fn whole(body: Body) -> ApiResult<Bytes> {
    match timeout(BODY_LIMIT, axum::body::to_bytes(body, BODY_MAX)).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(_)) => Err(Error::invalid("body", "the request is too long, or was cut off")
            .fix(format!("send at most {BODY_MAX} bytes"))
            .into()),
        Err(_) => Err(ApiError::http(
            StatusCode::REQUEST_TIMEOUT,
            "The body took too long",
            Error::invalid("body", format!("the body did not arrive within {} s", BODY_LIMIT.as_secs()))
                .fix("send it again, faster"),
        )),
    }
}

fn answer(
    there: There,
    mut response: hyper::Response<hyper::body::Incoming>,
    caller: OnUpgrade,
    place: Option<forward::Place>,
) -> Result<Response> {
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let theirs = hyper::upgrade::on(&mut response);
        match place {
            Some(place) => tokio::spawn(tunnel(caller, theirs, there, place)),
            None => {
                let place = there.state.consoles().place()?;
                tokio::spawn(tunnel(caller, theirs, there, place))
            }
        };
        let (parts, _) = response.into_parts();
        return Ok(Response::from_parts(parts, Body::empty()));
    }
    let (mut parts, body) = response.into_parts();
    hop_by_hop(&mut parts.headers);
    // What is wrong was told by the server that answers.
    parts.extensions.insert(PassedOn);
    Ok(Response::from_parts(parts, Body::new(Watched::new(body, there))))
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

/// Carries the bytes of a console or a connection both ways until one side hangs up, the other
/// server is gone, or this one ends.
async fn tunnel<P: Send>(caller: OnUpgrade, theirs: OnUpgrade, there: There, _place: P) {
    let stop = there.state.shutdown().clone();
    let carried = async {
        let (Ok(caller), Ok(theirs)) = tokio::join!(caller, theirs) else { return };
        let (mut caller, mut theirs) = (TokioIo::new(caller), TokioIo::new(theirs));
        let _ = tokio::io::copy_bidirectional(&mut caller, &mut theirs).await;
    };
    tokio::select! {
        () = carried => {}
        () = there.gone() => {}
        () = stop.cancelled() => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_come_is_not_waited_for() {
        let never = futures::stream::pending::<std::result::Result<Bytes, std::io::Error>>();
        let refused = whole(Body::from_stream(never)).await.expect_err("it does not come");
        assert_eq!(refused.into_response().status(), StatusCode::REQUEST_TIMEOUT);
        assert_eq!(whole(Body::from("it")).await.expect("it comes"), "it");
    }
}
