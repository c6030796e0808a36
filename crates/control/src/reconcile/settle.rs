//! When an operation has ended: a pure function of the instance it waits for.

use clawfarm_model::error::ErrorReport;
use clawfarm_model::instance::RestartMode;
use clawfarm_model::{Code, Desired, Error, Health, Instance, OperationState, Phase};

/// How the operation that waits on `instance` ended, if it did.
pub(crate) fn outcome(instance: &Instance) -> Option<(OperationState, Option<ErrorReport>)> {
    // One that is being updated may be what was wanted for a moment, on its way.
    let updating = instance.update.as_ref().filter(|update| update.is_under_way());
    if updating.is_some_and(|update| !(update.is_undone() && instance.phase == Phase::Failed)) {
        return None;
    }
    let reached = Some((OperationState::Succeeded, None));
    let failed = || Some((OperationState::Failed, Some(why(instance))));
    let current = instance.observed.as_ref().is_some_and(|o| o.run >= instance.intent.run);
    match (instance.intent.desired, instance.phase) {
        (Desired::Running, Phase::Ready) if current && instance.in_force >= instance.layers.revision => {
            reached
        }
        (Desired::Running, Phase::Unhealthy) if current && instance.health == Health::Failing => failed(),
        (Desired::Running, Phase::Exited) if current && stays_down(instance) => failed(),
        (Desired::Stopped, Phase::Stopped)
        | (Desired::Suspended, Phase::Suspended)
        | (Desired::Warm, Phase::Warm)
        | (Desired::Destroyed, Phase::Destroyed) => reached,
        (Desired::Warm, Phase::Suspended) | (_, Phase::Failed) => failed(),
        _ => None,
    }
}

/// Whether one that has ended is left so, by its policy.
pub(crate) fn stays_down(instance: &Instance) -> bool {
    if instance.phase != Phase::Exited {
        return false;
    }
    let code = instance.observed.as_ref().and_then(|o| o.exit.as_ref()).and_then(|e| e.code);
    match instance.spec.restart.mode {
        RestartMode::Never => true,
        RestartMode::OnFailure => code == Some(0),
        RestartMode::Always => false,
    }
}

fn why(instance: &Instance) -> ErrorReport {
    instance.last_error.clone().unwrap_or_else(|| {
        Error::new(Code::ClawFailed, format!("'{}' is {}", instance.id, instance.phase))
            .fix(format!("see clawfarm logs {}", instance.id))
            .report()
    })
}

#[cfg(test)]
mod tests {
    use clawfarm_model::ObservedState;

    use super::*;
    use crate::testing::{instance, observation};

    #[test]
    fn an_operation_ends_when_its_wish_is_reached_or_given_up() {
        use OperationState as O;
        let case = |desired, phase, run| {
            let mut it = instance();
            it.intent.desired = desired;
            it.intent.run = 2;
            it.phase = phase;
            it.health = Health::Failing;
            it.observed = Some(observation(&it.id, ObservedState::Running, run));
            outcome(&it).map(|(state, error)| (state, error.is_some()))
        };
        assert_eq!(case(Desired::Running, Phase::Ready, 2), Some((O::Succeeded, false)));
        assert_eq!(case(Desired::Running, Phase::Ready, 1), None, "the old run is still up");
        assert_eq!(case(Desired::Running, Phase::Unhealthy, 2), Some((O::Failed, true)));
        assert_eq!(case(Desired::Running, Phase::Exited, 2), None, "it is started again");
        assert_eq!(case(Desired::Running, Phase::Failed, 2), Some((O::Failed, true)));
        assert_eq!(case(Desired::Stopped, Phase::Stopping, 2), None);
        assert_eq!(case(Desired::Stopped, Phase::Stopped, 2), Some((O::Succeeded, false)));
        assert_eq!(case(Desired::Warm, Phase::Suspended, 2), Some((O::Failed, true)));
        assert_eq!(case(Desired::Destroyed, Phase::Destroyed, 2), Some((O::Succeeded, false)));
        assert_eq!(case(Desired::Destroyed, Phase::Destroying, 2), None);
    }
}
