//! Removing a configuration, and keeping instances from going by one that is removed.

use std::collections::{BTreeMap, BTreeSet};

use clawfarm_config::Template;
use clawfarm_model::event::NewEvent;
use clawfarm_model::{
    Action, Code, ConfigKind, ConfigName, Error, Granted, Instance, Layered, Phase, Result,
};
use sea_orm::sea_query::{Expr, ExprTrait};
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter, QuerySelect};

use super::{WHAT, active, key_of_leave};
use crate::audit::Outcome;
use crate::convert::from_json;
use crate::entity::{config, config_revision, instance, rollout, rollout_member};
use crate::error::db;
use crate::guard::{about, fits};
use crate::store::Store;
use crate::tx::{Tries, Tx};

impl Store {
    /// Removes a configuration with its revisions and rollouts. Of what is said for all instances
    /// of a tenant, say, the revisions stay that they go by: they say nothing.
    ///
    /// # Errors
    /// `NotFound` when there is none; `Conflict` while instances are bound to it, or go by anything
    /// that it says, or a rollout of it is under way.
    pub async fn remove_config(&self, granted: &Granted, name: &ConfigName) -> Result<()> {
        fits(granted, &[Action::ConfigWrite], WHAT)?;
        about(granted, granted.resource().tenant.as_str(), WHAT, name.as_str())?;
        let mut tries = Tries::default();
        loop {
            match self.try_remove(granted, name).await {
                Err(error) if tries.again(&error).await => {}
                other => return other,
            }
        }
    }

    async fn try_remove(&self, granted: &Granted, name: &ConfigName) -> Result<()> {
        let key = key_of_leave(granted, name);
        let mut tx = Tx::begin(&self.0).await?;
        // Locked: whoever would bind an instance to it meanwhile waits, and finds it gone.
        if tx.config(&key, name).await?.is_none() {
            return Err(Error::not_found(WHAT, name));
        }
        let used = tx.revisions_in_use(&key, name).await?;
        let kept = tx.check_unused(&key, name, &used).await?;
        tx.remove_rollouts(&key, name).await?;
        config_revision::Entity::delete_many()
            .filter(config_revision::Column::Tenant.eq(key.as_str()))
            .filter(config_revision::Column::Config.eq(name.as_str()))
            .filter(config_revision::Column::Number.is_not_in(kept))
            .exec(tx.on())
            .await
            .map_err(db)?;
        use config::Column as C;
        config::Entity::update_many()
            .col_expr(C::RemovedAt, Expr::value(tx.now.as_millis()))
            .col_expr(C::Published, Expr::value(None::<i64>))
            .col_expr(C::Version, Expr::col(C::Version).add(1))
            .filter(C::Tenant.eq(key.as_str()))
            .filter(C::Name.eq(name.as_str()))
            .exec(tx.on())
            .await
            .map_err(db)?;
        let told = format!("configuration {name} was removed");
        tx.event(granted.resource().tenant.as_str(), None, &NewEvent::info("config", told.clone()))?;
        tx.audit(granted, Outcome::Done, &told).await?;
        tx.commit().await
    }
}

impl Tx {
    /// How many instances go by which revision of a configuration.
    async fn revisions_in_use(&self, key: &str, name: &ConfigName) -> Result<BTreeMap<i64, u64>> {
        use instance::Column as C;
        let mut query = instance::Entity::find()
            .select_only()
            .columns([C::Id, C::Layers])
            .filter(C::Phase.ne(Phase::Destroyed.as_str()))
            .filter(C::Layers.is_not_null());
        match name.kind() {
            ConfigKind::Global => {}
            ConfigKind::Tenant | ConfigKind::Own => query = query.filter(C::Tenant.eq(key)),
            ConfigKind::Project(project) => {
                query = query.filter(C::Tenant.eq(key)).filter(C::Project.eq(project.as_str()));
            }
            ConfigKind::Template => {
                query = query.filter(C::Tenant.eq(key)).filter(C::Template.eq(name.as_str()));
            }
        }
        let rows: Vec<(String, String)> = query.into_tuple().all(self.on()).await.map_err(db)?;
        let mut used = BTreeMap::new();
        for (id, layers) in rows {
            let layers: Layered = from_json("instance", &id, &layers)?;
            // One that is bound and goes by no revision is bound all the same.
            let number = layers.applied.get(name).copied();
            if let Some(number) = number.or((name.kind() == ConfigKind::Template).then_some(0)) {
                *used.entry(number).or_default() += 1;
            }
        }
        Ok(used)
    }

    /// Refuses while anybody needs it. What is returned are the revisions that have to stay.
    async fn check_unused(
        &self,
        key: &str,
        name: &ConfigName,
        used: &BTreeMap<i64, u64>,
    ) -> Result<BTreeSet<i64>> {
        let conflict = |what: String| Error::new(Code::Conflict, what);
        let running = rollout::Entity::find()
            .filter(rollout::Column::Active.eq(active(key, name.as_str())))
            .one(self.on())
            .await
            .map_err(db)?;
        if running.is_some() {
            return Err(
                conflict(format!("a rollout of '{name}' is under way")).fix("wait for its end, or abort it")
            );
        }
        if name.kind() == ConfigKind::Template {
            let bound: u64 = used.values().sum();
            return match bound {
                0 => Ok(BTreeSet::new()),
                _ => Err(conflict(format!("{bound} instances are bound to '{name}'"))
                    .fix("bind each to another template or to none first: clawfarm config bind INSTANCE TEMPLATE, or --none")),
            };
        }
        let mut going = 0;
        for (number, instances) in used {
            let text = self.content(key, name, *number).await?;
            if !text.is_empty() && !from_json::<Template>(WHAT, name.as_str(), &text)?.says_nothing() {
                going += instances;
            }
        }
        if going > 0 {
            return Err(conflict(format!("{going} instances go by what '{name}' says"))
                .fix("save and publish a revision of it that says nothing first: {\"body\": {}}"));
        }
        Ok(used.keys().copied().collect())
    }

    async fn remove_rollouts(&self, key: &str, name: &ConfigName) -> Result<()> {
        let of_it = rollout::Entity::find()
            .filter(rollout::Column::Tenant.eq(key))
            .filter(rollout::Column::Config.eq(name.as_str()))
            .all(self.on())
            .await
            .map_err(db)?;
        for row in of_it {
            rollout_member::Entity::delete_many()
                .filter(rollout_member::Column::Rollout.eq(row.id.as_str()))
                .exec(self.on())
                .await
                .map_err(db)?;
            rollout::Entity::delete_by_id(row.id).exec(self.on()).await.map_err(db)?;
        }
        Ok(())
    }

    /// Refuses to have an instance go by a revision of a configuration that was removed since it
    /// was read: of what it did not go by before.
    ///
    /// # Errors
    /// `Conflict` on `template` or `config`.
    pub(crate) async fn check_layers(&self, before: Option<&Layered>, after: &Instance) -> Result<()> {
        for (name, number) in &after.layers.applied {
            if before.is_some_and(|before| before.applied.get(name) == Some(number)) {
                continue;
            }
            let key = match name.kind() {
                ConfigKind::Global => String::new(),
                _ => after.tenant.to_string(),
            };
            // Locked against whoever removes it; under SQLite there is one writer at a time.
            let there = config::Entity::find_by_id((key, name.to_string()))
                .lock_shared()
                .one(self.on())
                .await
                .map_err(db)?
                .is_some_and(|row| row.removed_at.is_none() && row.head >= *number);
            if !there {
                let field = if name.kind() == ConfigKind::Template { "template" } else { "config" };
                return Err(Error::new(
                    Code::Conflict,
                    format!("configuration '{name}' was removed at the same moment"),
                )
                .field(field)
                .fix("see clawfarm config ls, and try again"));
            }
        }
        Ok(())
    }
}
