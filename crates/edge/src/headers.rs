//! Headers on their way through: what belongs to one connection stays behind, what a stranger
//! could forge is dropped, what the claw may know of the caller is said anew.

use std::cell::RefCell;
use std::net::{IpAddr, Ipv4Addr};

use http::header::{
    ALT_SVC, AUTHORIZATION, CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, FORWARDED, HeaderMap, HeaderName,
    HeaderValue, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, SET_COOKIE, TE, TRAILER, TRANSFER_ENCODING,
    UPGRADE, VIA,
};

use crate::session;

/// Headers of one connection (RFC 9110, 7.6.1), beside those that `Connection` names.
const HOP_BY_HOP: [HeaderName; 9] = [
    CONNECTION,
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

/// Headers by which proxies tell who the caller is; from a caller they are forged.
const CALLER: [&str; 12] = [
    "x-real-ip",
    "x-client-ip",
    "x-cluster-client-ip",
    "x-original-url",
    "x-rewrite-url",
    "x-original-host",
    "true-client-ip",
    "client-ip",
    "cf-connecting-ip",
    "fastly-client-ip",
    "x-remote-user",
    "remote-user",
];

/// Beginnings of such headers, and of this edge's own.
const CALLER_PREFIXES: [&str; 4] = ["x-forwarded-", "x-clawfarm-", "x-auth-request-", "x-envoy-"];

/// How many requests' random bytes are asked for at a time.
const AHEAD_MAX: usize = 64;

/// Removes what belongs to the connection that a message came on.
pub(crate) fn drop_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in HOP_BY_HOP.iter().chain(&named) {
        headers.remove(name);
    }
}

/// Removes what a caller says of itself, and what the edge asks of a caller.
pub(crate) fn drop_forged(headers: &mut HeaderMap) {
    let forged: Vec<HeaderName> = headers
        .keys()
        .filter(|name| {
            let name = name.as_str();
            CALLER.contains(&name) || CALLER_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
                // What a server that reads headers as variables takes for one of the above.
                || name.contains('_')
        })
        .cloned()
        .collect();
    for name in forged.iter().chain(&[FORWARDED, VIA, EXPECT]) {
        headers.remove(name);
    }
}

/// Removes the caller's credentials for the edge: the claw has no use for them.
pub(crate) fn drop_session(headers: &mut HeaderMap) {
    let kept: Vec<&[u8]> =
        session::cookies(headers).filter(|pair| !session::is_ours(session::name_of(pair))).collect();
    // One line: over HTTP/2 each may have come by itself (RFC 9113, 8.2.3).
    let line = HeaderValue::from_bytes(&kept.join(&b"; "[..])).ok().filter(|line| !line.is_empty());
    headers.remove(COOKIE);
    if let Some(line) = line {
        headers.insert(COOKIE, line);
    }
}

/// Nobody's address (RFC 5737), for callers on this machine. A claw here trusts the loopback device
/// to be the edge; a caller of the same address would be the edge calling itself, and is refused.
const HERE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

/// Says who called, for a claw that takes the edge's word for it.
pub(crate) fn tell_caller(headers: &mut HeaderMap, caller: IpAddr, proto: &'static str, host: &str) {
    let caller = if caller.to_canonical().is_loopback() { HERE } else { caller };
    let set = [
        ("x-forwarded-for", HeaderValue::from_str(&caller.to_string())),
        ("x-forwarded-host", HeaderValue::from_str(host)),
    ];
    for (name, value) in set {
        if let Ok(value) = value {
            headers.insert(name, value);
        }
    }
    headers.insert("x-forwarded-proto", HeaderValue::from_static(proto));
}

/// By which a request is found again in the claw's log and in ours.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// A request's number: the one that a proxy of ours gave it when it can stand in a log as it is,
/// else a new one.
pub(crate) fn request_id(given: Option<&HeaderValue>) -> String {
    let given = given.and_then(|value| value.to_str().ok()).filter(|id| {
        (1..=64).contains(&id.len())
            && id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
    });
    if let Some(id) = given {
        return id.to_owned();
    }
    format!("{:032x}", u128::from_be_bytes(random()))
}

/// Random bytes that tell requests apart. The kernel is asked for many at a time: asking for each
/// costs as much as a request's headers do.
fn random() -> [u8; 16] {
    thread_local! {
        static AHEAD: RefCell<Vec<[u8; 16]>> = const { RefCell::new(Vec::new()) };
    }
    AHEAD.with_borrow_mut(|ahead| {
        ahead.pop().unwrap_or_else(|| {
            let mut bytes = [0_u8; 16 * AHEAD_MAX];
            // Without randomness they are not told apart.
            let _ = getrandom::fill(&mut bytes);
            let (all, _) = bytes.as_chunks::<16>();
            ahead.extend_from_slice(all);
            ahead.pop().unwrap_or_default()
        })
    })
}

/// Says what a request is called.
pub(crate) fn tell_request(headers: &mut HeaderMap, id: &str) {
    if let Ok(id) = HeaderValue::from_str(id) {
        headers.insert(REQUEST_ID, id);
    }
}

/// Says who the person is by a bearer token.
pub(crate) fn bear(headers: &mut HeaderMap, token: &str) {
    if let Ok(mut value) = HeaderValue::from_str(&format!("Bearer {token}")) {
        value.set_sensitive(true);
        headers.insert(AUTHORIZATION, value);
    }
}

/// The bearer token of a request.
pub(crate) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// Cleans a claw's answer: what it may say is about its own name only.
pub(crate) fn clean_answer(headers: &mut HeaderMap) {
    drop_hop_by_hop(headers);
    headers.remove(ALT_SVC);
    // It would clear the cookies of all names below the domain.
    headers.remove("clear-site-data");
    let kept: Vec<HeaderValue> =
        headers.get_all(SET_COOKIE).iter().filter(|value| own_cookie(value)).cloned().collect();
    headers.remove(SET_COOKIE);
    for value in kept {
        headers.append(SET_COOKIE, value);
    }
}

/// Whether a cookie is for the claw's own name alone, and does not stand in for one of the edge's.
fn own_cookie(value: &HeaderValue) -> bool {
    let mut parts = value.as_bytes().split(|b| *b == b';');
    let name = session::name_of(parts.next().unwrap_or_default());
    let for_others = parts.any(|attribute| session::name_of(attribute).eq_ignore_ascii_case(b"domain"));
    !for_others && !session::is_ours(name)
}

/// Whether the lengths that a request gives agree: two that differ, or one beside chunks, were
/// made so that two readers see two requests.
pub(crate) fn check_lengths(headers: &HeaderMap) -> Result<(), &'static str> {
    let lengths: Vec<&HeaderValue> = headers.get_all(CONTENT_LENGTH).iter().collect();
    let chunks: Vec<&HeaderValue> = headers.get_all(TRANSFER_ENCODING).iter().collect();
    match (lengths.as_slice(), chunks.as_slice()) {
        ([], [] | [_]) | ([_], []) => {}
        ([_, ..], [_, ..]) => return Err("the request has both a length and chunks"),
        _ => return Err("the request gives its length more than once"),
    }
    if lengths.iter().any(|value| !value.as_bytes().iter().all(u8::is_ascii_digit) || value.is_empty()) {
        return Err("the request's length is no number");
    }
    if chunks.iter().any(|value| !value.as_bytes().eq_ignore_ascii_case(b"chunked")) {
        return Err("the request's body is encoded in a way that is not known");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        }
        headers
    }

    fn names(headers: &HeaderMap) -> Vec<&str> {
        let mut names: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn what_belongs_to_a_connection_stays_behind() {
        let mut headers = map(&[
            ("connection", "keep-alive, X-Private"),
            ("connection", "x-other"),
            ("x-private", "1"),
            ("x-other", "1"),
            ("keep-alive", "5"),
            ("te", "trailers"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("proxy-authorization", "x"),
            ("accept", "*/*"),
        ]);
        drop_hop_by_hop(&mut headers);
        assert_eq!(names(&headers), ["accept"]);
    }

    #[test]
    fn what_a_caller_says_of_itself_is_dropped() {
        let mut headers = map(&[
            ("x-forwarded-for", "10.0.0.1"),
            ("x-forwarded-user", "root"),
            ("X-Clawfarm-User-abc", "owner"),
            ("forwarded", "for=1.2.3.4"),
            ("via", "x"),
            ("x-real-ip", "1"),
            ("x_forwarded_for", "1"),
            ("expect", "100-continue"),
            ("accept", "*/*"),
            ("x-openclaw-session", "1"),
        ]);
        drop_forged(&mut headers);
        assert_eq!(names(&headers), ["accept", "x-openclaw-session"]);
    }

    #[test]
    fn the_session_is_for_the_edge_alone() {
        let mut headers = map(&[
            ("cookie", "theme=dark; clawfarm-session=abc; x=y"),
            ("cookie", "__Host-clawfarm-session=abc"),
        ]);
        drop_session(&mut headers);
        assert_eq!(headers.get_all(COOKIE).iter().collect::<Vec<_>>(), ["theme=dark; x=y"]);
    }

    #[test]
    fn a_claw_s_cookies_are_for_its_own_name() {
        let mut headers = map(&[
            ("set-cookie", "a=1; Path=/"),
            ("set-cookie", "b=1; domain=example.com"),
            ("set-cookie", "c=1; Secure; Domain"),
            ("set-cookie", "clawfarm-session=forged"),
            ("set-cookie", "__Host-clawfarm-session=forged; Secure; Path=/"),
            ("alt-svc", "h3=\":1\""),
        ]);
        clean_answer(&mut headers);
        assert_eq!(headers.get_all(SET_COOKIE).iter().collect::<Vec<_>>(), ["a=1; Path=/"]);
        assert!(!headers.contains_key(ALT_SVC));
    }

    #[test]
    fn lengths_that_disagree_are_refused() {
        for good in [&[][..], &[("content-length", "5")], &[("transfer-encoding", "Chunked")]] {
            check_lengths(&map(good)).unwrap();
        }
        for bad in [
            &[("content-length", "5"), ("transfer-encoding", "chunked")][..],
            &[("content-length", "5"), ("content-length", "6")],
            &[("content-length", "5, 5")],
            &[("content-length", "+5")],
            &[("transfer-encoding", "gzip, chunked")],
            &[("transfer-encoding", "chunked"), ("transfer-encoding", "identity")],
            &[("transfer-encoding", "xchunked")],
        ] {
            assert!(check_lengths(&map(bad)).is_err(), "{bad:?}");
        }
    }
}
