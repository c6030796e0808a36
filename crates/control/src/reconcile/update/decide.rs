//! Which stage of an update is due: a pure function, as deciding is without one.

use clawfarm_model::instance::RestartPolicy;
use clawfarm_model::{Desired, Error, Instance, ObservedState, Phase, Timestamp, UpdateStage};

use crate::reconcile::decide::{Act, Decision, MAX_ATTEMPTS};

/// What the update of an instance makes of what would be done without it.
pub(in crate::reconcile) fn decide(instance: &Instance, without: Decision, now: Timestamp) -> Decision {
    let Some(update) = &instance.update else { return without };
    if instance.intent.desired == Desired::Destroyed {
        return without;
    }
    if update.is_undone() && instance.phase == Phase::Failed {
        // Not even that was possible; it waits for a person.
        return Decision::No;
    }
    if update.is_undone() && update.attempts >= MAX_ATTEMPTS {
        let error = instance.last_error.clone().map_or_else(|| super::ended(instance), Error::from);
        return Decision::Act(Act::GiveUp(error), "its update could not be undone");
    }
    // A clock that was set back must not stretch a wait: the instance may be down.
    let longest = now.after(RestartPolicy::backoff(u32::MAX) * 2);
    if let Some(not_before) = update.not_before.filter(|t| *t > now && *t <= longest) {
        return Decision::Wait(not_before);
    }
    match (update.stage, without) {
        // What is up and well goes on while the other version is installed; what has to be
        // started or stopped meanwhile is.
        (UpdateStage::Installing, Decision::Act(act, why)) if !matches!(act, Act::GiveUp(_)) => {
            Decision::Act(act, why)
        }
        (UpdateStage::Pending, Decision::Act(Act::Start, _)) => {
            Decision::Act(Act::Update, "its update waited for this start")
        }
        (UpdateStage::Pending, without) => without,
        (UpdateStage::Trying, without) => trying(instance, without),
        _ => Decision::Act(Act::Update, "its software is being replaced"),
    }
}

/// The new version has been given its chance: it is started once, and ends or answers.
fn trying(instance: &Instance, without: Decision) -> Decision {
    let seen = instance.observed.as_ref();
    let ended = seen.is_some_and(|o| {
        o.state == ObservedState::Exited
            && o.run >= instance.intent.run
            && o.exit.as_ref().is_some_and(|e| !e.requested && e.known())
    });
    match without {
        _ if ended => Decision::Act(Act::Update, "the new version ended"),
        Decision::Act(Act::GiveUp(_), why) => Decision::Act(Act::Update, why),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use clawfarm_model::SoftwareUpdate;
    use clawfarm_model::observed::Exit;

    use super::*;
    use crate::reconcile::decide::decide as without;
    use crate::testing::{instance, observation};

    fn updating(stage: UpdateStage, state: ObservedState) -> Instance {
        let mut it = instance();
        it.phase = Phase::Updating;
        it.observed = Some(observation(&it.id, state, it.intent.run));
        it.update = Some(SoftwareUpdate {
            from: "1".into(),
            to: "2".into(),
            stage,
            copy: 1,
            had_failed: false,
            attempts: 0,
            not_before: None,
            error: None,
        });
        it
    }

    fn decided(it: &Instance) -> String {
        let now = Timestamp::now();
        match decide(it, without(it, now), now) {
            Decision::No => "no".into(),
            Decision::Wait(_) => "wait".into(),
            Decision::Act(act, _) => format!("{act:?}"),
        }
    }

    fn crashed(it: &mut Instance) {
        let at = Timestamp::now();
        let log_tail = String::new();
        let exit = Exit { code: Some(1), signal: None, at, out_of_memory: false, requested: false, log_tail };
        it.observed.as_mut().unwrap().exit = Some(exit);
    }

    #[test]
    fn the_table_of_stages_holds() {
        use ObservedState as S;
        use UpdateStage as U;
        for (stage, state, wanted) in [
            (U::Installing, S::Running, "Update"),
            (U::Pending, S::Running, "wait"),
            (U::Pending, S::Exited, "Update"),
            (U::Stopping, S::Running, "Update"),
            (U::Copying, S::Exited, "Update"),
            (U::Trying, S::Exited, "Start"),
            (U::Trying, S::Running, "wait"),
            (U::Keeping, S::Running, "Update"),
            (U::Undoing, S::Running, "Update"),
            (U::Undone, S::Exited, "Update"),
        ] {
            assert_eq!(decided(&updating(stage, state)), wanted, "{stage:?} {state:?}");
        }
        let mut ended = updating(U::Trying, S::Exited);
        crashed(&mut ended);
        assert_eq!(decided(&ended), "Update", "one crash is enough");
        let mut meanwhile = updating(U::Installing, S::Exited);
        crashed(&mut meanwhile);
        assert_eq!(decided(&meanwhile), "Start", "the old version goes on while the new one is installed");
        let mut removed = updating(U::Undoing, S::Running);
        removed.intent.desired = Desired::Destroyed;
        assert_eq!(decided(&removed), "Destroy");
    }

    #[test]
    fn an_attempt_waits_for_its_time_and_an_undoing_is_given_up_some_day() {
        let mut it = updating(UpdateStage::Undoing, ObservedState::Exited);
        let set = |it: &mut Instance, attempts, millis: i64| {
            let update = it.update.as_mut().unwrap();
            update.attempts = attempts;
            update.not_before = Some(Timestamp::from_millis(Timestamp::now().as_millis() + millis));
        };
        set(&mut it, 1, 30_000);
        assert_eq!(decided(&it), "wait");
        set(&mut it, 1, 86_400_000);
        assert_eq!(decided(&it), "Update", "a clock that was set back stretches no wait");
        set(&mut it, MAX_ATTEMPTS, 0);
        assert!(decided(&it).starts_with("GiveUp"));
        it.phase = Phase::Failed;
        assert_eq!(decided(&it), "no", "what has failed waits for a person");
        set(&mut it, 0, -1);
        it.phase = Phase::Booting;
        assert_eq!(decided(&it), "Update", "who started it again");
    }
}
