//! The one of the servers that asks the authority.

use clawfarm_model::{Code, Error, Result, Timestamp};
use instant_acme::{Account, CertificateIdentifier};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::order::{Attempt, Failed};
use super::plan::Due;
use super::record::{CERT, ISSUED, Record, Replaced, TRIED, WISH, Wish, to_secret};
use super::source::Belongs;
use super::times::{self, DAY, lately};
use super::{AcmeSource, Owner, account, budget};
use crate::{Chain, Lease, measure};

/// How often the lease is renewed in its time.
const BEATS: u32 = 3;

impl AcmeSource {
    /// Does what is due, again and again, while no other server does.
    pub(super) async fn issue(&self, stopping: &CancellationToken) {
        loop {
            tokio::select! {
                () = stopping.cancelled() => return,
                () = sleep(self.config.timing.poll) => {}
                () = self.hurry.notified() => {}
            }
            let round = async {
                self.load().await?;
                if self.due().is_empty() {
                    return Ok(());
                }
                let Some(lease) = self.vault.lease(None, self.config.timing.lease).await? else {
                    return Ok(());
                };
                let outcome = tokio::select! {
                    outcome = self.under(lease) => outcome,
                    lost = self.keep(lease) => Err(lost),
                    () = stopping.cancelled() => Ok(()),
                };
                // Another server, or this one, may go on at once.
                let _ = self.vault.release(lease).await;
                outcome
            };
            if let Err(error) = round.await {
                tracing::warn!(?error, "the certificates could not be seen to; it is tried again");
                sleep(self.config.timing.poll).await;
            }
        }
    }

    /// Keeps the lease, until it can't be kept.
    async fn keep(&self, lease: Lease) -> Error {
        let ttl = self.config.timing.lease;
        loop {
            sleep(ttl / BEATS).await;
            match self.vault.lease(Some(lease), ttl).await {
                Ok(Some(same)) if same == lease => {}
                Ok(_) => return Error::new(Code::Conflict, "another server asks for certificates by now"),
                Err(error) => return error,
            }
        }
    }

    fn due(&self) -> Vec<Due> {
        let state = self.lock();
        let mut due = self.plan().due(&state.kept);
        due.retain(|due| match due {
            Due::Get(name) => {
                let asked = state.kept.wishes.get(name).is_some_and(|it| it.wish == Wish::Renew);
                let failing = state.kept.records.get(name).is_some_and(|it| it.failures > 0);
                asked || !failing || state.held.get(name).is_none_or(|until| *until <= Instant::now())
            }
            Due::Ask(_) | Due::Drop(_) => true,
        });
        due
    }

    async fn under(&self, lease: Lease) -> Result<()> {
        let mut done = Vec::new();
        loop {
            // The one before may have done it since this was read, and what was done last may leave
            // no room for the next.
            self.load().await?;
            let Some(due) = self.due().into_iter().find(|due| !done.contains(due)) else { return Ok(()) };
            match &due {
                Due::Get(name) => self.get(name, lease).await?,
                Due::Ask(name) => self.ask(name, lease).await?,
                Due::Drop(name) => self.forget(name, lease).await?,
            }
            done.push(due);
        }
    }

    /// Forgets a name that needs no certificate.
    async fn forget(&self, name: &str, lease: Lease) -> Result<()> {
        tracing::info!(%name, "this name needs no certificate of its own any more");
        self.vault.put(&format!("{CERT}{name}"), None, Some(lease)).await?;
        self.vault.put(&format!("{WISH}{name}"), None, Some(lease)).await
    }

    /// Gets a certificate, or writes down why that failed.
    async fn get(&self, name: &str, lease: Lease) -> Result<()> {
        let plan = self.plan();
        let (names, owner) = match self.belongs(name).await? {
            Belongs::Base => (plan.names, None),
            Belongs::Claw(owner) if self.config.dns.is_none() => (vec![name.to_owned()], Some(owner)),
            Belongs::Claw(_) | Belongs::Nobody => return self.forget(name, lease).await,
        };
        let (kept, tried) = {
            let state = self.lock();
            (state.kept.records.get(name).cloned(), state.kept.tried.clone())
        };
        let mut record = kept.unwrap_or_else(|| Record::new(names.clone(), &self.config.directory));
        let first = record.chain.is_none() || record.directory != self.config.directory;
        if first && owner.is_some() {
            let tried = budget::tried(&tried, owner.as_ref(), plan.now);
            self.vault.put(TRIED, Some(&to_secret(&tried)?), Some(lease)).await?;
        }
        if record.chain.is_none() {
            record.names.clone_from(&names);
            self.config.directory.clone_into(&mut record.directory);
        }
        record.owner = owner;
        record.tried_at = Some(plan.now);
        let outcome = self.attempt(name, &names, &mut record, lease).await;
        measure::renewed(outcome.is_ok());
        match outcome {
            Ok(()) => {
                self.lock().held.remove(name);
                if first {
                    self.count(record.owner.as_ref(), lease).await?;
                }
            }
            Err(Failed::Lost(error)) => return Err(error),
            Err(Failed::Refused { error, limited }) => {
                record.failures = record.failures.saturating_add(1);
                let (failures, random) = (record.failures, getrandom::u32().unwrap_or_default());
                let wait = times::wait(&self.config.timing, failures, limited, random);
                let again = Timestamp::now().after(wait);
                record.again_at = Some(again);
                // By a clock that nobody sets, too: what is written down may be taken for a wrong one's.
                self.lock().held.insert(name.to_owned(), Instant::now() + wait);
                // What somebody asked for is tried again as what was due by itself is.
                record.renew_at = record.renew_at.map(|at| at.min(again));
                record.error = Some(error.to_string());
                tracing::error!(%name, %failures, %again, %error, "no certificate was got; what there was is still shown");
            }
        }
        self.save(name, &record, lease).await?;
        self.vault.put(&format!("{WISH}{name}"), None, Some(lease)).await
    }

    /// Counts a name's first certificate.
    async fn count(&self, owner: Option<&Owner>, lease: Lease) -> Result<()> {
        let issued = budget::issued(&self.lock().kept.issued, owner, Timestamp::now());
        self.vault.put(ISSUED, Some(&to_secret(&issued)?), Some(lease)).await
    }

    async fn attempt(
        &self,
        name: &str,
        names: &[String],
        record: &mut Record,
        lease: Lease,
    ) -> std::result::Result<(), Failed> {
        let account = account::open(&self.config, &self.http, self.vault.as_ref(), lease).await?;
        let attempt = Attempt { source: self, account: &account, name, names, lease };
        let outcome = attempt.run(record).await;
        if let Err(Failed::Refused { error, .. }) = &outcome
            && error.message().contains("(accountDoesNotExist)")
        {
            account::forget(&self.config, self.vault.as_ref(), lease).await?;
        }
        let (chain, key) = outcome?;
        let got = Chain::from_pem(chain.as_bytes(), key.as_bytes()).map_err(|why| {
            let what = format!("the certificate authority's certificate can't be used: {why}");
            Error::new(Code::Unavailable, what)
        })?;
        let now = Timestamp::now();
        if record.chain.is_some() && (record.names != names || record.directory != self.config.directory) {
            record.replaced.retain(|it| lately(it.at, DAY, now));
            let (names, directory) = (record.names.clone(), record.directory.clone());
            record.replaced.push(Replaced { names, directory, at: now });
        }
        record.chain = Some(chain);
        record.key = Some(key);
        names.clone_into(&mut record.names);
        self.config.directory.clone_into(&mut record.directory);
        times::got(record, &got.facts, now, getrandom::u32().unwrap_or_default());
        Ok(())
    }

    pub(super) async fn save(&self, name: &str, record: &Record, lease: Lease) -> Result<()> {
        self.vault.put(&format!("{CERT}{name}"), Some(&to_secret(record)?), Some(lease)).await
    }

    /// Asks the authority when it wants a certificate renewed (RFC 9773).
    async fn ask(&self, name: &str, lease: Lease) -> Result<()> {
        let Some(mut record) = self.lock().kept.records.get(name).cloned() else { return Ok(()) };
        let account = match account::open(&self.config, &self.http, self.vault.as_ref(), lease).await {
            Ok(account) => account,
            Err(error) => {
                tracing::debug!(%name, %error, "the authority was not asked when to renew");
                record.ask_at = Some(Timestamp::now().after(times::ASK_AGAIN));
                return self.save(name, &record, lease).await;
            }
        };
        let asked = ask(&account, &record).await;
        times::asked(&mut record, asked, Timestamp::now(), getrandom::u32().unwrap_or_default());
        self.save(name, &record, lease).await
    }
}

/// The window in which the authority wants a certificate renewed, and in how long to ask again;
/// `None` when it says no such thing.
async fn ask(account: &Account, record: &Record) -> Option<times::Window> {
    let leaf = CertificateDer::from_pem_slice(record.chain.as_ref()?.as_bytes()).ok()?;
    let id = CertificateIdentifier::try_from(&leaf).ok()?;
    match account.renewal_info(&id).await {
        Ok((info, again)) => {
            let millis = |at: time::OffsetDateTime| {
                Timestamp::from_millis(
                    i64::try_from(at.unix_timestamp_nanos() / 1_000_000).unwrap_or(i64::MAX),
                )
            };
            Some(times::Window {
                from: millis(info.suggested_window.start),
                to: millis(info.suggested_window.end),
                again,
            })
        }
        Err(error) => {
            tracing::debug!(%error, "the authority does not say when to renew");
            None
        }
    }
}
