//! A certificate with those that lead to its authority and its key, checked.

use std::sync::Arc;

use clawfarm_model::Timestamp;
use clawfarm_model::certificate::{Certificate, CertificateSource, CertificateState};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// A certificate that can be shown to callers.
#[derive(Debug)]
pub struct Chain {
    /// What rustls needs of it.
    pub(crate) certified: Arc<CertifiedKey>,
    /// What is written in it.
    pub(crate) facts: Facts,
}

/// What is written in a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// The host names that it is for, as they are in it: `*.claws.example.com` among them.
    pub names: Vec<String>,
    /// Who issued it.
    pub issuer: String,
    /// Its number at the issuer, in hexadecimal.
    pub serial: String,
    /// From when it is good.
    pub not_before: Timestamp,
    /// Until when it is good.
    pub not_after: Timestamp,
}

impl Chain {
    /// Reads and checks PEM: a chain, and the key of its first certificate.
    ///
    /// # Errors
    /// What is wrong with them, as text that has nothing of the key.
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, String> {
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(chain)
            .collect::<Result<_, _>>()
            .map_err(|error| format!("the chain is no PEM: {error}"))?;
        let leaf = chain.first().ok_or("the chain has no certificate")?;
        let facts = facts(leaf)?;
        let key =
            PrivateKeyDer::from_pem_slice(key).map_err(|error| format!("the key is no PEM: {error}"))?;
        let certified =
            CertifiedKey::from_der(chain, key, &crate::provider()).map_err(|error| match error {
                rustls::Error::InconsistentKeys(_) => "the key is another certificate's".to_owned(),
                error => format!("the certificate and its key can't be used: {error}"),
            })?;
        Ok(Self { certified: Arc::new(certified), facts })
    }

    /// Whether a key is that of a certificate, which need not be one that is shown.
    pub(crate) fn check_key(certificate: &str, key: &str) -> Result<(), String> {
        let certificate =
            CertificateDer::from_pem_slice(certificate.as_bytes()).map_err(|e| e.to_string())?;
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|e| e.to_string())?;
        CertifiedKey::from_der(vec![certificate], key, &crate::provider())
            .map(|_| ())
            .map_err(|error| error.to_string())
    }

    /// What is written in it.
    #[must_use]
    pub const fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Whether its time is over, or has not begun.
    pub(crate) fn is_over(&self, now: Timestamp) -> bool {
        now >= self.facts.not_after || now < self.facts.not_before
    }

    /// What is told of it, when nothing is wrong.
    pub(crate) fn told(&self, source: CertificateSource, now: Timestamp) -> Certificate {
        let facts = &self.facts;
        Certificate {
            name: facts.names.first().cloned().unwrap_or_default(),
            names: facts.names.clone(),
            source,
            state: if self.is_over(now) { CertificateState::Unusable } else { CertificateState::Valid },
            issuer: Some(facts.issuer.clone()),
            serial: Some(facts.serial.clone()),
            not_before: Some(facts.not_before),
            not_after: Some(facts.not_after),
            renews_at: None,
            tried_at: None,
            error: None,
        }
    }
}

fn facts(leaf: &CertificateDer<'_>) -> Result<Facts, String> {
    let (_, parsed) =
        X509Certificate::from_der(leaf).map_err(|error| format!("the certificate can't be read: {error}"))?;
    let names: Vec<String> = parsed
        .subject_alternative_name()
        .map_err(|error| format!("the certificate's names can't be read: {error}"))?
        .map(|extension| {
            let dns = |name: &GeneralName<'_>| match name {
                GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
                _ => None,
            };
            extension.value.general_names.iter().filter_map(dns).collect()
        })
        .unwrap_or_default();
    if names.is_empty() {
        return Err("the certificate is for no host name (it has no subjectAltName of that kind)".to_owned());
    }
    let issuer = parsed.issuer();
    let named = issuer.iter_common_name().chain(issuer.iter_organization()).find_map(|it| it.as_str().ok());
    let time = |at: &x509_parser::time::ASN1Time| Timestamp::from_millis(at.timestamp().saturating_mul(1000));
    Ok(Facts {
        names,
        issuer: named.map_or_else(|| issuer.to_string(), str::to_owned),
        serial: parsed.raw_serial().iter().map(|byte| format!("{byte:02x}")).collect(),
        not_before: time(&parsed.validity().not_before),
        not_after: time(&parsed.validity().not_after),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(names: &[&str]) -> (String, String) {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        (made.cert.pem(), made.signing_key.serialize_pem())
    }

    #[test]
    fn what_is_in_a_certificate_is_read() {
        let (chain, key) = made(&["claws.example.com", "*.Claws.example.com"]);
        let chain = Chain::from_pem(chain.as_bytes(), key.as_bytes()).unwrap();
        assert_eq!(chain.facts.names, ["claws.example.com", "*.claws.example.com"]);
        assert!(chain.facts.not_before < chain.facts.not_after);
        assert!(!chain.facts.serial.is_empty() && !chain.is_over(Timestamp::now()));
        assert!(chain.is_over(chain.facts.not_after));
    }

    #[test]
    fn what_does_not_fit_together_is_refused_without_its_key() {
        let (chain, key) = made(&["a.test"]);
        let (_, other) = made(&["a.test"]);
        let refused = |chain: &str, key: &str| Chain::from_pem(chain.as_bytes(), key.as_bytes()).unwrap_err();
        assert_eq!(refused(&chain, &other), "the key is another certificate's");
        assert!(refused("", &key).contains("no certificate"));
        assert!(refused(&chain, "").contains("the key is no PEM"));
        assert!(refused(&chain[..chain.len() / 2], &key).contains("the chain"));
        let (nameless, nameless_key) = made(&[]);
        assert!(refused(&nameless, &nameless_key).contains("no host name"));
        let middle: String = key.lines().nth(1).unwrap().into();
        for text in [refused(&chain, &other), refused(&chain, &key[..key.len() / 2])] {
            assert!(!text.contains(&middle), "{text}");
        }
    }
}
