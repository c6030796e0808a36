//! Talking to a claw. One that sleeps is woken first.

use std::time::Duration;

use clawfarm_adapters::SendEvent;
use clawfarm_model::{
    Action, Cause, ClawId, Code, Context, Desired, Error, Instance, OperationKind, OperationState, Phase,
    Result, Timestamp,
};
use futures::StreamExt;
use futures::stream::BoxStream;
use tokio::time::Instant;

use crate::Control;
use crate::core::may;
use crate::reconcile::reach::Reach;

/// The longest message, in bytes.
const MAX_MESSAGE: usize = 64 * 1024;

impl Control {
    /// Sends a message of its user to a claw, and streams the answer. A claw that sleeps is
    /// woken, by one wake for however many callers.
    ///
    /// # Errors
    /// `InvalidInput` for an empty or too long message; `Conflict` when it is down.
    pub async fn send(
        &self,
        context: &Context,
        id: &str,
        message: &str,
    ) -> Result<BoxStream<'static, Result<SendEvent>>> {
        if message.trim().is_empty() || message.len() > MAX_MESSAGE {
            return Err(Error::invalid(
                "message",
                format!("a message of {} bytes can't be sent", message.len()),
            )
            .fix("give 1 byte to 64 KiB of text"));
        }
        let instance = self.core.find(context, id).await?;
        may(context, Action::InstanceUse, &instance)?;
        let using = self.core.using(&instance.id);
        let instance = self.awake(context, instance, Cause::Message).await?;
        let reach = Reach::new(&self.core, &instance).await?;
        let id = instance.id;
        let answer = reach.adapter().send(&reach.access(), message).await.map_err(|e| named(e, &id))?;
        clawfarm_failpoint::point!(Sent);
        Ok(answer
            .map(move |piece| {
                // It is used for as long as somebody listens.
                let _using = &using;
                piece.map_err(|e| named(e, &id))
            })
            .boxed())
    }

    pub(super) async fn awake(
        &self,
        context: &Context,
        instance: Instance,
        cause: Cause,
    ) -> Result<Instance> {
        match instance.phase {
            Phase::Ready if !is_wanted_asleep(&instance) => Ok(instance),
            // It may be drained in this moment, and is called back.
            Phase::Ready
            | Phase::Warm
            | Phase::Suspended
            | Phase::Waking
            | Phase::Booting
            | Phase::Running
            | Phase::Creating => self.awake_once(context, instance, cause).await,
            // On its way to sleep, and called back.
            Phase::Stopping if is_wanted_asleep(&instance) => self.awake_once(context, instance, cause).await,
            phase => {
                Err(Error::new(Code::Conflict, format!("'{}' is {phase}: it can't answer", instance.id))
                    .field("id")
                    .fix(match phase {
                        Phase::Stopped | Phase::Exited | Phase::Failed => {
                            format!("clawfarm start {}", instance.id)
                        }
                        Phase::Unhealthy => format!("see clawfarm logs {}", instance.id),
                        _ => format!("see clawfarm status {}", instance.id),
                    }))
            }
        }
    }

    async fn awake_once(&self, context: &Context, instance: Instance, cause: Cause) -> Result<Instance> {
        // Somebody waits: it comes before what nobody waits for.
        self.core.starts.hurry(&instance.spec.target, &instance.id);
        let lock = self.core.wake_lock(&instance.id);
        let _one = lock.lock().await;
        let again = self.core.store.instance(context, &instance.id).await?;
        self.wait_ready(context, again, cause).await
    }

    async fn wait_ready(&self, context: &Context, instance: Instance, cause: Cause) -> Result<Instance> {
        let is_up = |it: &Instance| it.phase == Phase::Ready && !is_wanted_asleep(it);
        if is_up(&instance) {
            return Ok(instance);
        }
        let limit = Duration::from_secs(u64::from(instance.spec.ready_timeout_secs));
        let until = Instant::now() + limit;
        let mut now = instance;
        while !is_up(&now) {
            let left = until.saturating_duration_since(Instant::now());
            let asleep = matches!(now.phase, Phase::Warm | Phase::Suspended) || is_wanted_asleep(&now);
            let operation = if asleep {
                Some(Box::pin(self.core.wake(context, &now, OperationKind::Resume, cause)).await?.operation)
            } else {
                self.core.store.running_operation(context, &now.id).await?
            };
            let Some(operation) = operation else {
                now = self.core.store.instance(context, &now.id).await?;
                break;
            };
            let never = Timestamp::from_millis(i64::MAX);
            let ended = self.operation_changed(context, &operation.id, never, left).await?;
            if let Some(error) = ended.error {
                return Err(error.into());
            }
            now = self.core.store.instance(context, &now.id).await?;
            // Somebody else, at another server perhaps, woke it too: that wake is waited for.
            if ended.state != OperationState::Superseded || left.is_zero() {
                break;
            }
        }
        if is_up(&now) {
            return Ok(now);
        }
        Err(Error::new(Code::Timeout, format!("'{}' is {} after {} s", now.id, now.phase, limit.as_secs()))
            .field("id")
            .fix(format!("see clawfarm status {}", now.id)))
    }
}

/// Whether it is to sleep, wherever on the way it is.
fn is_wanted_asleep(instance: &Instance) -> bool {
    matches!(instance.intent.desired, Desired::Warm | Desired::Suspended)
}

/// An adapter does not know what its claw is called here, and says `<id>`.
fn named(error: Error, id: &ClawId) -> Error {
    match error.fix_text().map(|fix| fix.replace("<id>", id.as_str())) {
        Some(fix) => error.fix(fix),
        None => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_to_do_names_the_claw() {
        let id: ClawId = "alice-x7k2m".parse().unwrap();
        let error = named(Error::new(Code::ClawFailed, "no answer").fix("clawfarm logs <id>"), &id);
        assert_eq!(error.fix_text(), Some("clawfarm logs alice-x7k2m"));
        assert_eq!(named(Error::new(Code::ClawFailed, "no answer"), &id).fix_text(), None);
    }
}
