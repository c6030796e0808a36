//! What people see of messages and do to them, and what time does.

use clawfarm_model::event::NewEvent;
use clawfarm_model::inbox::{InboxMessage, InboxState};
use clawfarm_model::name::TenantName;
use clawfarm_model::{Action, ClawId, Context, Error, Granted, Result};
use sea_orm::sea_query::{Expr, ExprTrait as _};
use sea_orm::{ColumnTrait, Condition, EntityTrait, QueryFilter, QueryOrder, QuerySelect};

use super::{TELLS, Told, message};
use crate::audit::Outcome;
use crate::convert::to_word;
use crate::entity::inbox;
use crate::error::db;
use crate::guard::{about, fits, visible};
use crate::store::Store;
use crate::tx::Tx;

/// Rows that one transaction removes.
const BATCH: u64 = 500;

impl Store {
    /// Messages of an instance, oldest first, at most `limit`; those after `after` (an id) when
    /// it is given.
    ///
    /// # Errors
    /// `NotFound` when there is no message `after`, or the database fails.
    pub async fn messages(
        &self,
        context: &Context,
        instance: &ClawId,
        state: Option<InboxState>,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Vec<InboxMessage>> {
        use inbox::Column as C;
        let limit = crate::page::PageRequest::after(None, limit).rows()?;
        let own = || {
            visible(inbox::Entity::find(), context, C::Tenant)
                .filter(C::Instance.eq(instance.as_str()))
                .select_only()
                .columns(TELLS)
        };
        let mut query = own().order_by_asc(C::Seq).limit(limit as u64);
        if let Some(state) = state {
            query = query.filter(C::State.eq(to_word(&state)?));
        }
        if let Some(after) = after {
            let place: Option<Told> =
                own().filter(C::Id.eq(after)).into_tuple().one(&self.0.reader).await.map_err(db)?;
            let place = place.ok_or_else(|| {
                Error::not_found("message", after)
                    .field("after")
                    .fix("it was delivered or dropped meanwhile: read from the beginning")
            })?;
            query = query.filter(C::Seq.gt(place.0));
        }
        let rows: Vec<Told> = query.into_tuple().all(&self.0.reader).await.map_err(db)?;
        rows.into_iter().map(message).collect()
    }

    /// One message of an instance.
    ///
    /// # Errors
    /// `NotFound` when there is none, or the instance is another tenant's.
    pub async fn message(&self, context: &Context, instance: &ClawId, id: &str) -> Result<InboxMessage> {
        use inbox::Column as C;
        let row: Option<Told> = visible(inbox::Entity::find(), context, C::Tenant)
            .filter(C::Instance.eq(instance.as_str()))
            .filter(C::Id.eq(id))
            .select_only()
            .columns(TELLS)
            .into_tuple()
            .one(&self.0.reader)
            .await
            .map_err(db)?;
        message(row.ok_or_else(|| Error::not_found("message", id))?)
    }

    /// Has one message that was given up tried again, or all of an instance; says how many.
    ///
    /// The leave must be for [`Action::InstanceUse`] on the instance.
    ///
    /// # Errors
    /// When the leave is not for this instance, or the database fails.
    pub async fn replay_messages(
        &self,
        granted: &Granted,
        instance: &ClawId,
        id: Option<&str>,
    ) -> Result<u64> {
        use inbox::Column as C;
        let mut tx = self.begin_managing(granted, instance).await?;
        let changed = inbox::Entity::update_many()
            .col_expr(C::State, Expr::value(to_word(&InboxState::Waiting)?))
            .col_expr(C::Attempts, Expr::value(0_i64))
            .col_expr(C::NextAt, Expr::value(0_i64))
            // Its time begins anew, or the next look at old ones would give it up again. For how
            // long it is kept counts from when it came.
            .col_expr(C::ReplayedAt, Expr::value(tx.now.as_millis()))
            .filter(which(instance, id))
            .filter(C::State.eq(to_word(&InboxState::Dead)?))
            .exec(tx.on())
            .await
            .map_err(db)?
            .rows_affected;
        if changed > 0 {
            tx.message_for(instance.as_str());
            managed(&mut tx, granted, instance, "inbox-replayed", format!("{} tried again", many(changed)))
                .await?;
            tx.commit().await?;
        }
        Ok(changed)
    }

    /// Removes one message for good, or all of an instance in that state; says how many.
    ///
    /// # Errors
    /// As for [`Self::replay_messages`].
    pub async fn drop_messages(
        &self,
        granted: &Granted,
        instance: &ClawId,
        id: Option<&str>,
        state: Option<InboxState>,
    ) -> Result<u64> {
        use inbox::Column as C;
        let mut tx = self.begin_managing(granted, instance).await?;
        let mut gone = inbox::Entity::delete_many().filter(which(instance, id));
        if let Some(state) = state {
            gone = gone.filter(C::State.eq(to_word(&state)?));
        }
        let gone = gone.exec(tx.on()).await.map_err(db)?.rows_affected;
        if gone > 0 {
            // What waited behind them can go now.
            tx.message_for(instance.as_str());
            managed(&mut tx, granted, instance, "inbox-dropped", format!("{} dropped", many(gone))).await?;
            tx.commit().await?;
        }
        Ok(gone)
    }

    async fn begin_managing(&self, granted: &Granted, instance: &ClawId) -> Result<Tx> {
        fits(granted, &[Action::InstanceUse], "instance")?;
        let tx = Tx::begin(&self.0).await?;
        let row = tx.instance(instance.as_str()).await?;
        about(granted, &row.tenant, "instance", instance.as_str())?;
        Ok(tx)
    }

    /// Gives up what has waited since before `before`.
    pub(crate) async fn give_up_old_messages(&self, before: i64) -> Result<()> {
        use inbox::Column as C;
        let old = || -> Result<Condition> {
            Ok(Condition::all()
                .add(C::State.eq(to_word(&InboxState::Waiting)?))
                .add(C::ReceivedAt.lt(before))
                .add(C::ReplayedAt.is_null().or(C::ReplayedAt.lt(before))))
        };
        let rows: Vec<(String, String, i64)> = inbox::Entity::find()
            .select_only()
            .columns([C::Tenant, C::Instance])
            .column_as(C::Seq.count(), "messages")
            .filter(old()?)
            .group_by(C::Tenant)
            .group_by(C::Instance)
            .into_tuple()
            .all(&self.0.reader)
            .await
            .map_err(db)?;
        for (tenant, instance, count) in rows {
            let id = crate::convert::name("message", &instance, &instance)?;
            let mut tx = Tx::begin(&self.0).await?;
            inbox::Entity::update_many()
                .col_expr(C::State, Expr::value(to_word(&InboxState::Dead)?))
                .col_expr(C::NextAt, Expr::value(0_i64))
                .col_expr(C::LastError, Expr::value(Some("its claw did not take it in time".to_owned())))
                .filter(old()?)
                .filter(C::Instance.eq(instance.as_str()))
                .exec(tx.on())
                .await
                .map_err(db)?;
            let count = u64::try_from(count).unwrap_or(0);
            let event = NewEvent::warning(
                "inbox-dead",
                format!("{} given up: too old; see 'clawfarm inbox ls {instance} --dead'", many(count)),
            );
            tx.event(&tenant, Some(&id), &event)?;
            tx.commit().await?;
        }
        Ok(())
    }

    /// Removes what was given up and is older than `before`.
    pub(crate) async fn prune_messages(&self, before: i64) -> Result<u64> {
        use inbox::Column as C;
        let mut gone = 0;
        loop {
            let old: Vec<i64> = inbox::Entity::find()
                .select_only()
                .column(C::Seq)
                .filter(C::State.eq(to_word(&InboxState::Dead)?))
                .filter(C::ReceivedAt.lt(before))
                .limit(BATCH)
                .into_tuple()
                .all(&self.0.reader)
                .await
                .map_err(db)?;
            if old.is_empty() {
                return Ok(gone);
            }
            let tx = Tx::begin(&self.0).await?;
            let removed = inbox::Entity::delete_many()
                .filter(C::Seq.is_in(old))
                .filter(C::State.eq(to_word(&InboxState::Dead)?))
                .exec(tx.on())
                .await
                .map_err(db)?;
            tx.commit().await?;
            gone += removed.rows_affected;
        }
    }
}

impl Tx {
    /// Removes the messages of an instance that goes, and tells how many.
    pub(crate) async fn drop_messages_of(&mut self, tenant: &TenantName, instance: &ClawId) -> Result<()> {
        let gone = inbox::Entity::delete_many()
            .filter(inbox::Column::Instance.eq(instance.as_str()))
            .exec(self.on())
            .await
            .map_err(db)?
            .rows_affected;
        if gone > 0 {
            let event = NewEvent::warning("inbox-dropped", format!("{} dropped with it", many(gone)));
            self.event(tenant.as_str(), Some(instance), &event)?;
        }
        Ok(())
    }
}

async fn managed(
    tx: &mut Tx,
    granted: &Granted,
    instance: &ClawId,
    reason: &'static str,
    what: String,
) -> Result<()> {
    let event = NewEvent::info(reason, what);
    tx.event(granted.resource().tenant.as_str(), Some(instance), &event)?;
    tx.audit(granted, Outcome::Done, &event.message).await
}

fn which(instance: &ClawId, id: Option<&str>) -> Condition {
    let all = Condition::all().add(inbox::Column::Instance.eq(instance.as_str()));
    match id {
        Some(id) => all.add(inbox::Column::Id.eq(id)),
        None => all,
    }
}

fn many(count: u64) -> String {
    if count == 1 { "1 message is".to_owned() } else { format!("{count} messages are") }
}
