//! The base domain's own page: signing in, and the way to one's claws.

use std::time::Duration;

use bytes::Bytes;
use clawfarm_model::ClawId;
use http::header::{HeaderValue, SET_COOKIE};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use secrecy::SecretString;
use serde::Deserialize;
use tokio::time::timeout;

use crate::body::{Body, full};
use crate::directory::Person;
use crate::edge::{Asked, Edge};
use crate::own::own_path;
use crate::session::{self, PLAIN_BASE_LIFE, Purpose, SESSION_LIFE};
use crate::told::{self, Reason};
use crate::{gate, own, pages, problem};

/// How long a form may take to arrive.
const FORM_LIMIT: Duration = Duration::from_secs(30);
/// The longest form that is read.
const FORM_MAX: usize = 16 << 10;

#[derive(Deserialize)]
struct SignIn {
    token: String,
    #[serde(default)]
    to: String,
}

#[derive(Deserialize)]
struct Go {
    claw: String,
    #[serde(default)]
    to: String,
}

/// Answers a request for the base domain.
pub(crate) async fn handle(edge: &Edge, asked: &Asked, request: Request<Incoming>) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let query = parts.uri.query().unwrap_or_default();
    let (method, path) = (&parts.method, parts.uri.path());
    let Some(allowed) = methods(path) else { return pages::nothing("There is nothing at this address.") };
    if !allowed.split(", ").any(|it| it == method.as_str()) {
        return problem::not_allowed(allowed);
    }
    let reads = matches!(*method, Method::GET | Method::HEAD);
    if !reads && !gate::is_own(&parts, &asked.origin) {
        told::refused(Reason::CrossSite);
        let detail = "another site's page can't sign anybody in or out here";
        return problem::problem(StatusCode::FORBIDDEN, "forbidden", detail, None);
    }
    match path {
        "/healthz" => Response::new(full("ok\n")),
        "/" => match who(edge, asked, &parts.headers).await {
            Ok(Some(person)) => match edge.directory.sites(&person.name).await {
                Ok(sites) => pages::claws(&sites),
                Err(error) => problem::of(&error, Some(1)),
            },
            Ok(None) => pages::sign_in("/", false, &claws(edge, asked)),
            Err(error) => problem::of(&error, Some(1)),
        },
        "/_clawfarm/go" => match serde_html_form::from_str::<Go>(query) {
            Ok(asks) => go(edge, asked, &parts.headers, &asks).await,
            Err(_) => problem::bad_request("the address names no claw"),
        },
        "/_clawfarm/sign-in" => match edge.meter.sign_in(asked.caller.address) {
            Ok(()) => sign_in(edge, asked, body).await,
            Err(refused) => *refused,
        },
        _ => {
            let mut response = pages::redirect("/");
            give(&mut response, &session::end_cookie(asked.caller.tls));
            response
        }
    }
}

/// The methods that a path takes; `None` where there is nothing.
fn methods(path: &str) -> Option<&'static str> {
    match path {
        "/healthz" | "/" | "/_clawfarm/go" => Some("GET, HEAD"),
        "/_clawfarm/sign-in" | "/_clawfarm/sign-out" => Some("POST"),
        _ => None,
    }
}

/// Where a browser finds its way to a claw: over the base domain, which knows who it is.
pub(crate) fn go_address(edge: &Edge, asked: &Asked, id: &ClawId, to: &str) -> String {
    let mut query = String::new();
    // A pair of strings can always be written.
    if let Ok(written) = serde_html_form::to_string([("claw", id.as_str()), ("to", own_path(to))]) {
        query = written;
    }
    format!("{}/_clawfarm/go?{query}", page_address(edge, asked))
}

/// Where the base domain's page is.
pub(crate) fn page_address(edge: &Edge, asked: &Asked) -> String {
    format!("{}://{}{}", asked.caller.scheme(), edge.config.base.page(), port(asked))
}

/// All claws' names, as a page's policy says where its form may lead.
fn claws(edge: &Edge, asked: &Asked) -> String {
    format!("{}://*.{}{}", asked.caller.scheme(), edge.config.base.as_str(), port(asked))
}

/// The port that the caller used, as it stands in an address.
fn port(asked: &Asked) -> &str {
    let name = crate::host::name_of(&asked.host);
    &asked.host[name.len()..]
}

async fn who(edge: &Edge, asked: &Asked, headers: &HeaderMap) -> clawfarm_model::Result<Option<Person>> {
    let Some(pass) = session::cookie(headers, asked.caller.tls) else { return Ok(None) };
    // Who it says it is only tells which person to check it against.
    let Some(name) = session::claimed(pass) else { return Ok(None) };
    let Some(person) = edge.directory.person(&name).await? else { return Ok(None) };
    let good = edge.passes.check(Purpose::Base, "", pass, &person.bound);
    Ok(good.filter(|good| good.user == person.name).map(|_| person))
}

async fn go(edge: &Edge, asked: &Asked, headers: &HeaderMap, asks: &Go) -> Response<Body> {
    let person = match who(edge, asked, headers).await {
        Ok(Some(person)) => person,
        Ok(None) => {
            let pairs = [("claw", asks.claw.as_str()), ("to", asks.to.as_str())];
            let query = serde_html_form::to_string(pairs).unwrap_or_default();
            return pages::sign_in(&format!("/_clawfarm/go?{query}"), false, &claws(edge, asked));
        }
        Err(error) => return problem::of(&error, Some(1)),
    };
    // One the person may open: of others nothing is told.
    let site = match ClawId::new(asks.claw.clone()) {
        Ok(id) => edge.directory.site_of(&person.name, &id).await,
        Err(_) => Ok(None),
    };
    let site = match site {
        Ok(Some(site)) => site,
        Ok(None) => return pages::nothing("You have no claw of this name."),
        Err(error) => return problem::of(&error, Some(1)),
    };
    match own::ticket(edge, &site, &person) {
        Ok(ticket) => {
            let to = serde_html_form::to_string([("to", own_path(&asks.to))]).unwrap_or_default();
            let base = edge.config.base.as_str();
            pages::redirect(&format!(
                "{}://{}.{base}{}{ticket}&{to}",
                asked.caller.scheme(),
                site.id,
                port(asked)
            ))
        }
        Err(error) => problem::of(&error, None),
    }
}

async fn sign_in(edge: &Edge, asked: &Asked, body: Incoming) -> Response<Body> {
    let read_all = timeout(FORM_LIMIT, Limited::new(body, FORM_MAX).collect()).await;
    let Ok(Ok(body)) = read_all.map(|read| read.map(http_body_util::Collected::to_bytes)) else {
        return problem::problem(
            StatusCode::PAYLOAD_TOO_LARGE,
            "invalid_input",
            "the form is too long, or takes too long to come",
            None,
        );
    };
    let Ok(form) = read(&body) else { return problem::bad_request("the form has no token") };
    let person = match edge.directory.sign_in(&SecretString::from(form.token.trim())).await {
        Ok(person) => person,
        Err(error) if error.code() == clawfarm_model::Code::Unauthenticated => {
            return pages::sign_in(local(&form.to), true, &claws(edge, asked));
        }
        Err(error) => return problem::of(&error, Some(1)),
    };
    let life = if asked.caller.tls { SESSION_LIFE } else { PLAIN_BASE_LIFE };
    match edge.passes.issue(Purpose::Base, "", &person.name, &person.bound, life) {
        Ok(pass) => {
            let mut response = pages::redirect(local(&form.to));
            give(&mut response, &session::set_cookie(&pass, asked.caller.tls, life));
            response
        }
        Err(error) => problem::of(&error, None),
    }
}

fn read(body: &Bytes) -> Result<SignIn, serde_html_form::de::Error> {
    serde_html_form::from_bytes(body)
}

/// Where to go on at the base domain: its page, or on to a claw.
fn local(to: &str) -> &str {
    if to.starts_with("/_clawfarm/go?") && to.bytes().all(|b| b.is_ascii_graphic() && b != b'\\') {
        to
    } else {
        "/"
    }
}

fn give(response: &mut Response<Body>, cookie: &str) {
    if let Ok(cookie) = HeaderValue::from_str(cookie) {
        response.headers_mut().append(SET_COOKIE, cookie);
    }
}
