//! Messages of services that can't wait for a claw to wake.
//!
//! A claw that is awake gets a message at once, and its own answer goes back. When it sleeps, when
//! it can't be reached, when it does not answer as soon as the service needs, or when earlier
//! messages of the same sender wait, the message is written down; only then its sender is told
//! that it was taken. What is written down is proven first: nobody who has not shown who he is
//! fills the disk, or wakes a claw.

mod intake;
mod proof;
mod read;
mod said;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use clawfarm_model::edge::Identity;
use clawfarm_model::inbox::{self, InboxRequest, InboxRoute, Proof};
use clawfarm_model::{Code, Error, Timestamp};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderName, HeaderValue, RETRY_AFTER};
use http::request::Parts;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use serde_json::json;
use tokio::time::timeout;

use crate::body::{Body, full};
use crate::directory::{Message, Sender, Site, SiteState};
use crate::edge::{Asked, Edge};
use crate::forward::Held;
use crate::limits::Sort;
use crate::told::{Line, Reason, Told};
use crate::upstream::Failed;
use crate::{fetched, forward, headers, limits, problem};

pub(crate) use self::intake::Intake;
use self::proof::{Ahead, Shown};
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
    let version = request.version();
    let mut line = Line::new(asked, site, "inbox", &request, false);
    let response = taken(edge, asked, site, request).await.unwrap_or_else(|refused| *refused);
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
) -> Result<Response<Body>, Refused> {
    let awake = matches!(site.state, SiteState::Awake);
    let route = route(site, request.uri().path());
    let proof = route.map_or(&Proof::Unknown, |route| &route.proof);
    let ahead = proof::ahead(proof, request.headers(), seconds());
    // Whose claw alone can tell who it is, is heard when the claw is there to tell. Awake it may
    // know better than what is known of it here.
    if !awake && (matches!(proof, Proof::Unknown) || ahead == Ahead::Hopeless) {
        return Err(Box::new(problem::unauthorized()));
    }
    let (parts, body) = request.into_parts();
    let sort = if ahead == Ahead::Proven { Sort::Proven } else { Sort::Stranger };
    let unread = edge.meter.unread(&site.id, asked.caller.address, sort)?;
    let room = edge.inbox.room(sort).ok_or_else(full_house)?;
    let body = read::whole(&parts.headers, body).await.map_err(Box::new)?;
    drop((unread, room));
    let shown = proof::check(proof, &parts.headers, &body, seconds());
    let proven = matches!(shown, Shown::Itself(_));
    if !awake && !proven {
        return Err(Box::new(problem::unauthorized()));
    }
    let said = said::of(proof, &parts, shown.clear(&body));
    let sender = Sender {
        path: route.map_or(parts.uri.path(), |route| &route.path),
        target: parts.uri.path_and_query().map_or("/", |target| target.as_str()),
        conversation: &said.conversation,
        number: said.number.as_deref(),
    };
    let place = edge.directory.line_up(&site.id, sender).await.map_err(|error| refusal(&error))?;
    let kept = kept(asked, site, &parts);
    if awake && !place.waits {
        let sort = if proven && !matches!(proof, Proof::Open) { Sort::Proven } else { Sort::Stranger };
        match edge.meter.message(&site.id, sort).zip(edge.inbox.waiting(body.len())) {
            Some(places) => {
                let message = Direct { route, kept: &kept, body: &body, id: &place.id, proven };
                if let Some(answer) = direct(edge, site, message, places).await {
                    return Ok(answer);
                }
            }
            // Its claw is at many already. What is written down waits without a place.
            None if proven => {}
            None => return Err(limits::no_place(Reason::ClawMessages, "messages at once")),
        }
    }
    // The claw could have told, and did not; or it is not its turn yet.
    if !proven {
        return Err(Box::new(problem::later("it takes no messages at the moment", AGAIN_SECS)));
    }
    // A question of the service's about the address itself, which is no message.
    if let Some(answer) = said.answer {
        return Ok(answered(&answer));
    }
    let _memory = edge.inbox.writing(body.len()).ok_or_else(full_house)?;
    let message = Message { path: sender.path.to_owned(), content: kept.pack(&body), place };
    let id = message.place.id.clone();
    edge.directory.accept(&site.id, message).await.map_err(|error| refusal(&error))?;
    Ok(acknowledged(proof, &said.taken, &id))
}

fn seconds() -> i64 {
    Timestamp::now().as_millis() / 1000
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

/// A message for a claw that is awake.
struct Direct<'a> {
    route: Option<&'a InboxRoute>,
    kept: &'a InboxRequest,
    body: &'a Bytes,
    id: &'a str,
    /// Whether it has shown that it is its service's, or need not.
    proven: bool,
}

/// Passes a message straight on; `None` when the claw did not take it, or not in time.
async fn direct(
    edge: &Arc<Edge>,
    site: &Arc<Site>,
    message: Direct<'_>,
    places: impl Send + Sync + 'static,
) -> Option<Response<Body>> {
    let Direct { route, kept, body, id, proven } = message;
    // What has shown nothing keeps no claw awake, and wakes none that falls asleep over it.
    let mut held = Held::new(proven.then(|| edge.loads.begin(&site.id)), places);
    let request = to_claw(kept, body, id)?;
    let listener = route.and_then(|route| route.listener);
    let attending = async {
        if proven { forward::look_again(edge, site).await } else { forward::until_asleep(edge, site).await }
    };
    let sending = async {
        tokio::select! {
            sent = edge.upstream.send_to(&site.id, site.run, listener, request) => Some(sent),
            () = attending => None,
        }
    };
    let waits =
        !route.is_none_or(|route| matches!(route.proof, Proof::Unknown | Proof::Open | Proof::Token { .. }));
    let sent = if waits { timeout(PATIENCE, sending).await.ok()? } else { sending.await };
    match sent? {
        Ok((answer, in_use)) => {
            let good = answer.status().is_success();
            let page = good && is_html(answer.headers());
            let missing = match route.and_then(|route| route.accepted.as_deref()) {
                Some(name) => good && !answer.headers().contains_key(name),
                // Its channels may not be up yet, of which nothing is known for what is not proven.
                None => {
                    proven
                        && inbox::settles(site.up_since, Timestamp::now())
                        && (page || inbox::is_nobody_s(answer.status().as_u16()))
                }
            };
            // It is on its way to sleep, or not up yet.
            if answer.status() == StatusCode::SERVICE_UNAVAILABLE || missing {
                return None;
            }
            if good && !page {
                // It knows who that is.
                held.counts(|| edge.loads.begin(&site.id));
            }
            Some(forward::passed_on(edge, site, answer, in_use, held))
        }
        Err(Failed::Unsent(_, error) | Failed::Broken(error)) => {
            tracing::debug!(id = %site.id, %error, "a message was not taken, and is kept");
            None
        }
    }
}

fn is_html(headers: &HeaderMap) -> bool {
    header(headers, CONTENT_TYPE.as_str())
        .is_some_and(|kind| kind.to_ascii_lowercase().starts_with("text/html"))
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

fn full_house() -> Refused {
    Box::new(problem::later("too many messages come at once", AGAIN_SECS))
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
