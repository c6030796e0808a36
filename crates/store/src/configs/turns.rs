//! Moving the instances of a rollout from one state to another.
//!
//! Any server may drive any rollout, and people steer it meanwhile. So a step is taken together
//! with the rollout's version ([`Store::take_members`]): of two who decided on the same, one takes
//! it. And what a step does to an instance is written only while it still is that instance's turn
//! ([`Turn`]), in the transaction that writes it: who was held up in between changes nothing any
//! more.

use clawfarm_config::{MemberState, Rollout};
use clawfarm_model::{ClawId, Code, Context, Error, Result};
use sea_orm::sea_query::{Expr, ExprTrait};
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter, QuerySelect};

use crate::convert::to_word;
use crate::entity::{rollout, rollout_member};
use crate::error::db;
use crate::guard::server_only;
use crate::store::Store;
use crate::tx::{Tries, Tx};

/// So many are moved in one transaction, so that others may write in between.
const BATCH: usize = 500;

/// An instance's turn in a rollout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Turn {
    /// The rollout.
    pub rollout: String,
    /// Where the instance is while it is its turn.
    pub state: MemberState,
}

/// How an instance was when it was its turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    /// Which.
    pub instance: ClawId,
    /// How often it had ended by itself.
    pub ends: u32,
    /// Whether it was well.
    pub well: bool,
    /// Whether it was to be up.
    pub up: bool,
}

/// How an instance has fared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fared {
    /// Which.
    pub instance: ClawId,
    /// Whether it was seen to run with it.
    pub seen: bool,
    /// What is to be said of it.
    pub why: Option<String>,
}

impl Store {
    /// Takes a step of a rollout, if it still is where `rollout` says: these instances go from one
    /// state to another. Who is elsewhere by now stays there; those that were moved are returned.
    /// For the server's own tasks.
    ///
    /// # Errors
    /// `Conflict` when the rollout was moved on meanwhile; when the context is a tenant's, or the
    /// database fails.
    pub async fn take_members(
        &self,
        context: &Context,
        rollout: &Rollout,
        from: MemberState,
        to: MemberState,
        members: &[Taken],
    ) -> Result<Vec<ClawId>> {
        server_only(context, "a rollout's progress")?;
        let mut tries = Tries::default();
        loop {
            match self.try_take(rollout, from, to, members).await {
                Err(error) if tries.again(&error).await => {}
                other => return other,
            }
        }
    }

    async fn try_take(
        &self,
        rollout: &Rollout,
        from: MemberState,
        to: MemberState,
        members: &[Taken],
    ) -> Result<Vec<ClawId>> {
        use rollout_member::Column as C;
        let tx = Tx::begin(&self.0).await?;
        tx.step(rollout).await?;
        let mut taken = Vec::with_capacity(members.len());
        for member in members {
            let written = rollout_member::Entity::update_many()
                .col_expr(C::State, Expr::value(to_word(&to)?))
                .col_expr(C::Since, tx.database_clock())
                .col_expr(C::EndsBefore, Expr::value(i64::from(member.ends)))
                .col_expr(C::WasWell, Expr::value(i64::from(member.well)))
                .col_expr(C::WasUp, Expr::value(i64::from(member.up)))
                .col_expr(C::Seen, Expr::value(0_i64))
                .filter(C::Rollout.eq(rollout.id.as_str()))
                .filter(C::Instance.eq(member.instance.as_str()))
                .filter(C::State.eq(to_word(&from)?))
                .exec(tx.on())
                .await
                .map_err(db)?;
            if written.rows_affected == 1 {
                taken.push(member.instance.clone());
            }
        }
        tx.commit().await?;
        Ok(taken)
    }

    /// Moves instances of a rollout from one state to another (or to the same, with something else
    /// known of them); those that are elsewhere by now stay there. For the server's own tasks.
    ///
    /// # Errors
    /// When the context is a tenant's, or the database fails.
    pub async fn move_members(
        &self,
        context: &Context,
        rollout: &str,
        from: MemberState,
        to: MemberState,
        members: &[Fared],
    ) -> Result<u64> {
        server_only(context, "a rollout's progress")?;
        let mut moved = 0;
        for batch in members.chunks(BATCH) {
            let mut tries = Tries::default();
            moved += loop {
                match self.try_move(rollout, from, to, batch).await {
                    Err(error) if tries.again(&error).await => {}
                    other => break other?,
                }
            };
        }
        Ok(moved)
    }

    async fn try_move(
        &self,
        rollout: &str,
        from: MemberState,
        to: MemberState,
        members: &[Fared],
    ) -> Result<u64> {
        use rollout_member::Column as C;
        let tx = Tx::begin(&self.0).await?;
        let mut moved = 0;
        for member in members {
            let mut change = rollout_member::Entity::update_many()
                .col_expr(C::State, Expr::value(to_word(&to)?))
                .col_expr(C::Seen, Expr::value(i64::from(member.seen)))
                .col_expr(C::Error, Expr::value(member.why.clone()))
                .filter(C::Rollout.eq(rollout))
                .filter(C::Instance.eq(member.instance.as_str()))
                .filter(C::State.eq(to_word(&from)?));
            if from != to {
                change = change.col_expr(C::Since, tx.database_clock());
            }
            moved += change.exec(tx.on()).await.map_err(db)?.rows_affected;
        }
        tx.commit().await?;
        Ok(moved)
    }
}

impl Tx {
    /// Marks a rollout as moved on, if it still is where it was read.
    pub(super) async fn step(&self, read: &Rollout) -> Result<()> {
        use rollout::Column as C;
        let written = rollout::Entity::update_many()
            .col_expr(C::Version, C::Version.into_expr().add(1))
            .filter(C::Id.eq(read.id.as_str()))
            .filter(C::Version.eq(read.version))
            .filter(C::Active.is_not_null())
            .exec(self.on())
            .await
            .map_err(db)?;
        if written.rows_affected == 1 { Ok(()) } else { Err(moved_on(&read.id)) }
    }

    /// Refuses what is not the instance's turn any more. Whoever ends the turn waits until this
    /// transaction has ended.
    pub(crate) async fn check_turn(&self, id: &ClawId, turn: Option<&Turn>) -> Result<()> {
        let Some(turn) = turn else { return Ok(()) };
        use rollout_member::Column as C;
        let there = rollout_member::Entity::find_by_id((turn.rollout.clone(), id.to_string()))
            .filter(C::State.eq(to_word(&turn.state)?))
            .lock_shared()
            .one(self.on())
            .await
            .map_err(db)?;
        if there.is_some() {
            return Ok(());
        }
        Err(Error::new(Code::Conflict, format!("it is no longer the turn of '{id}' in '{}'", turn.rollout))
            .field("rollout"))
    }

    /// Takes those that are on their way out of a rollout that is ended where it is: nobody looks
    /// after them any more.
    pub(super) async fn leave_behind(&self, rollout: &str) -> Result<()> {
        use rollout_member::Column as C;
        let on_their_way = [to_word(&MemberState::Changing)?, to_word(&MemberState::Reverting)?];
        rollout_member::Entity::update_many()
            .col_expr(C::State, Expr::value(to_word(&MemberState::Skipped)?))
            .col_expr(C::Since, self.database_clock())
            .col_expr(C::Error, Expr::value("the rollout was aborted while this one was on its way"))
            .filter(C::Rollout.eq(rollout))
            .filter(C::State.is_in(on_their_way))
            .exec(self.on())
            .await
            .map_err(db)?;
        Ok(())
    }

    /// Has those that could not be brought back tried once more.
    pub(super) async fn revert_again(&self, rollout: &str) -> Result<()> {
        use rollout_member::Column as C;
        rollout_member::Entity::update_many()
            .col_expr(C::State, Expr::value(to_word(&MemberState::Failed)?))
            .filter(C::Rollout.eq(rollout))
            .filter(C::State.eq(to_word(&MemberState::RevertFailed)?))
            .exec(self.on())
            .await
            .map_err(db)?;
        Ok(())
    }
}

pub(super) fn moved_on(id: &str) -> Error {
    Error::new(Code::Conflict, format!("rollout '{id}' was changed by somebody else at the same moment"))
        .fix("look at it again, and repeat what is still wanted")
}
