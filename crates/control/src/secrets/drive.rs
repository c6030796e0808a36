//! Bringing new values of secrets to the instances that run with them.
//!
//! Every server does it, for all rotations. Nothing is remembered of how far one is: each look
//! reads who runs with which value, so a server that takes over begins with a look as any other.
//! An instance is given a value only if it still is as it was seen, so two servers do it once.

use std::sync::Arc;
use std::time::{Duration, Instant};

use clawfarm_model::event::NewEvent;
use clawfarm_model::secret::{RotationStage, SecretInfo, SecretOwner, SecretRotation, SecretUse};
use clawfarm_model::{Action, Code, Context, Desired, Phase, Result, Signal, Timestamp, Urgency};
use clawfarm_store::Changes;
use tokio::sync::Notify;

use super::users::User;
use crate::core::{Core, may};
use crate::instances::software::refuse_if_updating;
use crate::reconcile::absorb::moved;

/// How often a rotation is looked at while it goes on.
const EVERY: Duration = Duration::from_millis(300);
/// A look at many takes long: it takes at most a fifth of the time.
const PAUSE: u32 = 4;
/// How often it is looked whether another server has begun one.
const LOOK: Duration = Duration::from_secs(5);

/// What wakes the driver.
#[derive(Default)]
pub(crate) struct Driver {
    notify: Notify,
}

impl Driver {
    /// There is something to do.
    pub(super) fn wake(&self) {
        self.notify.notify_one();
    }
}

/// Drives rotations until the server ends.
pub(crate) async fn run(core: Arc<Core>) {
    let mut wait = EVERY;
    loop {
        tokio::select! {
            () = core.stopping.cancelled() => return,
            () = core.rotations.notify.notified() => {}
            () = tokio::time::sleep(wait) => {}
        }
        let begun = Instant::now();
        wait = match all(&core).await {
            Ok(true) => EVERY.max(begun.elapsed() * PAUSE),
            Ok(false) => LOOK,
            Err(error) => {
                tracing::warn!(
                    ?error,
                    "rotations of secrets could not be looked after; they are looked at again"
                );
                LOOK
            }
        };
    }
}

/// Looks at all; says whether one goes on.
async fn all(core: &Core) -> Result<bool> {
    let mut going = false;
    for (owner, secret) in core.store.rotating_secrets(&Context::system("secrets")).await? {
        if core.stopping.is_cancelled() {
            return Ok(false);
        }
        let Some(rotation) = secret.rotation.clone() else { continue };
        let done = match rotation.stage {
            RotationStage::Halted => Ok(()),
            RotationStage::Grace => after_grace(core, &owner, &secret, &rotation).await,
            RotationStage::Going => {
                going = true;
                one(core, &owner, &secret, &rotation).await
            }
        };
        if let Err(error) = done {
            tracing::warn!(secret = %secret.name, ?error, "a rotation could not be driven");
        }
    }
    Ok(going)
}

async fn after_grace(
    core: &Core,
    owner: &SecretOwner,
    secret: &SecretInfo,
    rotation: &SecretRotation,
) -> Result<()> {
    let grace = Duration::from_secs(u64::from(rotation.grace_secs.unwrap_or(0)));
    if Timestamp::now().since(secret.updated_at) >= grace {
        core.store.move_rotation(&Context::system("secrets"), owner, secret, None).await?;
    }
    Ok(())
}

/// Gives the value to the next instances, or ends the rotation.
async fn one(core: &Core, owner: &SecretOwner, secret: &SecretInfo, rotation: &SecretRotation) -> Result<()> {
    let system = Context::system("secrets");
    let users = core.users_of(owner, &secret.name, Some(rotation)).await?;
    if let Some(failed) = users.iter().find(|it| it.user.state == SecretUse::Failed) {
        let why =
            failed.instance.last_error.as_ref().map_or_else(String::new, |it| format!(": {}", it.message));
        let halted = SecretRotation {
            stage: RotationStage::Halted,
            error: Some(format!("'{}' did not come up with it{why}", failed.instance.id)),
            ..rotation.clone()
        };
        core.store.move_rotation(&system, owner, secret, Some(&halted)).await?;
        return Ok(());
    }
    let on_their_way = users.iter().filter(|it| it.user.state == SecretUse::OnItsWay).count();
    let behind: Vec<&User> = users.iter().filter(|it| it.user.state == SecretUse::Behind).collect();
    if behind.is_empty() && on_their_way == 0 {
        let grace = rotation.grace_secs.filter(|secs| *secs > 0);
        let after = grace.map(|_| SecretRotation { stage: RotationStage::Grace, ..rotation.clone() });
        core.store.move_rotation(&system, owner, secret, after.as_ref()).await?;
        return Ok(());
    }
    // What takes it up while it runs is away for no moment.
    let (restarts, hot): (Vec<&User>, Vec<&User>) = behind.into_iter().partition(|it| it.user.restarts);
    let room = (rotation.parallel as usize).saturating_sub(on_their_way);
    for user in hot.into_iter().chain(restarts.into_iter().take(room)) {
        clawfarm_failpoint::point!(SecretHands);
        match give(core, user, secret).await {
            Ok(()) => {}
            // It was changed, is being updated, or is gone: the next look tells.
            Err(error) if error.code().class() == clawfarm_model::error::Class::User => {
                tracing::debug!(instance = %user.instance.id, ?error, "it could not be given a secret's value now");
            }
            Err(error) if error.code() == Code::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Has an instance take the value up: by a fresh start, or while it runs.
async fn give(core: &Core, user: &User, secret: &SecretInfo) -> Result<()> {
    let seen = &user.instance;
    let grant = may(&Context::system("secrets"), Action::InstanceChange, seen)?;
    let restarts = user.user.restarts;
    let name = secret.name.clone();
    let writing = core.store.update_instance(&grant, &seen.id, Some(seen.version), move |it| {
        refuse_if_updating(it)?;
        let mut events = Vec::new();
        it.intent.generation += 1;
        it.attempts = 0;
        it.not_before = None;
        let down = matches!(it.phase, Phase::Exited | Phase::Failed);
        if restarts || down {
            it.intent.urgency = Urgency::Graceful;
            it.intent.run += 1;
        } else {
            it.layers.revision += 1;
        }
        if down && it.intent.desired == Desired::Running {
            // It may be down because of the value before.
            it.restarts = 0;
            it.last_error = None;
            moved(it, Signal::StartBegun, Timestamp::now(), &mut events);
        }
        let how = match it.intent.desired {
            Desired::Running if restarts => "it is started again with it",
            Desired::Running => "it takes it up while it runs",
            _ => "it begins with it when it is woken",
        };
        events.push(NewEvent::info("secret", format!("secret '{name}' has a new value; {how}")));
        Ok(Changes { events, ..Changes::default() })
    });
    core.wishing(&seen.id, Box::pin(writing)).await?;
    Ok(())
}
