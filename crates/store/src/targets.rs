//! Targets. They are the server's: every tenant sees them, and they are changed with a
//! leave for the `default` tenant's targets.
//!
//! The history of instances refers to their target, so that one which is removed stays as a
//! row that nobody sees, until a target is put under its name again.

use clawfarm_model::name::{TargetName, TenantName};
use clawfarm_model::target::Target;
use clawfarm_model::{Action, Code, Context, Error, Granted, Phase, Result};
use sea_orm::sea_query::{Expr, OnConflict};
use sea_orm::{ColumnTrait, DbErr, EntityTrait, IntoActiveModel, PaginatorTrait, QueryFilter, QueryOrder};

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

    /// Writes a target that is new, whichever server is asked for one of its name meanwhile. One
    /// that is the same already is a success.
    ///
    /// # Errors
    /// `Conflict` when there is another of its name; and as for [`Self::put_target`].
    pub async fn add_target(&self, granted: &Granted, target: &Target) -> Result<()> {
        fits(granted, &[Action::TargetWrite], "target")?;
        about(granted, TenantName::default_tenant().as_str(), "target", target.name.as_str())?;
        let tx = Tx::begin(&self.0).await?;
        let now = tx.now.as_millis();
        use target::Column as C;
        // The row of one that was removed, where there is one: only one server can take it.
        let over = target::Entity::update_many()
            .col_expr(C::Runtime, Expr::value(target.runtime.as_str()))
            .col_expr(C::Labels, Expr::value(to_json(&target.labels)?))
            .col_expr(C::ReachableFrom, Expr::value(target.reachable_from.clone()))
            .col_expr(C::Settings, Expr::value(to_json(&target.settings)?))
            .col_expr(C::UpdatedAt, Expr::value(now))
            .filter(C::Name.eq(target.name.as_str()))
            .filter(C::Settings.eq(REMOVED))
            .exec(tx.on())
            .await
            .map_err(db)?;
        if over.rows_affected == 0 {
            let row = target::Model {
                name: target.name.as_str().to_owned(),
                runtime: target.runtime.as_str().to_owned(),
                labels: to_json(&target.labels)?,
                reachable_from: target.reachable_from.clone(),
                settings: to_json(&target.settings)?,
                created_at: now,
                updated_at: now,
            };
            let there = OnConflict::column(C::Name).do_nothing().to_owned();
            let written = target::Entity::insert(row.into_active_model())
                .on_conflict(there)
                .exec_without_returning(tx.on())
                .await;
            let written = match written {
                Ok(rows) => rows,
                Err(DbErr::RecordNotInserted) => 0,
                Err(error) => return Err(db(error)),
            };
            if written == 0 {
                let known =
                    target::Entity::find_by_id(target.name.as_str()).one(tx.on()).await.map_err(db)?;
                let known = known.map(read).transpose()?;
                return if known.as_ref() == Some(target) {
                    Ok(())
                } else {
                    Err(taken(target, known.as_ref()))
                };
            }
        }
        tx.audit(granted, Outcome::Done, "added").await?;
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
        tx.free_leases(name).await?;
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

/// There is another target of this name.
fn taken(target: &Target, known: Option<&Target>) -> Error {
    let name = &target.name;
    let elsewhere = known.is_some_and(|known| known.reachable_from != target.reachable_from);
    let whose = if elsewhere { ", reached from another server" } else { "" };
    Error::new(Code::Conflict, format!("there is a target '{name}' already{whose}"))
        .field("name")
        .fix(format!("give another name, or remove it: clawfarm target rm {name}"))
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
