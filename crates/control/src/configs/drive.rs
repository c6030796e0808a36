//! Driving rollouts: looking at where each is, and taking the next step.
//!
//! Every server does it, for all rollouts. A step is taken together with the rollout's version, so
//! of two servers that decided on the same one takes it; and what a step does to an instance is
//! written only while it still is that instance's turn. A server that ends leaves nothing that the
//! others would not find in the store. No rollout waits for another: each takes one step of
//! bounded size in turn.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clawfarm_config::{Counts, Known, Member, MemberState, Next, Rollout, Stage};
use clawfarm_model::name::TenantName;
use clawfarm_model::{
    Action, ClawId, Code, ConfigKind, Context, Granted, Resource, Result, Timestamp, authorize,
};
use clawfarm_store::{Fared, Taken, Turn};
use futures::StreamExt;
use tokio::sync::Notify;

use super::change::Given;
use super::members::{Since, Standing, since, standing, taken};
use crate::core::Core;

/// How often a rollout is looked at although nobody told of anything.
const EVERY: Duration = Duration::from_millis(500);
/// How long it is waited for more of what was told.
const TOGETHER: Duration = Duration::from_millis(20);
/// How often it is looked whether another server has begun one.
const LOOK: Duration = Duration::from_secs(5);
/// So many instances are changed in one step, so that other rollouts have theirs.
const STEP: u32 = 64;
/// So many instances are changed at a time: databases write one after the other.
const AT_ONCE: usize = 8;
/// When one that is on its way, and was not changed, is changed by whoever sees it: the server
/// that began with it has ended.
const LEFT_BEHIND: Duration = Duration::from_secs(5);
/// So many of those that have it and may not be well any more are looked at each time.
const WATCHED: u32 = 1_000;
/// Rollouts that ended within this time before a server began are looked over once more by it: the
/// server that ended them may have ended before it could.
const LOOKED_OVER: Duration = Duration::from_secs(600);

/// What wakes the driver.
#[derive(Default)]
pub(crate) struct Driver {
    notify: Notify,
}

impl Driver {
    /// There is something to do.
    pub(crate) fn wake(&self) {
        self.notify.notify_one();
    }
}

/// Drives rollouts until the server ends.
pub(crate) async fn run(core: Arc<Core>) {
    look_over(&core).await;
    let mut running = true;
    loop {
        let wait = if running { EVERY } else { LOOK };
        tokio::select! {
            () = core.stopping.cancelled() => return,
            // Of many that are ready at once it is told many times.
            () = core.driver.notify.notified() => tokio::time::sleep(TOGETHER).await,
            () = tokio::time::sleep(wait) => {}
        }
        match all(&core).await {
            Ok(some) => running = some,
            Err(error) => {
                tracing::warn!(?error, "rollouts could not be looked after; they are looked at again");
            }
        }
    }
}

/// Takes steps of all rollouts until each waits for something; says whether there are any.
async fn all(core: &Core) -> Result<bool> {
    let mut ids = core.store.running_rollouts(&Context::system("rollout")).await?;
    let any = !ids.is_empty();
    while !ids.is_empty() {
        let mut further = Vec::new();
        for id in ids {
            if core.stopping.is_cancelled() {
                return Ok(false);
            }
            match one(core, &id).await {
                Ok(true) => further.push(id),
                Ok(false) => {}
                Err(error) if matches!(error.code(), Code::Conflict | Code::NotFound) => {
                    // Another server, or a person, was faster.
                    tracing::debug!(rollout = %id, ?error, "a step was taken by somebody else");
                }
                Err(error) => tracing::warn!(rollout = %id, ?error, "a rollout could not be driven"),
            }
        }
        ids = further;
    }
    Ok(any)
}

/// Takes one step of a rollout; says whether there may be another at once.
async fn one(core: &Core, id: &str) -> Result<bool> {
    let system = Context::system("rollout");
    let rollout = core.store.rollout(&system, id).await?;
    if rollout.stage.is_over() {
        return Ok(false);
    }
    let driving = Driving { core, grant: leave(&rollout)?, rollout, now: core.store.clock().await? };
    driving.look().await?;
    driving.step().await
}

/// Looks once more over the rollouts that have ended not long ago.
async fn look_over(core: &Core) {
    let system = Context::system("rollout");
    let done = match core.store.rollouts_done_within(&system, LOOKED_OVER).await {
        Ok(done) => done,
        Err(error) => {
            tracing::warn!(?error, "the rollouts that have ended could not be listed");
            return;
        }
    };
    for id in done {
        let looking = async {
            let rollout = core.store.rollout(&system, &id).await?;
            core.take_along(&rollout).await
        };
        if let Err(error) = looking.await {
            tracing::warn!(rollout = %id, ?error, "a rollout that has ended could not be looked over");
        }
    }
}

fn leave(rollout: &Rollout) -> Result<Granted> {
    let resource = Resource::new(tenant(rollout), "config", rollout.config.as_str());
    authorize(&Context::system("rollout"), Action::ConfigWrite, &resource)
}

/// Whose it is; the fleet's is the default tenant's to write.
pub(super) fn tenant(rollout: &Rollout) -> TenantName {
    rollout.tenant.clone().unwrap_or_else(TenantName::default_tenant)
}

struct Driving<'a> {
    core: &'a Core,
    grant: Granted,
    rollout: Rollout,
    /// By the clock that all servers have in common.
    now: Timestamp,
}

/// How instances have fared, by where they go.
type Fates = BTreeMap<MemberState, Vec<Fared>>;

fn fares(fates: &mut Fates, to: MemberState, instance: ClawId, why: Option<String>) {
    let seen = false;
    fates.entry(to).or_default().push(Fared { instance, seen, why });
}

impl Driving<'_> {
    async fn moved(&self, from: MemberState, fates: Fates) -> Result<()> {
        let system = Context::system("rollout");
        for (to, members) in fates {
            self.core.store.move_members(&system, &self.rollout.id, from, to, &members).await?;
        }
        Ok(())
    }

    /// Sees how those that are on their way have fared, and whether the others still are well.
    async fn look(&self) -> Result<()> {
        self.look_at(MemberState::Changing).await?;
        self.look_at(MemberState::Reverting).await?;
        if matches!(self.rollout.stage, Stage::Going | Stage::Waiting) {
            self.watch().await?;
        }
        Ok(())
    }

    async fn look_at(&self, state: MemberState) -> Result<()> {
        use MemberState as M;
        let back = state == M::Reverting;
        let (system, strategy) = (Context::system("rollout"), &self.rollout.strategy);
        let id = &self.rollout.id;
        let all = self.core.store.members_as_they_are(&system, id, state, strategy.parallel.max(1)).await?;
        let mut fates = Fates::new();
        let mut again = Vec::new();
        for (member, instance) in all {
            let Some(instance) = instance else {
                fares(&mut fates, M::Skipped, member.instance, Some("it was removed".to_owned()));
                continue;
            };
            let id = member.instance.clone();
            match standing(&instance, &member, &self.rollout, back, self.now) {
                Standing::Waiting => {}
                Standing::Well { .. } if back => fares(&mut fates, M::Reverted, id, None),
                Standing::Well { seen } => {
                    fates.entry(M::Proven).or_default().push(Fared { instance: id, seen, why: None });
                }
                // It has again what it had, and was no better before.
                Standing::Sick(why) if back => fares(&mut fates, M::Reverted, id, Some(why)),
                Standing::Bad(why) | Standing::Late(why) if back => {
                    fares(&mut fates, M::RevertFailed, id, Some(why));
                }
                Standing::Bad(why) => fares(&mut fates, M::Failed, id, Some(why)),
                Standing::Sick(why) | Standing::Late(why) | Standing::Left(why) => {
                    fares(&mut fates, M::Skipped, id, Some(why));
                }
                Standing::NotGiven if self.now.since(member.since) >= LEFT_BEHIND => again.push(member),
                Standing::NotGiven => {}
            }
        }
        self.moved(state, fates).await?;
        self.hand_all(again, back).await
    }

    /// Sees whether those that had it and were well still are, and whether those that slept are up
    /// and well by now.
    async fn watch(&self) -> Result<()> {
        let system = Context::system("rollout");
        let mut fates = Fates::new();
        for (member, instance) in self.core.store.members_in_doubt(&system, &self.rollout.id, WATCHED).await?
        {
            let Some(instance) = instance else { continue };
            match since(&instance, &member, &self.rollout) {
                Since::Same => {}
                Since::Bad(why) => fares(&mut fates, MemberState::Failed, member.instance, Some(why)),
                Since::Seen => fates.entry(MemberState::Proven).or_default().push(Fared {
                    instance: member.instance,
                    seen: true,
                    why: None,
                }),
            }
        }
        self.moved(MemberState::Proven, fates).await?;
        self.compare().await
    }

    /// Sees whether requests to those that have it fail more often than before the rollout, as far
    /// as this server can tell.
    async fn compare(&self) -> Result<()> {
        let now = Instant::now();
        let suspects = self.core.answers.suspects(now);
        if suspects.is_empty() {
            return Ok(());
        }
        let (system, id) = (Context::system("rollout"), &self.rollout.id);
        let proven = MemberState::Proven;
        let ago = |at: Timestamp| now.checked_sub(self.now.since(at));
        let mut fates = Fates::new();
        for member in self.core.store.members_among(&system, id, proven, &suspects).await? {
            let (Some(began), Some(since)) = (ago(self.rollout.created_at), ago(member.since)) else {
                continue;
            };
            let (was, is) = self.core.answers.around(&member.instance, began, since);
            if is.is_worse_than(was) {
                let why = format!(
                    "of {} requests since it has it {} failed, of {} before {}",
                    is.all, is.failed, was.all, was.failed
                );
                fares(&mut fates, MemberState::Failed, member.instance, Some(why));
            }
        }
        self.moved(proven, fates).await
    }

    /// Takes the next step, and says whether there may be another at once.
    async fn step(&self) -> Result<bool> {
        let rollout = self.core.store.rollout(&Context::system("rollout"), &self.rollout.id).await?;
        let known = Known {
            stage: rollout.stage,
            step: rollout.step,
            waited_secs: self.now.since(rollout.stage_since).as_secs(),
            promoted: rollout.promoted,
            counts: rollout.counts,
        };
        match rollout.strategy.next(&known) {
            Next::Wait(_) => Ok(false),
            Next::Change(count) => self.change(&rollout, count.min(STEP)).await,
            Next::Revert(count) => self.revert(&rollout, count.min(STEP)).await,
            Next::Enter(Stage::Done, step) => {
                if self.core.take_in_late(&rollout).await? {
                    return Ok(true);
                }
                self.enter(&rollout, Stage::Done, step).await?;
                // Those that came between that and this.
                self.core.take_along(&rollout).await?;
                Ok(false)
            }
            Next::Enter(stage, step) => self.enter(&rollout, stage, step).await,
        }
    }

    async fn enter(&self, rollout: &Rollout, stage: Stage, step: u32) -> Result<bool> {
        let mut after = Rollout { stage, step, promoted: false, ..rollout.clone() };
        if matches!(stage, Stage::RollingBack | Stage::Halted) && after.error.is_none() {
            after.error = Some(self.why().await?);
        }
        let told = told(&after);
        self.core.store.steer_rollout(&self.grant, rollout, after, &told).await?;
        Ok(true)
    }

    /// Why a rollout has failed: what the first said that did.
    async fn why(&self) -> Result<String> {
        let (system, id) = (Context::system("rollout"), &self.rollout.id);
        let failed = self.core.store.members(&system, id, Some(MemberState::Failed), None, 1).await?;
        Ok(failed.into_iter().next().map_or_else(
            || "too many instances failed".to_owned(),
            |it| format!("{}: {}", it.instance, it.error.unwrap_or_else(|| "it failed".to_owned())),
        ))
    }

    async fn change(&self, rollout: &Rollout, count: u32) -> Result<bool> {
        let (from, to) = (MemberState::Pending, MemberState::Changing);
        let members = self.take(rollout, from, to, count).await?;
        self.hand_all(members, false).await?;
        Ok(true)
    }

    async fn revert(&self, rollout: &Rollout, count: u32) -> Result<bool> {
        for from in [MemberState::Failed, MemberState::Changing, MemberState::Proven] {
            let members = self.take(rollout, from, MemberState::Reverting, count).await?;
            if !members.is_empty() {
                self.hand_all(members, true).await?;
                break;
            }
        }
        Ok(true)
    }

    /// Marks members as on their way, each with how it was until now.
    async fn take(
        &self,
        rollout: &Rollout,
        from: MemberState,
        to: MemberState,
        count: u32,
    ) -> Result<Vec<Member>> {
        let system = Context::system("rollout");
        let all = self.core.store.members_as_they_are(&system, &rollout.id, from, count).await?;
        if all.is_empty() {
            return Ok(Vec::new());
        }
        let marks: Vec<_> = all
            .iter()
            .map(|(member, instance)| {
                let gone = || Taken { instance: member.instance.clone(), ends: 0, well: false, up: false };
                let now = instance.as_ref().map_or_else(gone, taken);
                // How it was before the rollout is what its way back is judged by.
                if to == MemberState::Reverting {
                    Taken { well: member.was_well, up: member.was_up, ..now }
                } else {
                    now
                }
            })
            .collect();
        clawfarm_failpoint::point!(RolloutTakes);
        let taken: BTreeSet<_> =
            self.core.store.take_members(&system, rollout, from, to, &marks).await?.into_iter().collect();
        Ok(all.into_iter().map(|(member, _)| member).filter(|it| taken.contains(&it.instance)).collect())
    }

    /// Gives each its revision. What goes wrong with one is that one's, and no reason to leave the
    /// others: it is tried again when the rollout is looked at.
    async fn hand_all(&self, members: Vec<Member>, back: bool) -> Result<()> {
        let from = if back { MemberState::Reverting } else { MemberState::Changing };
        let done: Vec<_> = futures::stream::iter(members)
            .map(|member| async move { (self.hand(&member, back).await, member) })
            .buffer_unordered(AT_ONCE)
            .collect()
            .await;
        let mut fates = Fates::new();
        for (outcome, member) in done {
            match outcome {
                Ok(None) => {}
                Ok(Some((to, why))) => fares(&mut fates, to, member.instance, Some(why)),
                Err(error) => {
                    let (rollout, instance) = (&self.rollout.id, &member.instance);
                    tracing::warn!(%rollout, %instance, ?error, "it could not be given its revision");
                }
            }
        }
        self.moved(from, fates).await
    }

    /// Gives an instance the new revision, or the one it had. What is returned is where it is at
    /// once, when that is known.
    async fn hand(&self, member: &Member, back: bool) -> Result<Option<(MemberState, String)>> {
        if self.core.stopping.is_cancelled() {
            return Ok(None);
        }
        clawfarm_failpoint::point!(RolloutHands);
        let state = if back { MemberState::Reverting } else { MemberState::Changing };
        let turn = Turn { rollout: self.rollout.id.clone(), state };
        let (core, of, id) = (self.core, &self.rollout.config, &member.instance);
        let given = match (of.kind(), back) {
            (ConfigKind::Own, false) => core.say(id, &member.changes, &turn).await?,
            (ConfigKind::Own, true) => core.say(id, &member.changes.back(), &turn).await?,
            (_, false) => core.give(id, of, Some(self.rollout.to), Some(&turn)).await?,
            (_, true) => core.give(id, of, member.before, Some(&turn)).await?,
        };
        Ok(match given {
            Given::Changed | Given::Later | Given::Over => None,
            Given::Gone => {
                Some((MemberState::Skipped, "it was removed, or bound to another template".to_owned()))
            }
            Given::Otherwise(place) => Some((
                MemberState::Skipped,
                format!("somebody else changed '{place}' meanwhile: it stays so"),
            )),
            Given::Refused(error) if back => {
                Some((MemberState::RevertFailed, format!("it can't have back what it had: {error}")))
            }
            // It could have it when it was planned.
            Given::Refused(error) => Some((MemberState::Failed, error.to_string())),
        })
    }
}

fn told(after: &Rollout) -> String {
    let Counts { proven, failed, skipped, reverted, revert_failed, seen, .. } = after.counts;
    let of = match after.config.kind() {
        ConfigKind::Own => format!("rollout {} of {}", after.id, after.subject()),
        _ => format!("rollout {} of {} (revision {})", after.id, after.config, after.to),
    };
    let why = after.error.as_deref().map_or_else(String::new, |why| format!(": {why}"));
    match after.stage {
        Stage::Done => format!("{of} is done: {proven} have it, {failed} failed, {skipped} were left out"),
        Stage::RollingBack => format!("{of} is rolled back{why}"),
        Stage::RolledBack => format!("{of} was rolled back: {reverted} have again what they had{why}"),
        Stage::Halted if revert_failed > 0 => {
            format!("{of} has halted on its way back: {revert_failed} are not well with what they had{why}")
        }
        Stage::Halted => format!("{of} has halted{why}"),
        Stage::Waiting if seen == 0 => format!(
            "{of}: step {} is through, and nobody was seen to run with it: it waits for one that wakes, or for somebody's word",
            after.step + 1
        ),
        Stage::Waiting => format!("{of}: step {} is through", after.step + 1),
        Stage::Going => format!("{of}: step {} begins", after.step + 1),
        Stage::Paused | Stage::Aborted => String::new(),
    }
}
