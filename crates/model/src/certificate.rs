//! The certificates that the edge shows.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};
use utoipa::{PartialSchema, ToSchema};

use crate::error::Error;
use crate::time::Timestamp;

/// What a certificate is called here: the first of its host names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateName(String);

impl CertificateName {
    /// The longest host name there can be (RFC 1035).
    const MAX: usize = 253;

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for CertificateName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for CertificateName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'*');
        if (1..=Self::MAX).contains(&text.len()) && text.bytes().all(plain) {
            return Ok(Self(text.to_ascii_lowercase()));
        }
        let shown: String = text.chars().take(60).flat_map(char::escape_default).collect();
        Err(Error::invalid("name", format!("'{shown}' can't be a certificate's name"))
            .fix("use a host name; GET the list to see the certificates there are"))
    }
}

/// The rule of [`CertificateName`], for the API's description.
impl PartialSchema for CertificateName {
    fn schema() -> utoipa::openapi::RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(Type::String)
            .pattern(Some("^[A-Za-z0-9*._-]+$"))
            .min_length(Some(1))
            .max_length(Some(Self::MAX))
            .into()
    }
}

impl ToSchema for CertificateName {}

/// Where a certificate comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum CertificateSource {
    /// Files that somebody else keeps current.
    Files,
    /// The authority that clawfarm made for this home.
    Local,
    /// An authority that is asked by ACME (RFC 8555).
    Acme,
}

impl CertificateSource {
    /// The word of it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Files => "files",
            Self::Local => "local",
            Self::Acme => "acme",
        }
    }
}

/// How a certificate stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum CertificateState {
    /// It is shown, and good.
    Valid,
    /// There is none yet.
    Pending,
    /// It is shown and good, but could not be replaced when it was tried last.
    Failing,
    /// Its time is over, or there is none and the last try has failed: nobody can connect.
    Unusable,
}

impl CertificateState {
    /// The word of it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Valid => "valid",
            Self::Pending => "pending",
            Self::Failing => "failing",
            Self::Unusable => "unusable",
        }
    }
}

/// A certificate of the edge, without its key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Certificate {
    /// What it is called here: the first of its names.
    pub name: String,
    /// The host names that it is for.
    pub names: Vec<String>,
    /// Where it comes from.
    pub source: CertificateSource,
    /// How it stands.
    pub state: CertificateState,
    /// Who issued it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    /// Its number at the issuer, in hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// From when it is good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Timestamp>,
    /// Until when it is good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_after: Option<Timestamp>,
    /// When another is asked for next. Files have no such time: who keeps them renews them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub renews_at: Option<Timestamp>,
    /// When another was tried to be had last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tried_at: Option<Timestamp>,
    /// Why that failed; absent when it did not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}
