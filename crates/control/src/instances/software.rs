//! Asking for another version of an instance's software. `reconcile::update` carries it out.

use clawfarm_model::event::NewEvent;
use clawfarm_model::{
    Action, Code, Context, Desired, Error, Instance, OperationKind, Phase, Result, SoftwareUpdate, Timestamp,
    UpdateStage, Urgency,
};
use clawfarm_store::{Changes, NewOperation};

use crate::admission::Reservation;
use crate::core::may;
use crate::instances::not_of_a_machine;
use crate::reconcile::absorb::moved;
use crate::{Accepted, Control};

impl Control {
    /// Has an instance run another version of its software: the tested one when none is named.
    /// One that is up is stopped, its data is copied, and the new version has to pass its startup
    /// probe; otherwise the old one comes back with that data and the operation fails. One that is
    /// down stays so; the new version is installed, and tried in the same way at its next start.
    ///
    /// # Errors
    /// `InvalidInput` on `version`; `Conflict` when it is being removed, on its way somewhere, or
    /// being updated to another version; `Unsupported` when its runtime knows no way back;
    /// `Insufficient` when it would be started and its target's memory would not hold it.
    pub async fn update_software(
        &self,
        context: &Context,
        id: &str,
        version: Option<&str>,
    ) -> Result<Accepted> {
        let core = &self.core;
        let present = core.find(context, id).await?;
        let grant = may(context, Action::InstanceChange, &present)?;
        not_of_a_machine(
            &present,
            "which has no software of clawfarm's to be updated",
            format!(
                "update what is in it (clawfarm shell {}), or make a new one of a newer image",
                present.id
            ),
        )?;
        let adapter = core.adapter(&present)?;
        if let Some(image) = &present.spec.image {
            return Err(Error::new(
                Code::Unsupported,
                format!("'{}' runs the image '{image}', which was chosen for it", present.id),
            )
            .field("id")
            .fix(format!(
                "keep its data (clawfarm rm {0}), and make a new one with another image: clawfarm new {1} --dataset {0} --image IMAGE",
                present.id, present.spec.claw_type
            )));
        }
        let version = version.unwrap_or_else(|| adapter.default_version()).to_owned();
        adapter.software(&version)?;
        let runtime = core.runtime(&present.spec.target).ok();
        if runtime.as_ref().is_some_and(|runtime| runtime.upgrade().is_none()) {
            let what = format!("instances on runtime {} can't be updated", present.spec.runtime);
            return Err(Error::new(Code::Unsupported, what).field("id").fix(format!(
                "make a new instance: clawfarm new {} --version {version}",
                present.spec.claw_type
            )));
        }
        let warnings = adapter.validate(&present.spec)?;
        let down = matches!(present.phase, Phase::Exited | Phase::Failed);
        let starts = down && present.intent.desired == Desired::Running && !present.spec.overcommit;
        let reserved = match runtime {
            Some(runtime) if starts => {
                let mib = present.spec.resources.memory_mib;
                Some(core.admit(&present.spec.target, runtime.as_ref(), mib).await?)
            }
            _ => None,
        };
        let room = reserved.as_ref().and_then(Reservation::room);
        let writing = core.store.update_instance(&grant, &present.id, None, move |it| {
            let mut events = Vec::new();
            ask(it, &version, &mut events)?;
            let begin = Some(NewOperation::new(OperationKind::Update));
            Ok(Changes { events, begin, room, ..Changes::default() })
        });
        let (instance, operation) = core.wishing(&present.id, Box::pin(writing)).await?;
        let operation =
            operation.ok_or_else(|| Error::new(Code::Internal, "the store began no operation"))?;
        Ok(Accepted { instance, operation, warnings, replayed: false })
    }
}

/// Writes the wish down.
fn ask(it: &mut Instance, version: &str, events: &mut Vec<NewEvent>) -> Result<()> {
    if it.intent.desired == Desired::Destroyed {
        return Err(Error::new(Code::Conflict, format!("'{}' is being removed", it.id))
            .field("id")
            .fix("make a new instance"));
    }
    let on_its_way = matches!(it.phase, Phase::Creating | Phase::Booting | Phase::Waking | Phase::Stopping);
    if let Some(update) = it.update.as_ref().filter(|update| update.is_under_way()) {
        // Asked for again, because the first answer was lost.
        if update.to == version && !update.is_undone() {
            it.intent.generation += 1;
            events.push(NewEvent::info("updated", format!("{version} was asked for again")));
            return Ok(());
        }
        return Err(under_way(it, update));
    }
    if on_its_way {
        return Err(Error::new(Code::Conflict, format!("'{}' is {}", it.id, it.phase))
            .field("id")
            .fix(format!("wait until it is there (clawfarm status {}), then try again", it.id)));
    }
    it.intent.generation += 1;
    it.intent.urgency = Urgency::Graceful;
    it.attempts = 0;
    it.not_before = None;
    if it.spec.version == version {
        it.update = None;
        events.push(NewEvent::info("updated", format!("it has version {version} already")));
        return Ok(());
    }
    events.push(NewEvent::info("updated", format!("{} -> {version} was asked for", it.spec.version)));
    it.update = Some(SoftwareUpdate {
        from: it.spec.version.clone(),
        to: version.to_owned(),
        stage: UpdateStage::Installing,
        copy: it.intent.generation,
        had_failed: it.phase == Phase::Failed && it.intent.desired == Desired::Running,
        attempts: 0,
        not_before: None,
        error: None,
    });
    Ok(())
}

/// Refuses what can't be done to an instance while its software is being replaced. After an
/// update that could not even be undone, its owner may have that tried again.
pub(crate) fn refuse_if_updating(it: &Instance) -> Result<()> {
    match &it.update {
        Some(update) if update.is_under_way() && !(update.is_undone() && it.phase == Phase::Failed) => {
            Err(under_way(it, update))
        }
        _ => Ok(()),
    }
}

fn under_way(it: &Instance, update: &SoftwareUpdate) -> Error {
    let (from, to) = (&update.from, &update.to);
    Error::new(Code::Conflict, format!("'{}' is being updated from {from} to {to}", it.id))
        .field("id")
        .fix(format!("wait for it (clawfarm status {0}), or call it off: clawfarm stop {0}", it.id))
}

/// A stop calls an update off: what was begun is undone before anything else.
pub(crate) fn call_off(it: &mut Instance, events: &mut Vec<NewEvent>) {
    let Some(update) = &mut it.update else { return };
    update.stage = match update.stage {
        UpdateStage::Installing => {
            it.update = None;
            return;
        }
        UpdateStage::Stopping | UpdateStage::Copying => UpdateStage::Undone,
        UpdateStage::Trying => UpdateStage::Undoing,
        UpdateStage::Pending | UpdateStage::Keeping | UpdateStage::Undoing | UpdateStage::Undone => return,
    };
    let to = update.to.clone();
    moved(it, clawfarm_model::Signal::UpdateEnded, Timestamp::now(), events);
    events.push(NewEvent::warning("update", format!("the update to {to} was called off")));
}

/// Whatever is wanted now, an undoing that was given up is tried again.
pub(crate) fn undo_again(it: &mut Instance) {
    if let Some(update) = &mut it.update {
        update.attempts = 0;
        update.not_before = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::instance;

    #[test]
    fn an_update_is_asked_for_once_and_only_of_what_is_somewhere() {
        let mut it = instance();
        it.phase = Phase::Ready;
        let mut events = Vec::new();
        ask(&mut it, "2026.9.7", &mut events).unwrap();
        let update = it.update.clone().unwrap();
        assert_eq!((update.from.as_str(), update.to.as_str()), ("2026.9.6", "2026.9.7"));
        assert_eq!((update.stage, update.copy, it.intent.generation), (UpdateStage::Installing, 2, 2));
        ask(&mut it, "2026.9.7", &mut events).unwrap();
        assert_eq!(it.update, Some(update), "asked for again, it goes on");
        let refused = ask(&mut it, "2026.9.8", &mut events).unwrap_err();
        assert_eq!((refused.code(), refused.field_name()), (Code::Conflict, Some("id")));
        assert!(refuse_if_updating(&it).is_err());
        for phase in [Phase::Creating, Phase::Booting, Phase::Waking, Phase::Stopping] {
            let mut it = instance();
            it.phase = phase;
            assert!(ask(&mut it, "2026.9.7", &mut events).is_err(), "{phase}");
        }
        let mut same = instance();
        same.phase = Phase::Ready;
        ask(&mut same, "2026.9.6", &mut events).unwrap();
        assert_eq!(same.update, None);
    }

    #[test]
    fn a_stop_calls_off_what_can_be_called_off() {
        use UpdateStage as S;
        for (stage, after) in [
            (S::Installing, None),
            (S::Pending, Some(S::Pending)),
            (S::Stopping, Some(S::Undone)),
            (S::Copying, Some(S::Undone)),
            (S::Trying, Some(S::Undoing)),
            (S::Keeping, Some(S::Keeping)),
            (S::Undoing, Some(S::Undoing)),
        ] {
            let mut it = instance();
            it.phase = Phase::Ready;
            ask(&mut it, "2026.9.7", &mut Vec::new()).unwrap();
            it.update.as_mut().unwrap().stage = stage;
            call_off(&mut it, &mut Vec::new());
            assert_eq!(it.update.map(|u| u.stage), after, "{stage:?}");
        }
    }
}
