//! Reading instances.

use std::collections::BTreeSet;

use clawfarm_model::name::{ClawType, ProjectName, TargetName};
use clawfarm_model::target::RuntimeKind;
use clawfarm_model::{ClawId, Context, Error, Instance, Phase, Result};
use sea_orm::sea_query::Query;
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect, Select};

use super::row::from_row;
use crate::convert::{name, number};
use crate::entity::{instance, label};
use crate::error::db;
use crate::guard::{server_only, visible};
use crate::page::{Page, PageRequest, Place, page};
use crate::store::Store;
use crate::tx::Tx;

const LIST: &str = "instances";

/// Which instances; all conditions hold together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InstanceFilter {
    /// In this phase.
    pub phase: Option<Phase>,
    /// Of this type.
    pub claw_type: Option<ClawType>,
    /// On this kind of runtime.
    pub runtime: Option<RuntimeKind>,
    /// On this target.
    pub target: Option<TargetName>,
    /// In this project.
    pub project: Option<ProjectName>,
    /// With a name that begins so.
    pub name_prefix: Option<String>,
    /// With each of these labels, of these values.
    pub labels: Vec<(String, String)>,
    /// Those that were destroyed too; asking for [`Phase::Destroyed`] includes them as well.
    pub include_destroyed: bool,
}

impl Store {
    /// One instance. A destroyed one is found too: its history stays.
    ///
    /// # Errors
    /// `NotFound` when there is none or it is another tenant's.
    pub async fn instance(&self, context: &Context, id: &ClawId) -> Result<Instance> {
        let row = visible(instance::Entity::find_by_id(id.as_str()), context, instance::Column::Tenant)
            .one(&self.0.reader)
            .await
            .map_err(db)?;
        from_row(&row.ok_or_else(|| Error::not_found("instance", id))?)
    }

    /// Instances, oldest first.
    ///
    /// # Errors
    /// When the filter, cursor or limit is wrong, or the database fails.
    pub async fn instances(
        &self,
        context: &Context,
        filter: &InstanceFilter,
        request: &PageRequest,
    ) -> Result<Page<Instance>> {
        use instance::Column as C;
        let limit = request.rows()?;
        let query = visible(instance::Entity::find(), context, C::Tenant);
        let mut query =
            narrow(query, filter)?.order_by_asc(C::CreatedAt).order_by_asc(C::Id).limit(limit as u64 + 1);
        if let Some(place) = request.place(LIST)? {
            query = query.filter(place.after(C::CreatedAt, C::Id));
        }
        let rows = query.all(&self.0.reader).await.map_err(db)?;
        page(rows, limit, LIST, |row| Place { at: row.created_at, id: row.id.clone() }, |row| from_row(&row))
    }

    /// The ids of all instances that are not destroyed, of all tenants; for the server's own
    /// tasks.
    ///
    /// # Errors
    /// When the context is a tenant's, or the database fails.
    pub async fn instance_ids_to_reconcile(&self, context: &Context) -> Result<Vec<ClawId>> {
        server_only(context, "the list to reconcile")?;
        let ids: Vec<String> = live(instance::Entity::find())
            .select_only()
            .column(instance::Column::Id)
            .order_by_asc(instance::Column::Id)
            .into_tuple()
            .all(&self.0.reader)
            .await
            .map_err(db)?;
        ids.iter().map(|id| name("instance", id, id)).collect()
    }

    /// Whether no instance of any tenant holds a port of a target; for the server's own tasks.
    /// Somebody else may take it before it is used, as with [`Self::ports_in_use`]; but one
    /// port is asked for by an index, however many instances there are.
    ///
    /// # Errors
    /// When the context is a tenant's, or the database fails.
    pub async fn port_is_free(&self, context: &Context, target: &TargetName, port: u16) -> Result<bool> {
        server_only(context, "a port's holder")?;
        let holder: Option<String> = instance::Entity::find()
            .select_only()
            .column(instance::Column::Id)
            .filter(instance::Column::Target.eq(target.as_str()))
            .filter(instance::Column::Port.eq(i64::from(port)))
            .into_tuple()
            .one(&self.0.reader)
            .await
            .map_err(db)?;
        Ok(holder.is_none())
    }

    /// The ports that instances of any tenant hold on a target; for the server's own tasks.
    /// By the time one is chosen another may have it: the creation then fails with a
    /// conflict on the field `port`.
    ///
    /// # Errors
    /// When the context is a tenant's, or the database fails.
    pub async fn ports_in_use(&self, context: &Context, target: &TargetName) -> Result<BTreeSet<u16>> {
        server_only(context, "the list of ports")?;
        let ports: Vec<(String, i64)> = instance::Entity::find()
            .select_only()
            .column(instance::Column::Id)
            .column(instance::Column::Port)
            .filter(instance::Column::Target.eq(target.as_str()))
            .filter(instance::Column::Port.is_not_null())
            .into_tuple()
            .all(&self.0.reader)
            .await
            .map_err(db)?;
        ports.into_iter().map(|(id, port)| number("instance", &id, port)).collect()
    }
}

impl Tx {
    /// An instance's row, locked until the transaction ends where the database has row locks.
    pub(crate) async fn instance(&self, id: &str) -> Result<instance::Model> {
        instance::Entity::find_by_id(id)
            .lock_exclusive()
            .one(self.on())
            .await
            .map_err(db)?
            .ok_or_else(|| Error::not_found("instance", id))
    }
}

/// Only those that are not destroyed.
pub(super) fn live(query: Select<instance::Entity>) -> Select<instance::Entity> {
    query.filter(instance::Column::Phase.ne(Phase::Destroyed.as_str()))
}

pub(super) fn narrow(
    mut query: Select<instance::Entity>,
    filter: &InstanceFilter,
) -> Result<Select<instance::Entity>> {
    use instance::Column as C;
    let equal = [
        (C::Phase, filter.phase.map(Phase::as_str)),
        (C::ClawType, filter.claw_type.as_ref().map(ClawType::as_str)),
        (C::Runtime, filter.runtime.map(RuntimeKind::as_str)),
        (C::Target, filter.target.as_ref().map(TargetName::as_str)),
        (C::Project, filter.project.as_ref().map(ProjectName::as_str)),
    ];
    for (column, value) in equal {
        if let Some(value) = value {
            query = query.filter(column.eq(value));
        }
    }
    if let Some(prefix) = &filter.name_prefix {
        if !is_label_text(prefix) {
            return Err(Error::invalid("name_prefix", "no name begins so")
                .fix("use a-z, 0-9 and '-', such as 'al' for 'alice'"));
        }
        query = query.filter(C::Name.starts_with(prefix));
    }
    for (key, value) in &filter.labels {
        let labelled = Query::select()
            .column(label::Column::Instance)
            .from(label::Entity)
            .and_where(label::Column::Name.eq(key.as_str()))
            .and_where(label::Column::Value.eq(value.as_str()))
            .to_owned();
        query = query.filter(C::Id.in_subquery(labelled));
    }
    let show_all = filter.include_destroyed || filter.phase == Some(Phase::Destroyed);
    Ok(if show_all { query } else { live(query) })
}

/// Whether it can be a part of a name or id. Anything else has no business in a pattern: `%`
/// and `_` would match what was not asked for.
pub(super) fn is_label_text(text: &str) -> bool {
    text.chars().all(|c| matches!(c, 'a'..='z' | '0'..='9' | '-')) && text.len() <= ClawId::MAX
}
