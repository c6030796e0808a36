//! Whether a sender has proven itself, as its service does.

use aes::Aes256;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use cbc::cipher::block_padding::Pkcs7;
use cbc::cipher::{BlockModeDecrypt as _, KeyIvInit as _};
use clawfarm_model::inbox::{Key, Proof};
use hmac::{Hmac, KeyInit as _, Mac as _};
use http::HeaderMap;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::header;
use crate::headers::bearer;

/// How old a request of Slack's may be, in seconds: five minutes, as its documentation says.
const SLACK_WINDOW: i64 = 300;
/// The same for Discord and Feishu, whose documentation has none; OpenClaw has an hour for Feishu.
const WINDOW: i64 = 3600;

/// What a sender has shown.
#[derive(Debug)]
pub(super) enum Shown {
    /// That it is the service, or nothing was asked for; with the body in clear where it came
    /// encrypted.
    Itself(Option<Vec<u8>>),
    /// Nothing that counts.
    Nothing,
}

impl Shown {
    /// The body as it can be read.
    pub(super) fn clear<'a>(&'a self, body: &'a [u8]) -> &'a [u8] {
        match self {
            Self::Itself(Some(clear)) => clear,
            _ => body,
        }
    }

    fn when(proven: bool) -> Self {
        if proven { Self::Itself(None) } else { Self::Nothing }
    }
}

/// What a sender's headers show before its body is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ahead {
    /// That it is the service.
    Proven,
    /// That the body can still show it, or that nothing is asked for.
    Open,
    /// That no body can.
    Hopeless,
}

/// Checks what can be checked without the body; `now` is in seconds.
pub(super) fn ahead(proof: &Proof, headers: &HeaderMap, now: i64) -> Ahead {
    let when = |hope: bool| if hope { Ahead::Open } else { Ahead::Hopeless };
    let dated =
        |time: &str, window| header(headers, time).is_some_and(|it| within(it, window, now).is_some());
    match proof {
        Proof::Token { .. } | Proof::Telegram { .. } => match check(proof, headers, &Bytes::new(), now) {
            Shown::Itself(_) => Ahead::Proven,
            Shown::Nothing => Ahead::Hopeless,
        },
        Proof::Slack { .. } => {
            let signed = headers.contains_key("x-slack-signature");
            when(signed && dated("x-slack-request-timestamp", SLACK_WINDOW))
        }
        Proof::Discord { .. } => {
            let signed = headers.contains_key("x-signature-ed25519");
            when(signed && dated("x-signature-timestamp", WINDOW))
        }
        // Feishu's question about the address has its proof in the body alone.
        Proof::Unknown | Proof::Open | Proof::Feishu { .. } => Ahead::Open,
    }
}

/// Checks a message; `now` is in seconds.
pub(super) fn check(proof: &Proof, headers: &HeaderMap, body: &Bytes, now: i64) -> Shown {
    match proof {
        Proof::Unknown => Shown::Nothing,
        Proof::Open => Shown::Itself(None),
        Proof::Token { token, header: named } => {
            // A bearer token goes before, as in OpenClaw's hooks.
            let given = bearer(headers)
                .filter(|token| !token.is_empty())
                .or_else(|| header(headers, named.as_deref()?));
            Shown::when(given.is_some_and(|given| same(given, token)))
        }
        Proof::Telegram { secret } => {
            let given = header(headers, "x-telegram-bot-api-secret-token");
            Shown::when(given.is_some_and(|given| same(given, secret)))
        }
        Proof::Slack { secret } => Shown::when(slack(secret, headers, body, now).is_some()),
        Proof::Discord { public_key } => Shown::when(discord(public_key, headers, body, now).is_some()),
        Proof::Feishu { token, encrypt_key } => {
            feishu(token, encrypt_key.as_ref(), headers, body, now).unwrap_or(Shown::Nothing)
        }
    }
}

/// Compares in constant time.
fn same(given: &str, known: &Key) -> bool {
    !known.expose().is_empty() && bool::from(given.as_bytes().ct_eq(known.expose().as_bytes()))
}

fn within(time: &str, window: i64, now: i64) -> Option<()> {
    let time: i64 = time.parse().ok()?;
    (now.saturating_sub(time).saturating_abs() <= window).then_some(())
}

/// <https://docs.slack.dev/authentication/verifying-requests-from-slack>
fn slack(secret: &Key, headers: &HeaderMap, body: &[u8], now: i64) -> Option<()> {
    let time = header(headers, "x-slack-request-timestamp")?;
    within(time, SLACK_WINDOW, now)?;
    let given = unhex(header(headers, "x-slack-signature")?.strip_prefix("v0=")?)?;
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.expose().as_bytes()).ok()?;
    for part in [b"v0:", time.as_bytes(), b":", body] {
        mac.update(part);
    }
    // In constant time.
    mac.verify_slice(&given).ok()
}

/// <https://docs.discord.com/developers/interactions/overview#setting-up-an-endpoint>
fn discord(public_key: &str, headers: &HeaderMap, body: &[u8], now: i64) -> Option<()> {
    let time = header(headers, "x-signature-timestamp")?;
    within(time, WINDOW, now)?;
    let signature = unhex(header(headers, "x-signature-ed25519")?)?;
    let signed = [time.as_bytes(), body].concat();
    let key = ring::signature::UnparsedPublicKey::new(&ring::signature::ED25519, unhex(public_key)?);
    key.verify(&signed, &signature).ok()
}

/// <https://open.feishu.cn/document/server-docs/event-subscription-guide/event-subscription-configure-/encrypt-key-encryption-configuration-case>
fn feishu(
    token: &Key,
    encrypt_key: Option<&Key>,
    headers: &HeaderMap,
    body: &[u8],
    now: i64,
) -> Option<Shown> {
    let Some(key) = encrypt_key else {
        return has_token(token, body).then_some(Shown::Itself(None));
    };
    let document: Value = serde_json::from_slice(body).ok()?;
    let clear = decrypt(key.expose(), document.get("encrypt")?.as_str()?)?;
    // The question about the address is not signed; that it can be decrypted and has the token
    // is its proof. So is each event's, which is signed as well.
    let question = serde_json::from_slice::<Value>(&clear).ok()?["type"] == "url_verification";
    if !question {
        let time = header(headers, "x-lark-request-timestamp")?;
        within(time, WINDOW, now)?;
        let given = unhex(header(headers, "x-lark-signature")?)?;
        let nonce = header(headers, "x-lark-request-nonce")?;
        let mut digest = Sha256::new();
        for part in [time.as_bytes(), nonce.as_bytes(), key.expose().as_bytes(), body] {
            digest.update(part);
        }
        if !bool::from(given.as_slice().ct_eq(digest.finalize().as_slice())) {
            return None;
        }
    }
    has_token(token, &clear).then_some(Shown::Itself(Some(clear)))
}

/// Whether an event names the verification token: in its header, or beside it in older ones.
fn has_token(token: &Key, clear: &[u8]) -> bool {
    let Ok(document) = serde_json::from_slice::<Value>(clear) else { return false };
    let given = document["header"]["token"].as_str().or_else(|| document["token"].as_str());
    given.is_some_and(|given| same(given, token))
}

/// AES-256-CBC under the SHA-256 of the key; the first block is the initialisation vector.
fn decrypt(key: &str, text: &str) -> Option<Vec<u8>> {
    let bytes = STANDARD.decode(text).ok()?;
    let (start, cipher) = bytes.split_first_chunk::<16>()?;
    let key: [u8; 32] = Sha256::digest(key.as_bytes()).into();
    let decryptor = cbc::Decryptor::<Aes256>::new(&key.into(), start.into());
    let mut buffer = cipher.to_vec();
    let clear = decryptor.decrypt_padded::<Pkcs7>(&mut buffer).ok()?;
    Some(clear.to_vec())
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    if !digits.len().is_multiple_of(2) {
        return None;
    }
    let digit = |b: u8| char::from(b).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    digits.chunks_exact(2).map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?)).collect()
}

#[cfg(test)]
mod tests {
    use cbc::cipher::BlockModeEncrypt as _;
    use http::header::HeaderName;
    use ring::signature::KeyPair as _;

    use super::*;

    const NOW: i64 = 1_531_420_618;

    fn map(pairs: &[(&str, &str)]) -> HeaderMap {
        pairs.iter().map(|(n, v)| (n.parse::<HeaderName>().unwrap(), v.parse().unwrap())).collect()
    }

    fn shown(proof: &Proof, pairs: &[(&str, &str)], body: &str, now: i64) -> bool {
        let body = Bytes::copy_from_slice(body.as_bytes());
        matches!(check(proof, &map(pairs), &body, now), Shown::Itself(_))
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    #[test]
    fn tokens() {
        let proof = Proof::Token { token: "sesame".into(), header: Some("x-openclaw-token".into()) };
        for good in [
            &[("authorization", "Bearer sesame")][..],
            &[("authorization", "bearer sesame")],
            &[("x-openclaw-token", "sesame")],
        ] {
            assert!(shown(&proof, good, "", NOW), "{good:?}");
            assert_eq!(ahead(&proof, &map(good), NOW), Ahead::Proven);
        }
        for bad in [
            &[][..],
            &[("authorization", "Bearer sesam")],
            &[("authorization", "sesame")],
            &[("x-openclaw-token", "Sesame")],
            &[("authorization", "Bearer wrong"), ("x-openclaw-token", "sesame")],
        ] {
            assert!(!shown(&proof, bad, "", NOW), "{bad:?}");
            assert_eq!(ahead(&proof, &map(bad), NOW), Ahead::Hopeless);
        }
        // An empty secret proves nothing.
        let none = Proof::Telegram { secret: "".into() };
        assert!(!shown(&none, &[("x-telegram-bot-api-secret-token", "")], "", NOW));
        let telegram = Proof::Telegram { secret: "s-1".into() };
        assert!(shown(&telegram, &[("x-telegram-bot-api-secret-token", "s-1")], "", NOW));
        assert!(!shown(&telegram, &[("authorization", "Bearer s-1")], "", NOW));
        assert!(shown(&Proof::Open, &[], "", NOW) && !shown(&Proof::Unknown, &[], "", NOW));
    }

    /// Computed once by another program (Python's hmac).
    #[test]
    fn slack_s_signature() {
        let body = "token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow&channel_id=G8PSS9T3V&channel_name=foobar&user_id=U2CERLKJA&user_name=roadrunner&command=%2Fwebhook-collect&text=&response_url=https%3A%2F%2Fhooks.slack.com%2Fcommands%2FT1DC2JH3J%2F397700885554%2F96rGlfmibIGlgcZRskXaIffN&trigger_id=398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c";
        let proof = Proof::Slack { secret: "8f742231b10e8888abcd99yyyzzz85a5".into() };
        let signature = "v0=4100b1756950a204e3fc6c04e24946e09b85819f68b234fd31d974b37f919c9a";
        let headers = [("x-slack-request-timestamp", "1531420618"), ("x-slack-signature", signature)];
        // Without the body it may be; one that is not signed, or too old, can't.
        assert_eq!(ahead(&proof, &map(&headers), NOW), Ahead::Open);
        assert_eq!(ahead(&proof, &map(&headers[..1]), NOW), Ahead::Hopeless);
        assert_eq!(ahead(&proof, &map(&headers[1..]), NOW), Ahead::Hopeless);
        assert_eq!(ahead(&proof, &map(&headers), NOW + 301), Ahead::Hopeless);
        assert!(shown(&proof, &headers, body, NOW));
        assert!(shown(&proof, &headers, body, NOW + 299));
        assert!(!shown(&proof, &headers, body, NOW + 301), "too old");
        assert!(!shown(&proof, &headers, body, NOW - 301), "from the future");
        assert!(!shown(&proof, &headers, &format!("{body}x"), NOW));
        assert!(!shown(&proof, &headers[..1], body, NOW));
        assert!(!shown(&Proof::Slack { secret: "other".into() }, &headers, body, NOW));
    }

    #[test]
    fn discord_s_signature() {
        let pair = ring::signature::Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap();
        let proof = Proof::Discord { public_key: hex(pair.public_key().as_ref()) };
        let (time, body) = (NOW.to_string(), r#"{"type":1}"#);
        let signature = hex(pair.sign(format!("{time}{body}").as_bytes()).as_ref());
        let headers = [("x-signature-timestamp", time.as_str()), ("x-signature-ed25519", &signature)];
        assert!(shown(&proof, &headers, body, NOW));
        assert_eq!(ahead(&proof, &map(&headers), NOW), Ahead::Open);
        assert_eq!(ahead(&proof, &map(&headers[..1]), NOW), Ahead::Hopeless);
        assert!(!shown(&proof, &headers, r#"{"type":2}"#, NOW));
        assert!(!shown(&proof, &headers, body, NOW + WINDOW + 1));
        let other = Proof::Discord { public_key: hex(&[9; 32]) };
        assert!(!shown(&other, &headers, body, NOW));
        for junk in ["", "zz", "abc"] {
            let headers = [("x-signature-timestamp", time.as_str()), ("x-signature-ed25519", junk)];
            assert!(!shown(&proof, &headers, body, NOW), "{junk}");
        }
    }

    /// The example of Feishu's documentation: "hello world" under the key "test key".
    #[test]
    fn feishu_s_own_example_is_decrypted() {
        let text = "P37w+VZImNgPEO1RBhJ6RtKl7n6zymIbEG1pReEzghk=";
        assert_eq!(decrypt("test key", text).unwrap(), b"hello world");
        assert_eq!(decrypt("other key", text), None);
        for junk in ["", "AAAA", "not base64!"] {
            assert_eq!(decrypt("test key", junk), None);
        }
    }

    fn encrypted(key: &str, clear: &str) -> String {
        let start = [3; 16];
        let digest: [u8; 32] = Sha256::digest(key.as_bytes()).into();
        let cipher = cbc::Encryptor::<Aes256>::new(&digest.into(), &start.into());
        let mut buffer = vec![0; clear.len() + 16];
        buffer[..clear.len()].copy_from_slice(clear.as_bytes());
        let cipher = cipher.encrypt_padded::<Pkcs7>(&mut buffer, clear.len()).unwrap();
        serde_json::json!({ "encrypt": STANDARD.encode([&start[..], cipher].concat()) }).to_string()
    }

    #[test]
    fn feishu_s_events_are_signed_and_its_question_is_not() {
        let proof = Proof::Feishu { token: "tok".into(), encrypt_key: Some("key".into()) };
        let body = encrypted("key", r#"{"header":{"event_id":"e1","token":"tok"},"event":{}}"#);
        let time = NOW.to_string();
        let signature = hex(&Sha256::digest(format!("{time}nkey{body}").as_bytes()));
        let headers = [
            ("x-lark-request-timestamp", time.as_str()),
            ("x-lark-request-nonce", "n"),
            ("x-lark-signature", &signature),
        ];
        assert!(shown(&proof, &headers, &body, NOW));
        assert!(!shown(&proof, &headers[..2], &body, NOW));
        assert!(!shown(&proof, &headers, &body, NOW + WINDOW + 1));
        assert!(!shown(&proof, &headers, &encrypted("key", r#"{"token":"tok"}"#), NOW));
        let wrong = encrypted("key", r#"{"type":"url_verification","token":"x"}"#);
        assert!(!shown(&proof, &[], &wrong, NOW));
        let question = encrypted("key", r#"{"type":"url_verification","token":"tok","challenge":"c"}"#);
        assert!(shown(&proof, &[], &question, NOW));
        // Without a key to encrypt with, the token is all there is.
        let plain = Proof::Feishu { token: "tok".into(), encrypt_key: None };
        assert!(shown(&plain, &[], r#"{"header":{"token":"tok"}}"#, NOW));
        assert!(!shown(&plain, &[], r#"{"header":{"token":"x"},"token":"tok"}"#, NOW));
        assert!(!shown(&plain, &[], "{}", NOW));
    }
}
