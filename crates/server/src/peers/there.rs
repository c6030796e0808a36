//! The server that a request is passed on to.

use std::time::Duration;

use axum::body::Bytes;
use clawfarm_model::{Code, Context, Error, Result};
use http::Uri;
use http::header::{ACCEPT, CONNECTION, CONTENT_TYPE, HOST, HeaderName, HeaderValue, IF_MATCH, UPGRADE};
use http::request::Parts;
use http_body_util::Full;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::time::{sleep, timeout};

use super::sign::{HEADER, Signed, To};
use super::{Peers, plain_address, prove};
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
/// How long the proof may take that it is that server; it is a few milliseconds' work.
const PROOF_LIMIT: Duration = Duration::from_secs(10);
/// How long until the head of an answer, but for the routes of [`UNLIMITED`].
const HEAD_LIMIT: Duration = Duration::from_secs(60);
/// The ends of the paths of what takes as long as its claw thinks, or takes to wake.
const UNLIMITED: [&str; 2] = ["/send", "/port-forward"];

/// The server that is asked.
#[derive(Clone)]
pub(super) struct There {
    pub(super) state: ServerState,
    pub(super) node: String,
    pub(super) address: String,
}

/// A connection to it, after its proof.
pub(super) struct Line {
    sender: SendRequest<Full<Bytes>>,
    session: String,
}

impl There {
    fn peers(&self) -> Result<&Peers> {
        self.state.peers().ok_or_else(|| Error::new(Code::Internal, "this server has no others"))
    }

    /// Connects, and has it prove who it is. Nothing was sent of any request.
    pub(super) async fn open(&self) -> Result<Line> {
        let peers = self.peers()?;
        let stream = peers.connect.connect(&self.address).await.map_err(|e| self.silent(e))?;
        let proven = timeout(PROOF_LIMIT, async {
            let (mut sender, connection) =
                http1::handshake(TokioIo::new(stream)).await.map_err(|e| self.broke(e))?;
            tokio::spawn(async move {
                // Its error reaches whoever reads the answer.
                let _ = connection.with_upgrades().await;
            });
            let session = prove::ask(&mut sender, &self.state, peers, &self.node, &self.address)
                .await
                .map_err(|e| self.stranger(e))?;
            sender.ready().await.map_err(|e| self.broke(e))?;
            Ok(Line { sender, session })
        });
        proven.await.unwrap_or_else(|_| {
            Err(self.silent(Error::new(Code::Timeout, format!("no proof within {PROOF_LIMIT:?}"))))
        })
    }

    /// Passes a request on; its answer's head.
    pub(super) async fn ask(
        &self,
        line: Line,
        request: &Parts,
        body: Bytes,
        context: Option<&Context>,
    ) -> Result<hyper::Response<hyper::body::Incoming>> {
        let passed = self.signed(&line.session, request, body, context)?;
        let Line { mut sender, .. } = line;
        let too_long = async {
            if UNLIMITED.iter().any(|end| request.uri.path().ends_with(end)) {
                return std::future::pending().await;
            }
            sleep(HEAD_LIMIT).await;
        };
        tokio::select! {
            answer = sender.send_request(passed) => answer.map_err(|e| self.broke(e)),
            () = self.clone().gone() => {
                Err(self.silent(Error::new(Code::Unavailable, "it is listed as gone, and gives no proof")))
            }
            () = too_long => Err(Error::new(
                Code::Timeout,
                format!("server '{}', which this is for, did not begin to answer within {} s", self.name(), HEAD_LIMIT.as_secs()),
            )
            .fix("look whether it was done, then try again; see 'clawfarm server ls'")),
        }
    }

    fn signed(
        &self,
        session: &str,
        request: &Parts,
        body: Bytes,
        context: Option<&Context>,
    ) -> Result<hyper::Request<Full<Bytes>>> {
        let target = request.uri.path_and_query().map_or("/", |p| p.as_str());
        let signed = Signed { method: request.method.as_str(), target, headers: &request.headers };
        let control = self.state.control();
        let own = control.node().unwrap_or_default();
        let to = To { node: &self.node, session };
        let value = self.peers()?.signer.sign(own, to, control.database_time(), signed, &body, context)?;
        let mut passed = hyper::Request::builder()
            .method(request.method.clone())
            .uri(target)
            .header(HOST, authority(&self.address))
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
        Ok(passed)
    }

    fn name(&self) -> String {
        self.state.control().peer(&self.node).map_or_else(|| self.node.clone(), |p| p.name)
    }

    fn silent(&self, error: Error) -> Error {
        // The connector's own words, where it has some for this address.
        if error.field_name() == Some(super::ADDRESS) {
            return error;
        }
        Error::new(Code::Unavailable, format!("server '{}', which this is for, does not answer", self.name()))
            .fix("see 'clawfarm server ls'; start that server again if it is gone")
            .source(error)
    }

    /// Somebody answers there who can't prove that it is that server.
    fn stranger(&self, error: Error) -> Error {
        let name = self.name();
        Error::new(
            Code::Unavailable,
            format!("what answers at the address of server '{name}', which this is for, does not prove that it is that server"),
        )
        .fix("see 'clawfarm server ls' and who listens there; nothing was sent to it")
        .source(error)
    }

    fn broke(&self, error: hyper::Error) -> Error {
        let name = self.name();
        Error::new(Code::Unavailable, format!("the connection to server '{name}', which this is for, broke"))
            .fix("look whether it was done, then try again; see 'clawfarm server ls'")
            .source(error)
    }
}

/// The `Host` of an address.
pub(super) fn authority(address: &str) -> String {
    let uri = plain_address(address).parse::<Uri>().ok();
    uri.and_then(|uri| uri.authority().map(ToString::to_string)).unwrap_or_default()
}
