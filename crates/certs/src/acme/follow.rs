//! Reading what this server or another one got.

use std::sync::Arc;

use clawfarm_model::Result;
use tokio_util::sync::CancellationToken;

use super::AcmeSource;
use super::record::Kept;
use crate::table::Shown;
use crate::{Source as _, measure};

impl AcmeSource {
    /// Reads what is new, again and again, and when an authority asks for what is not known.
    pub(super) async fn follow(&self, stopping: &CancellationToken) {
        loop {
            tokio::select! {
                () = stopping.cancelled() => return,
                () = tokio::time::sleep(self.config.timing.poll) => {}
                () = self.answers.asked() => {}
            }
            let _look = self.answers.look();
            if let Err(error) = self.load().await {
                tracing::warn!(?error, "the certificates could not be read; what is known goes on");
                self.lock().fault = Some(error.message().to_owned());
            }
        }
    }

    /// Reads the vault, when something was written since it was read.
    pub(super) async fn load(&self) -> Result<()> {
        // Asked for first: what is written meanwhile is read the next time.
        let version = self.vault.version().await?;
        if self.lock().version == Some(version) {
            self.lock().fault = None;
            return Ok(());
        }
        let kept = Kept::read(&self.vault.all().await?)?;
        {
            let mut state = self.lock();
            let before = std::mem::take(&mut state.chains);
            for (name, record) in &kept.records {
                let same = state.kept.records.get(name).is_some_and(|old| old.chain == record.chain);
                let chain = match before.get(name) {
                    Some(chain) if same => Some(Arc::clone(chain)),
                    _ => record.parse().map(Arc::new),
                };
                if let Some(chain) = chain {
                    if !same {
                        let facts = &chain.facts;
                        tracing::info!(names = ?facts.names, issuer = %facts.issuer, until = %facts.not_after, "the edge shows a new certificate");
                    }
                    state.chains.insert(name.clone(), chain);
                }
            }
            // The base domain's first: it is for callers that name nothing.
            let base = state.chains.get(&self.config.base).into_iter();
            let others =
                state.chains.iter().filter(|(name, _)| **name != self.config.base).map(|(_, chain)| chain);
            self.table.show(Shown::of(base.chain(others).cloned()));
            state.kept = kept;
            state.version = Some(version);
            state.fault = None;
        }
        measure::expiry(&self.list());
        self.read.send_modify(|count| *count += 1);
        Ok(())
    }
}
