//! Configurations of the centre, their revisions, and rollouts.
//!
//! A configuration is known by its name within its tenant. `global` is of no tenant: all see it,
//! and who may write for the default tenant may write it.

mod members;
mod removing;
mod revisions;
mod rollouts;
mod saving;
mod turns;

use clawfarm_config::Config;
use clawfarm_model::authz::Scope;
use clawfarm_model::name::TenantName;
use clawfarm_model::{ConfigKind, ConfigName, Context, Error, Granted, Result};
use sea_orm::{ColumnTrait, Condition, EntityTrait, QueryFilter, QueryOrder, QuerySelect};

pub use self::members::NewMember;
pub use self::rollouts::NewRollout;
pub use self::turns::{Fared, Taken, Turn};

use crate::convert::{name, time};
use crate::entity::{config, rollout};
use crate::error::db;
use crate::store::Store;

const WHAT: &str = "config";

/// Whose a configuration of this name is for who asks; nothing for the fleet's.
fn key_of(context: &Context, name: &ConfigName) -> Result<String> {
    match name.kind() {
        ConfigKind::Global => Ok(String::new()),
        _ => Ok(context.tenant()?.to_string()),
    }
}

/// Whose a configuration is that the leave is for.
fn key_of_leave(granted: &Granted, name: &ConfigName) -> String {
    match name.kind() {
        ConfigKind::Global => String::new(),
        _ => granted.resource().tenant.to_string(),
    }
}

/// The rows that a context sees.
fn seen<C: ColumnTrait>(context: &Context, tenant: C) -> Condition {
    match context.scope() {
        Scope::Tenant(own) => Condition::all().add(tenant.is_in(["", own.as_str()])),
        Scope::Every => Condition::all(),
    }
}

/// The tenant that asks, when what it looks at is the fleet's and not its own to look after: that
/// is the default tenant's.
fn guest<'a>(context: &'a Context, owner: &str) -> Option<&'a TenantName> {
    match context.scope() {
        Scope::Tenant(own) if owner.is_empty() && *own != TenantName::default_tenant() => Some(own),
        _ => None,
    }
}

fn tenant_of(text: &str) -> Result<Option<TenantName>> {
    (!text.is_empty()).then(|| name(WHAT, text, text)).transpose()
}

fn read(row: &config::Model, rollout: Option<String>) -> Result<Config> {
    Ok(Config {
        tenant: tenant_of(&row.tenant)?,
        name: name(WHAT, &row.name, &row.name)?,
        head: row.head,
        published: row.published,
        rollout,
        version: row.version,
        created_at: time(row.created_at),
        updated_at: time(row.updated_at),
    })
}

/// What marks the one rollout of a configuration that is under way. No name has a slash in it.
fn active(tenant: &str, config: &str) -> String {
    format!("{tenant}/{config}")
}

impl Store {
    /// The configurations that the context sees, by name.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn configs(&self, context: &Context) -> Result<Vec<Config>> {
        use config::Column as C;
        let rows = config::Entity::find()
            .filter(seen(context, C::Tenant))
            .filter(C::RemovedAt.is_null())
            .order_by_asc(C::Tenant)
            .order_by_asc(C::Name)
            .all(&self.0.reader)
            .await
            .map_err(db)?;
        let running: Vec<(Option<String>, String)> = rollout::Entity::find()
            .select_only()
            .columns([rollout::Column::Active, rollout::Column::Id])
            .filter(rollout::Column::Active.is_not_null())
            .into_tuple()
            .all(&self.0.reader)
            .await
            .map_err(db)?;
        rows.into_iter()
            .map(|row| {
                let mark = active(&row.tenant, &row.name);
                let id = running.iter().find(|(it, _)| it.as_deref() == Some(mark.as_str()));
                let id = id.map(|(_, id)| id.clone());
                read(&row, id)
            })
            .collect()
    }

    /// One configuration, of the context's tenant, or the fleet's.
    ///
    /// # Errors
    /// `NotFound` when there is none.
    pub async fn config(&self, context: &Context, name: &ConfigName) -> Result<Config> {
        self.config_of(&key_of(context, name)?, name).await
    }

    /// One configuration of a tenant, for the server's own tasks; of the fleet for `global`.
    ///
    /// # Errors
    /// `NotFound` when there is none.
    pub async fn tenants_config(
        &self,
        context: &Context,
        tenant: &TenantName,
        name: &ConfigName,
    ) -> Result<Config> {
        if !context.sees(tenant) {
            return Err(Error::not_found(WHAT, name));
        }
        let key = if name.kind() == ConfigKind::Global { String::new() } else { tenant.to_string() };
        self.config_of(&key, name).await
    }

    async fn config_of(&self, key: &str, name: &ConfigName) -> Result<Config> {
        let row = config::Entity::find_by_id((key.to_owned(), name.to_string()))
            .one(&self.0.reader)
            .await
            .map_err(db)?
            .filter(|row| row.removed_at.is_none())
            .ok_or_else(|| Error::not_found(WHAT, name).fix("see clawfarm config ls"))?;
        let running: Option<String> = rollout::Entity::find()
            .select_only()
            .column(rollout::Column::Id)
            .filter(rollout::Column::Active.eq(active(key, name.as_str())))
            .into_tuple()
            .one(&self.0.reader)
            .await
            .map_err(db)?;
        read(&row, running)
    }
}
