//! Keeping history bounded: events and operations by age and by count of an instance, destroyed
//! instances and the keys of creations by age. The audit log is never pruned.
//!
//! It is done in small transactions, so that writers hardly wait, and each look costs what
//! changed since the last one, not what there is.

use std::collections::BTreeMap;
use std::time::Duration;

use clawfarm_model::{ClawId, Code, Context, Error, OperationState, Phase, Result};
use sea_orm::ActiveValue::Set;
use sea_orm::sea_query::{Expr, OnConflict};
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect};

use crate::convert::to_word;
use crate::entity::{event, event_mark, idempotency_key, instance, operation};
use crate::error::db;
use crate::guard::server_only;
use crate::store::{Store, fact, put_fact};
use crate::tx::Tx;

/// Where the last look at counts ended: a number of an event.
const LOOKED: &str = "store.retention_looked";
/// Rows that one transaction removes: some milliseconds of work.
const BATCH: u64 = 500;

/// How much history is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Events, ended operations and destroyed instances are kept for so long.
    pub age: Duration,
    /// The newest events of an instance that are kept.
    pub events: u64,
    /// The newest ended operations of an instance that are kept.
    pub operations: u64,
    /// For how long a creation sent again under its key is not a second one. Clients repeat
    /// within minutes; a day is what payment services keep theirs.
    pub keys: Duration,
    /// A message that its claw did not take in so long is given up.
    pub messages: Duration,
}

impl Default for Retention {
    fn default() -> Self {
        let day = Duration::from_secs(24 * 3600);
        Self { age: 30 * day, events: 1_000, operations: 100, keys: day, messages: 7 * day }
    }
}

/// How many rows went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Events.
    pub events: u64,
    /// Operations.
    pub operations: u64,
    /// Keys of creations.
    pub keys: u64,
    /// Destroyed instances.
    pub instances: u64,
    /// Messages that were given up long ago.
    pub messages: u64,
}

impl Store {
    /// Removes what is beyond the bounds; for the server's own tasks.
    ///
    /// # Errors
    /// When the context is a tenant's, or the database fails; what was removed by then stays
    /// removed.
    pub async fn prune(&self, context: &Context, keep: &Retention) -> Result<Pruned> {
        server_only(context, "pruning history")?;
        // The database's clock: of several servers one may have a wrong one, and would remove
        // what all of them keep.
        let now = crate::servers::database_now(&self.0.reader).await?;
        let before = now.saturating_sub(crate::servers::millis(keep.age));
        let mut pruned = Pruned { events: self.prune_old_events(before, now).await?, ..Pruned::default() };
        for instance in self.changed_since_last_look().await? {
            pruned.events += self.prune_surplus_events(&instance, keep.events).await?;
            pruned.operations += self.prune_surplus_operations(&instance, keep.operations).await?;
        }
        pruned.operations += self.prune_old_operations(before).await?;
        pruned.keys = self.prune_keys(now.saturating_sub(crate::servers::millis(keep.keys))).await?;
        pruned.instances = self.prune_instances(before).await?;
        self.give_up_old_messages(now.saturating_sub(crate::servers::millis(keep.messages))).await?;
        pruned.messages = self.prune_messages(before).await?;
        Ok(pruned)
    }

    /// Refuses a place in the events from which nobody can read on without missing some.
    ///
    /// # Errors
    /// `Gone` on the field `after`, with the number from which on all are there.
    pub async fn check_events_after(
        &self,
        context: &Context,
        instance: Option<&ClawId>,
        after: i64,
    ) -> Result<()> {
        use event_mark::Column as C;
        let mut query = crate::guard::visible(event_mark::Entity::find(), context, C::Tenant)
            .select_only()
            .column_as(C::Gone.max(), "gone");
        query = query.filter(C::Instance.eq(instance.map_or("", ClawId::as_str)));
        let gone: Option<Option<i64>> = query.into_tuple().one(&self.0.reader).await.map_err(db)?;
        let latest = self.last_number().await?;
        if after > latest {
            return Err(Error::new(
                Code::Gone,
                format!(
                    "there is no event {after}: the last one is {latest}; an older state was restored since"
                ),
            )
            .field("after")
            .fix(format!("read on after {latest}, or give 0 to have all that are left")));
        }
        match gone.flatten() {
            Some(gone) if gone > after => Err(Error::new(
                Code::Gone,
                format!("events up to number {gone} are gone: they are kept for a time and in a number only"),
            )
            .field("after")
            .fix(format!("read on after {gone}, or give 0 to have all that are left"))),
            _ => Ok(()),
        }
    }

    /// The highest number that an event had, whether it is still there or not.
    async fn last_number(&self) -> Result<i64> {
        let there = crate::store::latest_event(&self.0.reader).await?;
        if there > 0 {
            return Ok(there);
        }
        let gone: Option<Option<i64>> = event_mark::Entity::find()
            .select_only()
            .column_as(event_mark::Column::Gone.max(), "gone")
            .into_tuple()
            .one(&self.0.reader)
            .await
            .map_err(db)?;
        Ok(gone.flatten().unwrap_or(0))
    }

    /// From the oldest on: numbers are in the order of time, so their beginning is the old ones.
    /// What was written when a clock was ahead stays until its time, and is in nobody's way.
    async fn prune_old_events(&self, before: i64, now: i64) -> Result<u64> {
        let mut gone = 0;
        loop {
            let rows: Vec<(i64, i64, String, Option<String>)> = event::Entity::find()
                .select_only()
                .columns([
                    event::Column::Seq,
                    event::Column::At,
                    event::Column::Tenant,
                    event::Column::Instance,
                ])
                .filter(event::Column::At.lte(now))
                .order_by_asc(event::Column::Seq)
                .limit(BATCH)
                .into_tuple()
                .all(&self.0.reader)
                .await
                .map_err(db)?;
            let old: Vec<_> = rows
                .into_iter()
                .take_while(|(_, at, ..)| *at < before)
                .map(|(seq, _, tenant, instance)| (seq, tenant, instance))
                .collect();
            let count = old.len() as u64;
            self.remove_events(old).await?;
            gone += count;
            if count < BATCH {
                return Ok(gone);
            }
        }
    }

    async fn prune_surplus_events(&self, id: &str, keep: u64) -> Result<u64> {
        use event::Column as C;
        let cut: Option<i64> = event::Entity::find()
            .select_only()
            .column(C::Seq)
            .filter(C::Instance.eq(id))
            .order_by_desc(C::Seq)
            .offset(keep)
            .limit(1)
            .into_tuple()
            .one(&self.0.reader)
            .await
            .map_err(db)?;
        let Some(cut) = cut else { return Ok(0) };
        let mut gone = 0;
        loop {
            let rows: Vec<(i64, String, Option<String>)> = event::Entity::find()
                .select_only()
                .columns([C::Seq, C::Tenant, C::Instance])
                .filter(C::Instance.eq(id))
                .filter(C::Seq.lte(cut))
                .order_by_asc(C::Seq)
                .limit(BATCH)
                .into_tuple()
                .all(&self.0.reader)
                .await
                .map_err(db)?;
            let count = rows.len() as u64;
            self.remove_events(rows).await?;
            gone += count;
            if count < BATCH {
                return Ok(gone);
            }
        }
    }

    /// Removes these events and marks whose they were, together.
    async fn remove_events(&self, rows: Vec<(i64, String, Option<String>)>) -> Result<()> {
        if rows.is_empty() {
            return Ok(());
        }
        let mut marks: BTreeMap<(String, String), i64> = BTreeMap::new();
        for (seq, tenant, instance) in &rows {
            for of in [instance.clone().unwrap_or_default(), String::new()] {
                let mark = marks.entry((tenant.clone(), of)).or_default();
                *mark = (*mark).max(*seq);
            }
        }
        let tx = Tx::begin(&self.0).await?;
        event::Entity::delete_many()
            .filter(event::Column::Seq.is_in(rows.iter().map(|(seq, ..)| *seq)))
            .exec(tx.on())
            .await
            .map_err(db)?;
        // In the order of their keys, so that two servers at it do not wait for each other.
        for ((tenant, instance), gone) in marks {
            use event_mark::Column as C;
            let row =
                event_mark::ActiveModel { tenant: Set(tenant), instance: Set(instance), gone: Set(gone) };
            let higher = Expr::cust(
                "CASE WHEN excluded.gone > event_marks.gone THEN excluded.gone ELSE event_marks.gone END",
            );
            let over = OnConflict::columns([C::Tenant, C::Instance]).value(C::Gone, higher).to_owned();
            event_mark::Entity::insert(row)
                .on_conflict(over)
                .exec_without_returning(tx.on())
                .await
                .map_err(db)?;
        }
        tx.commit().await
    }

    /// The instances that had events since the last look: only their counts can have grown.
    async fn changed_since_last_look(&self) -> Result<Vec<String>> {
        let latest = crate::store::latest_event(&self.0.reader).await?;
        let looked =
            fact(&self.0.reader, LOOKED).await?.and_then(|text| text.parse::<i64>().ok()).unwrap_or(0);
        let changed: Vec<Option<String>> = event::Entity::find()
            .select_only()
            .column(event::Column::Instance)
            .distinct()
            .filter(event::Column::Seq.gt(looked.min(latest)))
            .filter(event::Column::Instance.is_not_null())
            .into_tuple()
            .all(&self.0.reader)
            .await
            .map_err(db)?;
        let tx = Tx::begin(&self.0).await?;
        put_fact(tx.on(), LOOKED, latest.to_string(), tx.now).await?;
        tx.commit().await?;
        Ok(changed.into_iter().flatten().collect())
    }

    async fn prune_surplus_operations(&self, id: &str, keep: u64) -> Result<u64> {
        use operation::Column as C;
        let surplus: Vec<String> = operation::Entity::find()
            .select_only()
            .column(C::Id)
            .filter(C::Instance.eq(id))
            .filter(C::State.ne(to_word(&OperationState::Running)?))
            .order_by_desc(C::CreatedAt)
            .order_by_desc(C::Id)
            .offset(keep)
            .limit(BATCH)
            .into_tuple()
            .all(&self.0.reader)
            .await
            .map_err(db)?;
        self.remove_operations(surplus).await
    }

    async fn prune_old_operations(&self, before: i64) -> Result<u64> {
        use operation::Column as C;
        let mut gone = 0;
        loop {
            let old: Vec<String> = operation::Entity::find()
                .select_only()
                .column(C::Id)
                .filter(C::EndedAt.lt(before))
                .limit(BATCH)
                .into_tuple()
                .all(&self.0.reader)
                .await
                .map_err(db)?;
            let count = old.len() as u64;
            gone += self.remove_operations(old).await?;
            if count < BATCH {
                return Ok(gone);
            }
        }
    }

    async fn remove_operations(&self, ids: Vec<String>) -> Result<u64> {
        if ids.is_empty() {
            return Ok(0);
        }
        let tx = Tx::begin(&self.0).await?;
        let gone = operation::Entity::delete_many()
            .filter(operation::Column::Id.is_in(ids))
            .filter(operation::Column::State.ne(to_word(&OperationState::Running)?))
            .exec(tx.on())
            .await
            .map_err(db)?;
        tx.commit().await?;
        Ok(gone.rows_affected)
    }

    async fn prune_keys(&self, before: i64) -> Result<u64> {
        let tx = Tx::begin(&self.0).await?;
        let gone = idempotency_key::Entity::delete_many()
            .filter(idempotency_key::Column::CreatedAt.lt(before))
            .exec(tx.on())
            .await
            .map_err(db)?;
        tx.commit().await?;
        Ok(gone.rows_affected)
    }

    /// Destroyed instances; what they left behind is a dataset and stays.
    async fn prune_instances(&self, before: i64) -> Result<u64> {
        use instance::Column as C;
        let mut gone = 0;
        loop {
            let old: Vec<String> = instance::Entity::find()
                .select_only()
                .column(C::Id)
                .filter(C::Phase.eq(Phase::Destroyed.as_str()))
                .filter(C::UpdatedAt.lt(before))
                .limit(BATCH)
                .into_tuple()
                .all(&self.0.reader)
                .await
                .map_err(db)?;
            if old.is_empty() {
                return Ok(gone);
            }
            let tx = Tx::begin(&self.0).await?;
            event_mark::Entity::delete_many()
                .filter(event_mark::Column::Instance.is_in(old.iter().map(String::as_str)))
                .exec(tx.on())
                .await
                .map_err(db)?;
            let removed = instance::Entity::delete_many()
                .filter(C::Id.is_in(old))
                .filter(C::Phase.eq(Phase::Destroyed.as_str()))
                .exec(tx.on())
                .await
                .map_err(db)?;
            tx.commit().await?;
            gone += removed.rows_affected;
        }
    }
}
