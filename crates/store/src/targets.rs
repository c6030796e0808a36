//! Targets. They are the server's: every tenant sees them, and they are changed with a
//! leave for the `default` tenant's targets.

use clawfarm_model::name::{TargetName, TenantName};
use clawfarm_model::target::Target;
use clawfarm_model::{Action, Context, Error, Granted, Result};
use sea_orm::sea_query::OnConflict;
use sea_orm::{EntityTrait, IntoActiveModel, QueryOrder};

use crate::audit::Outcome;
use crate::convert::{from_json, name, to_json};
use crate::entity::target;
use crate::error::db;
use crate::guard::{about, fits};
use crate::store::Store;
use crate::tx::Tx;

impl Store {
    /// All targets, in order of their names.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn targets(&self, _context: &Context) -> Result<Vec<Target>> {
        let rows = target::Entity::find()
            .order_by_asc(target::Column::Name)
            .all(&self.0.reader)
            .await
            .map_err(db)?;
        rows.into_iter().map(read).collect()
    }

    /// One target.
    ///
    /// # Errors
    /// `NotFound` when there is none of this name.
    pub async fn target(&self, _context: &Context, name: &TargetName) -> Result<Target> {
        let row = target::Entity::find_by_id(name.as_str()).one(&self.0.reader).await.map_err(db)?;
        read(row.ok_or_else(|| Error::not_found("target", name))?)
    }

    /// Writes a target, over the one of that name; one that is the same already is left
    /// alone, so that a server may do this at each of its starts.
    ///
    /// # Errors
    /// When the leave is not for [`Action::TargetWrite`] on this target of the default
    /// tenant, or the database fails.
    pub async fn put_target(&self, granted: &Granted, target: &Target) -> Result<()> {
        fits(granted, &[Action::TargetWrite], "target")?;
        about(granted, TenantName::default_tenant().as_str(), "target", target.name.as_str())?;
        let tx = Tx::begin(&self.0).await?;
        let old = target::Entity::find_by_id(target.name.as_str()).one(tx.on()).await.map_err(db)?;
        if old.map(read).transpose()?.as_ref() == Some(target) {
            return Ok(());
        }
        let now = tx.now.as_millis();
        let row = target::Model {
            name: target.name.as_str().to_owned(),
            runtime: target.runtime.as_str().to_owned(),
            labels: to_json(&target.labels)?,
            reachable_from: target.reachable_from.clone(),
            settings: to_json(&target.settings)?,
            created_at: now,
            updated_at: now,
        };
        use target::Column as C;
        let over = OnConflict::column(C::Name)
            .update_columns([C::Runtime, C::Labels, C::ReachableFrom, C::Settings, C::UpdatedAt])
            .to_owned();
        target::Entity::insert(row.into_active_model())
            .on_conflict(over)
            .exec_without_returning(tx.on())
            .await
            .map_err(db)?;
        tx.audit(granted, Outcome::Done, "written").await?;
        tx.commit().await
    }
}

impl Tx {
    pub(crate) async fn has_target(&self, name: &str) -> Result<bool> {
        Ok(target::Entity::find_by_id(name).one(self.on()).await.map_err(db)?.is_some())
    }
}

fn read(row: target::Model) -> Result<Target> {
    let id = row.name.as_str();
    Ok(Target {
        name: name("target", id, id)?,
        runtime: name("target", id, &row.runtime)?,
        labels: from_json("target", id, &row.labels)?,
        settings: from_json("target", id, &row.settings)?,
        reachable_from: row.reachable_from,
    })
}
