//! The source that the edge sees.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use async_trait::async_trait;
use clawfarm_model::certificate::Certificate;
use clawfarm_model::target::{Check, CheckLevel};
use clawfarm_model::{Code, Error, Result, Timestamp};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use super::plan::Plan;
use super::record::{Kept, WISH, Wanted, Wish, pending, to_secret};
use super::times::waits;
use super::{AcmeConfig, Answers, Names, Owner, budget};
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
    /// Until when this server leaves names alone that failed.
    pub(super) held: BTreeMap<String, Instant>,
    /// Why the vault could not be read.
    pub(super) fault: Option<String>,
}

/// Whom a name belongs to.
pub(super) enum Belongs {
    /// It is the base domain.
    Base,
    /// It is a claw's.
    Claw(Owner),
    /// There is none of that name.
    Nobody,
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

    /// What this server would ask for.
    pub(super) fn plan(&self) -> Plan<'_> {
        let config = &self.config;
        let mut names = vec![config.base.clone()];
        if config.dns.is_some() {
            names.push(format!("*.{}", config.base));
        }
        let (directory, timing) = (&config.directory, &config.timing);
        Plan { base: &config.base, names, directory, timing, now: Timestamp::now() }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn proof(&self, token: &str) -> Option<String> {
        self.lock().kept.proofs.get(token).cloned()
    }

    /// Whose a name is.
    pub(super) async fn belongs(&self, name: &str) -> Result<Belongs> {
        if name == self.config.base {
            return Ok(Belongs::Base);
        }
        let label = name.strip_suffix(self.config.base.as_str()).and_then(|it| it.strip_suffix('.'));
        let owner = match (label, self.names.get()) {
            (Some(label), Some(names)) if !label.contains('.') => names.owner(label).await?,
            _ => None,
        };
        Ok(owner.map_or(Belongs::Nobody, Belongs::Claw))
    }

    async fn wish(&self, name: &str, wish: Wish, owner: Option<Owner>) -> Result<()> {
        let wanted = Wanted { wish, owner, at: Timestamp::now() };
        self.vault.put(&format!("{WISH}{name}"), Some(&to_secret(&wanted)?), None).await?;
        self.hurry.notify_one();
        Ok(())
    }

    /// Whether a name has no certificate, and is left alone because getting one failed.
    fn has_failed(&self, name: &str) -> bool {
        let state = self.lock();
        let failed = |record| waits(record, &self.config.timing, Timestamp::now());
        !state.chains.contains_key(name) && state.kept.records.get(name).is_some_and(failed)
    }

    /// Whether a claw's name, for which nothing is under way, has to wait for its first certificate.
    fn has_to_wait(&self, name: &str, owner: &Owner) -> bool {
        let state = self.lock();
        let ordered = state.kept.records.get(name).is_some_and(|it| it.order.is_some());
        !ordered && !budget::may_begin(&state.kept, Some(owner), &self.config.timing, Timestamp::now())
    }

    /// Has a name seen to that somebody waits for; says whether it may get a certificate now.
    async fn want(&self, name: &str) -> bool {
        // One that there is not costs a look, as a request for it does.
        let owner = match self.belongs(name).await {
            // It is seen to without being asked for.
            Ok(Belongs::Base) => return true,
            Ok(Belongs::Claw(owner)) if self.config.dns.is_none() => owner,
            _ => return false,
        };
        if self.has_failed(name) || self.has_to_wait(name, &owner) {
            return false;
        }
        let under_way = Plan::is_under_way(&self.lock().kept, name);
        if !under_way && let Err(error) = self.wish(name, Wish::Have, Some(owner)).await {
            tracing::warn!(%name, ?error, "a certificate can't be asked for");
            return false;
        }
        true
    }

    /// What `doctor` says of all of them together.
    fn check_all(&self, state: &State) -> Vec<Check> {
        let plan = self.plan();
        let warning = |detail: String, fix: &str| Check {
            name: "certificates".to_owned(),
            level: CheckLevel::Warning,
            detail,
            fix: Some(fix.to_owned()),
        };
        let mut checks = Vec::new();
        if budget::is_used_up(&state.kept, plan.timing, plan.now) {
            checks.push(warning(
                format!(
                    "{} names got their first within seven days: further ones have to wait",
                    plan.timing.weekly
                ),
                "prove the domain by the DNS, and have a wildcard: --acme-dns",
            ));
        }
        let base = state.kept.records.get(plan.base);
        if base.is_some_and(|it| plan.is_left(it) || plan.was_replaced(it, &plan.names)) {
            checks.push(warning(
                "another server has other options of ACME than this one, and its certificate is shown"
                    .to_owned(),
                "give all servers the same --acme-directory and --acme-dns",
            ));
        }
        if let Some(fault) = state.fault.clone() {
            let level = CheckLevel::Error;
            checks.push(Check { level, ..warning(fault, "see the server's log") });
        }
        checks
    }
}

#[async_trait]
impl Source for AcmeSource {
    fn list(&self) -> Vec<Certificate> {
        let now = Timestamp::now();
        let state = self.lock();
        let mut told: Vec<Certificate> = Vec::new();
        let (base, names) = (self.config.base.clone(), self.plan().names);
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
        let is_base = name == self.config.base;
        let (owner, left) = {
            let state = self.lock();
            let record = state.kept.records.get(name);
            if !is_base && record.is_none() && !state.kept.wishes.contains_key(name) {
                return Err(Error::not_found("certificate", name).fix("see clawfarm cert ls"));
            }
            let left = record.filter(|it| is_base && self.plan().is_left(it)).map(|it| it.late_at);
            (record.and_then(|it| it.owner.clone()), left)
        };
        if !is_base && self.config.dns.is_some() {
            return Err(Error::new(
                Code::Unsupported,
                format!("{name} is to have the wildcard of {}, and none of its own", self.config.base),
            )
            .fix(format!("clawfarm cert renew {}", self.config.base)));
        }
        if let Some(until) = left {
            let until = until.map_or_else(String::new, |it| format!(" until {it}"));
            return Err(Error::new(
                Code::Conflict,
                format!("it has a wildcard, which this server can't get: it is left to who can{until}"),
            )
            .fix("start the server with --acme-dns, or ask one that has it"));
        }
        self.wish(name, Wish::Renew, owner).await
    }

    async fn ready(&self, name: &str) {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        if self.table.has(&name) {
            return;
        }
        let until = Instant::now() + self.config.timing.handshake;
        let mut read = self.read.subscribe();
        if !matches!(timeout_at(until, self.want(&name)).await, Ok(true)) {
            return;
        }
        let wait = async {
            while !self.table.has(&name) && !self.has_failed(&name) {
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
        checks.extend(self.check_all(&self.lock()));
        checks
    }
}
