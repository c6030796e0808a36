//! Messages for claws from services that can't wait: where they come in, how their senders prove
//! themselves, and what is known of one that is kept.

use std::net::SocketAddr;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use utoipa::ToSchema;

use crate::clawid::ClawId;
use crate::time::Timestamp;

/// A path of a claw that services send messages to.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct InboxRoute {
    /// The path; it stands for itself and for everything below it.
    pub path: String,
    /// Where the claw listens for it, when that is not its gateway: an address within its own
    /// machine or container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listener: Option<SocketAddr>,
    /// How a sender proves itself.
    pub proof: Proof,
    /// A header without which a success of the claw's is none: it answers so when it has written
    /// the message down itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accepted: Option<String>,
}

/// How the sender of a message proves itself. A message for a claw that can't check it now is
/// taken in only when it is proven.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Proof {
    /// Nothing is known that would prove it: only the claw itself can tell.
    Unknown,
    /// None is asked for: its owner declared the path open.
    Open,
    /// A token, as `Authorization: Bearer` or in a header of this name.
    Token {
        /// The token.
        token: Key,
        /// Another header that may hold it, in lower case.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        header: Option<String>,
    },
    /// Telegram's `X-Telegram-Bot-Api-Secret-Token`.
    Telegram {
        /// What was given with `setWebhook`.
        secret: Key,
    },
    /// Slack's signature: HMAC-SHA-256 of `v0:<time>:<body>`.
    Slack {
        /// The app's signing secret.
        secret: Key,
    },
    /// Discord's signature: Ed25519 of the time and the body.
    Discord {
        /// The application's public key: 64 hexadecimal digits.
        public_key: String,
    },
    /// Feishu's or Lark's token and signature.
    Feishu {
        /// The verification token, which is in each event.
        token: Key,
        /// The key that events are signed and encrypted with.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        encrypt_key: Option<Key>,
    },
}

/// A secret of a route. Written out only into what is itself encrypted.
#[derive(Clone, Debug)]
pub struct Key(pub SecretString);

impl Key {
    /// Its value.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

impl From<&str> for Key {
    fn from(text: &str) -> Self {
        Self(text.into())
    }
}

impl Serialize for Key {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.expose())
    }
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self(text.into()))
    }
}

/// A message as it is kept: what the claw is sent, and nothing else of how it came.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InboxRequest {
    /// The path and query it is sent to.
    pub target: String,
    /// Its headers, cleaned: names in lower case, values as bytes.
    pub headers: Vec<(String, Vec<u8>)>,
}

impl InboxRequest {
    /// With its body, as one text of bytes: the length of the head, the head, the body.
    #[must_use]
    pub fn pack(&self, body: &[u8]) -> Vec<u8> {
        // A struct of strings and bytes always serialises.
        let head = serde_json::to_vec(self).unwrap_or_default();
        let mut packed = Vec::with_capacity(4 + head.len() + body.len());
        packed.extend_from_slice(&u32::try_from(head.len()).unwrap_or(u32::MAX).to_le_bytes());
        packed.extend_from_slice(&head);
        packed.extend_from_slice(body);
        packed
    }

    /// What [`Self::pack`] made; `None` for anything else.
    #[must_use]
    pub fn unpack(packed: &[u8]) -> Option<(Self, &[u8])> {
        let (length, rest) = packed.split_first_chunk::<4>()?;
        let (head, body) = rest.split_at_checked(usize::try_from(u32::from_le_bytes(*length)).ok()?)?;
        Some((serde_json::from_slice(head).ok()?, body))
    }
}

/// How long after it is up a claw may still answer for a channel that is not: OpenClaw's gateway
/// answers before its plugins have their paths, by half a minute on a small machine (measured).
pub const SETTLES: Duration = Duration::from_secs(180);

/// Whether a status is what a claw answers with at a path that is nobody's, or not yet.
#[must_use]
pub const fn is_nobody_s(status: u16) -> bool {
    matches!(status, 401 | 404 | 405)
}

/// Whether a claw that is up since then may still lack a channel.
#[must_use]
pub fn settles(up_since: Timestamp, now: Timestamp) -> bool {
    let up = now.as_millis().saturating_sub(up_since.as_millis());
    u128::try_from(up).is_ok_and(|up| up < SETTLES.as_millis())
}

/// Whether a message waits or was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum InboxState {
    /// It is delivered as soon as its claw takes it.
    Waiting,
    /// Its claw refused it, or it was tried too often or is too old: nobody tries it again
    /// until it is replayed.
    Dead,
}

/// A message that was taken in for a claw and not delivered yet. Those that were are not kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct InboxMessage {
    /// Its id: what the claw is sent as `Idempotency-Key`, with every try the same.
    pub id: String,
    /// For which claw.
    pub instance: ClawId,
    /// The path it came in at.
    pub path: String,
    /// Whether it waits or was given up.
    pub state: InboxState,
    /// How large it is, in bytes, with its headers.
    pub size_bytes: u64,
    /// When it was taken in.
    pub received_at: Timestamp,
    /// How often it was tried.
    pub attempts: u32,
    /// Before this it is not tried again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_at: Option<Timestamp>,
    /// What became of the last try.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_kept_to_the_byte() {
        let request = InboxRequest {
            target: "/hooks/x?a=b".into(),
            headers: vec![
                ("content-type".into(), b"text/plain".to_vec()),
                ("x-raw".into(), vec![0xff, 0x80]),
            ],
        };
        for body in [&b""[..], b"text", &[0, 255, 13, 10]] {
            let packed = request.pack(body);
            assert_eq!(InboxRequest::unpack(&packed), Some((request.clone(), body)));
        }
        for junk in [&b""[..], b"\x01\0\0", b"\xff\xff\xff\xff{}", b"\x02\0\0\0[]"] {
            assert_eq!(InboxRequest::unpack(junk), None);
        }
    }

    #[test]
    fn a_route_s_secret_is_not_in_what_is_printed() {
        let route = InboxRoute {
            path: "/x".into(),
            listener: None,
            proof: Proof::Slack { secret: "sesame".into() },
            accepted: None,
        };
        assert!(!format!("{route:?}").contains("sesame"));
        let text = serde_json::to_string(&route).unwrap();
        let back: InboxRoute = serde_json::from_str(&text).unwrap();
        assert!(matches!(back.proof, Proof::Slack { secret } if secret.expose() == "sesame"));
    }
}
