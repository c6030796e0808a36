//! What one server says to another about a request that it passes on, and its signature.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use clawfarm_model::name::TenantName;
use clawfarm_model::{Actor, Code, Context, Error, Result, Timestamp};
use hmac::{Hmac, KeyInit, Mac};
use http::header::HeaderName;
use secrecy::{ExposeSecret, SecretBox};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::token::random_hex;

/// The header that carries it.
pub(crate) const HEADER: HeaderName = HeaderName::from_static("clawfarm-peer");
/// How old it may be, by the servers' clocks, which are held against the database's.
const AGE_MAX: Duration = Duration::from_secs(60);
/// Signatures remembered, so that none is taken twice. Far more than a minute's.
const SEEN_MAX: usize = 200_000;

/// What is vouched for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Claims {
    /// Which server says so, by its node id.
    pub(crate) from: String,
    /// To which.
    pub(crate) to: String,
    at: i64,
    nonce: String,
    method: String,
    /// Path and query.
    target: String,
    /// SHA-256 of the body.
    body: String,
    /// Who asks; nobody for what is its own credential (a console's ticket).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    who: Option<Who>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Who {
    owner: String,
    tenant: String,
    request: String,
}

/// The head of a request, as far as it is signed.
#[derive(Clone, Copy)]
pub(crate) struct Signed<'a> {
    pub(crate) method: &'a str,
    pub(crate) target: &'a str,
}

/// What another server vouched for.
#[derive(Debug)]
pub(crate) struct Vouched {
    /// Who asks; nobody for what is its own credential.
    pub(crate) context: Option<Context>,
    body: String,
}

impl Vouched {
    /// Checks that this is the body it was said for.
    pub(crate) fn check_body(&self, body: &[u8]) -> Result<()> {
        if self.body == hex(&Sha256::digest(body)) { Ok(()) } else { Err(refused("its body was changed")) }
    }
}

/// Signs what is passed on, and checks what was.
pub(crate) struct Signer {
    key: SecretBox<[u8; 32]>,
    seen: Mutex<HashMap<String, i64>>,
}

impl Signer {
    pub(crate) fn new(key: SecretBox<[u8; 32]>) -> Self {
        Self { key, seen: Mutex::default() }
    }

    /// The header's value.
    pub(crate) fn sign(
        &self,
        from: &str,
        to: &str,
        now: Timestamp,
        request: Signed<'_>,
        body: &[u8],
        context: Option<&Context>,
    ) -> Result<String> {
        let claims = Claims {
            from: from.to_owned(),
            to: to.to_owned(),
            at: now.as_millis(),
            nonce: random_hex::<16>()?,
            method: request.method.to_owned(),
            target: request.target.to_owned(),
            body: hex(&Sha256::digest(body)),
            who: context.map(who).transpose()?,
        };
        let text = serde_json::to_vec(&claims)
            .map_err(|e| Error::internal("what is passed on can't be signed", e))?;
        let text = hex(&text);
        let mac = self.mac(&text)?.finalize().into_bytes();
        Ok(format!("{text}.{}", hex(&mac)))
    }

    /// Checks a header's value: signed by a server of this database, for this server and this
    /// very request, not long ago and never before. Before the body is read: a stranger must not
    /// make this server hold one.
    pub(crate) fn check(
        &self,
        value: &str,
        own: &str,
        now: Timestamp,
        request: Signed<'_>,
    ) -> Result<Vouched> {
        let (text, mac) = value.split_once('.').ok_or_else(|| refused("it has no signature"))?;
        let mac = unhex(mac).ok_or_else(|| refused("it has no signature"))?;
        self.mac(text)?
            .verify_slice(&mac)
            .map_err(|_| refused("its signature is not one of this database's servers"))?;
        let claims: Claims = unhex(text)
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .ok_or_else(|| refused("a server of another version wrote it"))?;
        let same = (claims.to.as_str(), claims.method.as_str(), claims.target.as_str())
            == (own, request.method, request.target);
        if !same {
            return Err(refused("it was signed for another request, or another server"));
        }
        let age = now.as_millis().abs_diff(claims.at);
        if u128::from(age) > AGE_MAX.as_millis() {
            return Err(refused("it is too old, or the clock of one of the servers is wrong"));
        }
        self.once(claims.nonce, now)?;
        Ok(Vouched { context: claims.who.map(context).transpose()?, body: claims.body })
    }

    fn once(&self, nonce: String, now: Timestamp) -> Result<()> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.len() >= SEEN_MAX {
            // Twice the age, for what was signed by a clock that goes ahead.
            let oldest = now.as_millis() - 2 * i64::try_from(AGE_MAX.as_millis()).unwrap_or(i64::MAX / 2);
            seen.retain(|_, at| *at > oldest);
        }
        if seen.len() >= SEEN_MAX {
            return Err(Error::new(Code::Overloaded, "too many requests are passed on to this server"));
        }
        match seen.insert(nonce, now.as_millis()) {
            None => Ok(()),
            Some(_) => Err(refused("it was used before")),
        }
    }

    fn mac(&self, text: &str) -> Result<Hmac<Sha256>> {
        let mut mac = Hmac::<Sha256>::new_from_slice(self.key.expose_secret())
            .map_err(|e| Error::internal("the servers' key can't be used", e))?;
        mac.update(b"clawfarm peer v1\n");
        mac.update(text.as_bytes());
        Ok(mac)
    }
}

fn who(context: &Context) -> Result<Who> {
    match context.actor() {
        Actor::Owner(name) => Ok(Who {
            owner: name.clone(),
            tenant: context.tenant()?.as_str().to_owned(),
            request: context.request_id().to_owned(),
        }),
        Actor::System(task) => Err(Error::internal("a task of the server is not passed on", *task)),
    }
}

fn context(who: Who) -> Result<Context> {
    Ok(Context::owner(who.owner, TenantName::new(who.tenant)?, who.request))
}

fn refused(why: &str) -> Error {
    Error::new(Code::Unauthenticated, format!("what another server passed on is refused: {why}"))
        .field("Clawfarm-Peer")
        .fix("check that both servers have the same master.key and a clock that is right")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> =
        text.chars().map(|c| c.to_digit(16).and_then(|d| u8::try_from(d).ok())).collect::<Option<_>>()?;
    let pairs = digits.chunks_exact(2);
    pairs.remainder().is_empty().then(|| pairs.map(|pair| pair[0] << 4 | pair[1]).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signer(byte: u8) -> Signer {
        Signer::new(SecretBox::new(Box::new([byte; 32])))
    }

    const REQUEST: Signed<'static> = Signed { method: "POST", target: "/api/v1/x?y=1" };

    fn owner() -> Context {
        Context::owner("admin".into(), TenantName::new("t").unwrap(), "r-1".into())
    }

    fn now() -> Timestamp {
        Timestamp::from_millis(1_000_000)
    }

    #[test]
    fn who_asks_arrives_once() {
        let value = signer(1).sign("a", "b", now(), REQUEST, b"{}", Some(&owner())).unwrap();
        let receiver = signer(1);
        let vouched = receiver.check(&value, "b", now(), REQUEST).unwrap();
        vouched.check_body(b"{}").unwrap();
        assert_eq!(vouched.check_body(b"{ }").unwrap_err().code(), Code::Unauthenticated);
        let context = vouched.context.unwrap();
        assert_eq!((context.actor(), context.request_id()), (owner().actor(), "r-1"));
        assert_eq!(context.tenant().unwrap().as_str(), "t");
        let again = receiver.check(&value, "b", now(), REQUEST).unwrap_err();
        assert!(again.message().contains("used before"), "{again}");
        let nobody = signer(1).sign("a", "b", now(), REQUEST, b"{}", None).unwrap();
        assert!(receiver.check(&nobody, "b", now(), REQUEST).unwrap().context.is_none());
    }

    #[test]
    fn what_was_signed_for_something_else_or_by_somebody_else_is_refused() {
        let value = signer(1).sign("a", "b", now(), REQUEST, b"{}", Some(&owner())).unwrap();
        let check = |signer: &Signer, value: &str, own: &str, at: i64, request: Signed<'_>| {
            let error = signer.check(value, own, Timestamp::from_millis(at), request).unwrap_err();
            assert_eq!(error.code(), Code::Unauthenticated, "{error}");
        };
        let at = now().as_millis();
        let it = signer(1);
        check(&signer(2), &value, "b", at, REQUEST);
        check(&it, &value, "c", at, REQUEST);
        check(&it, &value, "b", at + 61_000, REQUEST);
        check(&it, &value, "b", at - 61_000, REQUEST);
        check(&it, &value, "b", at, Signed { method: "DELETE", ..REQUEST });
        check(&it, &value, "b", at, Signed { target: "/api/v1/x?y=2", ..REQUEST });
        let mut altered = value.clone();
        altered.replace_range(10..11, if &value[10..11] == "0" { "1" } else { "0" });
        check(&it, &altered, "b", at, REQUEST);
        for nonsense in ["", ".", "x.y", "00.00", "é.é", &value[..value.len() - 1]] {
            check(&it, nonsense, "b", at, REQUEST);
        }
        it.check(&value, "b", now(), REQUEST).expect("still good");
    }
}
