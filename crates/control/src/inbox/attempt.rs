//! Giving one message to its claw, once.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use clawfarm_model::inbox::{self, InboxRequest};
use clawfarm_model::{ClawId, Error, Phase, Result, Timestamp};
use clawfarm_runtime::Connection;
use clawfarm_store::Head;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
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
/// How much of an answer is looked at, in bytes.
const BEGINNING: usize = 512;
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
        sign::renew(&mut kept.headers, body, &route.proof, Timestamp::now());
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
        Ok(Ok(answer)) => {
            let settles = inbox::settles(entrance.instance.phase_since, Timestamp::now());
            judge(&answer, route.and_then(|route| route.accepted.as_deref()), settles)
        }
    }
}

/// What a claw answered.
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    /// Whether it is a page for people, as a claw gives it at a path that is nobody's.
    page: bool,
}

/// What an answer means. While the claw `settles`, one as of nobody may be that of a channel that
/// is not up yet.
fn judge(answer: &Answer, accepted: Option<&str>, settles: bool) -> Outcome {
    let Answer { status, headers, page } = answer;
    let code = status.as_u16();
    let nobody_s = |why: String| if settles { Outcome::later(why) } else { Outcome::Refused(why) };
    if status.is_success() {
        return match accepted {
            // Somebody else than the channel answered: it is not up yet.
            Some(name) if !headers.contains_key(name) => {
                Outcome::later(format!("it answered {code} without {name}"))
            }
            None if *page => nobody_s(format!("it answered {code} with a page for people")),
            _ => Outcome::Delivered,
        };
    }
    let why = format!("it answered {code}");
    match code {
        // Not now, in several words.
        408 | 425 | 429 | 500..=599 => Outcome::Later { why, after: retry_after(headers) },
        _ if inbox::is_nobody_s(code) => nobody_s(why),
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

/// Sends a request, and returns its answer.
async fn exchange(
    connection: Box<dyn Connection>,
    request: Request<Full<Bytes>>,
) -> Result<Answer, hyper::Error> {
    let (mut sender, driver) = hyper::client::conn::http1::handshake(TokioIo::new(connection)).await?;
    let mut driver = std::pin::pin!(driver);
    let answering = async {
        let (parts, body) = sender.send_request(request).await?.into_parts();
        let page = parts.status.is_success() && is_html(&parts.headers) && is_page(&beginning(body).await);
        Ok(Answer { status: parts.status, headers: parts.headers, page })
    };
    let mut answering = std::pin::pin!(answering);
    tokio::select! {
        // The answer first: a claw may close the connection with it.
        biased;
        answer = &mut answering => answer,
        ended = &mut driver => {
            ended?;
            answering.await
        }
    }
}

fn is_html(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    kind.trim_start().to_ascii_lowercase().starts_with("text/html")
}

/// As much of a body as tells what it is.
async fn beginning(mut body: Incoming) -> Vec<u8> {
    let mut start = Vec::new();
    while start.len() < BEGINNING
        && let Some(Ok(frame)) = body.frame().await
    {
        let Some(data) = frame.data_ref() else { continue };
        start.extend_from_slice(&data[..data.len().min(BEGINNING)]);
    }
    start
}

/// Whether a text of the type HTML is a whole page: some libraries call any short answer HTML.
fn is_page(start: &[u8]) -> bool {
    let start =
        String::from_utf8_lossy(start).trim_start_matches(['\u{feff}', '\u{fffd}']).to_ascii_lowercase();
    let start = start.trim_start();
    ["<!doctype html", "<html", "<!--"].iter().any(|tag| start.starts_with(tag))
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

    fn answer(status: u16, headers: &HeaderMap, page: bool) -> Answer {
        Answer { status: StatusCode::from_u16(status).unwrap(), headers: headers.clone(), page }
    }

    #[test]
    fn what_answers_mean() {
        let none = HeaderMap::new();
        let of = |status: u16, accepted| judge(&answer(status, &none, false), accepted, false);
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
        assert_eq!(judge(&answer(200, &headers, false), Some("x-durable"), false), Outcome::Delivered);
        headers.insert(RETRY_AFTER, HeaderValue::from_static("99999"));
        let Outcome::Later { after, .. } = judge(&answer(429, &headers, false), None, false) else {
            panic!("later")
        };
        assert_eq!(after, Some(LONGEST_AFTER));
    }

    #[test]
    fn one_that_is_just_up_may_lack_its_channels() {
        let none = HeaderMap::new();
        for (status, page) in [(401, false), (404, false), (405, false), (404, true), (200, true)] {
            let of = |settles| judge(&answer(status, &none, page), None, settles);
            assert!(matches!(of(true), Outcome::Later { .. }), "{status}");
            assert!(matches!(of(false), Outcome::Refused(_)), "{status}");
        }
        for status in [400, 403, 413, 422] {
            assert!(matches!(judge(&answer(status, &none, false), None, true), Outcome::Refused(_)));
        }
        assert_eq!(judge(&answer(200, &none, false), None, true), Outcome::Delivered);
        let at = Timestamp::from_millis;
        assert!(inbox::settles(at(0), at(179_999)) && !inbox::settles(at(0), at(180_000)));
        assert!(!inbox::settles(at(1), at(0)), "of a clock that is behind nothing is known");
    }

    #[test]
    fn a_page_for_people_is_known_by_its_beginning() {
        for page in ["<!DOCTYPE html><html>", "\u{feff}\n  <html lang=en>", "<!-- built --><html>"] {
            assert!(is_page(page.as_bytes()), "{page}");
        }
        // What a web framework calls HTML because nobody said what it is.
        for text in ["", "OK", "<p>thanks</p>", "{\"ok\":true}"] {
            assert!(!is_page(text.as_bytes()), "{text}");
        }
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("Text/HTML; charset=utf-8"));
        assert!(is_html(&headers) && !is_html(&HeaderMap::new()));
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
