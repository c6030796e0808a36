//! What is kept of a certificate.

use std::collections::BTreeMap;

use clawfarm_model::certificate::{Certificate, CertificateSource, CertificateState};
use clawfarm_model::{Error, Result, Timestamp};
use secrecy::{ExposeSecret as _, SecretString};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::Owner;
use super::budget::Counted;
use crate::Chain;
use crate::dns::Record as DnsRecord;

/// Names of documents: certificates, wishes for them, proofs, the account, and what is counted of
/// new names.
pub(super) const CERT: &str = "cert/";
pub(super) const WISH: &str = "want/";
pub(super) const PROOF: &str = "http/";
pub(super) const ACCOUNT: &str = "account/";
pub(super) const ISSUED: &str = "issued";
pub(super) const TRIED: &str = "tried";

/// A certificate, and how far another has come.
#[derive(Clone, Default, Serialize, Deserialize)]
pub(super) struct Record {
    /// The names that the chain is for; those that were tried last, while there is none.
    pub(super) names: Vec<String>,
    /// The authority that the chain is from.
    pub(super) directory: String,
    /// Whose claw has this name.
    #[serde(default)]
    pub(super) owner: Option<Owner>,
    /// The chain, as PEM.
    #[serde(default)]
    pub(super) chain: Option<String>,
    /// Its key, as PEM.
    #[serde(default)]
    pub(super) key: Option<String>,
    /// When another is due.
    #[serde(default)]
    pub(super) renew_at: Option<Timestamp>,
    /// When a server that would ask for fewer names, or another authority, replaces it as well:
    /// who it belongs to has not come.
    #[serde(default)]
    pub(super) late_at: Option<Timestamp>,
    /// Until then no other one is got by itself, whatever the clocks and the authority say.
    #[serde(default)]
    pub(super) rest_until: Option<Timestamp>,
    /// What was shown before it, from elsewhere.
    #[serde(default)]
    pub(super) replaced: Vec<Replaced>,
    /// When the authority is asked whether it wants it renewed earlier.
    #[serde(default)]
    pub(super) ask_at: Option<Timestamp>,
    /// Whether the authority says such things (RFC 9773).
    #[serde(default)]
    pub(super) says_when: bool,
    /// An order that is under way.
    #[serde(default)]
    pub(super) order: Option<Order>,
    /// When it was tried last.
    #[serde(default)]
    pub(super) tried_at: Option<Timestamp>,
    /// How often it has failed since it last worked.
    #[serde(default)]
    pub(super) failures: u32,
    /// Why.
    #[serde(default)]
    pub(super) error: Option<String>,
    /// Not before this time again.
    #[serde(default)]
    pub(super) again_at: Option<Timestamp>,
}

/// What a certificate of other options has taken the place of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Replaced {
    pub(super) names: Vec<String>,
    pub(super) directory: String,
    pub(super) at: Timestamp,
}

/// An order that is under way.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Order {
    /// Its address at the authority.
    pub(super) url: String,
    /// The authority that has it.
    #[serde(default)]
    pub(super) directory: String,
    /// The names that it is for.
    #[serde(default)]
    pub(super) names: Vec<String>,
    /// The key that the certificate is to be for, as PEM.
    pub(super) key: String,
    /// What was put into the DNS for it.
    #[serde(default)]
    pub(super) records: Vec<DnsRecord>,
    /// The proofs by HTTP that were laid out for it.
    #[serde(default)]
    pub(super) tokens: Vec<String>,
}

impl Record {
    pub(super) fn new(names: Vec<String>, directory: &str) -> Self {
        Self { names, directory: directory.to_owned(), ..Self::default() }
    }

    /// The certificate, as far as there is one that can be used.
    pub(super) fn parse(&self) -> Option<Chain> {
        let (chain, key) = (self.chain.as_ref()?, self.key.as_ref()?);
        Chain::from_pem(chain.as_bytes(), key.as_bytes())
            .inspect_err(
                |why| tracing::error!(names = ?self.names, %why, "a stored certificate can't be used"),
            )
            .ok()
    }

    /// What is told of it.
    pub(super) fn told(&self, name: &str, chain: Option<&Chain>, now: Timestamp) -> Certificate {
        let mut told = match chain {
            Some(chain) => chain.told(CertificateSource::Acme, now),
            None => pending(name, self.names.clone()),
        };
        name.clone_into(&mut told.name);
        told.renews_at = chain.and(self.renew_at);
        told.tried_at = self.tried_at;
        told.error.clone_from(&self.error);
        if self.error.is_some() {
            told.state = match told.state {
                CertificateState::Valid => CertificateState::Failing,
                _ => CertificateState::Unusable,
            };
        }
        told
    }
}

/// What is told of a certificate that there is none of yet.
pub(super) fn pending(name: &str, names: Vec<String>) -> Certificate {
    Certificate {
        name: name.to_owned(),
        names,
        source: CertificateSource::Acme,
        state: CertificateState::Pending,
        issuer: None,
        serial: None,
        not_before: None,
        not_after: None,
        renews_at: None,
        tried_at: None,
        error: None,
    }
}

/// A wish for a certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Wanted {
    pub(super) wish: Wish,
    /// Whose claw has the name.
    #[serde(default)]
    pub(super) owner: Option<Owner>,
    pub(super) at: Timestamp,
}

/// What somebody wants of a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Wish {
    /// That there is one.
    Have,
    /// That there is another.
    Renew,
}

/// Everything that is in the vault of certificates.
#[derive(Default)]
pub(super) struct Kept {
    pub(super) records: BTreeMap<String, Record>,
    pub(super) wishes: BTreeMap<String, Wanted>,
    pub(super) proofs: BTreeMap<String, String>,
    /// First certificates of names.
    pub(super) issued: Vec<Counted>,
    /// Tries to get one for a name that has none.
    pub(super) tried: Vec<Counted>,
}

impl Kept {
    pub(super) fn read(all: &[(String, SecretString)]) -> Result<Self> {
        let mut kept = Self::default();
        for (name, value) in all {
            if let Some(name) = name.strip_prefix(CERT) {
                kept.records.insert(name.to_owned(), from_secret(name, value)?);
            } else if let Some(name) = name.strip_prefix(WISH) {
                kept.wishes.insert(name.to_owned(), from_secret(name, value)?);
            } else if let Some(token) = name.strip_prefix(PROOF) {
                kept.proofs.insert(token.to_owned(), value.expose_secret().to_owned());
            } else if name == ISSUED {
                kept.issued = from_secret(name, value)?;
            } else if name == TRIED {
                kept.tried = from_secret(name, value)?;
            }
        }
        Ok(kept)
    }
}

pub(super) fn from_secret<T: DeserializeOwned>(name: &str, value: &SecretString) -> Result<T> {
    // The reader's message may show what it read.
    serde_json::from_str(value.expose_secret()).map_err(|error| {
        let at = format!("line {}, column {}", error.line(), error.column());
        Error::internal(format!("what is stored of the certificate '{name}' can't be read"), at)
    })
}

pub(super) fn to_secret<T: Serialize>(value: &T) -> Result<SecretString> {
    serde_json::to_string(value)
        .map(SecretString::from)
        .map_err(|error| Error::internal("a certificate can't be written down", error))
}
