//! Targets. They are the server's: every tenant sees them, and they are changed with a
//! leave for the `default` tenant's targets.
//!
//! The history of instances refers to their target, so that one which is removed stays as a
//! row that nobody sees, until a target is put under its name again.

use clawfarm_model::name::{TargetName, TenantName};
use clawfarm_model::target::Target;
use clawfarm_model::{Action, Code, Context, Error, Granted, Phase, Result};
use sea_orm::sea_query::{Expr, OnConflict};
use sea_orm::{ColumnTrait, EntityTrait, IntoActiveModel, PaginatorTrait, QueryFilter, QueryOrder};

use crate::audit::Outcome;
use crate::convert::{from_json, name, to_json};
use crate::entity::{dataset, instance, target};
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
        rows.into_iter().filter(|row| !is_removed(row)).map(read).collect()
    }

    /// One target.
    ///
    /// # Errors
    /// `NotFound` when there is none of this name.
    pub async fn target(&self, _context: &Context, name: &TargetName) -> Result<Target> {
        let row = target::Entity::find_by_id(name.as_str()).one(&self.0.reader).await.map_err(db)?;
        read(row.filter(|row| !is_removed(row)).ok_or_else(|| Error::not_found("target", name))?)
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

    /// Removes a target that nothing is on.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` when instances or datasets are on it; and as for
    /// [`Self::put_target`].
    pub async fn remove_target(&self, granted: &Granted, name: &TargetName) -> Result<()> {
        fits(granted, &[Action::TargetWrite], "target")?;
        about(granted, TenantName::default_tenant().as_str(), "target", name.as_str())?;
        let tx = Tx::begin(&self.0).await?;
        if !tx.has_target(name.as_str()).await? {
            return Err(Error::not_found("target", name));
        }
        tx.is_unused(name).await?;
        target::Entity::update_many()
            .col_expr(target::Column::Settings, Expr::value(REMOVED))
            .col_expr(target::Column::UpdatedAt, Expr::value(tx.now.as_millis()))
            .filter(target::Column::Name.eq(name.as_str()))
            .exec(tx.on())
            .await
            .map_err(db)?;
        tx.audit(granted, Outcome::Done, "removed").await?;
        tx.commit().await
    }
}

impl Tx {
    pub(crate) async fn has_target(&self, name: &str) -> Result<bool> {
        let row = target::Entity::find_by_id(name).one(self.on()).await.map_err(db)?;
        Ok(row.is_some_and(|row| !is_removed(&row)))
    }

    /// Refuses a target that something is on.
    async fn is_unused(&self, name: &TargetName) -> Result<()> {
        let instances = instance::Entity::find()
            .filter(instance::Column::Target.eq(name.as_str()))
            .filter(instance::Column::Phase.ne(Phase::Destroyed.as_str()))
            .count(self.on())
            .await
            .map_err(db)?;
        let datasets = dataset::Entity::find()
            .filter(dataset::Column::Target.eq(name.as_str()))
            .count(self.on())
            .await
            .map_err(db)?;
        if instances == 0 && datasets == 0 {
            return Ok(());
        }
        Err(Error::new(
            Code::Conflict,
            format!("target '{name}' is in use: {instances} instances and {datasets} datasets are on it"),
        )
        .field("name")
        .fix("remove those first: clawfarm ps, clawfarm rm, clawfarm dataset rm"))
    }
}

/// What the settings of a removed target are.
const REMOVED: &str = r#"{"removed":true}"#;

fn is_removed(row: &target::Model) -> bool {
    row.settings == REMOVED
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
