//! Who may pass. Nobody wakes a claw who is not let in.

use http::header::{ACCEPT, ORIGIN, UPGRADE};
use http::request::Parts;
use http::{HeaderMap, Method};
use secrecy::{ExposeSecret as _, SecretString};
use subtle::ConstantTimeEq as _;

use crate::directory::{Person, Site};
use crate::edge::Asked;
use crate::headers;
use crate::paths::Kind;
use crate::session::{self, Passes, Purpose};

/// Who a request is from, when it may pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Who {
    /// A person with a session.
    Person(String),
    /// Who has the claw's gateway token.
    Bearer,
    /// A service with a message, which the claw itself makes sure of.
    Messenger,
}

/// Why a request may not pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// It has shown nothing, or nothing that counts.
    Unknown,
    /// Another site's page sent it, with a session that is not that page's to use.
    CrossSite,
}

/// Whether a request may pass to a claw. `person` is who its session says it is of, if it has one
/// and there is such a person.
pub(crate) fn check(
    parts: &Parts,
    kind: Kind,
    site: &Site,
    passes: &Passes,
    person: Option<&Person>,
    asked: &Asked,
) -> Result<Who, Refused> {
    let (origin, tls) = (asked.origin.as_str(), asked.caller.tls);
    let headers = &parts.headers;
    if kind == Kind::Inbox && parts.method == Method::POST && !is_upgrade(parts) {
        return Ok(Who::Messenger);
    }
    if let Some(token) = headers::bearer(headers) {
        return if same(token, &site.token) { Ok(Who::Bearer) } else { Err(Refused::Unknown) };
    }
    let pass = session::cookie(headers, tls).ok_or(Refused::Unknown)?;
    let bound = person.map(|person| session::bound(&site.token, &person.bound)).ok_or(Refused::Unknown)?;
    let good = passes.check(Purpose::Session, site.id.as_str(), pass, &bound).ok_or(Refused::Unknown)?;
    if !is_own(parts, origin) {
        return Err(Refused::CrossSite);
    }
    Ok(Who::Person(good.user))
}

/// Whether a request can't be let in at any claw: it shows nothing, and is no message. It is
/// answered without a look, so that it costs and tells nothing, whichever claw it names.
pub(crate) fn shows_nothing(parts: &Parts, tls: bool) -> bool {
    parts.method != Method::POST
        && headers::bearer(&parts.headers).is_none()
        && session::cookie(&parts.headers, tls).is_none()
}

/// Compares in constant time.
pub(crate) fn same(given: &str, known: &SecretString) -> bool {
    given.as_bytes().ct_eq(known.expose_secret().as_bytes()).into()
}

/// Whether a request with a session comes from the site's own pages, or is a person's navigation.
/// Claws are siblings below one domain, for which a browser sends `SameSite` cookies along: the
/// page of one claw could act at another otherwise.
pub(crate) fn is_own(parts: &Parts, origin: &str) -> bool {
    let headers = &parts.headers;
    let own_origin = match headers.get(ORIGIN) {
        Some(value) if value.as_bytes() == origin.as_bytes() => Some(true),
        Some(_) => Some(false),
        None => None,
    };
    let reads = matches!(parts.method, Method::GET | Method::HEAD) && !is_upgrade(parts);
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    match text("sec-fetch-site") {
        Some("same-origin" | "none") => own_origin != Some(false),
        // Following a link to here is fine; being drawn into another page is not.
        Some(_) => {
            reads && text("sec-fetch-mode") == Some("navigate") && text("sec-fetch-dest") == Some("document")
        }
        None => own_origin.unwrap_or(reads),
    }
}

/// Whether it wants to become something else than HTTP.
pub(crate) fn is_upgrade(parts: &Parts) -> bool {
    parts.headers.contains_key(UPGRADE) || parts.method == Method::CONNECT
}

/// Whether a person's browser asks for a page.
pub(crate) fn wants_page(method: &Method, headers: &HeaderMap) -> bool {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let accepts =
        headers.get(ACCEPT).and_then(|value| value.to_str().ok()).is_some_and(|it| it.contains("text/html"));
    *method == Method::GET && accepts && text("sec-fetch-mode").is_none_or(|mode| mode == "navigate")
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: &str = "https://a.claws.test";

    fn parts(method: &str, headers: &[(&str, &str)]) -> Parts {
        let mut request = http::Request::builder().method(method);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn a_sibling_s_page_can_t_use_a_session() {
        for (method, headers) in [
            ("GET", &[][..]),
            ("GET", &[("sec-fetch-site", "same-origin")]),
            ("GET", &[("sec-fetch-site", "none"), ("sec-fetch-mode", "navigate")]),
            ("POST", &[("sec-fetch-site", "same-origin"), ("origin", OWN)]),
            ("POST", &[("origin", OWN)]),
            ("GET", &[("origin", OWN), ("upgrade", "websocket")]),
            (
                "GET",
                &[
                    ("sec-fetch-site", "same-site"),
                    ("sec-fetch-mode", "navigate"),
                    ("sec-fetch-dest", "document"),
                ],
            ),
        ] {
            assert!(is_own(&parts(method, headers), OWN), "{method} {headers:?}");
        }
        for (method, headers) in [
            ("POST", &[][..]),
            ("POST", &[("origin", "https://b.claws.test")]),
            ("POST", &[("origin", "null")]),
            ("GET", &[("origin", "https://b.claws.test"), ("upgrade", "websocket")]),
            ("GET", &[("upgrade", "websocket")]),
            ("GET", &[("sec-fetch-site", "same-site"), ("sec-fetch-mode", "cors")]),
            (
                "GET",
                &[
                    ("sec-fetch-site", "same-site"),
                    ("sec-fetch-mode", "navigate"),
                    ("sec-fetch-dest", "iframe"),
                ],
            ),
            (
                "POST",
                &[
                    ("sec-fetch-site", "same-site"),
                    ("sec-fetch-mode", "navigate"),
                    ("sec-fetch-dest", "document"),
                ],
            ),
            ("POST", &[("sec-fetch-site", "same-origin"), ("origin", "https://b.claws.test")]),
            ("GET", &[("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "no-cors")]),
        ] {
            assert!(!is_own(&parts(method, headers), OWN), "{method} {headers:?}");
        }
    }
}
