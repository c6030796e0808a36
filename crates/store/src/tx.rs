//! One change: the rows, the events and the audit entry that go together.

use std::sync::Arc;

use clawfarm_model::event::NewEvent;
use clawfarm_model::{ClawId, Error, Granted, Result, Timestamp};
use sea_orm::{ActiveValue::NotSet, ActiveValue::Set, DatabaseTransaction, EntityTrait};

use crate::audit::Outcome;
use crate::backend;
use crate::convert::to_word;
use crate::entity::{audit, event};
use crate::error::db;
use crate::key::MasterKey;
use crate::store::Inner;

/// A transaction that may write. Dropped without [`Tx::commit`], it changes nothing.
pub(crate) struct Tx {
    inner: Arc<Inner>,
    txn: DatabaseTransaction,
    /// The number of the last event written in it.
    seq: Option<i64>,
    /// One time for everything in it.
    pub(crate) now: Timestamp,
}

impl Tx {
    pub(crate) async fn begin(inner: &Arc<Inner>) -> Result<Self> {
        let txn = backend::begin(&inner.writer).await.map_err(db)?;
        Ok(Self { inner: Arc::clone(inner), txn, seq: None, now: Timestamp::now() })
    }

    /// What the queries of this change run on.
    pub(crate) const fn on(&self) -> &DatabaseTransaction {
        &self.txn
    }

    /// What its secrets are wrapped with.
    pub(crate) fn master_key(&self) -> &MasterKey {
        &self.inner.master_key
    }

    /// Writes an event of a tenant, of one of its instances where it is about one.
    pub(crate) async fn event(
        &mut self,
        tenant: &str,
        instance: Option<&ClawId>,
        event: &NewEvent,
    ) -> Result<()> {
        let row = event::ActiveModel {
            seq: NotSet,
            at: Set(self.now.as_millis()),
            tenant: Set(tenant.to_owned()),
            instance: Set(instance.map(|id| id.as_str().to_owned())),
            level: Set(to_word(&event.level)?),
            reason: Set(event.reason.to_owned()),
            message: Set(event.message.clone()),
        };
        let written = event::Entity::insert(row).exec(&self.txn).await.map_err(db)?;
        self.seq = Some(written.last_insert_id);
        Ok(())
    }

    /// Writes down who did what.
    pub(crate) async fn audit(&self, granted: &Granted, outcome: Outcome, detail: &str) -> Result<()> {
        let context = granted.context();
        let resource = granted.resource();
        let row = audit::ActiveModel {
            seq: NotSet,
            at: Set(self.now.as_millis()),
            tenant: Set(resource.tenant.as_str().to_owned()),
            actor: Set(context.actor().to_string()),
            action: Set(granted.action().as_str().to_owned()),
            kind: Set(resource.kind.to_owned()),
            object: Set(resource.id.clone()),
            request_id: Set(context.request_id().to_owned()),
            outcome: Set(outcome.as_str().to_owned()),
            detail: Set(detail.to_owned()),
        };
        audit::Entity::insert(row).exec_without_returning(&self.txn).await.map_err(db)?;
        Ok(())
    }

    /// Makes it all durable, then tells the watchers. It runs to its end even when the caller
    /// goes away (a client that hangs up), or a watcher would not hear of what was committed.
    pub(crate) async fn commit(self) -> Result<()> {
        let Self { inner, txn, seq, .. } = self;
        let done = tokio::spawn(async move {
            txn.commit().await.map_err(db)?;
            if let Some(seq) = seq {
                inner.latest.send_if_modified(|latest| {
                    let news = seq > *latest;
                    *latest = seq.max(*latest);
                    news
                });
            }
            Ok(())
        });
        done.await.unwrap_or_else(|e| Err(Error::internal("the store is shutting down", e)))
    }
}

#[cfg(test)]
mod tests {
    use clawfarm_model::Context;
    use sea_orm::ConnectionTrait;

    use super::*;
    use crate::store::{Store, StoreConfig};

    #[tokio::test]
    async fn what_is_acknowledged_after_a_broken_transaction_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("clawfarm.db");
        let open = || Store::open(StoreConfig::sqlite(&path, MasterKey::from_bytes([7; 32])));
        let store = open().await.unwrap();
        let system = Context::system("test");
        for _ in 0..2 {
            // As SQLite does by itself when it finds the disk full.
            let tx = Tx::begin(&store.0).await.unwrap();
            tx.on().execute_unprepared("ROLLBACK").await.unwrap();
            drop(tx);
            drop(Tx::begin(&store.0).await);
        }
        store.meta_set(&system, "node", "n1").await.unwrap();
        assert_eq!(store.meta_get(&system, "node").await.unwrap().as_deref(), Some("n1"));
        store.close().await;
        let store = open().await.unwrap();
        assert_eq!(store.meta_get(&system, "node").await.unwrap().as_deref(), Some("n1"));
    }
}
