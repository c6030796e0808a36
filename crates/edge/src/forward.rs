//! Passing a request on to its claw, which is woken first when it sleeps.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Context;
use std::time::Duration;

use clawfarm_model::edge::Identity;
use clawfarm_model::{ClawId, Code, Error};
use http::header::{AUTHORIZATION, CONTENT_LENGTH, HOST, HeaderName, HeaderValue, ORIGIN, TRANSFER_ENCODING};
use http::{Method, Request, Response, StatusCode, Version};
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};
use secrecy::ExposeSecret as _;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use crate::body::{AtEnd, Body, Passing};
use crate::directory::{Site, SiteState};
use crate::edge::{Asked, Edge};
use crate::gate::{self, Who};
use crate::hold::{Waited, may_pass};
use crate::load::Going;
use crate::patient::Arriving;
use crate::told::{Line, Told};
use crate::tunnel::{self, Wish};
use crate::upstream::{Failed, InUse};
use crate::{fetched, headers, pages, problem};

/// When a client may try again, in seconds.
pub(crate) const RETRY_SECS: u32 = 2;
/// How often a request that the claw never saw is sent again: it may have gone to sleep, or have
/// been started anew, between the look and the connection.
const TRIES: usize = 3;
/// After how long without an answer it is asked whether the claw still is what it was: a claw
/// that was frozen in the same moment takes the request and says nothing.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// The methods that are passed on; others are, too, but these a claw may well have.
pub(crate) const METHODS: &str = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";

/// How often it is looked whether a WebSocket is still there.
const ATTEND: Duration = Duration::from_secs(30);

/// What a request's way took and is told of, for the log.
struct Took {
    woke: Option<Duration>,
    /// What becomes the log's line; a WebSocket takes it along.
    line: Option<Line>,
    /// Set when the caller fell silent.
    silent: Arc<AtomicBool>,
    /// The claw itself answered.
    answered: bool,
}

/// What is counted of a request until all of it is over.
pub(crate) struct Held {
    /// What keeps its claw awake; nothing does for one that has shown nothing.
    going: Option<Going>,
    /// Its places, in whatever it has them.
    _places: Box<dyn Send + Sync>,
}

impl Held {
    pub(crate) fn new(going: Option<Going>, places: impl Send + Sync + 'static) -> Self {
        Self { going, _places: Box::new(places) }
    }

    /// From now on it counts as use of the claw.
    pub(crate) fn counts(&mut self, begin: impl FnOnce() -> Going) {
        self.going.get_or_insert_with(begin);
    }

    /// It has become a WebSocket.
    pub(crate) fn becomes_socket(&mut self) {
        if let Some(going) = &mut self.going {
            going.becomes_socket();
        }
    }

    /// Its client has said something.
    pub(crate) fn talks(&self) {
        if let Some(going) = &self.going {
            going.talks();
        }
    }
}

/// Passes a request on.
pub(crate) async fn forward(
    edge: &Arc<Edge>,
    asked: &Asked,
    site: Arc<Site>,
    who: Who,
    mut request: Request<Incoming>,
) -> Response<Body> {
    let began = Instant::now();
    let found = Arc::clone(&site);
    let version = request.version();
    let wish = tunnel::wish(&mut request);
    if wish.is_none() && *request.method() == Method::CONNECT {
        return problem::not_allowed(METHODS);
    }
    let place = match edge.meter.to_claw(&site.id, wish.is_some()) {
        Ok(place) => place,
        Err(refused) => return *refused,
    };
    let held = Held::new(Some(edge.loads.begin(&site.id)), place);
    let line = Line::new(asked, &site, Edge::who(&who), &request, wish.is_some());
    let mut took = Took { woke: None, line: Some(line), silent: Arc::default(), answered: false };
    let page = matches!(who, Who::Person(_)) && gate::wants_page(request.method(), request.headers());
    if let Some(wish) = &wish
        && (wish_has_body(request.headers()) && !wish.is_extended())
    {
        return problem::bad_request("a request to become a WebSocket has a body");
    }
    let response = match awake(edge, &site, page, &mut took).await {
        Ok(now) if now.token.expose_secret() != site.token.expose_secret() => problem::unauthorized(),
        Ok(site) => send(edge, asked, &site, &who, request, wish, held, &mut took).await,
        Err(response) => *response,
    };
    measure(&found, took.woke.filter(|_| took.answered), began.elapsed());
    edge.directory.answered(&found.id, response.status().is_server_error());
    match took.line {
        Some(mut line) => {
            line.answered(response.status(), took.woke);
            let silence = edge.config.limits.silence;
            response.map(|body| fetched::watched(Told::new(body, line).boxed_unsync(), version, silence))
        }
        None => response,
    }
}

/// Measures the last part of a wake: from the claw being up until its answer began.
fn measure(found: &Site, woke: Option<Duration>, all: Duration) {
    let (SiteState::Asleep { warm }, Some(woke)) = (&found.state, woke) else { return };
    metrics::histogram!(
        "clawfarm_wake_seconds",
        "part" => "first_byte",
        "from" => if *warm { "warm" } else { "suspended" },
        "runtime" => found.runtime,
        "claw_type" => found.claw_type.clone()
    )
    .record(all.saturating_sub(woke).as_secs_f64());
}

/// The claw, up. What it has to say to the caller otherwise.
async fn awake(
    edge: &Edge,
    site: &Arc<Site>,
    page: bool,
    took: &mut Took,
) -> Result<Arc<Site>, Box<Response<Body>>> {
    match &site.state {
        SiteState::Awake => return Ok(Arc::clone(site)),
        SiteState::Asleep { .. } | SiteState::Starting => {}
        SiteState::Down(error) => return Err(Box::new(down(site, error, page))),
    }
    let began = Instant::now();
    let patience = if page { edge.config.page_after } else { edge.config.hold };
    let waited = tokio::select! {
        waited = edge.wakes.wake(&site.id, patience) => waited,
        () = edge.stopping.cancelled() => Waited::Later,
    };
    took.woke = Some(began.elapsed());
    match waited {
        Waited::Awake(site) => Ok(site),
        Waited::Failed(error) => Err(Box::new(down(site, &error, page))),
        Waited::Later if page => Err(Box::new(pages::waiting(site, RETRY_SECS))),
        Waited::Later => Err(Box::new(problem::later(&format!("'{}' is still waking", site.id), RETRY_SECS))),
        Waited::Full if page => Err(Box::new(pages::waiting(site, RETRY_SECS))),
        Waited::Full => {
            Err(Box::new(problem::later(&format!("too many wait for '{}' already", site.id), RETRY_SECS)))
        }
    }
}

fn down(site: &Site, error: &Error, page: bool) -> Response<Body> {
    if page {
        return pages::down(&site.name, error.message(), error.fix_text());
    }
    problem::of(error, may_pass(error).then_some(RETRY_SECS))
}

#[expect(clippy::too_many_arguments, reason = "one request's way, in one place")]
async fn send(
    edge: &Arc<Edge>,
    asked: &Asked,
    site: &Arc<Site>,
    who: &Who,
    request: Request<Incoming>,
    wish: Option<Wish>,
    held: Held,
    took: &mut Took,
) -> Response<Body> {
    let mut run = site.run;
    let received = took.line.as_ref().map_or_else(Arc::default, |line| Arc::clone(&line.received));
    let (silence, silent) = (edge.config.limits.silence, Arc::clone(&took.silent));
    // A body may have to go on while the caller takes nothing of the answer; and over HTTP/2 it
    // counts when the claw said something (`fetched`), which a connection that goes on does not tell.
    let apart = wish.is_some() || request.version() == Version::HTTP_2 || !request.body().is_end_stream();
    let request = request.map(|body| Arriving::new(body, silence, received, silent));
    let mut request = to_claw(asked, site, who, request, wish.as_ref());
    for attempt in 1..=TRIES {
        let answered = tokio::select! {
            answered = edge.upstream.send(&site.id, run, request, apart) => answered,
            () = look_again(edge, site) => unreachable!("it goes on until there is an answer"),
        };
        match answered {
            Ok((answer, in_use)) => {
                took.answered = true;
                return answered_with(edge, site, answer, in_use, wish, held, took);
            }
            Err(Failed::Unsent(back, error)) if attempt < TRIES => {
                tracing::debug!(id = %site.id, %error, "a claw was not where it was");
                request = *back;
                let began = Instant::now();
                let again = match edge.directory.look_again(&site.id).await {
                    Ok(Some(again)) => again,
                    Ok(None) => return problem::of(&error, None),
                    Err(error) => return problem::of(&error, Some(RETRY_SECS)),
                };
                match awake(edge, &again, false, took).await {
                    // Whom it was let in by counts no more.
                    Ok(again) if again.token.expose_secret() != site.token.expose_secret() => {
                        return problem::unauthorized();
                    }
                    Ok(again) => run = again.run,
                    Err(response) => return *response,
                }
                took.woke = Some(took.woke.unwrap_or_default() + began.elapsed());
            }
            Err(Failed::Unsent(_, error)) => return problem::of(&error, Some(RETRY_SECS)),
            Err(Failed::Broken(_)) if took.silent.load(Ordering::Relaxed) => {
                return problem::problem(
                    StatusCode::REQUEST_TIMEOUT,
                    "timeout",
                    "the rest of the request's body did not come",
                    None,
                );
            }
            Err(Failed::Broken(error)) => {
                tracing::info!(id = %site.id, ?error, "a claw broke off");
                return problem::of(
                    &Error::new(Code::ClawFailed, error.message().to_owned())
                        .fix("whether it acted on the request is not known"),
                    None,
                );
            }
        }
    }
    unreachable!("the last try returns")
}

/// Wakes the claw of a request that it took and does not answer, should it have fallen asleep.
/// Seldom and seldomer: most claws that do not answer are thinking.
pub(crate) async fn look_again(edge: &Edge, site: &Site) {
    let mut pause = LOOK_AGAIN;
    loop {
        sleep(pause).await;
        pause = (pause * 2).min(LOOK_AGAIN * 16);
        wake_frozen(edge, &site.id).await;
    }
}

/// Returns when a claw is asleep. For a request that is not to wake it.
pub(crate) async fn until_asleep(edge: &Edge, site: &Site) {
    loop {
        sleep(LOOK_AGAIN).await;
        if let Ok(Some(now)) = edge.directory.look_up(&site.id).await
            && matches!(now.state, SiteState::Asleep { .. })
        {
            return;
        }
    }
}

/// Wakes a claw that was frozen with connections open.
async fn wake_frozen(edge: &Edge, id: &ClawId) {
    if let Ok(Some(now)) = edge.directory.look_up(id).await
        && matches!(now.state, SiteState::Asleep { warm: true })
    {
        edge.wakes.wake(id, edge.config.hold).await;
    }
}

fn wish_has_body(headers: &http::HeaderMap) -> bool {
    let length = headers.get(CONTENT_LENGTH).is_some_and(|length| length.as_bytes() != b"0");
    length || headers.contains_key(TRANSFER_ENCODING)
}

/// The request as the claw gets it.
fn to_claw(
    asked: &Asked,
    site: &Site,
    who: &Who,
    request: Request<Arriving>,
    wish: Option<&Wish>,
) -> Request<Body> {
    let (mut parts, body) = request.into_parts();
    let headers = &mut parts.headers;
    headers::drop_hop_by_hop(headers);
    headers::drop_forged(headers);
    headers::drop_session(headers);
    headers::tell_request(headers, &asked.id);
    match &site.identity {
        Identity::Token => {
            if !matches!(who, Who::Messenger) {
                headers::bear(headers, site.token.expose_secret());
            }
        }
        Identity::Header { name, user, origin } => {
            headers.remove(name.as_str());
            headers::tell_caller(headers, asked.caller.address, asked.caller.scheme(), &asked.host);
            if let Some(Ok(prefix)) = asked.prefix.as_deref().map(HeaderValue::from_str) {
                headers.insert("x-forwarded-prefix", prefix);
            }
            if !matches!(who, Who::Messenger) {
                headers.remove(AUTHORIZATION);
                let pair = (name.parse::<HeaderName>(), HeaderValue::from_str(user));
                if let (Ok(name), Ok(mut user)) = pair {
                    user.set_sensitive(true);
                    headers.insert(name, user);
                }
                // A session's origin was checked; who has the token may say what it likes.
                if headers.contains_key(ORIGIN)
                    && let Ok(origin) = HeaderValue::from_str(origin)
                {
                    headers.insert(ORIGIN, origin);
                }
            }
        }
    }
    if let Some(wish) = wish {
        wish.ask(headers);
        parts.method = Method::GET;
    } else if !body.is_end_stream() && !headers.contains_key(CONTENT_LENGTH) {
        // Said here, because for a GET hyper would take it that there is none.
        headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    if let Ok(host) = HeaderValue::from_str(&asked.host) {
        headers.insert(HOST, host);
    }
    parts.version = Version::HTTP_11;
    // The claw is asked by path, as an origin is; the host is in its header.
    parts.uri = parts.uri.path_and_query().map_or_else(http::Uri::default, |path| path.clone().into());
    parts.extensions.clear();
    let body = if wish.is_some() { crate::body::empty() } else { body.boxed_unsync() };
    Request::from_parts(parts, body)
}

struct Kept {
    in_use: InUse,
    _held: Held,
}

impl AtEnd for Kept {
    fn go_on(&mut self, cx: &mut Context<'_>) {
        self.in_use.go_on(cx);
    }

    fn whole(self) {
        self.in_use.whole();
    }
}

/// A claw's answer to a message, as its sender gets it.
pub(crate) fn passed_on(
    edge: &Arc<Edge>,
    site: &Site,
    answer: Response<Incoming>,
    in_use: InUse,
    held: Held,
) -> Response<Body> {
    let mut took = Took { woke: None, line: None, silent: Arc::default(), answered: true };
    answered_with(edge, site, answer, in_use, None, held, &mut took)
}

/// The answer as the caller gets it.
fn answered_with(
    edge: &Arc<Edge>,
    site: &Site,
    mut answer: Response<Incoming>,
    in_use: InUse,
    wish: Option<Wish>,
    held: Held,
    took: &mut Took,
) -> Response<Body> {
    headers::clean_answer(answer.headers_mut());
    match (answer.status(), wish) {
        (StatusCode::SWITCHING_PROTOCOLS, Some(wish)) => {
            let heard = Arc::new(Notify::new());
            let mut line = took.line.take();
            if let Some(line) = &mut line {
                line.answered(answer.status(), took.woke);
            }
            let (cut, told) = (edge.cut.clone(), Arc::clone(&heard));
            let response = wish.join(answer, held, line, &edge.tunnels, cut, told);
            edge.attend(site.id.clone(), &heard);
            response
        }
        // Over HTTP/2 the client would take any success for an open connection.
        (status, Some(wish)) if wish.is_extended() && status.is_success() => problem::problem(
            StatusCode::BAD_GATEWAY,
            "claw_failed",
            "the claw did not open the WebSocket",
            None,
        ),
        // Nobody asked it to.
        (StatusCode::SWITCHING_PROTOCOLS, None) => problem::problem(
            StatusCode::BAD_GATEWAY,
            "claw_failed",
            "the claw changed the protocol unasked",
            None,
        ),
        _ => {
            let (parts, body) = answer.into_parts();
            let body = if body.is_end_stream() {
                // Nobody reads a body that is none.
                in_use.whole();
                crate::body::empty()
            } else {
                Passing::new(body, Kept { in_use, _held: held }).map_err(Into::into).boxed_unsync()
            };
            let mut response = Response::from_parts(parts, body);
            *response.version_mut() = Version::HTTP_11;
            response
        }
    }
}

impl Edge {
    /// Wakes a claw that was frozen under a WebSocket when its client says something; until the
    /// WebSocket has ended.
    fn attend(self: &Arc<Self>, id: ClawId, heard: &Arc<Notify>) {
        let (edge, heard) = (Arc::downgrade(self), Arc::downgrade(heard));
        tokio::spawn(async move {
            loop {
                // What the WebSocket holds is the only other one.
                let Some(told) = heard.upgrade().filter(|told| Arc::strong_count(told) > 1) else { return };
                let heard = tokio::time::timeout(ATTEND, told.notified()).await.is_ok();
                let Some(edge) = edge.upgrade() else { return };
                if heard {
                    wake_frozen(&edge, &id).await;
                    sleep(ATTEND / 30).await;
                }
            }
        });
    }
}
