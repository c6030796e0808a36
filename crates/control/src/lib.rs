//! The use cases, and the reconciler that carries them out.
//!
//! A use case checks, asks [`authorize`](clawfarm_model::authorize), and writes what is
//! wanted in one transaction with its event, its audit entry and the operation to wait on.
//! It acts on nothing. The reconciler (`reconcile`) is woken by that write: it reads what
//! is wanted and what is there, decides, acts through the runtime, and writes what it saw.

mod admission;
mod answers;
mod backups;
mod boundary;
mod certificates;
mod configs;
mod core;
mod doctor;
mod events;
mod housekeeping;
mod images;
mod inbox;
mod instances;
mod keys;
mod operations;
mod reconcile;
mod recover;
mod reserve;
mod secrets;
mod setup;
mod sharing;
mod sleep;
mod starts;
mod stored;
mod support;
mod targets;
#[cfg(test)]
mod testing;
mod vm_images;

use std::sync::Arc;
use std::time::Duration;

use clawfarm_adapters::{Registry, Warning};
use clawfarm_model::target::Target;
use clawfarm_model::{Context, Instance, Operation, Result};
use clawfarm_runtime::Runtime;
use clawfarm_store::Store;
use tokio_util::sync::CancellationToken;

pub use backups::{Archive, ArchiveBytes, NewRestore};
pub use certificates::Certificates;
pub use clawfarm_store::{Idempotency, InstanceFilter, Page, PolicyOf, Retention};
pub use configs::{
    Batch, ChangeMany, Changed, Configure, Configured, Drift, DriftedFile, ExplainedConfig, NewConfig, Plan,
    PlannedInstance, Publish, ROLLBACK_WINDOW, Refusal,
};
pub use events::Follower;
pub use images::{AllImages, BuildNews, NewImage, PullImage};
pub use inbox::{Lined, NewInboxMessage, Sender};
pub use instances::change::Change;
pub use instances::create::NewInstance;
pub use instances::edge::{Doors, Entrance};
pub use instances::token::GatewayToken;
pub use recover::{Finding, Findings, LostInstance, Verdict};
pub use reserve::Reserve;
pub use secrets::{RotateSecret, SecretAt, SecretUsers};
pub use setup::{SetupChange, Stuck};
pub use sharing::{LEASE_TTL, Place, Sharing};
pub use sleep::{InUse, LastBusy, PolicyChange, SleepOutlook, Traffic};
pub use support::SupportLeave;
pub use targets::{NewTarget, OpenTarget};
pub use vm_images::{HowImage, VmImageNews};

pub use clawfarm_runtime::WantedSize;

use crate::core::Core;

/// How long turns may take to break off when the server ends; they do so at their next wait.
const TURNS_LIMIT: Duration = Duration::from_secs(5);

/// Everything clawfarm can do, for the API and whoever else comes in from outside. Cheap to
/// clone.
#[derive(Clone)]
pub struct Control {
    core: Arc<Core>,
}

/// What a control is made of.
pub struct Parts {
    /// The state.
    pub store: Store,
    /// The claw types.
    pub adapters: Registry,
    /// The places instances run on, each with its runtime. The first of a kind is the
    /// default of its kind; the first of all is the default.
    pub targets: Vec<(Target, Arc<dyn Runtime>)>,
    /// Makes runtimes for targets that are added while the server runs; `None` where none can be.
    pub opener: Option<Arc<dyn OpenTarget>>,
    /// How the store is shared with other servers; `None` when this one is alone on it.
    pub sharing: Option<Sharing>,
}

/// The answer to a use case that takes a while.
#[derive(Debug)]
pub struct Accepted {
    /// The instance as it is now.
    pub instance: Instance,
    /// What to wait on.
    pub operation: Operation,
    /// What was accepted, but is worth a word.
    pub warnings: Vec<Warning>,
    /// It was accepted before, under the same idempotency key; nothing was done now.
    pub replayed: bool,
}

impl Control {
    /// Takes up the work: adopts what runs, and begins to reconcile.
    ///
    /// # Errors
    /// When the store can't be read or written.
    pub async fn begin(parts: Parts) -> Result<Self> {
        let core = Core::new(parts).await?;
        let telling = Arc::clone(&core);
        tokio::spawn(async move { telling.feed.run(&telling.store, &telling.stopping).await });
        reconcile::begin(&core).await?;
        core.join().await?;
        core.turns.spawn(sleep::run(Arc::clone(&core)));
        core.turns.spawn(configs::run(Arc::clone(&core)));
        core.turns.spawn(secrets::run(Arc::clone(&core)));
        core.turns.spawn(setup::run(Arc::clone(&core)));
        backups::keep_tidy(&core);
        inbox::begin(&core);
        Ok(Self { core })
    }

    /// Whether requests can be served.
    ///
    /// # Errors
    /// `Unavailable` when the store does not answer.
    pub async fn ready(&self) -> Result<()> {
        self.core.store.ping().await
    }

    /// Cancelled when this server has to end, because a backup was restored into its database
    /// while it was away (frozen, or cut off): nothing that it knows holds any more.
    #[must_use]
    pub fn outdated(&self) -> CancellationToken {
        self.core.outdated.clone()
    }

    /// Ends the reconciler: what is being done to an instance is left at a point from which
    /// the next server goes on. Claws go on, unless `stop_claws`; then each is stopped first
    /// and stays stopped.
    ///
    /// # Errors
    /// When an instance could not be stopped within its grace.
    pub async fn shutdown(&self, context: Option<&Context>, stop_claws: bool) -> Result<()> {
        let outcome = match context {
            Some(context) if stop_claws => self.stop_all(context).await,
            _ => Ok(()),
        };
        self.core.stopping.cancel();
        self.core.turns.close();
        // A claw that stands still for its copy goes on first.
        self.core.backups.copies.close();
        let _ = tokio::time::timeout(TURNS_LIMIT, self.core.backups.copies.wait()).await;
        if self.core.shares.is_shared() {
            // A lease is given back when nothing is done under it any more.
            if tokio::time::timeout(TURNS_LIMIT, self.core.turns.wait()).await.is_err() {
                tracing::warn!(left = self.core.turns.len(), "turns did not end in time");
            }
            self.core.leave().await;
        }
        outcome
    }
}
