//! An authority of this home alone, for development and closed networks: whoever trusts its
//! certificate trusts the edge.
//!
//! Its certificate is constrained to the base domain: with its key nobody can pretend to be
//! another site to those who trust it.

use std::collections::HashMap;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use clawfarm_model::certificate::{Certificate, CertificateSource};
use clawfarm_model::target::Check;
use clawfarm_model::{Error, Result, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, GeneralSubtree,
    IsCa, Issuer, KeyPair, KeyUsagePurpose, NameConstraints,
};
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;

use crate::source::check;
use crate::table::Shown;
use crate::{Chain, Source, Table, measure};

/// Where it is, in the home.
const FOLDER: &str = "authority";
/// How long the authority is good: people trust it by hand, so it is not to change.
const AUTHORITY_LIFE: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// How long its certificates are. Apple's systems take none beyond 825 days, also of an authority
/// that people added; shorter is better.
const LIFE: Duration = Duration::from_secs(90 * 24 * 3600);
/// When another is made.
const RENEW: Duration = Duration::from_secs(30 * 24 * 3600);
/// Clocks of other machines may be behind.
const BEHIND: Duration = Duration::from_secs(3600);
/// How often it is looked whether another is due.
const EVERY: Duration = Duration::from_secs(3600);
/// Certificates for single names that are kept; more are made anew.
const NAMES_MAX: usize = 1024;

/// An authority, with its key.
pub struct Authority {
    /// The base domain.
    base: String,
    certificate: PathBuf,
    pem: String,
    issuer: Issuer<'static, KeyPair>,
    made: Mutex<HashMap<String, Arc<Chain>>>,
}

impl Authority {
    /// The file with the authority's certificate, in a home.
    #[must_use]
    pub fn file(home: &Path, base: &str) -> PathBuf {
        home.join(FOLDER).join(format!("{base}.pem"))
    }

    /// The domains that a home has an authority for, in order.
    #[must_use]
    pub fn domains(home: &Path) -> Vec<String> {
        let Ok(found) = fs::read_dir(home.join(FOLDER)) else { return Vec::new() };
        let names = found.flatten().filter_map(|it| it.file_name().into_string().ok());
        let mut domains: Vec<String> =
            names.filter_map(|name| name.strip_suffix(".pem").map(str::to_owned)).collect();
        domains.sort();
        domains
    }

    /// Opens the authority of a home for a base domain; makes it when there is none yet.
    ///
    /// # Errors
    /// When its files can't be read or written, or are not what was written.
    pub fn open(home: &Path, base: &str) -> Result<Self> {
        let folder = home.join(FOLDER);
        let certificate = Self::file(home, base);
        let key_file = folder.join(format!("{base}.key"));
        let failed = |path: &Path, error: std::io::Error| {
            Error::internal(format!("{} can't be used: {error}", path.display()), error)
                .fix("see to the folder and the disk, or remove it to have another authority made")
        };
        if !certificate.exists() {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&folder)
                .map_err(|error| failed(&folder, error))?;
            let key = KeyPair::generate().map_err(made_wrong)?;
            let made = params(base)?.self_signed(&key).map_err(made_wrong)?;
            // The certificate last: where it is, its key is.
            write(&key_file, key.serialize_pem().as_bytes()).map_err(|error| failed(&key_file, error))?;
            write(&certificate, made.pem().as_bytes()).map_err(|error| failed(&certificate, error))?;
            tracing::info!(certificate = %certificate.display(), "made a certificate authority for this home; see clawfarm cert ca");
        }
        let pem = fs::read_to_string(&certificate).map_err(|error| failed(&certificate, error))?;
        let key = fs::read_to_string(&key_file).map_err(|error| failed(&key_file, error))?;
        let wrong = |path: &Path, error: rcgen::Error| {
            Error::invalid("edge_tls", format!("{} is not what was written: {error}", path.display()))
                .fix("put it back, or remove the folder to have another authority made and trust that")
        };
        let key = KeyPair::from_pem(&key).map_err(|error| wrong(&key_file, error))?;
        // A key of another authority makes certificates that nobody trusts.
        Chain::check_key(&pem, &key.serialize_pem()).map_err(|why| {
            Error::invalid("edge_tls", format!("{} does not fit its key: {why}", certificate.display()))
                .fix("put it back, or remove the folder to have another authority made and trust that")
        })?;
        let issuer = Issuer::from_ca_cert_pem(&pem, key).map_err(|error| wrong(&certificate, error))?;
        Ok(Self { base: base.to_owned(), certificate, pem, issuer, made: Mutex::default() })
    }

    /// Its certificate, as PEM: what is to be trusted.
    #[must_use]
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// A certificate for a single name below the base domain, where that needs one of its own:
    /// clients take no wildcard directly below a top-level name such as `localhost`.
    pub(crate) fn for_name(&self, name: &str) -> Option<Arc<Chain>> {
        let label = name.strip_suffix(&self.base)?.strip_suffix('.')?;
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if self.base.contains('.') || label.is_empty() || label.len() > 63 || !label.bytes().all(plain) {
            return None;
        }
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let soon = Timestamp::now().after(RENEW);
        if let Some(chain) = made.get(name).filter(|chain| chain.facts.not_after > soon) {
            return Some(Arc::clone(chain));
        }
        if made.len() >= NAMES_MAX {
            made.clear();
        }
        match self.issue(&[name.to_owned()]) {
            Ok(chain) => {
                let chain = Arc::new(chain);
                made.insert(name.to_owned(), Arc::clone(&chain));
                Some(chain)
            }
            Err(error) => {
                tracing::error!(?error, "the local authority could not make a certificate");
                None
            }
        }
    }

    fn issue(&self, names: &[String]) -> Result<Chain> {
        let mut of = CertificateParams::new(names).map_err(made_wrong)?;
        (of.not_before, of.not_after) = span(LIFE)?;
        of.distinguished_name = DistinguishedName::new();
        of.use_authority_key_identifier_extension = true;
        of.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        of.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate().map_err(made_wrong)?;
        let made = of.signed_by(&key, &self.issuer).map_err(made_wrong)?;
        Chain::from_pem(made.pem().as_bytes(), key.serialize_pem().as_bytes())
            .map_err(|why| Error::internal("a certificate of the local authority can't be used", why))
    }
}

fn params(base: &str) -> Result<CertificateParams> {
    let mut of = CertificateParams::new(Vec::<String>::new()).map_err(made_wrong)?;
    (of.not_before, of.not_after) = span(AUTHORITY_LIFE)?;
    of.distinguished_name = DistinguishedName::new();
    of.distinguished_name.push(DnType::CommonName, format!("clawfarm local authority for {base}"));
    of.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    of.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    of.name_constraints = Some(NameConstraints {
        permitted_subtrees: vec![GeneralSubtree::DnsName(base.to_owned())],
        // What is not named is not constrained: addresses are another kind of name.
        excluded_subtrees: vec![
            GeneralSubtree::IpAddress(rcgen::CidrSubnet::from_v4_prefix([0; 4], 0)),
            GeneralSubtree::IpAddress(rcgen::CidrSubnet::from_v6_prefix([0; 16], 0)),
        ],
    });
    Ok(of)
}

fn span(life: Duration) -> Result<(OffsetDateTime, OffsetDateTime)> {
    let now = OffsetDateTime::now_utc();
    let whole = |duration: Duration| {
        time::Duration::try_from(duration).map_err(|error| Error::internal("a time can't be had", error))
    };
    Ok((now - whole(BEHIND)?, now + whole(life)?))
}

fn made_wrong(error: rcgen::Error) -> Error {
    Error::internal("a certificate could not be made", error)
}

/// Writes a file that only its owner can read, whole or not at all.
fn write(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let part = path.with_extension("part");
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&part)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&part, path)
}

/// Certificates of a local authority.
pub struct LocalSource {
    table: Arc<Table>,
    names: Vec<String>,
    chain: Mutex<Arc<Chain>>,
}

impl LocalSource {
    /// Opens the authority of a home, and makes a certificate for the base domain, with all names
    /// directly below it.
    ///
    /// # Errors
    /// As for [`Authority::open`].
    pub fn open(home: &Path, base: &str) -> Result<Arc<Self>> {
        let authority = Authority::open(home, base)?;
        let mut names = vec![base.to_owned()];
        if base.contains('.') {
            names.push(format!("*.{base}"));
        }
        let chain = Arc::new(authority.issue(&names)?);
        let table = Arc::new(Table::with_authority(authority));
        table.show(Shown::of([Arc::clone(&chain)]));
        let source = Arc::new(Self { table, names, chain: Mutex::new(chain) });
        measure::expiry(&source.list());
        Ok(source)
    }

    /// What callers are shown.
    #[must_use]
    pub fn table(&self) -> Arc<Table> {
        Arc::clone(&self.table)
    }

    /// Makes others in time, until `stopping` is cancelled.
    pub async fn follow(self: Arc<Self>, stopping: CancellationToken) {
        loop {
            tokio::select! {
                () = stopping.cancelled() => return,
                () = tokio::time::sleep(EVERY) => {}
            }
            let until = self.shown().facts.not_after;
            if until < Timestamp::now().after(RENEW)
                && let Err(error) = self.make()
            {
                tracing::error!(?error, "the local authority could not make a certificate");
            }
        }
    }

    fn make(&self) -> Result<()> {
        let Some(authority) = self.table.authority() else { return Ok(()) };
        let made = authority.issue(&self.names);
        measure::renewed(made.is_ok());
        let chain = Arc::new(made?);
        self.table.show(Shown::of([Arc::clone(&chain)]));
        *self.chain.lock().unwrap_or_else(PoisonError::into_inner) = chain;
        measure::expiry(&self.list());
        Ok(())
    }

    fn shown(&self) -> Arc<Chain> {
        Arc::clone(&self.chain.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[async_trait]
impl Source for LocalSource {
    fn list(&self) -> Vec<Certificate> {
        let chain = self.shown();
        let mut told = chain.told(CertificateSource::Local, Timestamp::now());
        told.renews_at = Some(Timestamp::from_millis(
            chain.facts.not_after.as_millis() - i64::try_from(RENEW.as_millis()).unwrap_or(0),
        ));
        vec![told]
    }

    async fn renew(&self, name: &str) -> Result<()> {
        if !self.names.iter().any(|own| own == name) {
            return Err(Error::not_found("certificate", name));
        }
        self.make()
    }

    fn checks(&self) -> Vec<Check> {
        let file = self.table.authority().map_or_else(String::new, |it| it.certificate.display().to_string());
        self.list().iter().map(|it| check(it, &format!("see to {file} and restart the server"))).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use rustls::RootCertStore;
    use rustls::client::WebPkiServerVerifier;
    use rustls::client::danger::ServerCertVerifier as _;
    use rustls::pki_types::pem::PemObject as _;
    use rustls::pki_types::{CertificateDer, ServerName, UnixTime};

    use super::*;

    fn trusts(authority: &Authority, chain: &Chain, name: &str) -> std::result::Result<(), String> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(authority.pem().as_bytes()).unwrap()).unwrap();
        let verifier =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), crate::provider()).build().unwrap();
        let name = ServerName::try_from(name.to_owned()).unwrap();
        verifier
            .verify_server_cert(&chain.certified.cert[0], &[], &name, &[], UnixTime::now())
            .map(|_| ())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn whoever_trusts_it_trusts_the_base_domain_and_nothing_else() {
        let home = tempfile::tempdir().unwrap();
        let source = LocalSource::open(home.path(), "claws.test").unwrap();
        let authority = source.table.authority().unwrap();
        let shown = |name: &str| source.table.find(Some(name)).unwrap();
        for name in ["claws.test", "alice-x7k2m.claws.test"] {
            trusts(authority, &shown(name), name).unwrap();
        }
        // What a thief of the key would make.
        for name in ["bank.test", "claws.test.evil.test", "test"] {
            let forged = authority.issue(&[name.to_owned()]).unwrap();
            assert!(trusts(authority, &forged, name).unwrap_err().contains("NameConstraint"), "{name}");
        }
        let forged = authority.issue(&["127.0.0.1".to_owned(), "x.claws.test".to_owned()]).unwrap();
        assert!(trusts(authority, &forged, "127.0.0.1").is_err());
    }

    #[test]
    fn names_below_localhost_get_one_each() {
        let home = tempfile::tempdir().unwrap();
        let source = LocalSource::open(home.path(), "localhost").unwrap();
        let authority = source.table.authority().unwrap();
        for name in ["localhost", "alice-x7k2m.localhost"] {
            trusts(authority, &source.table.find(Some(name)).unwrap(), name).unwrap();
        }
        let serial = |name: &str| source.table.find(Some(name)).unwrap().facts.serial.clone();
        assert_eq!(serial("alice-x7k2m.localhost"), serial("ALICE-x7k2m.localhost"));
        for name in ["a.b.localhost", "a_b.localhost", ".localhost", "xlocalhost"] {
            assert!(source.table.find(Some(name)).is_none(), "{name}");
        }
    }

    #[tokio::test]
    async fn it_stays_and_its_key_is_its_owners_alone() {
        let home = tempfile::tempdir().unwrap();
        let source = LocalSource::open(home.path(), "claws.test").unwrap();
        let key = home.path().join("authority/claws.test.key");
        assert_eq!(fs::metadata(&key).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(home.path().join("authority")).unwrap().mode() & 0o777, 0o700);
        let pem = source.table.authority().unwrap().pem().to_owned();

        let serial = || source.list()[0].serial.clone();
        let first = serial();
        source.renew("claws.test").await.unwrap();
        assert_ne!(serial(), first);
        assert!(source.renew("other.test").await.is_err());

        let again = LocalSource::open(home.path(), "claws.test").unwrap();
        assert_eq!(again.table.authority().unwrap().pem(), pem);
        trusts(source.table.authority().unwrap(), &again.shown(), "claws.test").unwrap();

        let other = tempfile::tempdir().unwrap();
        drop(LocalSource::open(other.path(), "claws.test").unwrap());
        fs::copy(other.path().join("authority/claws.test.key"), &key).unwrap();
        let error = LocalSource::open(home.path(), "claws.test").err().unwrap();
        assert!(error.message().contains("does not fit its key"), "{error:?}");
        fs::write(&key, "").unwrap();
        assert!(LocalSource::open(home.path(), "claws.test").is_err());
    }
}
