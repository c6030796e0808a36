//! The one of the servers that asks the authority.

use clawfarm_model::{Code, Error, Result, Timestamp};
use instant_acme::{Account, CertificateIdentifier};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::order::{Attempt, Failed};
use super::plan::{self, Due};
use super::record::{CERT, ORDERS, Record, WISH, to_secret};
use super::{AcmeSource, account};
use crate::{Lease, measure};

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
        let weekly = self.config.timing.weekly;
        plan::due(&state.kept, &self.base(), &self.config.directory, weekly, Timestamp::now())
    }

    async fn under(&self, lease: Lease) -> Result<()> {
        // The one before may have done it since this was read.
        self.load().await?;
        for due in self.due() {
            match due {
                Due::Get(name) => self.get(&name, lease).await?,
                Due::Ask(name) => self.ask(&name, lease).await?,
            }
            self.load().await?;
        }
        Ok(())
    }

    /// Gets a certificate, or writes down why that failed.
    async fn get(&self, name: &str, lease: Lease) -> Result<()> {
        if !self.may_have(name).await? {
            tracing::info!(%name, "a name that there is no more needs no certificate");
            self.vault.put(&format!("{CERT}{name}"), None, Some(lease)).await?;
            return self.vault.put(&format!("{WISH}{name}"), None, Some(lease)).await;
        }
        let (base, names) = self.base();
        let names = if *name == base { names } else { vec![name.to_owned()] };
        let (kept, orders) = {
            let state = self.lock();
            (state.kept.records.get(name).cloned(), state.kept.orders.clone())
        };
        let now = Timestamp::now();
        if kept.is_none() {
            let orders = plan::counted(&orders, now);
            self.vault.put(ORDERS, Some(&to_secret(&orders)?), Some(lease)).await?;
        }
        let mut record = kept.unwrap_or_else(|| Record::new(names.clone(), &self.config.directory));
        if record.names != names || record.directory != self.config.directory {
            // What was ordered is for something else.
            record.order = None;
            record.names = names;
            self.config.directory.clone_into(&mut record.directory);
        }
        record.tried_at = Some(now);
        let outcome = self.attempt(name, &mut record, lease).await;
        measure::renewed(outcome.is_ok());
        match outcome {
            Ok(()) => {}
            Err(Failed::Lost(error)) => return Err(error),
            Err(Failed::Refused { error, limited }) => {
                record.failures = record.failures.saturating_add(1);
                let (failures, random) = (record.failures, getrandom::u32().unwrap_or_default());
                let again = plan::again_at(&self.config.timing, failures, limited, Timestamp::now(), random);
                record.again_at = Some(again);
                // What somebody asked for is tried again as what was due by itself is.
                record.renew_at = record.renew_at.map(|at| at.min(again));
                record.error = Some(error.to_string());
                tracing::error!(%name, %failures, %again, %error, "no certificate was got; what there was is still shown");
            }
        }
        self.save(name, &record, lease).await?;
        self.vault.put(&format!("{WISH}{name}"), None, Some(lease)).await
    }

    async fn attempt(
        &self,
        name: &str,
        record: &mut Record,
        lease: Lease,
    ) -> std::result::Result<(), Failed> {
        let account = account::open(&self.config, &self.http, self.vault.as_ref(), lease).await?;
        let attempt = Attempt { source: self, account: &account, name, lease };
        let outcome = attempt.run(record).await;
        if let Err(Failed::Refused { error, .. }) = &outcome
            && error.message().contains("(accountDoesNotExist)")
        {
            account::forget(&self.config, self.vault.as_ref(), lease).await?;
        }
        let (chain, key) = outcome?;
        record.chain = Some(chain);
        record.key = Some(key);
        let Some(parsed) = record.parse() else {
            (record.chain, record.key) = (None, None);
            return Err(Error::new(
                Code::Unavailable,
                "the certificate authority's certificate can't be used",
            )
            .into());
        };
        let now = Timestamp::now();
        record.renew_at = Some(plan::renew_at(&parsed.facts, getrandom::u32().unwrap_or_default()));
        record.failures = 0;
        record.error = None;
        record.again_at = None;
        record.ask_at = Some(now);
        record.tried_at = Some(now);
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
                record.ask_at = Some(Timestamp::now().after(plan::ASK_AGAIN));
                return self.save(name, &record, lease).await;
            }
        };
        let asked = ask(&account, &record).await;
        plan::asked(&mut record, asked, Timestamp::now(), getrandom::u32().unwrap_or_default());
        self.save(name, &record, lease).await
    }
}

/// The window in which the authority wants a certificate renewed, and in how long to ask again;
/// `None` when it says no such thing.
async fn ask(account: &Account, record: &Record) -> Option<plan::Window> {
    let leaf = CertificateDer::from_pem_slice(record.chain.as_ref()?.as_bytes()).ok()?;
    let id = CertificateIdentifier::try_from(&leaf).ok()?;
    match account.renewal_info(&id).await {
        Ok((info, again)) => {
            let millis = |at: time::OffsetDateTime| {
                Timestamp::from_millis(
                    i64::try_from(at.unix_timestamp_nanos() / 1_000_000).unwrap_or(i64::MAX),
                )
            };
            Some(plan::Window {
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
