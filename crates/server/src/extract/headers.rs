//! What stands in headers.

use axum::extract::FromRequestParts;
use clawfarm_control::Idempotency;
use clawfarm_model::Error;
use http::header::{ACCEPT, HeaderName, IF_MATCH};
use http::request::Parts;
use utoipa::PartialSchema;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};

use crate::error::ApiError;

/// `If-Match`: the version that a change is based on; `None` for `*` and when it is absent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct IfMatch(pub(crate) Option<i64>);

impl PartialSchema for IfMatch {
    fn schema() -> RefOr<Schema> {
        let text = ObjectBuilder::new().schema_type(Type::String);
        text.pattern(Some(r#"^(\*|"[0-9]{1,18}")$"#)).into()
    }
}

impl utoipa::ToSchema for IfMatch {}

impl<S: Send + Sync> FromRequestParts<S> for IfMatch {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let mut values = parts.headers.get_all(IF_MATCH).iter();
        let Some(value) = values.next() else { return Ok(Self(None)) };
        let tag = if values.next().is_some() { None } else { value.to_str().ok() };
        match tag {
            Some("*") => Ok(Self(None)),
            Some(tag) => version(tag).map(|v| Self(Some(v))).ok_or_else(no_tag),
            None => Err(no_tag()),
        }
    }
}

fn version(tag: &str) -> Option<i64> {
    let digits = tag.strip_prefix('"')?.strip_suffix('"')?;
    // `parse` takes a sign as well, which no tag of ours has.
    if digits.bytes().all(|b| b.is_ascii_digit()) { digits.parse().ok() } else { None }
}

fn no_tag() -> ApiError {
    Error::invalid("If-Match", "it is no single ETag of an instance")
        .fix("send the ETag header of the answer that the change is based on, such as \"7\", quotes included")
        .into()
}

/// `Idempotency-Key`: the caller's name for this very request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct IdempotencyKey(Option<String>);

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// The longest key: what the store takes.
const IDEMPOTENCY_KEY_MAX: usize = 128;

impl IdempotencyKey {
    /// The key alone, where what tells requests apart is known later.
    pub(crate) fn key(self) -> Option<String> {
        self.0
    }

    /// With the hash that tells this request from another under the same key.
    pub(crate) fn with(self, request_hash: &str) -> Option<Idempotency> {
        self.0.map(|key| Idempotency { key, request_hash: request_hash.to_owned() })
    }
}

impl PartialSchema for IdempotencyKey {
    fn schema() -> RefOr<Schema> {
        let text = ObjectBuilder::new().schema_type(Type::String);
        text.pattern(Some("^[!-~]+$")).min_length(Some(1)).max_length(Some(IDEMPOTENCY_KEY_MAX)).into()
    }
}

impl utoipa::ToSchema for IdempotencyKey {}

impl<S: Send + Sync> FromRequestParts<S> for IdempotencyKey {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let mut values = parts.headers.get_all(&IDEMPOTENCY_KEY).iter();
        let Some(value) = values.next() else { return Ok(Self(None)) };
        let key = value.to_str().ok().filter(|k| {
            (1..=IDEMPOTENCY_KEY_MAX).contains(&k.len())
                && k.bytes().all(|b| b.is_ascii_graphic())
                && values.next().is_none()
        });
        match key {
            Some(key) => Ok(Self(Some(key.to_owned()))),
            None => Err(Error::invalid("Idempotency-Key", "it is no key")
                .fix("send it once, with 1 to 128 visible ASCII characters, such as a UUID")
                .into()),
        }
    }
}

/// Whether the caller asked for an event stream (`Accept: text/event-stream`).
#[derive(Clone, Copy, Debug)]
pub(crate) struct WantsStream(pub(crate) bool);

impl<S: Send + Sync> FromRequestParts<S> for WantsStream {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        let named = |value: &http::HeaderValue| {
            value.to_str().is_ok_and(|v| {
                v.split(',').any(|t| t.split(';').next().is_some_and(|m| m.trim() == "text/event-stream"))
            })
        };
        Ok(Self(parts.headers.get_all(ACCEPT).iter().any(named)))
    }
}

/// `Last-Event-ID`: where a browser's event stream goes on after it was cut.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LastEventId(pub(crate) Option<i64>);

impl<S: Send + Sync> FromRequestParts<S> for LastEventId {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        match parts.headers.get("last-event-id") {
            None => Ok(Self(None)),
            Some(value) => value
                .to_str()
                .ok()
                .and_then(|v| v.parse().ok())
                .filter(|seq| *seq >= 0)
                .map(|seq| Self(Some(seq)))
                .ok_or_else(|| {
                    Error::invalid("Last-Event-ID", "it is no number of an event")
                        .fix("send the id of the last event that was seen, or none")
                        .into()
                }),
        }
    }
}
