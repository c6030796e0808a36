//! Certificates from files that somebody else keeps current: certbot, a secret that is mounted.
//!
//! The files are looked at every few seconds rather than watched: what replaces them swaps
//! symbolic links of folders above as often as the files themselves.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use clawfarm_model::certificate::{Certificate, CertificateSource, CertificateState};
use clawfarm_model::target::{Check, CheckLevel};
use clawfarm_model::{Code, Error, Result, Timestamp};
use tokio_util::sync::CancellationToken;

use crate::source::check;
use crate::table::Shown;
use crate::{Chain, Source, Table, measure};

/// How often the files are looked at. A pair whose halves are replaced one after the other is
/// whole at the next look.
const EVERY: Duration = Duration::from_secs(2);
/// The largest file that is read, in bytes: long chains have some ten thousand.
const FILE_MAX: u64 = 1 << 20;
/// What whoever keeps the files is told this long before the end, when no new ones have come:
/// certbot renews 30 days before it.
const SOON: Duration = Duration::from_secs(14 * 24 * 3600);

/// Where a certificate is.
#[derive(Clone, Debug)]
pub struct Files {
    /// A PEM file of the certificate and those that lead to its authority.
    pub certificate: PathBuf,
    /// A PEM file of its private key.
    pub key: PathBuf,
}

impl Files {
    fn read(&self) -> std::result::Result<Chain, (PathBuf, String)> {
        let read = |path: &Path| -> std::result::Result<Vec<u8>, (PathBuf, String)> {
            let failed = |error: std::io::Error| (path.to_owned(), error.to_string());
            if fs::metadata(path).map_err(failed)?.len() > FILE_MAX {
                return Err((path.to_owned(), "it is longer than 1 MiB".to_owned()));
            }
            fs::read(path).map_err(failed)
        };
        let (chain, key) = (read(&self.certificate)?, read(&self.key)?);
        Chain::from_pem(&chain, &key).map_err(|why| {
            let at = if why.contains("the key is no PEM") { &self.key } else { &self.certificate };
            (at.clone(), why)
        })
    }

    fn marks(&self) -> [Option<Mark>; 2] {
        [mark(&self.certificate), mark(&self.key)]
    }

    /// Whether others than its owner and root can read the key.
    fn key_is_open(&self) -> bool {
        fs::metadata(&self.key).is_ok_and(|it| it.mode() & 0o077 != 0)
    }
}

/// By what a file that was replaced or written to is known.
type Mark = (u64, u64, i64, i64, u64);

fn mark(path: &Path) -> Option<Mark> {
    let it = fs::metadata(path).ok()?;
    Some((it.dev(), it.ino(), it.mtime(), it.mtime_nsec(), it.len()))
}

/// A certificate from files.
pub struct FileSource {
    files: Files,
    table: Arc<Table>,
    state: Mutex<State>,
}

struct State {
    chain: Arc<Chain>,
    marks: [Option<Mark>; 2],
    tried_at: Timestamp,
    error: Option<String>,
}

impl FileSource {
    /// Reads the files.
    ///
    /// # Errors
    /// `InvalidInput` when they can't be used: a server that begins with them is not to pretend.
    pub fn open(files: Files) -> Result<Arc<Self>> {
        // Before they are read: what changes meanwhile is seen at the next look.
        let marks = files.marks();
        let chain = Arc::new(files.read().map_err(|(path, why)| {
            Error::invalid("edge_tls_cert", format!("{} can't be used: {why}", path.display()))
                .fix("give PEM files of a certificate chain and of its own private key")
        })?);
        if files.key_is_open() {
            tracing::warn!(key = %files.key.display(), "others can read the certificate's key; chmod 600 it");
        }
        let table = Arc::new(Table::default());
        table.show(Shown::only(Arc::clone(&chain)));
        let state = State { chain, marks, tried_at: Timestamp::now(), error: None };
        let source = Arc::new(Self { files, table, state: Mutex::new(state) });
        measure::expiry(&source.list());
        Ok(source)
    }

    /// What callers are shown.
    #[must_use]
    pub fn table(&self) -> Arc<Table> {
        Arc::clone(&self.table)
    }

    /// Takes new files, until `stopping` is cancelled.
    pub async fn follow(self: Arc<Self>, stopping: CancellationToken) {
        loop {
            tokio::select! {
                () = stopping.cancelled() => return,
                () = tokio::time::sleep(EVERY) => {}
            }
            let this = Arc::clone(&self);
            // A file system that hangs is not to hang the server.
            let _ = tokio::task::spawn_blocking(move || this.look()).await;
        }
    }

    /// Takes the files when they have changed.
    fn look(&self) {
        let marks = self.files.marks();
        if self.lock().marks == marks {
            return;
        }
        let read = self.files.read();
        let mut state = self.lock();
        state.marks = marks;
        state.tried_at = Timestamp::now();
        measure::renewed(read.is_ok());
        match read {
            Ok(chain) => {
                let (chain, facts) = (Arc::new(chain), &state.chain.facts);
                if chain.facts.serial != facts.serial || state.error.is_some() {
                    let facts = &chain.facts;
                    tracing::info!(names = ?facts.names, until = %facts.not_after, "the edge shows a new certificate");
                }
                self.table.show(Shown::only(Arc::clone(&chain)));
                state.chain = chain;
                state.error = None;
            }
            Err((path, why)) => {
                let why = format!("{} can't be used: {why}", path.display());
                tracing::error!(%why, until = %state.chain.facts.not_after, "the edge's new certificate is broken; the one before is still shown");
                state.error = Some(why);
            }
        }
        drop(state);
        measure::expiry(&self.list());
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Source for FileSource {
    fn list(&self) -> Vec<Certificate> {
        let state = self.lock();
        let mut told = state.chain.told(CertificateSource::Files, Timestamp::now());
        if let Some(error) = &state.error {
            told.error = Some(error.clone());
            if told.state == CertificateState::Valid {
                told.state = CertificateState::Failing;
            }
        }
        told.tried_at = Some(state.tried_at);
        vec![told]
    }

    async fn renew(&self, _name: &str) -> Result<()> {
        Err(Error::new(Code::Unsupported, "the edge's certificate is from files, which clawfarm only reads")
            .fix(format!(
                "have it renewed by what keeps {}; it is taken within seconds",
                self.files.certificate.display()
            )))
    }

    fn checks(&self) -> Vec<Check> {
        let fix = format!(
            "put a good pair at {} and its key; it is taken within seconds",
            self.files.certificate.display()
        );
        let mut checks: Vec<Check> = self.list().iter().map(|certificate| check(certificate, &fix)).collect();
        let left = self.lock().chain.facts.not_after.since(Timestamp::now());
        if let Some(first) = checks.first_mut().filter(|it| it.level == CheckLevel::Ok && left < SOON) {
            first.level = CheckLevel::Warning;
            first.detail.push_str(", and no newer one has come");
            first.fix = Some(fix);
        }
        if self.files.key_is_open() {
            checks.push(Check {
                name: "certificate key".to_owned(),
                level: CheckLevel::Warning,
                detail: format!("others on this machine can read {}", self.files.key.display()),
                fix: Some(format!("chmod 600 {}", self.files.key.display())),
            });
        }
        checks
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn write(files: &Files) -> String {
        let made = rcgen::generate_simple_self_signed(["c.test".to_owned()]).unwrap();
        fs::write(&files.certificate, made.cert.pem()).unwrap();
        fs::write(&files.key, made.signing_key.serialize_pem()).unwrap();
        fs::set_permissions(&files.key, fs::Permissions::from_mode(0o600)).unwrap();
        Chain::from_pem(&fs::read(&files.certificate).unwrap(), &fs::read(&files.key).unwrap())
            .unwrap()
            .facts
            .serial
    }

    #[test]
    fn new_files_are_taken_and_broken_ones_are_told_of() {
        let folder = tempfile::tempdir().unwrap();
        let files = Files { certificate: folder.path().join("c.pem"), key: folder.path().join("k.pem") };
        assert!(FileSource::open(files.clone()).is_err());
        let first = write(&files);
        let source = FileSource::open(files.clone()).unwrap();
        let shown = || source.table.find(Some("x.c.test")).unwrap().facts.serial.clone();
        assert_eq!(shown(), first);
        assert_eq!(source.checks().len(), 1);
        assert_eq!(source.checks()[0].level, CheckLevel::Ok);

        let second = write(&files);
        source.look();
        assert_eq!(shown(), second);
        assert_ne!(first, second);

        fs::write(&files.certificate, "half a cert").unwrap();
        source.look();
        assert_eq!(shown(), second, "the one before is still shown");
        let told = &source.list()[0];
        assert_eq!(told.state, CertificateState::Failing);
        assert!(told.error.as_ref().unwrap().contains("c.pem"), "{told:?}");
        assert_eq!(source.checks()[0].level, CheckLevel::Warning);

        fs::remove_file(&files.key).unwrap();
        source.look();
        assert_eq!(shown(), second);

        let third = write(&files);
        source.look();
        assert_eq!(shown(), third);
        assert_eq!(source.list()[0].error, None);
    }

    #[test]
    fn a_key_that_others_can_read_is_told_of() {
        let folder = tempfile::tempdir().unwrap();
        let files = Files { certificate: folder.path().join("c.pem"), key: folder.path().join("k.pem") };
        write(&files);
        let source = FileSource::open(files.clone()).unwrap();
        fs::set_permissions(&files.key, fs::Permissions::from_mode(0o640)).unwrap();
        let checks = source.checks();
        assert_eq!(checks[1].level, CheckLevel::Warning);
        assert!(checks[1].fix.as_ref().unwrap().starts_with("chmod 600"));
    }
}
