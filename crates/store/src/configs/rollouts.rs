//! Rollouts: one of a configuration at a time.

use clawfarm_config::{Counts, MemberState, Rollout, Selector, Stage, Strategy};
use clawfarm_model::event::NewEvent;
use clawfarm_model::name::TenantName;
use clawfarm_model::{Action, Code, ConfigKind, ConfigName, Context, Error, Granted, Result, Timestamp};
use sea_orm::sea_query::{Expr, ExprTrait};
use sea_orm::{
    ColumnTrait, ConnectionTrait, EntityTrait, IntoActiveModel, QueryFilter, QueryOrder, QuerySelect,
};

use super::members::NewMember;
use super::turns::moved_on;
use super::{WHAT, active, guest, key_of_leave, seen, tenant_of};
use crate::audit::Outcome;
use crate::convert::{from_json, from_word, name, number, time, to_json, to_word};
use crate::entity::{config, config_revision, rollout, rollout_member};
use crate::error::{db, unique_violation};
use crate::guard::{about, fits, server_only};
use crate::page::PageRequest;
use crate::store::Store;
use crate::tx::{Tries, Tx};

const ROLLOUT: &str = "rollout";
/// So many rollouts of a configuration are remembered.
const KEPT: u64 = 50;

/// A rollout that is to begin.
#[derive(Clone, Debug)]
pub struct NewRollout {
    /// Of which configuration.
    pub config: ConfigName,
    /// The revision that goes out. Changes of what instances say themselves have numbers of their
    /// own.
    pub to: i64,
    /// The version of the configuration that it was planned on.
    pub expect: i64,
    /// To whom.
    pub selector: Selector,
    /// How.
    pub strategy: Strategy,
    /// What for.
    pub message: String,
    /// What is told with its beginning beside that.
    pub note: Option<String>,
    /// Its instances.
    pub members: Vec<NewMember>,
}

impl Store {
    /// Begins a rollout. The leave is for [`Action::ConfigWrite`] on the `config`.
    ///
    /// # Errors
    /// `Conflict` when one of this configuration is under way; `PreconditionFailed` when the
    /// configuration was changed since it was planned.
    pub async fn begin_rollout(&self, granted: &Granted, new: &NewRollout) -> Result<Rollout> {
        fits(granted, &[Action::ConfigWrite], WHAT)?;
        about(granted, granted.resource().tenant.as_str(), WHAT, new.config.as_str())?;
        let mut tries = Tries::default();
        loop {
            match self.try_begin(granted, new).await {
                Err(error) if tries.again(&error).await => {}
                other => return other,
            }
        }
    }

    async fn try_begin(&self, granted: &Granted, new: &NewRollout) -> Result<Rollout> {
        let key = key_of_leave(granted, &new.config);
        let mut tx = Tx::begin(&self.0).await?;
        let (from, to) = tx.ends_of(&key, new).await?;
        // What is reckoned from it is by the clock that all servers have in common.
        let now = tx.database_now().await?;
        let row = rollout::Model {
            id: crate::operations::random_id("ro-")?,
            tenant: key.clone(),
            config: new.config.to_string(),
            active: Some(active(&key, new.config.as_str())),
            from_revision: from,
            to_revision: to,
            selector: to_json(&new.selector)?,
            strategy: to_json(&new.strategy)?,
            stage: to_word(&Stage::Going)?,
            step: 0,
            stage_since: now,
            paused_from: None,
            promoted: 0,
            author: granted.context().actor().to_string(),
            message: new.message.clone(),
            error: None,
            version: 1,
            created_at: now,
            ended_at: None,
        };
        rollout::Entity::insert(row.clone().into_active_model())
            .exec_without_returning(tx.on())
            .await
            .map_err(|error| match unique_violation(&error) {
                Some(_) => Error::new(Code::Conflict, format!("a rollout of '{}' is under way", new.config))
                    .fix(format!(
                        "see clawfarm rollout ls; wait for its end, or end it: clawfarm rollout abort {}",
                        new.config
                    )),
                None => db(error),
            })?;
        tx.forget_rollouts(&key, &new.config).await?;
        tx.add_members(&row.id, &new.members).await?;
        let note = new.note.as_ref().map_or_else(String::new, |note| format!("; {note}"));
        let what = match new.config.kind() {
            ConfigKind::Own => format!("change {to} of what instances say themselves"),
            _ => format!("revision {to} of configuration {}", new.config),
        };
        let told = format!("{what} goes out to {} instances ({}){note}", new.members.len(), row.id);
        tx.event(granted.resource().tenant.as_str(), None, &NewEvent::info("rollout", told.clone()))?;
        tx.audit(granted, Outcome::Done, &told).await?;
        let counts = tx.counts(&row.id).await?;
        tx.commit().await?;
        read(row, counts)
    }

    /// Rollouts that the context sees, the newest first; of one configuration when it is given.
    ///
    /// # Errors
    /// When the limit is wrong or the database fails.
    pub async fn rollouts(
        &self,
        context: &Context,
        of: Option<&ConfigName>,
        limit: u32,
    ) -> Result<Vec<Rollout>> {
        use rollout::Column as C;
        let limit = PageRequest::after(None, limit).rows()?;
        let mut query = rollout::Entity::find()
            .filter(seen(context, C::Tenant))
            .order_by_desc(C::CreatedAt)
            .order_by_desc(C::Id)
            .limit(limit as u64);
        if let Some(of) = of {
            query = query.filter(C::Config.eq(of.as_str()));
        }
        let rows = query.all(&self.0.reader).await.map_err(db)?;
        let mut found = Vec::with_capacity(rows.len());
        for row in rows {
            let counts = counts(&self.0.reader, &row.id).await?;
            found.push(shown(context, read(row, counts)?));
        }
        Ok(found)
    }

    /// One rollout.
    ///
    /// # Errors
    /// `NotFound` when there is none.
    pub async fn rollout(&self, context: &Context, id: &str) -> Result<Rollout> {
        let row = rollout::Entity::find_by_id(id)
            .filter(seen(context, rollout::Column::Tenant))
            .one(&self.0.reader)
            .await
            .map_err(db)?
            .ok_or_else(|| Error::not_found(ROLLOUT, id).fix("see clawfarm rollout ls"))?;
        let counts = counts(&self.0.reader, id).await?;
        Ok(shown(context, read(row, counts)?))
    }

    /// The revision that was published when this one first was; nothing when there was none.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn published_before(
        &self,
        context: &Context,
        config: &ConfigName,
        revision: i64,
    ) -> Result<Option<i64>> {
        let key = (super::key_of(context, config)?, config.to_string(), revision);
        let row = config_revision::Entity::find_by_id(key).one(&self.0.reader).await.map_err(db)?;
        Ok(row.and_then(|it| it.over_revision))
    }

    /// The rollouts that ended with everybody within this time, of all tenants, for the server's
    /// own tasks.
    ///
    /// # Errors
    /// When the context is a tenant's, or the database fails.
    pub async fn rollouts_done_within(
        &self,
        context: &Context,
        time: std::time::Duration,
    ) -> Result<Vec<String>> {
        server_only(context, "the rollouts that have ended")?;
        let since = Timestamp::now().as_millis().saturating_sub(crate::servers::millis(time));
        rollout::Entity::find()
            .select_only()
            .column(rollout::Column::Id)
            .filter(rollout::Column::Stage.eq(to_word(&Stage::Done)?))
            .filter(rollout::Column::EndedAt.gte(since))
            .order_by_asc(rollout::Column::EndedAt)
            .into_tuple()
            .all(&self.0.reader)
            .await
            .map_err(db)
    }

    /// The rollouts that are under way, of all tenants, for the server's own tasks.
    ///
    /// # Errors
    /// When the context is a tenant's, or the database fails.
    pub async fn running_rollouts(&self, context: &Context) -> Result<Vec<String>> {
        server_only(context, "the rollouts that are under way")?;
        rollout::Entity::find()
            .select_only()
            .column(rollout::Column::Id)
            .filter(rollout::Column::Active.is_not_null())
            .order_by_asc(rollout::Column::CreatedAt)
            .into_tuple()
            .all(&self.0.reader)
            .await
            .map_err(db)
    }

    /// Changes where a rollout is, if it is still where `before` says. One that is over by then
    /// makes way for the next; one that got through to all of its instances is what is published.
    ///
    /// # Errors
    /// `Conflict` when somebody else changed it meanwhile; when the leave is not for its
    /// configuration.
    pub async fn steer_rollout(
        &self,
        granted: &Granted,
        before: &Rollout,
        after: Rollout,
        told: &str,
    ) -> Result<Rollout> {
        fits(granted, &[Action::ConfigWrite], WHAT)?;
        about(granted, granted.resource().tenant.as_str(), WHAT, before.config.as_str())?;
        let mut tries = Tries::default();
        loop {
            match self.try_steer(granted, before, &after, told).await {
                Err(error) if tries.again(&error).await => {}
                other => return other,
            }
        }
    }

    async fn try_steer(
        &self,
        granted: &Granted,
        before: &Rollout,
        after: &Rollout,
        told: &str,
    ) -> Result<Rollout> {
        use rollout::Column as C;
        let key = key_of_leave(granted, &before.config);
        let mut tx = Tx::begin(&self.0).await?;
        let over = after.stage.is_over();
        let moved = (before.stage, before.step) != (after.stage, after.step);
        // How long it has been there is asked by other servers, too: by the clock that they share.
        let since = if moved { time(tx.database_now().await?) } else { before.stage_since };
        let paused = after.paused_from.as_ref().map(to_word).transpose()?;
        let written = rollout::Entity::update_many()
            .col_expr(C::Stage, Expr::value(to_word(&after.stage)?))
            .col_expr(C::Step, Expr::value(i64::from(after.step)))
            .col_expr(C::StageSince, Expr::value(since.as_millis()))
            .col_expr(C::PausedFrom, Expr::value(paused))
            .col_expr(C::Promoted, Expr::value(i64::from(after.promoted)))
            .col_expr(C::Error, Expr::value(after.error.clone()))
            .col_expr(C::Version, Expr::value(before.version + 1))
            .col_expr(C::Active, Expr::value((!over).then(|| active(&key, before.config.as_str()))))
            .col_expr(C::EndedAt, Expr::value(over.then(|| tx.now.as_millis())))
            .filter(C::Id.eq(before.id.as_str()))
            .filter(C::Tenant.eq(key.as_str()))
            .filter(C::Version.eq(before.version))
            .exec(tx.on())
            .await
            .map_err(db)?;
        if written.rows_affected != 1 {
            return Err(moved_on(&before.id));
        }
        match after.stage {
            Stage::Done => tx.prove(&key, before).await?,
            Stage::Aborted => tx.leave_behind(&before.id).await?,
            Stage::RollingBack if before.stage == Stage::Halted => tx.revert_again(&before.id).await?,
            _ => {}
        }
        if moved && matches!(after.stage, Stage::RollingBack | Stage::Halted) && before.counts.failed > 0 {
            tx.set_proven(&key, before, None).await?;
        }
        if !told.is_empty() {
            tx.event(granted.resource().tenant.as_str(), None, &NewEvent::info(ROLLOUT, told))?;
            tx.audit(granted, Outcome::Done, told).await?;
        }
        let counts = tx.counts(&before.id).await?;
        tx.commit().await?;
        let row = Rollout {
            stage_since: since,
            version: before.version + 1,
            ended_at: over.then(Timestamp::now),
            counts,
            ..after.clone()
        };
        Ok(row)
    }
}

impl Tx {
    /// From which revision to which it leads.
    async fn ends_of(&self, key: &str, new: &NewRollout) -> Result<(Option<i64>, i64)> {
        if new.config.kind() == ConfigKind::Own {
            use rollout::Column as C;
            let last: Option<Option<i64>> = rollout::Entity::find()
                .select_only()
                .column_as(C::ToRevision.max(), "last")
                .filter(C::Tenant.eq(key))
                .filter(C::Config.eq(new.config.as_str()))
                .into_tuple()
                .one(self.on())
                .await
                .map_err(db)?;
            return Ok((None, last.flatten().unwrap_or(0) + 1));
        }
        let present = self.config(key, &new.config).await?;
        let present = present.ok_or_else(|| Error::not_found(WHAT, &new.config))?;
        if present.version != new.expect {
            return Err(Error::new(
                Code::PreconditionFailed,
                format!("configuration '{}' was changed since this was planned", new.config),
            )
            .field("If-Match")
            .fix("look at the plan again, and publish once more"));
        }
        Ok((present.published, new.to))
    }

    /// Removes the oldest rollouts of a configuration: each holds a row for every instance.
    async fn forget_rollouts(&self, key: &str, config: &ConfigName) -> Result<()> {
        let old: Vec<String> = rollout::Entity::find()
            .select_only()
            .column(rollout::Column::Id)
            .filter(rollout::Column::Tenant.eq(key))
            .filter(rollout::Column::Config.eq(config.as_str()))
            .order_by_desc(rollout::Column::CreatedAt)
            .offset(KEPT)
            .limit(KEPT)
            .into_tuple()
            .all(self.on())
            .await
            .map_err(db)?;
        if old.is_empty() {
            return Ok(());
        }
        rollout_member::Entity::delete_many()
            .filter(rollout_member::Column::Rollout.is_in(old.clone()))
            .exec(self.on())
            .await
            .map_err(db)?;
        rollout::Entity::delete_many()
            .filter(rollout::Column::Id.is_in(old))
            .exec(self.on())
            .await
            .map_err(db)?;
        Ok(())
    }

    /// Notes that all who should have a revision have it. It is proven when that was everybody,
    /// nobody failed, and one at least was seen to run with it.
    async fn prove(&self, key: &str, done: &Rollout) -> Result<()> {
        if !done.selector.is_all() || done.config.kind() == ConfigKind::Own {
            return Ok(());
        }
        let counts = self.counts(&done.id).await?;
        if counts.failed == 0 && counts.seen > 0 {
            self.set_proven(key, done, Some(self.now.as_millis())).await?;
        }
        self.went_over(key, done).await?;
        use config::Column as C;
        config::Entity::update_many()
            .col_expr(C::Published, Expr::value(done.to))
            .col_expr(C::Version, Expr::col(C::Version).add(1))
            .col_expr(C::UpdatedAt, Expr::value(self.now.as_millis()))
            .filter(C::Tenant.eq(key))
            .filter(C::Name.eq(done.config.as_str()))
            .exec(self.on())
            .await
            .map_err(db)?;
        Ok(())
    }

    async fn set_proven(&self, key: &str, rollout: &Rollout, at: Option<i64>) -> Result<()> {
        use config_revision::Column as R;
        config_revision::Entity::update_many()
            .col_expr(R::ProvenAt, Expr::value(at))
            .filter(R::Tenant.eq(key))
            .filter(R::Config.eq(rollout.config.as_str()))
            .filter(R::Number.eq(rollout.to))
            .exec(self.on())
            .await
            .map_err(db)?;
        Ok(())
    }

    /// Notes which revision was published when a later one first was: what is gone back to from
    /// it. What goes back itself is noted nowhere, or the next step back would lead forward.
    async fn went_over(&self, key: &str, done: &Rollout) -> Result<()> {
        use config_revision::Column as R;
        let published = self.config(key, &done.config).await?.and_then(|it| it.published);
        let Some(over) = published.filter(|it| *it < done.to) else { return Ok(()) };
        config_revision::Entity::update_many()
            .col_expr(R::OverRevision, Expr::value(over))
            .filter(R::Tenant.eq(key))
            .filter(R::Config.eq(done.config.as_str()))
            .filter(R::Number.eq(done.to))
            .filter(R::OverRevision.is_null())
            .exec(self.on())
            .await
            .map_err(db)?;
        Ok(())
    }

    /// How many instances of a rollout are where.
    pub(super) async fn counts(&self, id: &str) -> Result<Counts> {
        counts(self.on(), id).await
    }
}

async fn counts(on: &impl ConnectionTrait, id: &str) -> Result<Counts> {
    use rollout_member::Column as C;
    let rows: Vec<(String, i64, i64)> = rollout_member::Entity::find()
        .select_only()
        .columns([C::State, C::Seen])
        .column_as(C::Instance.count(), "count")
        .filter(C::Rollout.eq(id))
        .group_by(C::State)
        .group_by(C::Seen)
        .into_tuple()
        .all(on)
        .await
        .map_err(db)?;
    let mut counts = Counts::default();
    for (state, seen, count) in rows {
        let (state, count) = (from_word::<MemberState>(ROLLOUT, id, &state)?, number(ROLLOUT, id, count)?);
        counts.add(state, count);
        if state == MemberState::Proven && seen != 0 {
            counts.seen += count;
        }
    }
    Ok(counts)
}

/// What a context may see of it: why a rollout of the fleet's failed is told with an instance's
/// name and words, which may be another tenant's.
fn shown(context: &Context, rollout: Rollout) -> Rollout {
    let owner = rollout.tenant.as_ref().map_or("", TenantName::as_str);
    match guest(context, owner) {
        Some(_) => Rollout { error: rollout.error.map(|_| "it failed at an instance".to_owned()), ..rollout },
        None => rollout,
    }
}

fn read(row: rollout::Model, counts: Counts) -> Result<Rollout> {
    let id = row.id.as_str();
    let tenant: Option<TenantName> = tenant_of(&row.tenant)?;
    Ok(Rollout {
        tenant,
        config: name(ROLLOUT, id, &row.config)?,
        from: row.from_revision,
        to: row.to_revision,
        selector: from_json(ROLLOUT, id, &row.selector)?,
        strategy: from_json(ROLLOUT, id, &row.strategy)?,
        stage: from_word(ROLLOUT, id, &row.stage)?,
        step: number(ROLLOUT, id, row.step)?,
        stage_since: time(row.stage_since),
        paused_from: row.paused_from.as_deref().map(|it| from_word(ROLLOUT, id, it)).transpose()?,
        promoted: row.promoted != 0,
        author: row.author.clone(),
        message: row.message.clone(),
        error: row.error.clone(),
        counts,
        version: row.version,
        created_at: time(row.created_at),
        ended_at: row.ended_at.map(time),
        id: row.id,
    })
}
