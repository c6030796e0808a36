//! The source that the edge sees.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use async_trait::async_trait;
use clawfarm_model::certificate::Certificate;
use clawfarm_model::target::{Check, CheckLevel};
use clawfarm_model::{Error, Result, Timestamp};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use super::plan;
use super::record::{Kept, WISH, Wish, pending, to_secret};
use super::{AcmeConfig, Answers, Names};
use crate::http::Client;
use crate::source::check;
use crate::{Chain, Source, Table, Vault};

/// Certificates that an authority gives.
pub struct AcmeSource {
    pub(super) config: AcmeConfig,
    pub(super) vault: Arc<dyn Vault>,
    pub(super) http: Client,
    pub(super) table: Arc<Table>,
    pub(super) state: Mutex<State>,
    pub(super) answers: Answers,
    /// Something is to be done now.
    pub(super) hurry: Notify,
    /// Counts what was read from the vault.
    pub(super) read: watch::Sender<u64>,
    names: OnceLock<Arc<dyn Names>>,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) version: Option<i64>,
    pub(super) kept: Kept,
    pub(super) chains: BTreeMap<String, Arc<Chain>>,
    /// Why the vault could not be read.
    pub(super) fault: Option<String>,
}

impl AcmeSource {
    /// A source that asks the authority for what is missing, once it runs.
    ///
    /// # Errors
    /// `InvalidInput` for what can't be used of the configuration; `Unavailable` when the vault
    /// can't be read.
    pub async fn open(config: AcmeConfig, vault: Arc<dyn Vault>) -> Result<Arc<Self>> {
        if !config.base.contains('.') {
            return Err(Error::invalid(
                "base_domain",
                format!("no authority gives a certificate for '{}'", config.base),
            )
            .fix("give a domain of your own with --base-domain, or use --edge-tls local"));
        }
        let secure = config
            .directory
            .parse::<http::Uri>()
            .is_ok_and(|uri| uri.scheme_str() == Some("https") && uri.host().is_some());
        if !secure {
            return Err(Error::invalid(
                "acme_directory",
                format!("'{}' is no address with https", config.directory),
            )
            .fix(format!("give the address of a directory, such as {}", super::LETS_ENCRYPT)));
        }
        let http = Client::new(config.root.as_deref())?;
        let source = Arc::new(Self {
            config,
            vault,
            http,
            table: Arc::new(Table::default()),
            state: Mutex::default(),
            answers: Answers::default(),
            hurry: Notify::new(),
            read: watch::Sender::new(0),
            names: OnceLock::new(),
        });
        source.load().await?;
        Ok(source)
    }

    /// What callers are shown.
    #[must_use]
    pub fn table(&self) -> Arc<Table> {
        Arc::clone(&self.table)
    }

    /// Keeps the certificates current, until `stopping` is cancelled. Names below the base domain
    /// get one when there is such a claw.
    pub async fn run(self: Arc<Self>, names: Arc<dyn Names>, stopping: CancellationToken) {
        let _ = self.names.set(names);
        tokio::join!(self.follow(&stopping), self.issue(&stopping));
    }

    /// The base domain's certificate, with the names that it is to have.
    pub(super) fn base(&self) -> (String, Vec<String>) {
        let base = &self.config.base;
        let mut names = vec![base.clone()];
        if self.config.dns.is_some() {
            names.push(format!("*.{base}"));
        }
        (base.clone(), names)
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn proof(&self, token: &str) -> Option<String> {
        self.lock().kept.proofs.get(token).cloned()
    }

    /// The names that have a record, or a wish for one.
    fn is_known(&self, name: &str) -> bool {
        let state = self.lock();
        state.kept.records.contains_key(name) || state.kept.wishes.contains_key(name)
    }

    /// Whether a name may have a certificate of its own: it is a claw's.
    pub(super) async fn may_have(&self, name: &str) -> Result<bool> {
        if name == self.config.base {
            return Ok(true);
        }
        let label = name.strip_suffix(self.config.base.as_str()).and_then(|it| it.strip_suffix('.'));
        match (label, self.names.get()) {
            (Some(label), Some(names)) if !label.contains('.') && self.config.dns.is_none() => {
                names.exists(label).await
            }
            _ => Ok(false),
        }
    }

    async fn wish(&self, name: &str, wish: Wish) -> Result<()> {
        self.vault.put(&format!("{WISH}{name}"), Some(&to_secret(&wish)?), None).await?;
        self.hurry.notify_one();
        Ok(())
    }

    /// Whether a name has no certificate and none is being got.
    fn is_given_up(&self, name: &str) -> bool {
        let state = self.lock();
        let now = Timestamp::now();
        let waits = match state.kept.records.get(name) {
            Some(record) => record.again_at.is_some_and(|at| at > now),
            None => {
                *name != self.config.base && !plan::may_begin(&state.kept, self.config.timing.weekly, now)
            }
        };
        waits && !state.chains.contains_key(name)
    }
}

#[async_trait]
impl Source for AcmeSource {
    fn list(&self) -> Vec<Certificate> {
        let now = Timestamp::now();
        let state = self.lock();
        let mut told: Vec<Certificate> = Vec::new();
        let (base, names) = self.base();
        if !state.kept.records.contains_key(&base) {
            told.push(pending(&base, names));
        }
        for (name, record) in &state.kept.records {
            told.push(record.told(name, state.chains.get(name).map(AsRef::as_ref), now));
        }
        for name in state.kept.wishes.keys().filter(|name| !state.kept.records.contains_key(*name)) {
            if *name != base {
                told.push(pending(name, vec![name.clone()]));
            }
        }
        told
    }

    async fn renew(&self, name: &str) -> Result<()> {
        if name != self.config.base && !self.is_known(name) {
            return Err(Error::not_found("certificate", name).fix("see clawfarm cert ls"));
        }
        self.wish(name, Wish::Renew).await
    }

    async fn ready(&self, name: &str) {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        if self.table.has(&name) || self.is_given_up(&name) {
            return;
        }
        let until = Instant::now() + self.config.timing.handshake;
        if !self.is_known(&name) {
            // One that there is not costs a look, as a request for it does.
            match timeout_at(until, self.may_have(&name)).await {
                Ok(Ok(true)) => {}
                _ => return,
            }
            if name != self.config.base
                && let Err(error) = self.wish(&name, Wish::Have).await
            {
                tracing::warn!(%name, ?error, "a certificate can't be asked for");
                return;
            }
        }
        let mut read = self.read.subscribe();
        let wait = async {
            while !self.table.has(&name) && !self.is_given_up(&name) {
                if read.changed().await.is_err() {
                    return;
                }
            }
        };
        // Who waited in vain is refused, and may come again: it goes on being got.
        let _ = timeout_at(until, wait).await;
    }

    fn checks(&self) -> Vec<Check> {
        let mut checks: Vec<Check> = self
            .list()
            .iter()
            .map(|it| check(it, &format!("mend what it says; then: clawfarm cert renew {}", it.name)))
            .collect();
        let state = self.lock();
        let weekly = self.config.timing.weekly;
        if !plan::may_begin(&state.kept, weekly, Timestamp::now()) {
            checks.push(Check {
                name: "certificates".to_owned(),
                level: CheckLevel::Warning,
                detail: format!(
                    "{weekly} names got their first within seven days: further ones have to wait"
                ),
                fix: Some("prove the domain by the DNS, and have a wildcard: --acme-dns".to_owned()),
            });
        }
        if let Some(fault) = state.fault.clone() {
            checks.push(Check {
                name: "certificates".to_owned(),
                level: CheckLevel::Error,
                detail: fault,
                fix: Some("see the server's log".to_owned()),
            });
        }
        drop(state);
        checks
    }
}
