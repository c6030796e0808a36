//! Signing anew what waited for long: services' signatures are good for minutes, and a claw would
//! refuse what it gets later. Only of those whose secret both ends know; it was checked when the
//! message came.

use clawfarm_model::Timestamp;
use clawfarm_model::inbox::Proof;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Digest as _, Sha256};

/// What was signed less than so many seconds ago is passed on as it is: Slack's libraries take five
/// minutes, OpenClaw takes an hour for Feishu.
const FRESH: i64 = 60;

/// Puts a signature of now into the headers of a message whose own is old. How long it has waited
/// here is not asked: it may have been old when it came, and be tried anew long after.
pub(super) fn renew(headers: &mut [(String, Vec<u8>)], body: &[u8], proof: &Proof, now: Timestamp) {
    let seconds = now.as_millis() / 1000;
    let time = seconds.to_string();
    match proof {
        Proof::Slack { .. } | Proof::Feishu { .. } if is_fresh(headers, seconds) => {}
        Proof::Slack { secret } => {
            let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret.expose().as_bytes()) else { return };
            mac.update(format!("v0:{time}:").as_bytes());
            mac.update(body);
            put(headers, "x-slack-signature", format!("v0={}", hex(&mac.finalize().into_bytes())));
            put(headers, "x-slack-request-timestamp", time);
        }
        Proof::Feishu { encrypt_key: Some(key), .. } => {
            let nonce = find(headers, "x-lark-request-nonce").unwrap_or_default();
            let signature = Sha256::new()
                .chain_update(time.as_bytes())
                .chain_update(&nonce)
                .chain_update(key.expose().as_bytes())
                .chain_update(body)
                .finalize();
            put(headers, "x-lark-signature", hex(&signature));
            put(headers, "x-lark-request-timestamp", time);
        }
        _ => {}
    }
}

fn is_fresh(headers: &[(String, Vec<u8>)], now: i64) -> bool {
    let signed = ["x-slack-request-timestamp", "x-lark-request-timestamp"]
        .iter()
        .find_map(|name| String::from_utf8(find(headers, name)?).ok()?.parse::<i64>().ok());
    signed.is_some_and(|signed| now.saturating_sub(signed).saturating_abs() < FRESH)
}

fn find(headers: &[(String, Vec<u8>)], name: &str) -> Option<Vec<u8>> {
    headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone())
}

/// Only over one that was there: what was not signed stays so.
fn put(headers: &mut [(String, Vec<u8>)], name: &str, value: String) {
    if let Some((_, there)) = headers.iter_mut().find(|(known, _)| known == name) {
        *there = value.into_bytes();
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signed() -> Vec<(String, Vec<u8>)> {
        [("x-slack-signature", "v0=old"), ("x-slack-request-timestamp", "100"), ("content-type", "x")]
            .map(|(name, value)| (name.to_owned(), value.as_bytes().to_vec()))
            .to_vec()
    }

    /// Computed once by another program (Python's hmac).
    #[test]
    fn slack_s_signature_of_now_comes_out() {
        let body = b"token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow&channel_id=G8PSS9T3V&channel_name=foobar&user_id=U2CERLKJA&user_name=roadrunner&command=%2Fwebhook-collect&text=&response_url=https%3A%2F%2Fhooks.slack.com%2Fcommands%2FT1DC2JH3J%2F397700885554%2F96rGlfmibIGlgcZRskXaIffN&trigger_id=398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c";
        let proof = Proof::Slack { secret: "8f742231b10e8888abcd99yyyzzz85a5".into() };
        let mut headers = signed();
        let now = Timestamp::from_millis(1_531_420_618_000);
        renew(&mut headers, body, &proof, now);
        assert_eq!(
            find(&headers, "x-slack-signature").unwrap(),
            b"v0=4100b1756950a204e3fc6c04e24946e09b85819f68b234fd31d974b37f919c9a"
        );
        assert_eq!(find(&headers, "x-slack-request-timestamp").unwrap(), b"1531420618");
    }

    #[test]
    fn what_was_signed_just_now_is_left_as_it_is_and_all_else_is_signed_anew() {
        let proof = Proof::Slack { secret: "s".into() };
        let after = |seconds: i64| {
            let mut headers = signed();
            renew(&mut headers, b"x", &proof, Timestamp::from_millis((100 + seconds) * 1000));
            headers
        };
        assert_eq!(after(59), signed());
        // One that is replayed was taken in long ago, whatever is known of when it was wanted again.
        for seconds in [60, 301, 31 * 24 * 3600] {
            let headers = after(seconds);
            let time = (100 + seconds).to_string();
            assert_eq!(find(&headers, "x-slack-request-timestamp").unwrap(), time.as_bytes());
            assert_ne!(find(&headers, "x-slack-signature").unwrap(), b"v0=old");
        }
        let mut headers = signed();
        renew(&mut headers, b"x", &Proof::Open, Timestamp::from_millis(900_000));
        assert_eq!(headers, signed());
    }
}
