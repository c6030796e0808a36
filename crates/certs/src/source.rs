//! What all sources of certificates have in common.

use async_trait::async_trait;
use clawfarm_model::Result;
use clawfarm_model::certificate::{Certificate, CertificateState};
use clawfarm_model::target::{Check, CheckLevel};

/// Where an edge's certificates come from.
#[async_trait]
pub trait Source: Send + Sync + 'static {
    /// The certificates, and how each stands.
    fn list(&self) -> Vec<Certificate>;

    /// Has another certificate got soon, though the one that is shown is still good.
    ///
    /// # Errors
    /// `NotFound` for a name that has none; `Unsupported` where somebody else does that;
    /// `Unavailable` when it can't be written down.
    async fn renew(&self, name: &str) -> Result<()>;

    /// Returns when a name has a certificate, or it is known that it can't have one now.
    async fn ready(&self, _name: &str) {}

    /// What `doctor` says of them.
    fn checks(&self) -> Vec<Check>;
}

/// What `doctor` says of a certificate.
pub(crate) fn check(certificate: &Certificate, fix: &str) -> Check {
    let until = certificate.not_after.map_or_else(String::new, |at| format!("good until {at}"));
    let why = certificate.error.as_deref().unwrap_or("its time is over");
    let (level, detail) = match certificate.state {
        CertificateState::Valid => (CheckLevel::Ok, until),
        CertificateState::Pending => (CheckLevel::Warning, "there is none yet; it is being got".to_owned()),
        CertificateState::Failing => (CheckLevel::Warning, format!("{until}, but a new one failed: {why}")),
        CertificateState::Unusable => (CheckLevel::Error, format!("nobody can connect: {why}")),
    };
    let fix =
        (level != CheckLevel::Ok && certificate.state != CertificateState::Pending).then(|| fix.to_owned());
    Check { name: format!("certificate {}", certificate.name), level, detail, fix }
}
