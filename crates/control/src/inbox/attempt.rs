//! Giving one message to its claw, once.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use clawfarm_model::inbox::InboxRequest;
use clawfarm_model::{ClawId, Error, Phase, Result, Timestamp};
use clawfarm_runtime::Connection;
use clawfarm_store::Head;
use http::header::{CONTENT_LENGTH, HeaderName, HeaderValue, RETRY_AFTER};
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::Full;
use hyper_util::rt::TokioIo;
use tokio::time::{sleep, timeout};

use super::{routes, sign};
use crate::{Control, Entrance};

/// How long a claw may take to answer. Hooks may be asked to wait for a whole turn; one that takes
/// longer is asked again under the same key.
const ANSWER: Duration = Duration::from_secs(300);
/// How long it may take to take a connection.
const CONNECT: Duration = Duration::from_secs(10);
/// How often it is looked whether a claw that does not answer is still awake.
const LOOK: Duration = Duration::from_secs(2);
/// The header with the message's id, as OpenClaw's hooks know it: with each try the same.
const KEY: &str = "idempotency-key";
/// The longest that a claw's word about when to come again counts.
const LONGEST_AFTER: Duration = Duration::from_secs(600);

/// What came of it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The claw has it.
    Delivered,
    /// The claw will never take it.
    Refused(String),
    /// It may take it later.
    Later {
        why: String,
        /// When it said to come again.
        after: Option<Duration>,
    },
}

impl Outcome {
    fn later(why: impl Into<String>) -> Self {
        Self::Later { why: why.into(), after: None }
    }
}

/// Gives a message to a claw that is awake.
pub(super) async fn attempt(control: &Control, entrance: &Entrance, head: &Head, content: &[u8]) -> Outcome {
    let Some((mut kept, body)) = InboxRequest::unpack(content) else {
        return Outcome::Refused("it can't be read".to_owned());
    };
    let route = routes::of(&entrance.inbox, &kept.target);
    if let Some(route) = route {
        sign::renew(&mut kept.headers, body, &route.proof, head.received_at, Timestamp::now());
    }
    let request = match request(&kept, body, &head.id) {
        Ok(request) => request,
        Err(why) => return Outcome::Refused(why),
    };
    let connection = match connect(control, entrance, route.and_then(|route| route.listener)).await {
        Ok(connection) => connection,
        Err(error) => return Outcome::later(error.message().to_owned()),
    };
    let answered = tokio::select! {
        answered = timeout(ANSWER, exchange(connection, request)) => answered,
        () = until_down(control, &entrance.instance.id) => return Outcome::later("it went to sleep over it"),
    };
    match answered {
        Err(_) => Outcome::later(format!("it gave no answer within {} s", ANSWER.as_secs())),
        Ok(Err(error)) => Outcome::later(format!("it broke off: {error}")),
        Ok(Ok((status, headers))) => {
            judge(status, &headers, route.and_then(|route| route.accepted.as_deref()))
        }
    }
}

/// What an answer means.
fn judge(status: StatusCode, headers: &HeaderMap, accepted: Option<&str>) -> Outcome {
    if status.is_success() {
        return match accepted {
            // Somebody else than the channel answered: it is not up yet.
            Some(name) if !headers.contains_key(name) => {
                Outcome::later(format!("it answered {} without {name}", status.as_u16()))
            }
            _ => Outcome::Delivered,
        };
    }
    let why = format!("it answered {}", status.as_u16());
    match status.as_u16() {
        // Not now, in several words.
        408 | 425 | 429 | 500..=599 => Outcome::Later { why, after: retry_after(headers) },
        _ => Outcome::Refused(why),
    }
}

/// When the claw said to come again; in seconds, the one form that is used by programs.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds: u64 = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds).min(LONGEST_AFTER))
}

fn request(kept: &InboxRequest, body: &[u8], id: &str) -> Result<Request<Full<Bytes>>, String> {
    let mut request = Request::new(Full::new(Bytes::copy_from_slice(body)));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = kept.target.parse().map_err(|_| "its address can't be read".to_owned())?;
    let headers = request.headers_mut();
    for (name, value) in &kept.headers {
        let pair = (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_bytes(value));
        let (Ok(name), Ok(value)) = pair else { return Err(format!("its header {name} can't be read")) };
        headers.append(name, value);
    }
    headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
    // The sender's own, where it gave one, is the one it would send again.
    if !headers.contains_key(KEY)
        && let Ok(id) = HeaderValue::from_str(id)
    {
        headers.insert(KEY, id);
    }
    Ok(request)
}

async fn connect(
    control: &Control,
    entrance: &Entrance,
    listener: Option<SocketAddr>,
) -> Result<Box<dyn Connection>> {
    let dialling = async {
        match listener {
            Some(address) => control.dial_listener(entrance, address).await,
            None => control.dial_gateway(entrance).await,
        }
    };
    timeout(CONNECT, dialling)
        .await
        .unwrap_or_else(|_| Err(Error::new(clawfarm_model::Code::Timeout, "it does not take connections")))
}

/// Sends a request, and returns the head of its answer.
async fn exchange(
    connection: Box<dyn Connection>,
    request: Request<Full<Bytes>>,
) -> Result<(StatusCode, HeaderMap), hyper::Error> {
    let (mut sender, driver) = hyper::client::conn::http1::handshake(TokioIo::new(connection)).await?;
    let mut driver = std::pin::pin!(driver);
    let mut answering = std::pin::pin!(sender.send_request(request));
    let answer = tokio::select! {
        // The answer first: a claw may close the connection with it.
        biased;
        answer = &mut answering => answer?,
        ended = &mut driver => {
            ended?;
            answering.await?
        }
    };
    Ok((answer.status(), answer.headers().clone()))
}

/// Returns when the claw is no longer awake.
async fn until_down(control: &Control, id: &ClawId) {
    loop {
        sleep(LOOK).await;
        if let Ok(Some(now)) = control.entrance(&clawfarm_model::Context::system("inbox"), id).await
            && !matches!(now.instance.phase, Phase::Ready | Phase::Unhealthy)
        {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_answers_mean() {
        let none = HeaderMap::new();
        let of = |status: u16, accepted| judge(StatusCode::from_u16(status).unwrap(), &none, accepted);
        for status in [200, 202, 204] {
            assert_eq!(of(status, None), Outcome::Delivered);
        }
        assert!(matches!(of(200, Some("x-durable")), Outcome::Later { .. }));
        for status in [408, 425, 429, 500, 502, 503, 504] {
            assert!(matches!(of(status, None), Outcome::Later { .. }), "{status}");
        }
        for status in [302, 400, 401, 403, 404, 405, 409, 413, 422] {
            assert!(matches!(of(status, None), Outcome::Refused(_)), "{status}");
        }
        let mut headers = HeaderMap::new();
        headers.insert("x-durable", HeaderValue::from_static("1"));
        assert_eq!(judge(StatusCode::OK, &headers, Some("x-durable")), Outcome::Delivered);
        headers.insert(RETRY_AFTER, HeaderValue::from_static("99999"));
        let Outcome::Later { after, .. } = judge(StatusCode::TOO_MANY_REQUESTS, &headers, None) else {
            panic!("later")
        };
        assert_eq!(after, Some(LONGEST_AFTER));
    }

    #[test]
    fn the_key_is_the_message_s_unless_its_sender_gave_one() {
        let kept = |headers: &[(&str, &str)]| InboxRequest {
            target: "/hooks/x?y=z".into(),
            headers: headers.iter().map(|(n, v)| ((*n).to_owned(), v.as_bytes().to_vec())).collect(),
        };
        let request_of = |headers: &[(&str, &str)]| request(&kept(headers), b"body", "in-1").unwrap();
        let plain = request_of(&[("x-a", "1"), ("x-a", "2")]);
        assert_eq!(
            (plain.uri().to_string().as_str(), &plain.headers()[KEY]),
            ("/hooks/x?y=z", &HeaderValue::from_static("in-1"))
        );
        assert_eq!(plain.headers().get_all("x-a").iter().count(), 2);
        assert_eq!(plain.headers()[CONTENT_LENGTH], "4");
        assert_eq!(request_of(&[(KEY, "own")]).headers()[KEY], "own");
        assert!(request(&kept(&[("bad name", "x")]), b"", "in-1").is_err());
    }
}
