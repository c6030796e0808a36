//! What one server says to another about a request that it passes on, and its signature.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use clawfarm_model::name::TenantName;
use clawfarm_model::{Actor, Code, Context, Error, Result, Timestamp};
use hmac::{Hmac, KeyInit, Mac};
use http::header::{HeaderMap, HeaderName, IF_MATCH};
use secrecy::{ExposeSecret, SecretBox};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::prove;
use crate::token::random_hex;

/// The header that carries it.
pub(crate) const HEADER: HeaderName = HeaderName::from_static("clawfarm-peer");
/// How old it may be, by the servers' clocks, which are held against the database's.
const AGE_MAX: Duration = Duration::from_secs(60);
/// Signatures remembered, so that none is taken twice. Far more than a minute's.
const SEEN_MAX: usize = 200_000;
/// Headers that change what a request does: signed with it.
const SIGNED_HEADERS: [HeaderName; 2] = [HeaderName::from_static("idempotency-key"), IF_MATCH];
/// Hexadecimal digits of a ticket that are random, and those by which a server knows that one of
/// its database gave it: 64 bits, each guess at which is a request.
const TICKET_DIGITS: (usize, usize) = (32, 16);

/// What is vouched for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Claims {
    /// Which server says so, by its node id.
    pub(crate) from: String,
    /// To which.
    pub(crate) to: String,
    /// To which process of it, so that none is taken again after a restart; empty in a request
    /// for its proof, which tells it.
    session: String,
    at: i64,
    nonce: String,
    method: String,
    /// Path and query.
    target: String,
    /// SHA-256 of [`SIGNED_HEADERS`].
    headers: String,
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
    pub(crate) headers: &'a HeaderMap,
}

impl Signed<'_> {
    fn headers_hash(&self) -> String {
        let mut hash = Sha256::new();
        for name in &SIGNED_HEADERS {
            for value in self.headers.get_all(name) {
                hash.update(name.as_str());
                hash.update((value.len() as u64).to_le_bytes());
                hash.update(value.as_bytes());
            }
        }
        hex(&hash.finalize())
    }
}

/// The process that a request is signed for.
#[derive(Clone, Copy)]
pub(crate) struct To<'a> {
    pub(crate) node: &'a str,
    /// As its proof told; empty to ask for that.
    pub(crate) session: &'a str,
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
    /// This process, as the others know it.
    session: String,
    seen: Mutex<HashMap<String, i64>>,
}

impl Signer {
    pub(crate) fn new(key: SecretBox<[u8; 32]>, session: String) -> Self {
        Self { key, session, seen: Mutex::default() }
    }

    /// The header's value.
    pub(crate) fn sign(
        &self,
        from: &str,
        to: To<'_>,
        now: Timestamp,
        request: Signed<'_>,
        body: &[u8],
        context: Option<&Context>,
    ) -> Result<String> {
        let claims = Claims {
            from: from.to_owned(),
            to: to.node.to_owned(),
            session: to.session.to_owned(),
            at: now.as_millis(),
            nonce: random_hex::<16>()?,
            method: request.method.to_owned(),
            target: request.target.to_owned(),
            headers: request.headers_hash(),
            body: hex(&Sha256::digest(body)),
            who: context.map(who).transpose()?,
        };
        let text = serde_json::to_vec(&claims)
            .map_err(|e| Error::internal("what is passed on can't be signed", e))?;
        let text = hex(&text);
        let mac = self.mac(REQUEST, &[&text])?.finalize().into_bytes();
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
        self.mac(REQUEST, &[text])?
            .verify_slice(&mac)
            .map_err(|_| refused("its signature is not one of this database's servers"))?;
        let claims: Claims = unhex(text)
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .ok_or_else(|| refused("a server of another version wrote it"))?;
        let same = (claims.to.as_str(), claims.method.as_str(), claims.target.as_str())
            == (own, request.method, request.target)
            && claims.headers == request.headers_hash();
        if !same {
            return Err(refused("it was signed for another request, or another server"));
        }
        let session = if request.target == prove::PATH { "" } else { self.session.as_str() };
        if claims.session != session {
            return Err(refused("it was signed for this server before it was started again"));
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

    /// What this process shows to whoever asks with `ask` whether it is server `own` that answers
    /// at `address`: its session, and a code that only a server of this database can make.
    pub(crate) fn proof(&self, ask: &str, own: &str, address: &str) -> Result<String> {
        let mac = self.mac(ANSWER, &[ask, own, address, &self.session])?.finalize().into_bytes();
        Ok(format!("{}.{}", self.session, hex(&mac)))
    }

    /// The session of the process that gave this proof; `None` when it is none of server `node`,
    /// for this very question, at this address. (The address is in it so that a stranger who sits
    /// at an old one can't have the server at its new one answer for him.)
    pub(crate) fn proven(&self, proof: &str, ask: &str, node: &str, address: &str) -> Result<Option<String>> {
        let Some((session, mac)) = proof.split_once('.') else { return Ok(None) };
        let Some(mac) = unhex(mac) else { return Ok(None) };
        let right = self.mac(ANSWER, &[ask, node, address, session])?.verify_slice(&mac).is_ok();
        Ok(right.then(|| session.to_owned()))
    }

    /// The text of a new ticket of server `own`, by which the others see that it is one.
    pub(crate) fn ticket(&self, own: &str) -> Result<String> {
        let random = random_hex::<{ TICKET_DIGITS.0 / 2 }>()?;
        let code = self.ticket_code(own, &random)?;
        Ok(format!("{own}-{random}{code}"))
    }

    /// The server that gave this ticket; `None` when no server of this database did: nothing is
    /// asked of another one for whoever made it up.
    pub(crate) fn ticket_of<'a>(&self, text: &'a str) -> Option<&'a str> {
        let (node, rest) = text.split_once('-')?;
        let (random, code) = rest.split_at_checked(TICKET_DIGITS.0)?;
        let wanted = self.ticket_code(node, random).ok()?;
        bool::from(wanted.as_bytes().ct_eq(code.as_bytes())).then_some(node)
    }

    fn ticket_code(&self, node: &str, random: &str) -> Result<String> {
        let mut code = hex(&self.mac(TICKET, &[node, random])?.finalize().into_bytes());
        code.truncate(TICKET_DIGITS.1);
        Ok(code)
    }

    /// The code of some parts, each with its length, for one purpose and no other.
    fn mac(&self, purpose: &str, parts: &[&str]) -> Result<Hmac<Sha256>> {
        let mut mac = Hmac::<Sha256>::new_from_slice(self.key.expose_secret())
            .map_err(|e| Error::internal("the servers' key can't be used", e))?;
        for part in [purpose].iter().chain(parts) {
            mac.update(&(part.len() as u64).to_le_bytes());
            mac.update(part.as_bytes());
        }
        Ok(mac)
    }
}

/// What a code is for: one that was made for one of these is none for another.
const REQUEST: &str = "clawfarm peer request v2";
const ANSWER: &str = "clawfarm peer answer v2";
const TICKET: &str = "clawfarm console ticket v2";

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
    use std::sync::LazyLock;

    use super::*;

    static HEADERS: LazyLock<HeaderMap> = LazyLock::new(|| {
        let pairs = [("idempotency-key", "k-1"), ("if-match", "\"7\""), ("accept", "*/*")];
        pairs.into_iter().map(|(n, v)| (HeaderName::from_static(n), v.parse().unwrap())).collect()
    });
    const TO: To<'static> = To { node: "b", session: "s-1" };

    fn signer(byte: u8) -> Signer {
        Signer::new(SecretBox::new(Box::new([byte; 32])), "s-1".to_owned())
    }

    fn request() -> Signed<'static> {
        Signed { method: "POST", target: "/api/v1/x?y=1", headers: &HEADERS }
    }

    fn owner() -> Context {
        Context::owner("admin".into(), TenantName::new("t").unwrap(), "r-1".into())
    }

    fn now() -> Timestamp {
        Timestamp::from_millis(1_000_000)
    }

    #[test]
    fn who_asks_arrives_once() {
        let value = signer(1).sign("a", TO, now(), request(), b"{}", Some(&owner())).unwrap();
        let receiver = signer(1);
        let vouched = receiver.check(&value, "b", now(), request()).unwrap();
        vouched.check_body(b"{}").unwrap();
        assert_eq!(vouched.check_body(b"{ }").unwrap_err().code(), Code::Unauthenticated);
        let context = vouched.context.unwrap();
        assert_eq!((context.actor(), context.request_id()), (owner().actor(), "r-1"));
        assert_eq!(context.tenant().unwrap().as_str(), "t");
        let again = receiver.check(&value, "b", now(), request()).unwrap_err();
        assert!(again.message().contains("used before"), "{again}");
        let nobody = signer(1).sign("a", TO, now(), request(), b"{}", None).unwrap();
        assert!(receiver.check(&nobody, "b", now(), request()).unwrap().context.is_none());
    }

    #[test]
    fn none_is_taken_again_after_a_restart() {
        let value = signer(1).sign("a", TO, now(), request(), b"{}", Some(&owner())).unwrap();
        let restarted = Signer { session: "s-2".to_owned(), ..signer(1) };
        let refused = restarted.check(&value, "b", now(), request()).unwrap_err();
        assert!(refused.message().contains("started again"), "{refused}");
        // What asks for a proof can't know the session; and nothing else may go without one.
        let nameless = To { session: "", ..TO };
        let ask = Signed { target: prove::PATH, ..request() };
        let value = signer(1).sign("a", nameless, now(), ask, b"", None).unwrap();
        restarted.check(&value, "b", now(), ask).unwrap();
        let value = signer(1).sign("a", nameless, now(), request(), b"", None).unwrap();
        restarted.check(&value, "b", now(), request()).unwrap_err();
    }

    #[test]
    fn what_was_signed_for_something_else_or_by_somebody_else_is_refused() {
        let value = signer(1).sign("a", TO, now(), request(), b"{}", Some(&owner())).unwrap();
        let check = |signer: &Signer, value: &str, own: &str, at: i64, request: Signed<'_>| {
            let error = signer.check(value, own, Timestamp::from_millis(at), request).unwrap_err();
            assert_eq!(error.code(), Code::Unauthenticated, "{error}");
        };
        let at = now().as_millis();
        let it = signer(1);
        check(&signer(2), &value, "b", at, request());
        check(&it, &value, "c", at, request());
        check(&it, &value, "b", at + 61_000, request());
        check(&it, &value, "b", at - 61_000, request());
        check(&it, &value, "b", at, Signed { method: "DELETE", ..request() });
        check(&it, &value, "b", at, Signed { target: "/api/v1/x?y=2", ..request() });
        for (name, other) in
            [("idempotency-key", Some("k-2")), ("if-match", Some("\"8\"")), ("if-match", None)]
        {
            let mut headers = HEADERS.clone();
            match other {
                Some(other) => headers.insert(name, other.parse().unwrap()),
                None => headers.remove(name),
            };
            check(&it, &value, "b", at, Signed { headers: &headers, ..request() });
        }
        let mut altered = value.clone();
        altered.replace_range(10..11, if &value[10..11] == "0" { "1" } else { "0" });
        check(&it, &altered, "b", at, request());
        for nonsense in ["", ".", "x.y", "00.00", "é.é", &value[..value.len() - 1]] {
            check(&it, nonsense, "b", at, request());
        }
        it.check(&value, "b", now(), request()).expect("still good");
    }

    #[test]
    fn a_proof_is_of_one_server_at_one_address_for_one_question() {
        let proof = signer(1).proof("ask", "b", "http://b:1").unwrap();
        let proven = |by: u8, proof: &str, ask: &str, node: &str, address: &str| {
            signer(by).proven(proof, ask, node, address).unwrap()
        };
        assert_eq!(proven(1, &proof, "ask", "b", "http://b:1").as_deref(), Some("s-1"));
        assert_eq!(proven(2, &proof, "ask", "b", "http://b:1"), None);
        assert_eq!(proven(1, &proof, "other", "b", "http://b:1"), None);
        assert_eq!(proven(1, &proof, "ask", "c", "http://b:1"), None);
        assert_eq!(proven(1, &proof, "ask", "b", "http://b:2"), None, "sent on to the server's new address");
        for nonsense in ["", ".", "s-1.", "s-1.00", "é", &proof.replace("s-1", "s-2")] {
            assert_eq!(proven(1, nonsense, "ask", "b", "http://b:1"), None, "{nonsense}");
        }
    }

    #[test]
    fn a_ticket_that_was_made_up_is_none() {
        let ticket = signer(1).ticket("n0123456789").unwrap();
        assert_eq!(ticket.len(), "n0123456789-".len() + 48);
        assert_eq!(signer(1).ticket_of(&ticket), Some("n0123456789"));
        assert_eq!(signer(2).ticket_of(&ticket), None);
        let longer = format!("{ticket}0");
        let other = ticket.replace("n0123456789", "n0123456780");
        let zeros = format!("n0123456789-{}", "0".repeat(48));
        for made_up in
            ["", "n0123456789-x", "n0123456789-", "n0123456789-éé", &longer, &other, &zeros, &ticket[..50]]
        {
            assert_eq!(signer(1).ticket_of(made_up), None, "{made_up}");
        }
    }
}
