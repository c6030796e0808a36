//! Reading what a configuration said.

use clawfarm_config::{Revision, RevisionSummary, Template, diff};
use clawfarm_model::name::TenantName;
use clawfarm_model::{ConfigKind, ConfigName, Context, Error, Result};
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect, Select};

use super::key_of;
use crate::convert::{from_json, time};
use crate::entity::config_revision;
use crate::error::db;
use crate::page::PageRequest;
use crate::store::Store;

const WHAT: &str = "revision";

impl Store {
    /// Revisions of a configuration, the newest first, below `before` when it is given. What they say
    /// is not read: a page of it could be a quarter of a gigabyte.
    ///
    /// # Errors
    /// When the limit is wrong or the database fails.
    pub async fn revisions(
        &self,
        context: &Context,
        name: &ConfigName,
        before: Option<i64>,
        limit: u32,
    ) -> Result<Vec<RevisionSummary>> {
        use config_revision::Column as C;
        let limit = PageRequest::after(None, limit).rows()?;
        let mut query = of(context, name)?.select_only().columns([
            C::Number,
            C::Author,
            C::Message,
            C::CreatedAt,
            C::ProvenAt,
            C::ChangeCount,
        ]);
        if let Some(before) = before {
            query = query.filter(C::Number.lt(before));
        }
        let rows = query
            .limit(limit as u64)
            .into_tuple::<(i64, String, String, i64, Option<i64>, i64)>()
            .all(&self.0.reader)
            .await
            .map_err(db)?;
        Ok(rows
            .into_iter()
            .map(|(number, author, message, created_at, proven_at, changes)| RevisionSummary {
                number,
                author,
                message,
                created_at: time(created_at),
                proven_at: proven_at.map(time),
                change_count: u64::try_from(changes).unwrap_or_default(),
            })
            .collect())
    }

    /// One revision, with what differs from the one before.
    ///
    /// # Errors
    /// `NotFound` when there is none of this number.
    pub async fn revision(&self, context: &Context, name: &ConfigName, number: i64) -> Result<Revision> {
        let rows = of(context, name)?
            .filter(config_revision::Column::Number.lte(number))
            .limit(2)
            .all(&self.0.reader)
            .await
            .map_err(db)?;
        let mut rows = rows.into_iter();
        let found = rows.next().filter(|it| it.number == number);
        let mut found = read(found.ok_or_else(|| Error::not_found(WHAT, format!("{name}@{number}")))?)?;
        let before = rows.next().map(read).transpose()?.map(|it| it.content).unwrap_or_default();
        found.changes = changes(&before, &found.content);
        Ok(found)
    }

    /// What a revision of a tenant's configuration says, or of the fleet's for `global`; for the
    /// server's own tasks and for who sees that tenant.
    ///
    /// # Errors
    /// `NotFound` when there is none.
    pub async fn revision_content(
        &self,
        context: &Context,
        tenant: &TenantName,
        name: &ConfigName,
        number: i64,
    ) -> Result<Template> {
        let missing = || Error::not_found(WHAT, format!("{name}@{number}"));
        if !context.sees(tenant) {
            return Err(missing());
        }
        let key = if name.kind() == ConfigKind::Global { String::new() } else { tenant.to_string() };
        let row = config_revision::Entity::find_by_id((key, name.to_string(), number))
            .one(&self.0.reader)
            .await
            .map_err(db)?
            .ok_or_else(missing)?;
        from_json(WHAT, &row.config, &row.content)
    }
}

/// Those of a configuration, the newest first.
fn of(context: &Context, name: &ConfigName) -> Result<Select<config_revision::Entity>> {
    use config_revision::Column as C;
    Ok(config_revision::Entity::find()
        .filter(C::Tenant.eq(key_of(context, name)?))
        .filter(C::Config.eq(name.as_str()))
        .order_by_desc(C::Number))
}

fn read(row: config_revision::Model) -> Result<Revision> {
    Ok(Revision {
        number: row.number,
        content: from_json(WHAT, &row.config, &row.content)?,
        author: row.author,
        message: row.message,
        created_at: time(row.created_at),
        proven_at: row.proven_at.map(time),
        changes: Vec::new(),
    })
}

pub(super) fn changes(before: &Template, after: &Template) -> Vec<clawfarm_config::Change> {
    let document = |it: &Template| serde_json::to_value(it).unwrap_or_default();
    diff(&document(before), &document(after))
}
