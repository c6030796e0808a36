//! Counting instances, without reading them.

use clawfarm_model::name::TargetName;
use clawfarm_model::{ClawId, Context, Phase, Result};
use sea_orm::{
    ColumnTrait, ConnectionTrait, EntityTrait, ExprTrait, PaginatorTrait, QueryFilter, QuerySelect,
};

use super::create::{Idempotency, replay};
use super::read::{InstanceFilter, live, narrow};
use crate::entity::instance;
use crate::error::db;
use crate::guard::{server_only, visible};
use crate::store::Store;

impl Store {
    /// How many instances there are.
    ///
    /// # Errors
    /// When the filter is wrong, or the database fails.
    pub async fn count_instances(&self, context: &Context, filter: &InstanceFilter) -> Result<u64> {
        let query = visible(instance::Entity::find(), context, instance::Column::Tenant);
        narrow(query, filter)?.count(&self.0.reader).await.map_err(db)
    }

    /// How many instances of all tenants are in each phase; for the server's own tasks.
    ///
    /// # Errors
    /// When the context is a tenant's, or the database fails.
    pub async fn count_by_phase(&self, context: &Context) -> Result<Vec<(Phase, u64)>> {
        server_only(context, "the count by phase")?;
        use instance::Column as C;
        let rows: Vec<(String, i64)> = live(instance::Entity::find())
            .select_only()
            .column(C::Phase)
            .column_as(C::Id.count(), "instances")
            .group_by(C::Phase)
            .into_tuple()
            .all(&self.0.reader)
            .await
            .map_err(db)?;
        Ok(rows
            .into_iter()
            .filter_map(|(phase, count)| Some((Phase::from_name(&phase)?, u64::try_from(count).ok()?)))
            .collect())
    }

    /// The memory, in MiB, that is promised to the instances of all tenants which are up on a
    /// target; for the server's own tasks.
    ///
    /// # Errors
    /// When the context is a tenant's, or the database fails.
    pub async fn promised_memory_mib(&self, context: &Context, target: &TargetName) -> Result<u64> {
        server_only(context, "the promised memory")?;
        promised(&self.0.reader, target).await
    }

    /// What an earlier creation with this key made, when there was one.
    ///
    /// # Errors
    /// `InvalidInput` for a key that can't be one, `Conflict` when it was used for another
    /// request.
    pub async fn replayed(&self, context: &Context, key: &Idempotency) -> Result<Option<(ClawId, String)>> {
        let tenant = context.tenant()?.as_str();
        replay(&self.0.reader, tenant, &self.keyed(key)?).await
    }
}

pub(super) async fn promised(on: &impl ConnectionTrait, target: &TargetName) -> Result<u64> {
    use instance::Column as C;
    let up = Phase::ALL.into_iter().filter(|p| p.holds_memory()).map(Phase::as_str);
    let query = instance::Entity::find()
        .select_only()
        .column_as(C::MemoryMib.into_expr().sum().cast_as("bigint"), "promised")
        .filter(C::Target.eq(target.as_str()))
        .filter(C::Phase.is_in(up));
    let sum: Option<Option<i64>> = query.into_tuple().one(on).await.map_err(db)?;
    Ok(sum.flatten().and_then(|s| u64::try_from(s).ok()).unwrap_or(0))
}
