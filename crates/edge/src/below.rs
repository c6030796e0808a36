//! Claws below one name: `https://claws.example.com/c/alice-x7k2m/…`, for those who can't have a
//! wildcard in their DNS.
//!
//! A browser takes all of them for one site, so what a claw serves here is for programs alone: it
//! is reached with the claw's token, never with a session; cookies go neither way; and a browser
//! that comes to show it anyway shows it without any power.

use clawfarm_model::ClawId;
use http::header::{
    CONTENT_SECURITY_POLICY, COOKIE, HeaderName, HeaderValue, LOCATION, SET_COOKIE, X_CONTENT_TYPE_OPTIONS,
};
use http::uri::PathAndQuery;
use http::{Request, Response, StatusCode, Uri};

use crate::body::Body;
use crate::edge::{Asked, Edge, OWN};
use crate::problem;

/// Where claws are.
const BELOW: &str = "/c/";

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
    // Who follows a link here would be shown a claw's page under the name of the base domain.
    if text("sec-fetch-mode") == Some("navigate")
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

/// Takes from an answer what would act on the base domain's name.
pub(crate) fn clean(asked: &Asked, mut response: Response<Body>) -> Response<Body> {
    let headers = response.headers_mut();
    headers.remove(SET_COOKIE);
    headers.remove(HeaderName::from_static("service-worker-allowed"));
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static("sandbox; default-src 'none'"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    let moved = headers.get(LOCATION).and_then(|value| value.to_str().ok()).map(str::to_owned);
    if let (Some(to), Some(prefix)) = (moved, &asked.prefix)
        && to.starts_with('/')
        && !to.starts_with("//")
        && let Ok(to) = HeaderValue::from_str(&format!("{prefix}{to}"))
    {
        headers.insert(LOCATION, to);
    }
    response
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
}
