//! Claws below one name: `https://claws.example.com/c/alice-x7k2m/…`, for those who can't have a
//! wildcard in their DNS.
//!
//! A browser takes all of them for one site, so what a claw serves here is for programs alone: it
//! is reached with the claw's token, never with a session; cookies go neither way; and a browser
//! that comes to show it anyway shows it without any power.

use clawfarm_model::ClawId;
use http::header::{
    ACCEPT_RANGES, AGE, ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_DISPOSITION, CONTENT_ENCODING,
    CONTENT_LANGUAGE, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_SECURITY_POLICY, CONTENT_TYPE, COOKIE, DATE,
    ETAG, EXPIRES, HeaderMap, HeaderName, HeaderValue, LAST_MODIFIED, LOCATION, RETRY_AFTER,
    SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_EXTENSIONS, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
    VARY, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS,
};
use http::uri::PathAndQuery;
use http::{Request, Response, StatusCode, Uri};

use crate::body::Body;
use crate::edge::{Asked, Edge, OWN};
use crate::problem;

/// Where claws are.
const BELOW: &str = "/c/";

/// What a claw may say of its answer; [`OWN_PREFIXES`] too. All else stays behind, since it would be
/// said in the base domain's name: there is always one more header by which a browser remembers
/// something of a name, goes elsewhere or lets others in.
const MAY_SAY: [HeaderName; 22] = [
    ACCEPT_RANGES,
    AGE,
    ALLOW,
    CACHE_CONTROL,
    CONNECTION,
    CONTENT_DISPOSITION,
    CONTENT_ENCODING,
    CONTENT_LANGUAGE,
    CONTENT_LENGTH,
    CONTENT_RANGE,
    CONTENT_TYPE,
    DATE,
    ETAG,
    EXPIRES,
    LAST_MODIFIED,
    RETRY_AFTER,
    SEC_WEBSOCKET_ACCEPT,
    SEC_WEBSOCKET_EXTENSIONS,
    SEC_WEBSOCKET_PROTOCOL,
    SEC_WEBSOCKET_VERSION,
    UPGRADE,
    VARY,
];

/// Beginnings of what programs of OpenAI's form, of OpenClaw's and of the edge's own read; browsers
/// know none.
const OWN_PREFIXES: [&str; 4] = ["openai-", "x-ratelimit-", "x-openclaw-", "x-clawfarm-"];

/// The claw that a path names, which is cut off it; `None` when the base domain itself is meant.
///
/// # Errors
/// The answer to a request that can't be passed on so.
pub(crate) fn claw<B>(
    edge: &Edge,
    asked: &mut Asked,
    request: &mut Request<B>,
) -> Result<Option<ClawId>, Box<Response<Body>>> {
    let Some(rest) = request.uri().path().strip_prefix(BELOW).filter(|_| edge.config.paths) else {
        return Ok(None);
    };
    let (name, _) = rest.split_once('/').unwrap_or((rest, ""));
    let Ok(id) = ClawId::new(name) else { return Ok(None) };
    let prefix = format!("{BELOW}{id}");
    let Some(uri) = cut(request.uri(), &prefix) else { return Ok(None) };
    let text = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
    // Who follows a link here would be shown a claw's page under the name of the base domain, and
    // a page's script would read a claw's answer as the base domain's own.
    if text("sec-fetch-mode") == Some("navigate")
        || request.headers().get_all("sec-fetch-site").iter().any(|from| from.as_bytes() != b"none")
        || request.headers().contains_key("service-worker")
        || uri.path().starts_with(OWN)
    {
        return Err(Box::new(problem::problem(
            StatusCode::FORBIDDEN,
            "forbidden",
            "this form of a claw's address is for programs, not for browsers",
            Some("open the claw at its own name: `clawfarm open`"),
        )));
    }
    request.headers_mut().remove(COOKIE);
    *request.uri_mut() = uri;
    asked.prefix = Some(prefix);
    Ok(Some(id))
}

/// The address behind a beginning.
fn cut(uri: &Uri, prefix: &str) -> Option<Uri> {
    let all = uri.path_and_query()?.as_str().strip_prefix(prefix)?;
    let slash = if all.starts_with('/') { "" } else { "/" };
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(PathAndQuery::try_from(format!("{slash}{all}")).ok()?);
    Uri::from_parts(parts).ok()
}

/// Leaves of an answer what can't act on the base domain's name.
pub(crate) fn clean(asked: &Asked, mut response: Response<Body>) -> Response<Body> {
    let headers = response.headers_mut();
    let to = headers.get(LOCATION).and_then(|value| value.to_str().ok()).and_then(|to| led(asked, to));
    let unsaid: Vec<HeaderName> = headers
        .keys()
        .filter(|name| {
            let own = OWN_PREFIXES.iter().any(|it| name.as_str().starts_with(it));
            let token = || *name == WWW_AUTHENTICATE && asks_for_token(headers);
            !(MAY_SAY.contains(name) || own || token())
        })
        .cloned()
        .collect();
    for name in &unsaid {
        headers.remove(name);
    }
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static("sandbox; default-src 'none'"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if let Some(to) = to {
        headers.insert(LOCATION, to);
    }
    response
}

/// Whether it is a token that is asked for. For a name and a password a browser would ask its
/// person, in the base domain's name; for a token it asks nobody.
fn asks_for_token(headers: &HeaderMap) -> bool {
    let mut asked = headers.get_all(WWW_AUTHENTICATE).iter().map(HeaderValue::as_bytes);
    // Behind a comma there may be another scheme.
    asked.all(|it| it.starts_with(b"Bearer") && !it.contains(&b','))
}

/// Where an answer leads, as an address below the claw's; `None` when that is elsewhere.
fn led(asked: &Asked, to: &str) -> Option<HeaderValue> {
    let prefix = asked.prefix.as_deref()?;
    // What a reader may take for a step up, or for the beginning of another host.
    if to.contains("..") || to.contains('\\') || to.to_ascii_lowercase().contains("%2e") {
        return None;
    }
    let path = to.strip_prefix(asked.origin.as_str()).unwrap_or(to);
    if !path.starts_with('/') || path.starts_with("//") {
        return None;
    }
    // It may have made use of `X-Forwarded-Prefix`.
    let below = path.strip_prefix(prefix).filter(|rest| rest.is_empty() || rest.starts_with(['/', '?', '#']));
    HeaderValue::from_str(&format!("{prefix}{}", below.unwrap_or(path))).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_claw_s_name_is_cut_off() {
        let cut = |uri: &str| cut(&uri.parse().unwrap(), "/c/a-1").map(|uri| uri.to_string());
        assert_eq!(cut("/c/a-1/v1/models?x=%2F"), Some("/v1/models?x=%2F".into()));
        assert_eq!(cut("/c/a-1"), Some("/".into()));
        assert_eq!(cut("/c/a-1?x"), Some("/?x".into()));
        assert_eq!(cut("/c/a-1//x"), Some("//x".into()));
        assert_eq!(cut("https://claws.test/c/a-1/x"), Some("https://claws.test/x".into()));
    }

    #[test]
    fn an_answer_leads_to_the_same_claw_or_nowhere() {
        let asked = Asked {
            caller: crate::edge::Caller { address: [192, 0, 2, 7].into(), tls: true },
            host: "claws.test".into(),
            origin: "https://claws.test".into(),
            id: "1".into(),
            prefix: Some("/c/a-1".into()),
        };
        let led = |to: &str| led(&asked, to).map(|to| to.to_str().unwrap().to_owned());
        for (to, there) in [
            ("/x?y=/", "/c/a-1/x?y=/"),
            ("/", "/c/a-1/"),
            ("/c/a-1/x", "/c/a-1/x"),
            ("/c/a-1", "/c/a-1"),
            ("/c/a-12/x", "/c/a-1/c/a-12/x"),
            ("https://claws.test/x", "/c/a-1/x"),
            ("https://claws.test/c/a-1/x", "/c/a-1/x"),
        ] {
            assert_eq!(led(to).as_deref(), Some(there), "{to}");
        }
        for to in [
            "https://evil.test/",
            "https://claws.test.evil.test/",
            "https://claws.test@evil.test/",
            "https://claws.test",
            "https://claws.test//evil.test",
            "//evil.test/",
            "/\\evil.test/",
            "\\\\evil.test",
            "/../b-1/x",
            "/%2E%2e/b-1/x",
            "javascript:alert(1)",
            "x",
            "",
        ] {
            assert_eq!(led(to), None, "{to}");
        }
    }
}
