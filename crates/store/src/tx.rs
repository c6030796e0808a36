//! One change: the rows, the events and the audit entry that go together.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use clawfarm_model::event::NewEvent;
use clawfarm_model::{ClawId, Error, Granted, Result, Timestamp};
use sea_orm::{ActiveValue::NotSet, ActiveValue::Set, DatabaseConnection, DatabaseTransaction, EntityTrait};

use crate::audit::Outcome;
use crate::backend;
use crate::convert::to_word;
use crate::entity::{audit, event};
use crate::error::db;
use crate::keyring::Keyring;
use crate::signals::News;
use crate::store::Inner;

/// A transaction that may write. Dropped without [`Tx::commit`], it changes nothing.
pub(crate) struct Tx {
    inner: Arc<Inner>,
    txn: DatabaseTransaction,
    /// The events it tells of. They are written last, see [`Tx::commit`].
    events: Vec<event::ActiveModel>,
    /// The operations that it changes.
    operations: BTreeSet<String>,
    /// The instances that it leaves messages for.
    inbox: BTreeSet<String>,
    /// One time for everything in it.
    pub(crate) now: Timestamp,
}

impl Tx {
    pub(crate) async fn begin(inner: &Arc<Inner>) -> Result<Self> {
        Self::begin_on(inner, &inner.writer).await
    }

    /// A change of what a server says of itself, on a connection that it has for that alone.
    pub(crate) async fn begin_beat(inner: &Arc<Inner>) -> Result<Self> {
        Self::begin_on(inner, inner.beats.as_ref().unwrap_or(&inner.writer)).await
    }

    async fn begin_on(inner: &Arc<Inner>, connection: &DatabaseConnection) -> Result<Self> {
        clawfarm_failpoint::point!(StoreBegin);
        inner.folder.as_deref().map_or(Ok(()), backend::check_writable)?;
        let txn = backend::begin(connection).await.map_err(db)?;
        Ok(Self {
            inner: Arc::clone(inner),
            txn,
            events: Vec::new(),
            operations: BTreeSet::new(),
            inbox: BTreeSet::new(),
            now: Timestamp::now(),
        })
    }

    /// What the queries of this change run on.
    pub(crate) const fn on(&self) -> &DatabaseTransaction {
        &self.txn
    }

    /// What its secrets are sealed under.
    pub(crate) fn keyring(&self) -> &Keyring {
        &self.inner.keyring
    }

    /// Writes an event of a tenant, of one of its instances where it is about one.
    pub(crate) fn event(&mut self, tenant: &str, instance: Option<&ClawId>, event: &NewEvent) -> Result<()> {
        self.events.push(event::ActiveModel {
            seq: NotSet,
            at: Set(self.now.as_millis()),
            tenant: Set(tenant.to_owned()),
            instance: Set(instance.map(|id| id.as_str().to_owned())),
            level: Set(to_word(&event.level)?),
            reason: Set(event.reason.to_owned()),
            message: Set(storable(&event.message)),
        });
        Ok(())
    }

    /// Has those told who wait for this operation.
    pub(crate) fn operation_changed(&mut self, id: &str) {
        self.operations.insert(id.to_owned());
    }

    /// Has those told who deliver messages to this instance.
    pub(crate) fn message_for(&mut self, instance: &str) {
        self.inbox.insert(instance.to_owned());
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
            object: Set(storable(&resource.id)),
            request_id: Set(storable(context.request_id())),
            outcome: Set(outcome.as_str().to_owned()),
            detail: Set(storable(detail)),
        };
        audit::Entity::insert(row).exec_without_returning(&self.txn).await.map_err(db)?;
        Ok(())
    }

    /// Makes it all durable, then tells the watchers. It runs to its end even when the caller
    /// goes away (a client that hangs up), or a watcher would not hear of what was committed.
    ///
    /// Events are numbered last, under a lock that is held until the commit is seen by all:
    /// so a reader who has seen a number has seen all below it, and whoever holds the lock
    /// waits for nobody.
    pub(crate) async fn commit(self) -> Result<()> {
        let Self { inner, txn, events, operations, inbox, .. } = self;
        let done = tokio::spawn(async move {
            let asked_after_by = backend::before_commit(&txn, !events.is_empty()).await?;
            let mut latest = None;
            for row in events {
                latest = Some(event::Entity::insert(row).exec(&txn).await.map_err(db)?.last_insert_id);
            }
            clawfarm_failpoint::point!(StoreBeforeCommit);
            backend::commit(txn, asked_after_by.as_deref(), &inner.reader).await?;
            inner.signals.committed(News { latest, operations, inbox });
            clawfarm_failpoint::point!(StoreAfterCommit);
            Ok(())
        });
        done.await.unwrap_or_else(|e| Err(Error::internal("the store is shutting down", e)))
    }
}

/// Text as both databases can hold it: PostgreSQL has no NUL characters, and what a claw said
/// may have some.
pub(crate) fn storable(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

/// How often a change is made again that the database ended because of another one.
const TRIES: u32 = 5;

/// Counts the tries of a change. Under PostgreSQL two changes may each wait for what the other
/// holds; one of them is ended then, and can be made again from its beginning.
#[derive(Default)]
pub(crate) struct Tries(u32);

impl Tries {
    /// Whether to try again after this error, after a short while.
    pub(crate) async fn again(&mut self, error: &Error) -> bool {
        self.0 += 1;
        if self.0 >= TRIES || !backend::is_collision(error) {
            return false;
        }
        // Each another while, or they would meet again.
        let random = getrandom::u32().unwrap_or(0) % 20;
        tokio::time::sleep(Duration::from_millis(u64::from(random * self.0))).await;
        true
    }
}

#[cfg(test)]
mod tests {
    use clawfarm_model::Context;
    use sea_orm::ConnectionTrait;

    use super::*;
    use crate::key::MasterKey;
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
