//! Leases: each shard of a target is one server's to reconcile, for a time, and every write
//! of its reconciler is held against the lease in the same transaction.

use std::time::Duration;

use clawfarm_model::fence::Fence;
use clawfarm_model::name::TargetName;
use clawfarm_model::server::{Lease, Member};
use clawfarm_model::target::Target;
use clawfarm_model::{ClawId, Context, Error, Phase, Result};
use sea_orm::sea_query::{Expr, ExprTrait, LockBehavior, LockType, OnConflict};
use sea_orm::{ColumnTrait, Condition, EntityTrait, IntoActiveModel, QueryFilter, QueryOrder, QuerySelect};

use crate::convert::{name, number, to_word};
use crate::entity::{instance, lease, operation};
use crate::error::db;
use crate::guard::server_only;
use crate::servers::{millis, read_leases};
use crate::store::Store;
use crate::tx::Tx;

impl Store {
    /// Makes the leases of a target, where they are not there yet.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn make_leases(&self, context: &Context, target: &Target) -> Result<()> {
        server_only(context, "a lease")?;
        let rows = (0..target.shards()).map(|shard| {
            lease::Model {
                target: target.name.as_str().to_owned(),
                shard: i64::from(shard),
                holder: None,
                epoch: 0,
                expires_at: 0,
            }
            .into_active_model()
        });
        let tx = Tx::begin_beat(&self.0).await?;
        let there =
            OnConflict::columns([lease::Column::Target, lease::Column::Shard]).do_nothing().to_owned();
        lease::Entity::insert_many(rows)
            .on_conflict(there)
            .exec_without_returning(tx.on())
            .await
            .map_err(db)?;
        tx.commit().await
    }

    /// Takes what is free, or whose time is over, of these shards. Others may be quicker with
    /// some of them: what was taken is returned, with its new epochs.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn take_leases(
        &self,
        context: &Context,
        member: &Member,
        target: &TargetName,
        shards: &[u32],
        ttl: Duration,
    ) -> Result<Vec<Fence>> {
        server_only(context, "a lease")?;
        use lease::Column as C;
        let tx = Tx::begin_beat(&self.0).await?;
        // A row that a transaction of the former holder still reads is left for the next time:
        // a frozen server's would be waited for until the database ends it.
        let free: Vec<i64> = lease::Entity::find()
            .select_only()
            .column(C::Shard)
            .filter(C::Target.eq(target.as_str()))
            .filter(C::Shard.is_in(shards.iter().map(|s| i64::from(*s))))
            .filter(
                Condition::any()
                    .add(C::Holder.is_null())
                    .add(C::ExpiresAt.into_expr().lte(tx.database_clock())),
            )
            .lock_with_behavior(LockType::Update, LockBehavior::SkipLocked)
            .into_tuple()
            .all(tx.on())
            .await
            .map_err(db)?;
        if free.is_empty() {
            return Ok(Vec::new());
        }
        let which = Condition::all().add(C::Target.eq(target.as_str())).add(C::Shard.is_in(free));
        tx.give_leases(&member.node, which.clone(), ttl).await?;
        let rows = lease::Entity::find().filter(which).all(tx.on()).await.map_err(db)?;
        tx.commit().await?;
        rows.iter().map(fence).collect()
    }

    /// Gives these shards back, as far as the server still holds them.
    ///
    /// # Errors
    /// When the database does not answer; then their time runs out.
    pub async fn release_leases(&self, context: &Context, member: &Member, fences: &[Fence]) -> Result<()> {
        server_only(context, "a lease")?;
        use lease::Column as C;
        let tx = Tx::begin_beat(&self.0).await?;
        for fence in fences {
            lease::Entity::update_many()
                .col_expr(C::Holder, Expr::value(Option::<String>::None))
                .filter(C::Target.eq(fence.target.as_str()))
                .filter(C::Shard.eq(i64::from(fence.shard)))
                .filter(C::Holder.eq(member.node.as_str()))
                .filter(C::Epoch.eq(fence.epoch))
                .exec(tx.on())
                .await
                .map_err(db)?;
        }
        tx.commit().await
    }

    /// The ids of all instances that are not destroyed, with the targets they are on; for the
    /// server's own tasks.
    ///
    /// # Errors
    /// When the context is a tenant's, or the database fails.
    pub async fn placed_instances(&self, context: &Context) -> Result<Vec<(ClawId, TargetName)>> {
        server_only(context, "the list to reconcile")?;
        use instance::Column as C;
        let rows: Vec<(String, String)> = instance::Entity::find()
            .select_only()
            .column(C::Id)
            .column(C::Target)
            .filter(C::Phase.ne(Phase::Destroyed.as_str()))
            .order_by_asc(C::Id)
            .into_tuple()
            .all(&self.0.reader)
            .await
            .map_err(db)?;
        rows.iter()
            .map(|(id, target)| Ok((name("instance", id, id)?, name("instance", id, target)?)))
            .collect()
    }

    /// The instances on which an operation runs, of all tenants; for the server's own tasks.
    ///
    /// # Errors
    /// When the context is a tenant's, or the database fails.
    pub async fn instances_waited_for(&self, context: &Context) -> Result<Vec<ClawId>> {
        server_only(context, "the list of running operations")?;
        use operation::Column as C;
        let ids: Vec<Option<String>> = operation::Entity::find()
            .select_only()
            .column(C::Instance)
            .filter(C::State.eq(to_word(&clawfarm_model::OperationState::Running)?))
            .into_tuple()
            .all(&self.0.reader)
            .await
            .map_err(db)?;
        ids.iter().flatten().map(|id| name("instance", id, id)).collect()
    }
}

impl Tx {
    /// Refuses to go on when the lease that this change was decided under is no longer held.
    /// It stays locked against a change of hands until the change is committed: otherwise the
    /// next holder could read what it is about to write over.
    pub(crate) async fn check_fence(&self, fence: Option<&Fence>) -> Result<()> {
        use lease::Column as C;
        let Some(fence) = fence else { return Ok(()) };
        // By the epoch, so that whoever is too late locks nothing.
        let held = lease::Entity::find_by_id((fence.target.as_str().to_owned(), i64::from(fence.shard)))
            .filter(C::Epoch.eq(fence.epoch))
            .filter(C::Holder.is_not_null())
            .lock_shared()
            .one(self.on())
            .await
            .map_err(db)?;
        if held.is_some() { Ok(()) } else { Err(fence.refused()) }
    }

    pub(crate) async fn leases(&self, now: i64) -> Result<Vec<Lease>> {
        read_leases(self.on(), now).await
    }

    /// All leases of a node, for another while.
    pub(crate) async fn renew_leases(&self, node: &str, ttl: Duration) -> Result<()> {
        use lease::Column as C;
        lease::Entity::update_many()
            .col_expr(C::ExpiresAt, self.database_clock().add(millis(ttl)))
            .filter(C::Holder.eq(node))
            .exec(self.on())
            .await
            .map_err(db)?;
        Ok(())
    }

    /// What an earlier process of the node held.
    pub(crate) async fn retake_leases(&self, node: &str, ttl: Duration) -> Result<()> {
        self.give_leases(node, Condition::all().add(lease::Column::Holder.eq(node)), ttl).await
    }

    /// Nobody holds those of a target that is removed.
    pub(crate) async fn free_leases(&self, target: &TargetName) -> Result<()> {
        use lease::Column as C;
        lease::Entity::update_many()
            .col_expr(C::Holder, Expr::value(Option::<String>::None))
            .filter(C::Target.eq(target.as_str()))
            .exec(self.on())
            .await
            .map_err(db)?;
        Ok(())
    }

    pub(crate) async fn drop_leases(&self, node: &str) -> Result<()> {
        use lease::Column as C;
        lease::Entity::update_many()
            .col_expr(C::Holder, Expr::value(Option::<String>::None))
            .filter(C::Holder.eq(node))
            .exec(self.on())
            .await
            .map_err(db)?;
        Ok(())
    }

    /// A new epoch is at least the time: so it is above every earlier one also when the
    /// database was put back from a backup, and a runtime that remembers later epochs does not
    /// refuse everything from then on.
    async fn give_leases(&self, node: &str, which: Condition, ttl: Duration) -> Result<()> {
        use lease::Column as C;
        let next = C::Epoch.into_expr().add(1);
        let epoch = Expr::case(next.clone().gt(self.database_clock()), next).finally(self.database_clock());
        lease::Entity::update_many()
            .col_expr(C::Holder, Expr::value(Some(node.to_owned())))
            .col_expr(C::Epoch, epoch.into())
            .col_expr(C::ExpiresAt, self.database_clock().add(millis(ttl)))
            .filter(which)
            .exec(self.on())
            .await
            .map_err(db)?;
        Ok(())
    }
}

fn fence(row: &lease::Model) -> Result<Fence> {
    let id = row.target.as_str();
    Ok(Fence { target: name("lease", id, id)?, shard: number("lease", id, row.shard)?, epoch: row.epoch })
}

/// Whether a write is one of this instance, under the lease of its shard. A fence of another
/// shard would fence nothing.
pub(crate) fn check_about(fence: Option<&Fence>, id: &ClawId, target: &TargetName) -> Result<()> {
    match fence {
        Some(fence) if fence.target != *target => {
            Err(Error::internal("a write came under the lease of another target", id.as_str()))
        }
        _ => Ok(()),
    }
}
