//! Halting a rollout, letting it go on, ending it.

use clawfarm_config::{Member, MemberState, Rollout, Stage};
use clawfarm_model::{Code, ConfigName, Context, Error, Result};

use super::manage::leave;
use crate::Control;

impl Control {
    /// Rollouts, the newest first; of one configuration when it is given.
    ///
    /// # Errors
    /// When the limit is out of range.
    pub async fn rollouts(
        &self,
        context: &Context,
        of: Option<&ConfigName>,
        limit: u32,
    ) -> Result<Vec<Rollout>> {
        self.core.store.rollouts(context, of, limit).await
    }

    /// One rollout.
    ///
    /// # Errors
    /// `NotFound` when there is none.
    pub async fn rollout(&self, context: &Context, id: &str) -> Result<Rollout> {
        self.core.store.rollout(context, id).await
    }

    /// Its instances, in the order of their turns; only those in a state, and after a place, when
    /// these are given.
    ///
    /// # Errors
    /// `NotFound` when there is no such rollout.
    pub async fn rollout_members(
        &self,
        context: &Context,
        id: &str,
        state: Option<MemberState>,
        after: Option<i64>,
        limit: u32,
    ) -> Result<Vec<Member>> {
        self.core.store.members(context, id, state, after, limit).await
    }

    /// Begins with no more instances; those on their way go on.
    ///
    /// # Errors
    /// `Conflict` when it is over, or paused already.
    pub async fn pause_rollout(&self, context: &Context, id: &str) -> Result<Rollout> {
        self.steer(context, id, "paused", |it| match it.stage {
            Stage::Going | Stage::Waiting | Stage::RollingBack => {
                it.paused_from = Some(it.stage);
                it.stage = Stage::Paused;
                Ok(())
            }
            _ => Err(not_now(it, "be paused")),
        })
        .await
    }

    /// Goes on with one that was paused.
    ///
    /// # Errors
    /// `Conflict` when it is not paused.
    pub async fn resume_rollout(&self, context: &Context, id: &str) -> Result<Rollout> {
        self.steer(context, id, "resumed", |it| match (it.stage, it.paused_from.take()) {
            (Stage::Paused, from) => {
                it.stage = from.unwrap_or(Stage::Going);
                Ok(())
            }
            _ => Err(not_now(it, "be resumed")),
        })
        .await
    }

    /// Goes on to the next step without waiting any longer.
    ///
    /// # Errors
    /// `Conflict` when it does not wait between two steps.
    pub async fn promote_rollout(&self, context: &Context, id: &str) -> Result<Rollout> {
        self.steer(context, id, "promoted", |it| match it.stage {
            Stage::Waiting => {
                it.promoted = true;
                Ok(())
            }
            _ => Err(not_now(it, "be promoted")
                .fix("it can be while it waits between two steps; see clawfarm rollout status")),
        })
        .await
    }

    /// Ends it where it is: who has the new revision keeps it.
    ///
    /// # Errors
    /// `Conflict` when it is over.
    pub async fn abort_rollout(&self, context: &Context, id: &str) -> Result<Rollout> {
        self.steer(context, id, "aborted", |it| {
            if it.stage.is_over() {
                return Err(not_now(it, "be aborted"));
            }
            it.stage = Stage::Aborted;
            it.error.get_or_insert_with(|| "it was aborted".to_owned());
            Ok(())
        })
        .await
    }

    /// Gives those that were changed back what they had.
    ///
    /// # Errors
    /// `Conflict` when it is over.
    pub async fn turn_round(&self, context: &Context, id: &str) -> Result<Rollout> {
        self.steer(context, id, "to be rolled back", |it| {
            if it.stage.is_over() || it.stage == Stage::RollingBack {
                return Err(not_now(it, "be rolled back"));
            }
            it.stage = Stage::RollingBack;
            it.paused_from = None;
            it.error.get_or_insert_with(|| "its rollback was asked for".to_owned());
            Ok(())
        })
        .await
    }

    async fn steer(
        &self,
        context: &Context,
        id: &str,
        what: &str,
        change: impl Fn(&mut Rollout) -> Result<()>,
    ) -> Result<Rollout> {
        let mut tries = 0;
        loop {
            let before = self.core.store.rollout(context, id).await?;
            let grant = leave(context, &before.config)?;
            let mut after = before.clone();
            change(&mut after)?;
            let told = format!("rollout {id} of {} is {what}", before.config);
            match self.core.store.steer_rollout(&grant, &before, after, &told).await {
                // The driver moves it all the time.
                Err(error) if error.code() == Code::Conflict && tries < 10 => tries += 1,
                other => {
                    self.core.driver.wake();
                    return other;
                }
            }
        }
    }
}

fn not_now(rollout: &Rollout, what: &str) -> Error {
    let stage = serde_json::to_value(rollout.stage).ok();
    let stage = stage.as_ref().and_then(|it| it.as_str()).unwrap_or("elsewhere").replace('_', " ");
    Error::new(Code::Conflict, format!("rollout '{}' is {stage}: it can't {what}", rollout.id))
        .field("id")
        .fix(format!("see clawfarm rollout status {}", rollout.id))
}
