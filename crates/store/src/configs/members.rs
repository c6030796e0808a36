//! The instances of rollouts, and those that go by a configuration.

use clawfarm_config::{ChangeSet, Impact, Member, MemberState};
use clawfarm_model::name::TenantName;
use clawfarm_model::{
    ClawId, ConfigKind, ConfigName, Context, Desired, Health, Instance, Phase, Result, Timestamp,
};
use sea_orm::sea_query::{Expr, ExprTrait, Query};
use sea_orm::{
    ColumnTrait, Condition, EntityTrait, IntoActiveModel, JoinType, QueryFilter, QueryOrder, QuerySelect,
    RelationDef,
};

use super::{guest, seen};
use crate::convert::{from_json, from_word, name, number, time, to_json, to_word};
use crate::entity::{instance, rollout, rollout_member};
use crate::error::db;
use crate::guard::server_only;
use crate::instances::row::from_row;
use crate::store::Store;
use crate::tx::Tx;

const WHAT: &str = "member of a rollout";
/// Rows of one insert: databases take so many values in a statement.
const BATCH: usize = 500;

/// An instance that a rollout is to have.
#[derive(Clone, Debug, PartialEq)]
pub struct NewMember {
    /// Which.
    pub instance: ClawId,
    /// When it is its turn.
    pub place: i64,
    /// The revision that it has.
    pub before: Option<i64>,
    /// What the change asks of it.
    pub impact: Impact,
    /// Why it is left out, when it is.
    pub left_out: Option<String>,
    /// What it says otherwise with it, where that is what goes out.
    pub changes: ChangeSet,
}

impl Store {
    /// What the database's clock says: the one that all servers have in common.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn clock(&self) -> Result<Timestamp> {
        crate::servers::database_now(&self.0.reader).await.map(time)
    }

    /// Instances of a rollout in the order of their turns, at most `limit`; only those in a state,
    /// and after a place, when these are given.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn members(
        &self,
        context: &Context,
        rollout: &str,
        state: Option<MemberState>,
        after: Option<i64>,
        limit: u32,
    ) -> Result<Vec<Member>> {
        use rollout_member::Column as C;
        let known = rollout::Entity::find_by_id(rollout)
            .filter(seen(context, rollout::Column::Tenant))
            .one(&self.0.reader)
            .await
            .map_err(db)?;
        let Some(known) = known else {
            return Err(clawfarm_model::Error::not_found("rollout", rollout));
        };
        let mut query = rollout_member::Entity::find()
            .filter(C::Rollout.eq(rollout))
            .order_by_asc(C::Place)
            .order_by_asc(C::Instance)
            .limit(u64::from(limit));
        if let Some(state) = state {
            query = query.filter(C::State.eq(to_word(&state)?));
        }
        if let Some(after) = after {
            query = query.filter(C::Place.gt(after));
        }
        if let Some(own) = guest(context, &known.tenant) {
            // Of a rollout of the fleet's a tenant sees its own instances, and of others nothing.
            let mut theirs = Query::select();
            theirs
                .column(instance::Column::Id)
                .from(instance::Entity)
                .and_where(instance::Column::Tenant.eq(own.as_str()));
            query = query.filter(C::Instance.in_subquery(theirs));
        }
        let rows = query.all(&self.0.reader).await.map_err(db)?;
        rows.into_iter().map(read).collect()
    }

    /// Instances of a rollout in a state, with what is known of each; nothing of one that is not
    /// there. For the server's own tasks.
    ///
    /// # Errors
    /// When the context is a tenant's, or the database fails.
    pub async fn members_as_they_are(
        &self,
        context: &Context,
        rollout: &str,
        state: MemberState,
        limit: u32,
    ) -> Result<Vec<(Member, Option<Instance>)>> {
        let of_state = Condition::all().add(rollout_member::Column::State.eq(to_word(&state)?));
        self.joined(context, rollout, of_state, JoinType::LeftJoin, limit).await
    }

    /// Of the instances of a rollout that have the revision and counted as well: those of which
    /// that may no longer be so, or which were not seen to run with it yet and are up by now. For
    /// the server's own tasks.
    ///
    /// # Errors
    /// When the context is a tenant's, or the database fails.
    pub async fn members_in_doubt(
        &self,
        context: &Context,
        rollout: &str,
        limit: u32,
    ) -> Result<Vec<(Member, Option<Instance>)>> {
        use instance::Column as I;
        use rollout_member::Column as C;
        let ill = [Phase::Failed, Phase::Unhealthy, Phase::Exited].map(|it| it.as_str());
        let doubt = Condition::any()
            .add(I::Phase.is_in(ill))
            .add(I::Health.eq(to_word(&Health::Failing)?))
            .add(I::RestartsTotal.into_expr().gt(Expr::col((rollout_member::Entity, C::EndsBefore))))
            .add(Condition::all().add(C::Seen.eq(0)).add(I::Phase.eq(Phase::Ready.as_str())));
        let of_them = Condition::all().add(C::State.eq(to_word(&MemberState::Proven)?)).add(doubt);
        self.joined(context, rollout, of_them, JoinType::InnerJoin, limit).await
    }

    /// Those among these that are a rollout's and in a state. For the server's own tasks.
    ///
    /// # Errors
    /// When the context is a tenant's, or the database fails.
    pub async fn members_among(
        &self,
        context: &Context,
        rollout: &str,
        state: MemberState,
        ids: &[ClawId],
    ) -> Result<Vec<Member>> {
        server_only(context, "a rollout's progress")?;
        use rollout_member::Column as C;
        let mut found = Vec::new();
        for batch in ids.chunks(BATCH) {
            let rows = rollout_member::Entity::find()
                .filter(C::Rollout.eq(rollout))
                .filter(C::State.eq(to_word(&state)?))
                .filter(C::Instance.is_in(batch.iter().map(ClawId::as_str)))
                .all(&self.0.reader)
                .await
                .map_err(db)?;
            found.extend(rows.into_iter().map(read).collect::<Result<Vec<_>>>()?);
        }
        Ok(found)
    }

    async fn joined(
        &self,
        context: &Context,
        rollout: &str,
        which: Condition,
        join: JoinType,
        limit: u32,
    ) -> Result<Vec<(Member, Option<Instance>)>> {
        server_only(context, "a rollout's progress")?;
        use rollout_member::Column as C;
        let relation: RelationDef = rollout_member::Entity::belongs_to(instance::Entity)
            .from(C::Instance)
            .to(instance::Column::Id)
            .into();
        let rows = rollout_member::Entity::find()
            .join(join, relation)
            .select_also(instance::Entity)
            .filter(C::Rollout.eq(rollout))
            .filter(which)
            .order_by_asc(C::Place)
            .order_by_asc(C::Instance)
            .limit(u64::from(limit))
            .all(&self.0.reader)
            .await
            .map_err(db)?;
        rows.into_iter()
            .map(|(member, instance)| Ok((read(member)?, instance.as_ref().map(from_row).transpose()?)))
            .collect()
    }

    /// Adds instances that came while a rollout was under way, if it still is where `rollout` says.
    ///
    /// # Errors
    /// `Conflict` when it was moved on meanwhile; when the context is a tenant's, or the database
    /// fails.
    pub async fn add_members(
        &self,
        context: &Context,
        rollout: &clawfarm_config::Rollout,
        members: &[NewMember],
    ) -> Result<()> {
        server_only(context, "a rollout's progress")?;
        let tx = Tx::begin(&self.0).await?;
        tx.step(rollout).await?;
        tx.add_members(&rollout.id, members).await?;
        tx.commit().await
    }

    /// The instances that go by a configuration: those that are bound to a template, or all of a
    /// project, a tenant or the fleet. Those that are being removed are none of them. In the order
    /// of their ids, at most `limit`, after one of them when it is given.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn instances_of(
        &self,
        context: &Context,
        tenant: &TenantName,
        config: &ConfigName,
        after: Option<&ClawId>,
        limit: u32,
    ) -> Result<Vec<Instance>> {
        use instance::Column as C;
        let mut query = instance::Entity::find()
            .filter(C::Phase.ne(Phase::Destroyed.as_str()))
            .filter(C::Desired.ne(Desired::Destroyed.as_str()))
            .order_by_asc(C::Id)
            .limit(u64::from(limit));
        if let Some(after) = after {
            query = query.filter(C::Id.gt(after.as_str()));
        }
        query = match config.kind() {
            ConfigKind::Global => {
                server_only(context, "the instances of the fleet")?;
                query
            }
            ConfigKind::Tenant | ConfigKind::Own => query.filter(C::Tenant.eq(tenant.as_str())),
            ConfigKind::Project(project) => {
                query.filter(C::Tenant.eq(tenant.as_str())).filter(C::Project.eq(project.as_str()))
            }
            ConfigKind::Template => {
                query.filter(C::Tenant.eq(tenant.as_str())).filter(C::Template.eq(config.as_str()))
            }
        };
        if !context.sees(tenant) {
            return Ok(Vec::new());
        }
        let rows = query.all(&self.0.reader).await.map_err(db)?;
        rows.iter().map(from_row).collect()
    }
}

impl Tx {
    pub(super) async fn add_members(&self, rollout: &str, members: &[NewMember]) -> Result<()> {
        for batch in members.chunks(BATCH) {
            let rows = batch
                .iter()
                .map(|it| {
                    let state =
                        if it.left_out.is_some() { MemberState::Skipped } else { MemberState::Pending };
                    Ok(rollout_member::Model {
                        rollout: rollout.to_owned(),
                        instance: it.instance.to_string(),
                        place: it.place,
                        state: to_word(&state)?,
                        since: self.now.as_millis(),
                        before_revision: it.before,
                        impact: to_json(&it.impact)?,
                        ends_before: 0,
                        was_well: 0,
                        was_up: 0,
                        seen: 0,
                        error: it.left_out.clone(),
                        changes: (!it.changes.is_empty()).then(|| to_json(&it.changes)).transpose()?,
                    }
                    .into_active_model())
                })
                .collect::<Result<Vec<_>>>()?;
            let there = sea_orm::sea_query::OnConflict::columns([
                rollout_member::Column::Rollout,
                rollout_member::Column::Instance,
            ])
            .do_nothing()
            .to_owned();
            rollout_member::Entity::insert_many(rows)
                .on_conflict(there)
                .exec_without_returning(self.on())
                .await
                .map_err(db)?;
        }
        Ok(())
    }
}

fn read(row: rollout_member::Model) -> Result<Member> {
    let id = row.instance.as_str();
    Ok(Member {
        instance: name(WHAT, id, id)?,
        place: row.place,
        state: from_word(WHAT, id, &row.state)?,
        since: time(row.since),
        before: row.before_revision,
        impact: from_json(WHAT, id, &row.impact)?,
        ends_before: number(WHAT, id, row.ends_before)?,
        was_well: row.was_well != 0,
        was_up: row.was_up != 0,
        seen: row.seen != 0,
        error: row.error,
        changes: row.changes.as_deref().map(|it| from_json(WHAT, id, it)).transpose()?.unwrap_or_default(),
    })
}
