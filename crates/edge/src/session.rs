//! Who a browser belongs to: signed passes, as tickets in an address and sessions in a cookie.
//!
//! A pass says what it is for, whose it is, and until when, and is signed with a key that the
//! servers of a fleet share. Nothing is stored: a session ends by its time, or when the claw's
//! gateway token is rotated, which is part of what is signed.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clawfarm_model::{Error, Result};
use hmac::{Hmac, KeyInit as _, Mac as _};
use http::HeaderMap;
use http::header::COOKIE;
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// How long a browser stays signed in.
pub const SESSION_LIFE: Duration = Duration::from_secs(7 * 24 * 3600);
/// How long a browser stays signed in at the base domain without TLS: its cookie goes to every
/// port of this machine, whoever listens there.
pub(crate) const PLAIN_BASE_LIFE: Duration = Duration::from_secs(12 * 3600);
/// How long an address with a ticket in it works.
pub const TICKET_LIFE: Duration = Duration::from_secs(60);
/// The longest pass that is read.
const PASS_MAX: usize = 1024;
/// The cookie where there is TLS: browsers take it for one name only, whoever sends it.
const SECURE_COOKIE: &str = "__Host-clawfarm-session";
/// The cookie without TLS, on this machine.
const PLAIN_COOKIE: &str = "clawfarm-session";

/// What a pass is for. A ticket for one claw is of no use at another, nor as a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Purpose {
    /// To come from the base domain to a claw's name, once.
    Ticket,
    /// To be let in there.
    Session,
    /// To be let in at the base domain.
    Base,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Pass {
    /// What for.
    p: Purpose,
    /// At which claw; empty at the base domain.
    c: String,
    /// Whose.
    u: String,
    /// Until when, in seconds of the epoch.
    e: u64,
    /// Its number, so that no two are alike.
    n: String,
}

/// Makes and checks passes.
pub(crate) struct Passes {
    key: SecretString,
}

/// A pass that is good.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Good {
    /// Whose it is.
    pub(crate) user: String,
    /// Its number.
    pub(crate) number: String,
    /// Until when, in seconds of the epoch.
    pub(crate) until: u64,
}

impl Passes {
    pub(crate) const fn new(key: SecretString) -> Self {
        Self { key }
    }

    /// A new pass. `bound` is what else it depends on: when that changes, it ends.
    pub(crate) fn issue(
        &self,
        purpose: Purpose,
        claw: &str,
        user: &str,
        bound: &SecretString,
        life: Duration,
    ) -> Result<String> {
        let mut number = [0_u8; 12];
        getrandom::fill(&mut number)
            .map_err(|e| Error::internal("no random bytes can be had", e.to_string()))?;
        let pass = Pass {
            p: purpose,
            c: claw.to_owned(),
            u: user.to_owned(),
            e: now() + life.as_secs(),
            n: URL_SAFE_NO_PAD.encode(number),
        };
        let body = serde_json::to_vec(&pass)
            .map_err(|e| Error::internal("a session can't be written", e.to_string()))?;
        let body = URL_SAFE_NO_PAD.encode(body);
        let mac = URL_SAFE_NO_PAD.encode(self.mac(&body, bound).finalize().into_bytes());
        Ok(format!("{body}.{mac}"))
    }

    /// What a pass says, when it is good. That a ticket is used once is for its taker to see to.
    pub(crate) fn check(
        &self,
        purpose: Purpose,
        claw: &str,
        text: &str,
        bound: &SecretString,
    ) -> Option<Good> {
        if text.len() > PASS_MAX {
            return None;
        }
        let (body, mac) = text.split_once('.')?;
        let given = URL_SAFE_NO_PAD.decode(mac).ok()?;
        // In constant time; only what is signed is read at all.
        self.mac(body, bound).verify_slice(&given).ok()?;
        let pass: Pass = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(body).ok()?).ok()?;
        let now = now();
        if pass.p != purpose || pass.c != claw || pass.e <= now {
            return None;
        }
        Some(Good { user: pass.u, number: pass.n, until: pass.e })
    }

    fn mac(&self, body: &str, bound: &SecretString) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new_from_slice(self.key.expose_secret().as_bytes())
            .unwrap_or_else(|_| unreachable!("a MAC takes keys of any length"));
        mac.update(b"clawfarm edge pass\0");
        mac.update(&Sha256::digest(bound.expose_secret().as_bytes()));
        mac.update(body.as_bytes());
        mac
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Whose a pass says it is, unchecked: to know whom to ask for what it depends on.
pub(crate) fn claimed(text: &str) -> Option<String> {
    if text.len() > PASS_MAX {
        return None;
    }
    let (body, _) = text.split_once('.')?;
    serde_json::from_slice::<Pass>(&URL_SAFE_NO_PAD.decode(body).ok()?).ok().map(|pass| pass.u)
}

/// What a session at a claw depends on: it ends when the claw's token or the person's changes.
pub(crate) fn bound(claw: &SecretString, person: &SecretString) -> SecretString {
    SecretString::from(format!("{}\0{}", claw.expose_secret(), person.expose_secret()))
}

/// Whether a cookie of this name is the edge's.
pub(crate) fn is_ours(name: &[u8]) -> bool {
    [SECURE_COOKIE, PLAIN_COOKIE].iter().any(|ours| name.eq_ignore_ascii_case(ours.as_bytes()))
}

/// The cookies of a request, each whole. Bytes, because a claw's page may set what is no text; that
/// must cost nobody the session.
pub(crate) fn cookies(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    headers
        .get_all(COOKIE)
        .iter()
        .flat_map(|value| value.as_bytes().split(|b| *b == b';'))
        .map(<[u8]>::trim_ascii)
        .filter(|pair| !pair.is_empty())
}

/// The name of a cookie.
pub(crate) fn name_of(pair: &[u8]) -> &[u8] {
    pair.split(|b| *b == b'=').next().unwrap_or_default().trim_ascii()
}

/// The pass in a request's cookies. One that is there twice is none: a sibling's page may have
/// put the other there.
pub(crate) fn cookie(headers: &HeaderMap, tls: bool) -> Option<&str> {
    let name = if tls { SECURE_COOKIE } else { PLAIN_COOKIE };
    let mut found = cookies(headers).filter(|pair| name_of(pair) == name.as_bytes());
    let one = found.next()?;
    let value = one.get(name.len() + 1..)?;
    found.next().is_none().then(|| std::str::from_utf8(value).ok()).flatten()
}

/// The header value that gives a browser its session.
pub(crate) fn set_cookie(pass: &str, tls: bool, life: Duration) -> String {
    let (name, secure) = if tls { (SECURE_COOKIE, "; Secure") } else { (PLAIN_COOKIE, "") };
    format!("{name}={pass}; Path=/; HttpOnly; SameSite=Lax; Max-Age={}{secure}", life.as_secs())
}

/// The header value that takes it away.
pub(crate) fn end_cookie(tls: bool) -> String {
    set_cookie("", tls, Duration::ZERO)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passes() -> Passes {
        Passes::new("a key of the fleet's".into())
    }

    #[test]
    fn a_pass_is_good_for_what_it_was_made_for_alone() {
        let (passes, token) = (passes(), SecretString::from("token-1"));
        let pass = passes.issue(Purpose::Session, "alice-1", "ann", &token, SESSION_LIFE).unwrap();
        let check = |p, c, t: &str, b: &str| passes.check(p, c, t, &b.into()).map(|good| good.user);
        assert_eq!(check(Purpose::Session, "alice-1", &pass, "token-1"), Some("ann".into()));
        assert_eq!(check(Purpose::Session, "alice-1", &pass, "token-1"), Some("ann".into()), "and again");
        assert_eq!(check(Purpose::Session, "bob-1", &pass, "token-1"), None);
        assert_eq!(check(Purpose::Ticket, "alice-1", &pass, "token-1"), None);
        assert_eq!(check(Purpose::Session, "alice-1", &pass, "token-2"), None, "the token was rotated");
        assert_eq!(Passes::new("another".into()).check(Purpose::Session, "alice-1", &pass, &token), None);
        for bad in
            ["", ".", "a.b", &pass[1..], &pass[..pass.len() - 1], &format!("{pass}.x"), &"x".repeat(5000)]
        {
            assert_eq!(check(Purpose::Session, "alice-1", bad, "token-1"), None, "{bad}");
        }
        let ended = passes.issue(Purpose::Session, "alice-1", "ann", &token, Duration::ZERO).unwrap();
        assert_eq!(check(Purpose::Session, "alice-1", &ended, "token-1"), None);
    }

    #[test]
    fn no_two_passes_have_one_number() {
        let (passes, token) = (passes(), SecretString::from("t"));
        let number = || {
            let ticket = passes.issue(Purpose::Ticket, "a-1", "ann", &token, TICKET_LIFE).unwrap();
            let good = passes.check(Purpose::Ticket, "a-1", &ticket, &token).unwrap();
            assert!(good.until > now() && good.until <= now() + TICKET_LIFE.as_secs());
            good.number
        };
        assert_ne!(number(), number());
    }

    #[test]
    fn a_cookie_that_is_there_twice_is_none() {
        let headers = |cookies: &[&str]| {
            let mut headers = HeaderMap::new();
            for cookie in cookies {
                headers.append(COOKIE, cookie.parse().unwrap());
            }
            headers
        };
        assert_eq!(cookie(&headers(&["a=b; clawfarm-session=x"]), false), Some("x"));
        assert_eq!(cookie(&headers(&["clawfarm-session=x"]), true), None);
        assert_eq!(cookie(&headers(&["__Host-clawfarm-session=y"]), true), Some("y"));
        assert_eq!(cookie(&headers(&["clawfarm-session=x; clawfarm-session=y"]), false), None);
        assert_eq!(cookie(&headers(&["clawfarm-session=x", "clawfarm-session=y"]), false), None);
        let mut odd = HeaderMap::new();
        odd.insert(COOKIE, http::HeaderValue::from_bytes(b"x=\xe9; clawfarm-session=x").unwrap());
        assert_eq!(cookie(&odd, false), Some("x"), "a cookie that is no text");
    }
}
