//! What deliverers read and write.

use std::collections::BTreeSet;
use std::sync::Arc;

use clawfarm_model::event::NewEvent;
use clawfarm_model::inbox::InboxState;
use clawfarm_model::{Action, ClawId, Context, Granted, Result, Timestamp};
use sea_orm::sea_query::{Expr, ExprTrait as _, Query, SelectStatement};
use sea_orm::{
    ColumnTrait, Condition, ConnectionTrait as _, EntityTrait, JoinType, Order, QueryFilter, QueryOrder,
    QuerySelect,
};

use crate::convert::{name, number, time, to_word};
use crate::crypto::Sealed;
use crate::entity::inbox;
use crate::error::db;
use crate::guard::{about, fits, server_only, visible};
use crate::store::{Inner, Store};
use crate::tx::Tx;

/// The oldest message of a lane, which is to be tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Its id.
    pub id: String,
    /// When it was taken in, or last wanted again.
    pub since: Timestamp,
    /// How often it was tried.
    pub attempts: u32,
}

/// What became of a try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tried {
    /// The claw has it.
    Delivered,
    /// It is tried again after this time.
    Later {
        /// Not before this.
        next_at: Timestamp,
        /// Why it was not delivered.
        error: String,
    },
    /// It is given up, until somebody has it tried again.
    Dead {
        /// Why.
        error: String,
    },
}

/// What there is of messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Depth {
    /// Those that wait.
    pub waiting: u64,
    /// Those that were given up.
    pub dead: u64,
    /// When the oldest that waits was taken in.
    pub oldest: Option<Timestamp>,
}

/// Which instances have messages to be delivered: told by whichever server on the database took
/// them in.
pub struct InboxNews(Arc<Inner>);

impl InboxNews {
    /// The instances with new messages since the last call; waits until there are some. None at
    /// all when some may have been missed: then [`Store::instances_with_messages`] knows.
    pub async fn next(&self) -> BTreeSet<ClawId> {
        loop {
            if let Some(told) = self.0.signals.take_inbox() {
                return told.into_iter().filter_map(|id| ClawId::new(id).ok()).collect();
            }
            self.0.signals.delivered_to.notified().await;
        }
    }
}

/// The oldest message of each lane, in [`heads`].
const HEAD: &str = "head";

/// The oldest message of each lane of an instance, as a part of a query. Answered by one index alone
/// (`inbox_heads`): were a lane's first asked for by its number, its whole row would be read.
fn heads(id: &ClawId) -> Result<SelectStatement> {
    use inbox::Column as C;
    let waiting = to_word(&InboxState::Waiting)?;
    let firsts = Query::select()
        .column(C::Lane)
        .expr_as(Expr::col(C::Seq).min(), "first")
        .from(inbox::Entity)
        .and_where(Expr::col(C::Instance).eq(id.as_str()))
        .and_where(Expr::col(C::State).eq(waiting.clone()))
        .group_by_col(C::Lane)
        .take();
    let same = Condition::all()
        .add(Expr::col((HEAD, C::Instance)).eq(id.as_str()))
        .add(Expr::col((HEAD, C::State)).eq(waiting))
        .add(Expr::col((HEAD, C::Lane)).equals(("lanes", C::Lane)))
        // There is none before the first.
        .add(Expr::col((HEAD, C::Seq)).lte(Expr::col(("lanes", "first"))));
    let mut query = Query::select();
    query.from_subquery(firsts, "lanes").join_as(JoinType::InnerJoin, inbox::Entity, HEAD, same);
    Ok(query)
}

impl Store {
    /// News for the one deliverer of a server. What was told before it is known by
    /// [`Store::instances_with_messages`].
    #[must_use]
    pub fn inbox_news(&self) -> InboxNews {
        InboxNews(Arc::clone(&self.0))
    }

    /// The instances that messages wait for, of all tenants.
    ///
    /// # Errors
    /// When the context is a tenant's, or the database fails.
    pub async fn instances_with_messages(&self, context: &Context) -> Result<Vec<ClawId>> {
        server_only(context, "the list of messages to deliver")?;
        use inbox::Column as C;
        let ids: Vec<String> = inbox::Entity::find()
            .select_only()
            .column(C::Instance)
            .distinct()
            .filter(C::State.eq(to_word(&InboxState::Waiting)?))
            .into_tuple()
            .all(&self.0.reader)
            .await
            .map_err(db)?;
        ids.iter().map(|id| name("message", id, id)).collect()
    }

    /// The oldest message of each lane of an instance that is to be tried by `now`, the oldest lane
    /// first, at most `limit`.
    ///
    /// # Errors
    /// When the context is a tenant's, or the database fails.
    pub async fn inbox_heads(
        &self,
        context: &Context,
        id: &ClawId,
        now: Timestamp,
        limit: u64,
    ) -> Result<Vec<Head>> {
        server_only(context, "the list of messages to deliver")?;
        use inbox::Column as C;
        let mut due = heads(id)?;
        due.expr_as(Expr::col((HEAD, C::Seq)), "seq")
            .and_where(Expr::col((HEAD, C::NextAt)).lte(now.as_millis()))
            .order_by((HEAD, C::Seq), Order::Asc)
            .limit(limit);
        let due = self.0.reader.query_all(&due).await.map_err(db)?;
        let due: Vec<i64> =
            due.iter().map(|row| row.try_get("", "seq")).collect::<Result<_, _>>().map_err(db)?;
        let rows: Vec<(String, i64, Option<i64>, i64)> = inbox::Entity::find()
            .select_only()
            .columns([C::Id, C::ReceivedAt, C::ReplayedAt, C::Attempts])
            .filter(C::Seq.is_in(due))
            .order_by_asc(C::Seq)
            .into_tuple()
            .all(&self.0.reader)
            .await
            .map_err(db)?;
        rows.into_iter()
            .map(|(id, received, replayed, attempts)| {
                let attempts = number("message", &id, attempts)?;
                Ok(Head { since: time(replayed.unwrap_or(received)), attempts, id })
            })
            .collect()
    }

    /// When the next of an instance's lanes is to be tried that is not by `now`.
    ///
    /// # Errors
    /// As for [`Self::inbox_heads`].
    pub async fn inbox_next(
        &self,
        context: &Context,
        id: &ClawId,
        now: Timestamp,
    ) -> Result<Option<Timestamp>> {
        server_only(context, "the list of messages to deliver")?;
        use inbox::Column as C;
        let mut next = heads(id)?;
        next.expr_as(Expr::col((HEAD, C::NextAt)).min(), "next")
            .and_where(Expr::col((HEAD, C::NextAt)).gt(now.as_millis()));
        let row = self.0.reader.query_one(&next).await.map_err(db)?;
        let next: Option<i64> = row.map(|row| row.try_get("", "next")).transpose().map_err(db)?.flatten();
        Ok(next.map(time))
    }

    /// What a message says, packed as it was taken in; `None` when there is none of that id or
    /// it is another tenant's.
    ///
    /// # Errors
    /// When it can't be decrypted: it was altered, or moved from another row.
    pub async fn message_content(
        &self,
        context: &Context,
        instance: &ClawId,
        id: &str,
    ) -> Result<Option<Vec<u8>>> {
        use inbox::Column as C;
        let row = visible(inbox::Entity::find(), context, C::Tenant)
            .filter(C::Instance.eq(instance.as_str()))
            .filter(C::Id.eq(id))
            .one(&self.0.reader)
            .await
            .map_err(db)?;
        let Some(row) = row else { return Ok(None) };
        let sealed = Sealed { wrapped_key: row.wrapped_key, value: row.content };
        let plain = self.0.unseal([&row.tenant, &row.instance, &row.id], &sealed).await?;
        Ok(Some(plain.to_vec()))
    }

    /// Writes down what became of a try. A message that is no longer waiting (somebody dropped
    /// it, or its instance went) stays as it is.
    ///
    /// The leave must be for [`Action::Observe`] on the instance, under the lease that the try
    /// was made under.
    ///
    /// # Errors
    /// One that [`is_fenced`](clawfarm_model::is_fenced) when the lease is another server's by
    /// now; `NotFound` when the instance is gone.
    pub async fn message_tried(
        &self,
        granted: &Granted,
        instance: &ClawId,
        id: &str,
        tried: &Tried,
    ) -> Result<()> {
        fits(granted, &[Action::Observe], "instance")?;
        about(granted, granted.resource().tenant.as_str(), "instance", instance.as_str())?;
        use inbox::Column as C;
        let mut tx = Tx::begin(&self.0).await?;
        tx.check_fence(granted.fence()).await?;
        let tenant = granted.resource().tenant.clone();
        let which = sea_orm::Condition::all()
            .add(C::Tenant.eq(tenant.as_str()))
            .add(C::Instance.eq(instance.as_str()))
            .add(C::Id.eq(id))
            .add(C::State.eq(to_word(&InboxState::Waiting)?));
        let mut update = inbox::Entity::update_many().filter(which.clone());
        match tried {
            Tried::Delivered => {
                inbox::Entity::delete_many().filter(which).exec(tx.on()).await.map_err(db)?;
                return tx.commit().await;
            }
            Tried::Later { next_at, error } => {
                update = update
                    .col_expr(C::NextAt, Expr::value(next_at.as_millis()))
                    .col_expr(C::LastError, Expr::value(Some(crate::tx::storable(error))));
            }
            Tried::Dead { error } => {
                update = update
                    .col_expr(C::State, Expr::value(to_word(&InboxState::Dead)?))
                    .col_expr(C::NextAt, Expr::value(0_i64))
                    .col_expr(C::LastError, Expr::value(Some(crate::tx::storable(error))));
                let event = NewEvent::warning(
                    "inbox-dead",
                    format!("message {id} was given up: {error}; see 'clawfarm inbox ls {instance} --dead'"),
                );
                tx.event(tenant.as_str(), Some(instance), &event)?;
            }
        }
        let changed =
            update.col_expr(C::Attempts, C::Attempts.into_expr().add(1)).exec(tx.on()).await.map_err(db)?;
        if changed.rows_affected == 0 {
            return Ok(());
        }
        tx.commit().await
    }

    /// How many messages there are, of all tenants.
    ///
    /// # Errors
    /// When the context is a tenant's, or the database fails.
    pub async fn inbox_depth(&self, context: &Context) -> Result<Depth> {
        server_only(context, "the number of messages")?;
        use inbox::Column as C;
        let rows: Vec<(String, i64, Option<i64>)> = inbox::Entity::find()
            .select_only()
            .column(C::State)
            .column_as(C::Seq.count(), "messages")
            .column_as(C::ReceivedAt.min(), "oldest")
            .group_by(C::State)
            .into_tuple()
            .all(&self.0.reader)
            .await
            .map_err(db)?;
        let mut depth = Depth::default();
        let waiting = to_word(&InboxState::Waiting)?;
        for (state, count, oldest) in rows {
            let count = u64::try_from(count).unwrap_or(0);
            if state == waiting {
                (depth.waiting, depth.oldest) = (count, oldest.map(time));
            } else {
                depth.dead = count;
            }
        }
        Ok(depth)
    }
}
