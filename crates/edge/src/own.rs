//! The edge's own paths at a claw's name: coming in with a ticket, and asking how far it is.

use clawfarm_model::ClawId;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue, SET_COOKIE};
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use serde::Deserialize;

use crate::body::{Body, full};
use crate::directory::{Person, Site, SiteState};
use crate::edge::{Asked, Edge};
use crate::session::{self, Purpose, SESSION_LIFE, TICKET_LIFE};
use crate::{gate, pages, problem};

#[derive(Default, Deserialize)]
struct Enter {
    #[serde(default)]
    ticket: String,
    #[serde(default)]
    to: String,
}

/// Answers a request for one of the edge's own paths.
pub(crate) async fn handle(
    edge: &Edge,
    asked: &Asked,
    id: &ClawId,
    request: Request<Incoming>,
) -> Response<Body> {
    let site = match edge.directory.look_up(id).await {
        Ok(site) => site,
        Err(error) => return problem::of(&error, Some(1)),
    };
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    if (&method, path.as_str()) == (&Method::GET, "/_clawfarm/enter") {
        return enter(edge, asked, id, site.as_deref(), request.uri().query()).await;
    }
    // Strangers are told the same whether or not there is such a claw.
    let Some(site) = site else { return problem::unauthorized() };
    if !signed_in(edge, asked, &site, request).await {
        return problem::unauthorized();
    }
    match (&method, path.as_str()) {
        (&Method::GET, "/_clawfarm/state") => state(edge, &site),
        (&Method::POST, "/_clawfarm/sign-out") => sign_out(asked),
        _ => pages::nothing("This path is the edge's, and there is nothing at it."),
    }
}

/// An address that opens a claw's pages, relative to its name.
pub(crate) fn ticket(edge: &Edge, site: &Site, person: &Person) -> clawfarm_model::Result<String> {
    let bound = session::bound(&site.token, &person.bound);
    let ticket = edge.passes.issue(Purpose::Ticket, site.id.as_str(), &person.name, &bound, TICKET_LIFE)?;
    Ok(format!("/_clawfarm/enter?ticket={ticket}"))
}

async fn enter(
    edge: &Edge,
    asked: &Asked,
    id: &ClawId,
    site: Option<&Site>,
    query: Option<&str>,
) -> Response<Body> {
    let asks = serde_html_form::from_str::<Enter>(query.unwrap_or_default()).unwrap_or_default();
    let to = own_path(&asks.to);
    let entered = match site {
        Some(site) => session_for(edge, site, &asks.ticket).await,
        None => None,
    };
    let Some(pass) = entered else {
        // Used, too old, or for nobody: the way in leads past the base domain's door.
        return pages::redirect(&crate::base::go_address(edge, asked, id, to));
    };
    let mut response = pages::redirect(to);
    let cookie = session::set_cookie(&pass, asked.caller.tls, SESSION_LIFE);
    if let Ok(cookie) = HeaderValue::from_str(&cookie) {
        response.headers_mut().append(SET_COOKIE, cookie);
    }
    response
}

/// The session that a ticket becomes.
async fn session_for(edge: &Edge, site: &Site, ticket: &str) -> Option<String> {
    let person = edge.claimed(ticket).await?;
    let bound = session::bound(&site.token, &person.bound);
    let user = edge.passes.check(Purpose::Ticket, site.id.as_str(), ticket, &bound)?;
    edge.passes.issue(Purpose::Session, site.id.as_str(), &user, &bound, SESSION_LIFE).ok()
}

/// A path of this very name: never an address elsewhere.
pub(crate) fn own_path(to: &str) -> &str {
    let plain = to.starts_with('/')
        && !to.starts_with("//")
        && to.bytes().all(|b| b.is_ascii_graphic() && b != b'\\')
        && !to.starts_with(crate::edge::OWN);
    if plain { to } else { "/" }
}

async fn signed_in(edge: &Edge, asked: &Asked, site: &Site, request: Request<Incoming>) -> bool {
    let (parts, _) = request.into_parts();
    let Some(pass) = session::cookie(&parts.headers, asked.caller.tls) else { return false };
    let Some(person) = edge.claimed(pass).await else { return false };
    let bound = session::bound(&site.token, &person.bound);
    edge.passes.check(Purpose::Session, site.id.as_str(), pass, &bound).is_some()
        && gate::is_own(&parts, &asked.origin)
}

fn state(edge: &Edge, site: &Site) -> Response<Body> {
    let down = |error: &clawfarm_model::Error| serde_json::json!({ "state": "down", "message": error.message(), "fix": error.fix_text() });
    let document = match (&site.state, edge.wakes.failed(&site.id)) {
        (SiteState::Awake, _) => serde_json::json!({ "state": "awake" }),
        (SiteState::Down(error), _) => down(error),
        (_, Some(error)) => down(&error),
        (SiteState::Asleep { .. }, None) if !edge.wakes.is_under_way(&site.id) => {
            serde_json::json!({ "state": "asleep" })
        }
        _ => serde_json::json!({ "state": "waking" }),
    };
    let mut response = Response::new(full(document.to_string()));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn sign_out(asked: &Asked) -> Response<Body> {
    let mut response = pages::nothing("You are signed out here.");
    *response.status_mut() = StatusCode::OK;
    if let Ok(cookie) = HeaderValue::from_str(&session::end_cookie(asked.caller.tls)) {
        response.headers_mut().append(SET_COOKIE, cookie);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_on_stays_at_the_same_name() {
        for good in ["/", "/chat?session=main&x=%20", "/a/b#c"] {
            assert_eq!(own_path(good), good);
        }
        for bad in [
            "",
            "//evil.test",
            "/\\evil.test",
            "https://evil.test",
            "/a\r\nb",
            "x",
            "/_clawfarm/sign-out",
            "/é",
        ] {
            assert_eq!(own_path(bad), "/", "{bad}");
        }
    }
}
