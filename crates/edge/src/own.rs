//! The edge's own paths at a claw's name: coming in with a ticket, and asking how far it is.

use clawfarm_model::ClawId;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue, SET_COOKIE};
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use serde::Deserialize;

use crate::body::{Body, full};
use crate::directory::{Site, SiteState};
use crate::edge::{Asked, Edge};
use crate::session::{self, Purpose, SESSION_LIFE, TICKET_LIFE};
use crate::{gate, pages, problem};

#[derive(Deserialize)]
struct Enter {
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
        Ok(Some(site)) => site,
        Ok(None) => return problem::unauthorized(),
        Err(error) => return problem::of(&error, Some(1)),
    };
    match (request.method(), request.uri().path()) {
        (&Method::GET, "/_clawfarm/enter") => enter(edge, asked, &site, request.uri().query()),
        (&Method::GET, "/_clawfarm/state") => state(edge, asked, &site, request),
        (&Method::POST, "/_clawfarm/sign-out") => sign_out(edge, asked, &site, request),
        _ => pages::nothing("This path is the edge's, and there is nothing at it."),
    }
}

/// An address that opens a claw's pages, relative to its name.
pub(crate) fn ticket(edge: &Edge, site: &Site, user: &str) -> clawfarm_model::Result<String> {
    let ticket = edge.passes.issue(Purpose::Ticket, site.id.as_str(), user, &site.token, TICKET_LIFE)?;
    Ok(format!("/_clawfarm/enter?ticket={ticket}"))
}

fn enter(edge: &Edge, asked: &Asked, site: &Site, query: Option<&str>) -> Response<Body> {
    let Ok(asks) = serde_html_form::from_str::<Enter>(query.unwrap_or_default()) else {
        return problem::bad_request("the address has no ticket");
    };
    let to = own_path(&asks.to);
    let Some(user) = edge.passes.check(Purpose::Ticket, site.id.as_str(), &asks.ticket, &site.token) else {
        // Used, or too old: the way in leads past the base domain's door.
        return pages::redirect(&crate::base::go_address(edge, asked, &site.id, to));
    };
    match edge.passes.issue(Purpose::Session, site.id.as_str(), &user, &site.token, SESSION_LIFE) {
        Ok(pass) => {
            let mut response = pages::redirect(to);
            let cookie = session::set_cookie(&pass, asked.caller.tls, SESSION_LIFE);
            if let Ok(cookie) = HeaderValue::from_str(&cookie) {
                response.headers_mut().append(SET_COOKIE, cookie);
            }
            response
        }
        Err(error) => problem::of(&error, None),
    }
}

/// A path of this very name: never an address elsewhere.
pub(crate) fn own_path(to: &str) -> &str {
    let plain = to.starts_with('/')
        && !to.starts_with("//")
        && to.bytes().all(|b| b.is_ascii_graphic() && b != b'\\')
        && !to.starts_with(crate::edge::OWN);
    if plain { to } else { "/" }
}

fn signed_in(edge: &Edge, asked: &Asked, site: &Site, request: Request<Incoming>) -> bool {
    let (parts, _) = request.into_parts();
    session::cookie(&parts.headers, asked.caller.tls)
        .and_then(|pass| edge.passes.check(Purpose::Session, site.id.as_str(), pass, &site.token))
        .is_some_and(|_| gate::is_own(&parts, &asked.origin))
}

fn state(edge: &Edge, asked: &Asked, site: &Site, request: Request<Incoming>) -> Response<Body> {
    if !signed_in(edge, asked, site, request) {
        return problem::unauthorized();
    }
    let document = match &site.state {
        SiteState::Awake => serde_json::json!({ "state": "awake" }),
        SiteState::Asleep { .. } | SiteState::Starting => serde_json::json!({ "state": "waking" }),
        SiteState::Down(error) => {
            serde_json::json!({ "state": "down", "message": error.message(), "fix": error.fix_text() })
        }
    };
    let mut response = Response::new(full(document.to_string()));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn sign_out(edge: &Edge, asked: &Asked, site: &Site, request: Request<Incoming>) -> Response<Body> {
    if !signed_in(edge, asked, site, request) {
        return problem::unauthorized();
    }
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
