//! The edge's own paths at a claw's name: coming in with a ticket, and asking how far it is.

use clawfarm_model::ClawId;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue, SET_COOKIE};
use http::request::Parts;
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
    let (parts, _) = request.into_parts();
    let path = parts.uri.path();
    if let Some(allowed) = methods(path)
        && !allowed.split(", ").any(|it| it == parts.method.as_str())
    {
        return problem::not_allowed(allowed);
    }
    if path == ENTER {
        // A look at the address must not use up the ticket.
        let query = parts.uri.query().filter(|_| parts.method == Method::GET);
        return enter(edge, asked, id, query).await;
    }
    // Strangers are told the same whether or not there is such a claw.
    let site = match session::cookie(&parts.headers, asked.caller.tls) {
        Some(_) => edge.directory.look_up(id).await,
        None => Ok(None),
    };
    let site = match site {
        Ok(Some(site)) if signed_in(edge, asked, &site, &parts).await => site,
        Ok(_) => return problem::unauthorized(),
        Err(error) => return problem::of(&error, Some(1)),
    };
    match path {
        STATE => state(edge, &site),
        SIGN_OUT => sign_out(asked),
        _ => pages::nothing("This path is the edge's, and there is nothing at it."),
    }
}

const ENTER: &str = "/_clawfarm/enter";
const STATE: &str = "/_clawfarm/state";
const SIGN_OUT: &str = "/_clawfarm/sign-out";

/// The methods that a path takes; `None` where there is nothing.
fn methods(path: &str) -> Option<&'static str> {
    match path {
        ENTER | STATE => Some("GET, HEAD"),
        SIGN_OUT => Some("POST"),
        _ => None,
    }
}

/// An address that opens a claw's pages, relative to its name.
pub(crate) fn ticket(edge: &Edge, site: &Site, person: &Person) -> clawfarm_model::Result<String> {
    let bound = session::bound(&site.token, &person.bound);
    let ticket = edge.passes.issue(Purpose::Ticket, site.id.as_str(), &person.name, &bound, TICKET_LIFE)?;
    Ok(format!("/_clawfarm/enter?ticket={ticket}"))
}

async fn enter(edge: &Edge, asked: &Asked, id: &ClawId, query: Option<&str>) -> Response<Body> {
    let asks = serde_html_form::from_str::<Enter>(query.unwrap_or_default()).unwrap_or_default();
    let to = own_path(&asks.to);
    let site = match session::claimed(&asks.ticket) {
        Some(_) => edge.directory.look_up(id).await,
        None => Ok(None),
    };
    let entered = match site {
        Ok(Some(site)) => session_for(edge, &site, &asks.ticket).await,
        Ok(None) => Ok(None),
        Err(error) => Err(error),
    };
    let entered = match entered {
        Ok(entered) => entered,
        Err(error) => return problem::of(&error, Some(1)),
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

/// The session that a ticket becomes, once at whichever server of the fleet.
async fn session_for(edge: &Edge, site: &Site, ticket: &str) -> clawfarm_model::Result<Option<String>> {
    let Some(person) = edge.claimed(ticket).await else { return Ok(None) };
    let bound = session::bound(&site.token, &person.bound);
    let Some(good) = edge.passes.check(Purpose::Ticket, site.id.as_str(), ticket, &bound) else {
        return Ok(None);
    };
    if !edge.directory.spend(&good.number, good.until).await? {
        return Ok(None);
    }
    edge.passes.issue(Purpose::Session, site.id.as_str(), &good.user, &bound, SESSION_LIFE).map(Some)
}

/// A path of this very name: never an address elsewhere.
pub(crate) fn own_path(to: &str) -> &str {
    let plain = to.starts_with('/')
        && !to.starts_with("//")
        && to.bytes().all(|b| b.is_ascii_graphic() && b != b'\\')
        && !to.starts_with(crate::edge::OWN);
    if plain { to } else { "/" }
}

async fn signed_in(edge: &Edge, asked: &Asked, site: &Site, parts: &Parts) -> bool {
    let Some(pass) = session::cookie(&parts.headers, asked.caller.tls) else { return false };
    let Some(person) = edge.claimed(pass).await else { return false };
    let bound = session::bound(&site.token, &person.bound);
    edge.passes.check(Purpose::Session, site.id.as_str(), pass, &bound).is_some()
        && gate::is_own(parts, &asked.origin)
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
