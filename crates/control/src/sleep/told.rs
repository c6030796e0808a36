//! What is told of a claw's sleep: what keeps it up, when it sleeps, when it is woken.

use clawfarm_model::{Action, Cause, Context, Desired, EffectivePolicy, LastWake, Phase, Result, Timestamp};

use super::verdict::Verdict;
use super::{Memory, Traffic};
use crate::Control;
use crate::core::may;

/// What a claw worked on when it was asked whether it rests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastBusy {
    /// When.
    pub at: Timestamp,
    /// On what, in its own words.
    pub with: Vec<String>,
}

/// How it stands with a claw's sleep.
#[derive(Clone, Debug)]
pub struct SleepOutlook {
    /// What holds for it.
    pub policy: EffectivePolicy,
    /// What keeps it from sleeping, or from sleeping deeper; empty when nothing does.
    pub kept_awake_by: Vec<String>,
    /// When it goes to sleep, or deeper, if nothing happens.
    pub sleeps_at: Option<Timestamp>,
    /// When the clock wakes it, and why.
    pub wakes_at: Option<(Timestamp, Cause)>,
    /// When its next job or heartbeat is due, as it said before it slept.
    pub next_run_at: Option<Timestamp>,
    /// When it was last used.
    pub last_used: Option<Timestamp>,
    /// What goes to it through this server's edge.
    pub traffic: Traffic,
    /// How its last wake went.
    pub last_wake: Option<LastWake>,
}

impl Control {
    /// How it stands with a claw's sleep. Asked of the server that decides about it, this knows
    /// what the claw worked on when it was asked last; another knows what is in the store.
    ///
    /// # Errors
    /// `NotFound` when there is none.
    pub async fn outlook(&self, context: &Context, id: &str) -> Result<SleepOutlook> {
        let core = &self.core;
        let instance = core.find(context, id).await?;
        may(context, Action::InstanceUse, &instance)?;
        let sleeper = &core.sleeper;
        let memory = Memory::of(&core.store.rest(&Context::system("policy"), &instance.id).await?);
        let (policy, since, busy, due) = {
            let state = sleeper.lock();
            let known = state.known.get(&instance.id);
            let brief = super::Brief::of(&instance);
            (
                sleeper.layers.effective(&brief),
                known.map_or(instance.phase_since, |known| known.since),
                known.and_then(|known| known.busy.clone()),
                known.and_then(|known| known.due),
            )
        };
        let now = sleeper.clock.now();
        let mut outlook = SleepOutlook {
            kept_awake_by: Vec::new(),
            sleeps_at: None,
            wakes_at: None,
            next_run_at: memory.next_run_at,
            last_used: memory.active_at.max(sleeper.marks.last_used(&instance.id)),
            traffic: core.doors.get().map(|doors| doors.traffic(&instance.id)).unwrap_or_default(),
            last_wake: memory.facts.last_wake.clone(),
            policy,
        };
        let awake = instance.phase == Phase::Ready && instance.intent.desired == Desired::Running;
        if awake || instance.phase == Phase::Warm {
            match sleeper.judge(core, &instance, &memory, None) {
                Verdict::Stay(why) => outlook.kept_awake_by = why,
                Verdict::Until(at, why) => {
                    outlook.kept_awake_by = why;
                    outlook.sleeps_at = Some(due.map_or(at, |due| due.max(at)));
                }
                Verdict::Sleep(_) => outlook.sleeps_at = due.or(Some(now)),
            }
        }
        if let Some(busy) = busy.filter(|_| awake) {
            let with = busy.with.join("; ");
            outlook.kept_awake_by.push(format!("it was working when it was asked at {}: {with}", busy.at));
        }
        if matches!(instance.phase, Phase::Warm | Phase::Suspended) {
            outlook.wakes_at =
                memory.wake_at(&outlook.policy, instance.phase, instance.intent.cause, since, now);
        }
        Ok(outlook)
    }
}
