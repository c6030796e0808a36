//! Messages of services that can't wait for a claw to wake.
//!
//! A claw that is awake gets a message at once, and its own answer goes back. When it sleeps, when
//! it can't be reached, when it does not answer as soon as the service needs, or when earlier
//! messages of the same sender wait, the message is written down; only then its sender is told
//! that it was taken. What is written down is proven first: nobody who has not shown who he is
//! fills the disk, or wakes a claw.

mod proof;
mod read;
mod said;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use clawfarm_model::edge::Identity;
use clawfarm_model::inbox::{InboxRequest, InboxRoute, Proof};
use clawfarm_model::{ClawId, Code, Error, Timestamp};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderName, HeaderValue, RETRY_AFTER};
use http::request::Parts;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use serde_json::json;
use tokio::time::timeout;

use crate::body::{Body, full};
use crate::directory::{Message, Place, Sender, Site, SiteState};
use crate::edge::{Asked, Edge};
use crate::forward::Held;
use crate::told::{Line, Told};
use crate::upstream::Failed;
use crate::{fetched, forward, headers, limits, problem};

use self::proof::Shown;
use self::said::Said;

/// The header with a message's id: what the claw is given, with each try the same. OpenClaw's
/// hooks know it.
const KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// The header that tells a sender under which id its message waits.
const MESSAGE: HeaderName = HeaderName::from_static("x-clawfarm-message");
/// How long a claw that is awake may take while a channel waits for its answer: Discord and Slack
/// give up after 3 s, Telegram after some more. Those who call hooks say themselves how long they
/// wait, and may want the answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// When a sender may come again whose message was not taken, in seconds.
const AGAIN_SECS: u32 = 30;

/// Answers a message.
pub(crate) async fn handle(
    edge: &Arc<Edge>,
    asked: &Asked,
    site: &Arc<Site>,
    request: Request<Incoming>,
) -> Response<Body> {
    let place = match edge.meter.to_claw(&site.id, false, true) {
        Ok(place) => place,
        Err(refused) => return *refused,
    };
    let version = request.version();
    let mut line = Line::new(asked, site, "inbox", &request, false);
    let response = taken(edge, asked, site, request, place).await.unwrap_or_else(|refused| *refused);
    line.answered(response.status(), None);
    let silence = edge.config.limits.silence;
    response.map(|body| fetched::watched(Told::new(body, line).boxed_unsync(), version, silence))
}

type Refused = Box<Response<Body>>;

async fn taken(
    edge: &Arc<Edge>,
    asked: &Asked,
    site: &Arc<Site>,
    request: Request<Incoming>,
    counted: limits::Place<ClawId>,
) -> Result<Response<Body>, Refused> {
    let awake = matches!(site.state, SiteState::Awake);
    let route = route(site, request.uri().path());
    let proof = route.map_or(&Proof::Unknown, |route| &route.proof);
    // Whose claw alone can tell who it is, is heard when the claw is there to tell.
    if !awake && matches!(proof, Proof::Unknown) {
        return Err(Box::new(problem::unauthorized()));
    }
    let (parts, body) = request.into_parts();
    let unread = edge.meter.unread(asked.caller.address)?;
    let _room = edge.inbox.room().ok_or_else(|| full_house("too many messages come at once"))?;
    let body = read::whole(&parts.headers, body).await.map_err(Box::new)?;
    drop(unread);
    let shown = proof::check(proof, &parts.headers, &body, Timestamp::now().as_millis() / 1000);
    if !awake && matches!(shown, Shown::Nothing) {
        return Err(Box::new(problem::unauthorized()));
    }
    let said = said::of(proof, &parts, shown.clear(&body));
    let sender = Sender {
        path: route.map_or(parts.uri.path(), |route| &route.path),
        conversation: &said.conversation,
        number: said.number.as_deref(),
    };
    let place = edge.directory.line_up(&site.id, sender).await.map_err(|error| refusal(&error))?;
    let kept = kept(asked, site, &parts);
    if awake
        && !place.waits
        && let Some(answer) = direct(edge, site, route, &kept, &body, &place, counted).await
    {
        return Ok(answer);
    }
    // The claw could have told, and did not; or it is not its turn yet.
    if matches!(shown, Shown::Nothing) {
        return Err(Box::new(problem::later("it takes no messages at the moment", AGAIN_SECS)));
    }
    // A question of the service's about the address itself, which is no message.
    if let Some(answer) = said.answer {
        return Ok(answered(&answer));
    }
    let message = Message { path: sender.path.to_owned(), content: kept.pack(&body), place };
    let id = message.place.id.clone();
    edge.directory.accept(&site.id, message).await.map_err(|error| refusal(&error))?;
    Ok(acknowledged(proof, &said.taken, &id))
}

/// The route of a path: the longest that it is at or below.
fn route<'a>(site: &'a Site, path: &str) -> Option<&'a InboxRoute> {
    let below =
        |root: &str| path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    site.inbox.iter().filter(|route| below(&route.path)).max_by_key(|route| route.path.len())
}

/// The message as the claw gets it, now or later: without what belongs to the connection it came
/// on, and without what a stranger may say of itself.
fn kept(asked: &Asked, site: &Site, parts: &Parts) -> InboxRequest {
    let mut map = parts.headers.clone();
    headers::drop_hop_by_hop(&mut map);
    headers::drop_forged(&mut map);
    headers::drop_session(&mut map);
    map.remove(CONTENT_LENGTH);
    if let Identity::Header { name, .. } = &site.identity {
        map.remove(name.as_str());
        headers::tell_caller(&mut map, asked.caller.address, asked.caller.scheme(), &asked.host);
    }
    if let Ok(host) = HeaderValue::from_str(&asked.host) {
        map.insert(HOST, host);
    }
    let headers =
        map.iter().map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec())).collect();
    let target = parts.uri.path_and_query().map_or("/", |target| target.as_str()).to_owned();
    InboxRequest { target, headers }
}

/// Passes a message straight on; `None` when the claw did not take it, or not in time.
async fn direct(
    edge: &Arc<Edge>,
    site: &Arc<Site>,
    route: Option<&InboxRoute>,
    kept: &InboxRequest,
    body: &Bytes,
    place: &Place,
    counted: limits::Place<ClawId>,
) -> Option<Response<Body>> {
    let held = Held::new(edge.loads.begin(&site.id), counted);
    let request = to_claw(kept, body, &place.id)?;
    let listener = route.and_then(|route| route.listener);
    let sending = async {
        tokio::select! {
            sent = edge.upstream.send_to(&site.id, site.run, listener, request) => sent,
            () = forward::look_again(edge, site) => unreachable!("it goes on until there is an answer"),
        }
    };
    let waits =
        !route.is_none_or(|route| matches!(route.proof, Proof::Unknown | Proof::Open | Proof::Token { .. }));
    let sent = if waits { timeout(PATIENCE, sending).await.ok()? } else { sending.await };
    match sent {
        Ok((answer, in_use)) => {
            let missing = route
                .and_then(|route| route.accepted.as_deref())
                .is_some_and(|name| answer.status().is_success() && !answer.headers().contains_key(name));
            // It is on its way to sleep, or not up yet.
            if answer.status() == StatusCode::SERVICE_UNAVAILABLE || missing {
                return None;
            }
            Some(forward::passed_on(edge, site, answer, in_use, held))
        }
        Err(Failed::Unsent(_, error) | Failed::Broken(error)) => {
            tracing::debug!(id = %site.id, %error, "a message was not taken, and is kept");
            None
        }
    }
}

fn to_claw(kept: &InboxRequest, body: &Bytes, id: &str) -> Option<Request<Body>> {
    let mut request = Request::new(full(body.clone()));
    *request.method_mut() = http::Method::POST;
    *request.uri_mut() = kept.target.parse().ok()?;
    let map = request.headers_mut();
    for (name, value) in &kept.headers {
        map.append(HeaderName::from_bytes(name.as_bytes()).ok()?, HeaderValue::from_bytes(value).ok()?);
    }
    map.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
    if !map.contains_key(KEY) {
        map.insert(KEY, HeaderValue::from_str(id).ok()?);
    }
    Some(request)
}

/// What a service is told whose message was written down.
fn acknowledged(proof: &Proof, taken: &Option<serde_json::Value>, id: &str) -> Response<Body> {
    let mut response = match (proof, taken) {
        (_, Some(answer)) => answered(answer),
        (Proof::Telegram { .. } | Proof::Slack { .. }, None) => Response::new(crate::body::empty()),
        (_, None) => answered(&json!({ "ok": true, "queued": true, "id": id })),
    };
    if let Ok(id) = HeaderValue::from_str(id) {
        response.headers_mut().insert(MESSAGE, id);
    }
    response
}

fn answered(document: &serde_json::Value) -> Response<Body> {
    let mut response = Response::new(full(document.to_string()));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// Why a message is not taken; its sender still has it.
fn refusal(error: &Error) -> Refused {
    let status = match error.code() {
        Code::Overloaded => StatusCode::TOO_MANY_REQUESTS,
        Code::Insufficient => StatusCode::INSUFFICIENT_STORAGE,
        Code::NotFound | Code::Gone => return Box::new(problem::unauthorized()),
        _ => return Box::new(problem::later("messages can't be kept at the moment", AGAIN_SECS)),
    };
    // To strangers nothing of what waits.
    let mut response =
        problem::problem(status, error.code().as_str(), "too much waits for this claw already", None);
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(AGAIN_SECS));
    Box::new(response)
}

fn full_house(detail: &str) -> Refused {
    Box::new(problem::later(detail, AGAIN_SECS))
}

/// How many messages are read at once.
pub(crate) struct Intake(Arc<tokio::sync::Semaphore>);

impl Default for Intake {
    /// With the largest message that is taken, 64 MiB.
    fn default() -> Self {
        Self(Arc::new(tokio::sync::Semaphore::new(64)))
    }
}

impl Intake {
    /// A place for one, or none at once.
    fn room(&self) -> Option<tokio::sync::OwnedSemaphorePermit> {
        Arc::clone(&self.0).try_acquire_owned().ok()
    }
}

/// A header's text.
fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

impl Said {
    /// A message of no known conversation.
    fn nothing() -> Self {
        Self { conversation: String::new(), number: None, answer: None, taken: None }
    }
}
