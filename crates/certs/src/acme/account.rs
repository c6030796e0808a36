//! The account at the authority: made once, and kept.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use clawfarm_model::{Code, Error, Result};
use instant_acme::{Account, AccountCredentials, ExternalAccountKey, NewAccount};
use secrecy::ExposeSecret as _;
use sha2::{Digest as _, Sha256};

use super::record::{ACCOUNT, from_secret, to_secret};
use super::{AcmeConfig, External};
use crate::http::Client;
use crate::{Lease, Vault};

/// The account, from the vault or made now.
pub(super) async fn open(
    config: &AcmeConfig,
    http: &Client,
    vault: &dyn Vault,
    lease: Lease,
) -> Result<Account> {
    let document = document(&config.directory);
    let builder = Account::builder_with_http(Box::new(http.clone()));
    if let Some(kept) = vault.get(&document).await? {
        let credentials: AccountCredentials = from_secret("account", &kept)?;
        return builder.from_credentials(credentials).await.map_err(|error| told(&error));
    }
    let contact: Vec<String> = config.contact.iter().map(|mail| format!("mailto:{mail}")).collect();
    let contact: Vec<&str> = contact.iter().map(String::as_str).collect();
    let new = NewAccount { contact: &contact, terms_of_service_agreed: true, only_return_existing: false };
    let external = config.external.as_ref().map(external).transpose()?;
    let (account, credentials) = builder
        .create(&new, config.directory.clone(), external.as_ref())
        .await
        .map_err(|error| told(&error))?;
    vault.put(&document, Some(&to_secret(&credentials)?), Some(lease)).await?;
    tracing::info!(directory = %config.directory, "an account was made at the certificate authority");
    Ok(account)
}

/// Forgets an account that the authority no longer has.
pub(super) async fn forget(config: &AcmeConfig, vault: &dyn Vault, lease: Lease) -> Result<()> {
    vault.put(&document(&config.directory), None, Some(lease)).await
}

fn document(directory: &str) -> String {
    let hash = Sha256::digest(directory.as_bytes());
    let short: String = hash.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    format!("{ACCOUNT}{short}")
}

fn external(external: &External) -> Result<ExternalAccountKey> {
    let text = external.key.expose_secret().trim().trim_end_matches('=');
    let key = URL_SAFE_NO_PAD.decode(text).or_else(|_| STANDARD_NO_PAD.decode(text)).map_err(|_| {
        Error::invalid("acme_eab_key_file", "the external account's key is no base64")
            .fix("put the key into the file as the authority gave it")
    })?;
    Ok(ExternalAccountKey::new(external.id.clone(), &key))
}

/// What the authority said, or why it could not be asked.
pub(super) fn told(error: &instant_acme::Error) -> Error {
    use instant_acme::Error as E;
    match error {
        E::Api(problem) => {
            let detail = problem.detail.clone().unwrap_or_default();
            let kind = kind(problem).unwrap_or("no kind");
            let parts: Vec<String> = problem
                .subproblems
                .iter()
                .filter_map(|part| part.detail.as_ref().map(|detail| format!("; {detail}")))
                .collect();
            let text = format!("the certificate authority said: {detail}{} ({kind})", parts.concat());
            Error::new(Code::Unavailable, one_line(&text))
        }
        E::Timeout(_) => Error::new(Code::Timeout, "the certificate authority took too long"),
        E::Json(_) => Error::new(Code::Unavailable, "the certificate authority's answer is none of ACME")
            .fix("see whether --acme-directory is the address of a directory"),
        other => Error::new(Code::Unavailable, one_line(&format!("the certificate authority: {other}"))),
    }
}

/// The kind of problem, without the name space that all have.
pub(super) fn kind(problem: &instant_acme::Problem) -> Option<&str> {
    let kind = problem.r#type.as_deref()?;
    Some(kind.strip_prefix("urn:ietf:params:acme:error:").unwrap_or(kind))
}

/// Whether this is that kind of problem.
pub(super) fn is(error: &instant_acme::Error, wanted: &str) -> bool {
    matches!(error, instant_acme::Error::Api(problem) if kind(problem) == Some(wanted))
}

/// Text of others, for a log.
pub(super) fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(1000).collect()
}
