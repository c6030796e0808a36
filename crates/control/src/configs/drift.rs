//! Whether an instance runs with what it should: on its disk, and in its memory.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clawfarm_adapters::InForce;
use clawfarm_model::event::NewEvent;
use clawfarm_model::{Action, ClawId, Code, Context, Desired, Error, Instance, ObservedState, Phase, Result};
use clawfarm_store::Changes;
use secrecy::ExposeSecret;

use crate::Control;
use crate::core::{Core, may};
use crate::operations::StepLog;
use crate::reconcile::reach::Reach;
use crate::sharing::held::{Claim, not_reached};

/// The largest file that is compared, in bytes.
const MAX_FILE: u64 = 16 * 1024 * 1024;

/// How an instance differs from what it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drift {
    /// Which.
    pub id: ClawId,
    /// Its files that are not as they should be, and whether they are missing.
    pub files: Vec<DriftedFile>,
    /// What its claw goes by otherwise, where it can tell.
    pub in_memory: Vec<String>,
    /// Whether its claw could be asked: one that is down goes by its files at its next start.
    pub asked: bool,
    /// A change is on its way to it: what differs may be that.
    pub changing: bool,
}

/// A file that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DriftedFile {
    /// Where it is, in the instance's state.
    pub path: String,
    /// It is not there at all.
    pub missing: bool,
}

impl Drift {
    /// Whether it is as it should be.
    #[must_use]
    pub fn is_none(&self) -> bool {
        self.files.is_empty() && self.in_memory.is_empty()
    }
}

impl Control {
    /// Compares what an instance has and runs with, with what it should. Changes nothing.
    ///
    /// # Errors
    /// `NotFound` when there is none; `Conflict` on the field `started` when it was never started;
    /// `Unavailable` when it is another server's at the moment.
    pub async fn drift(&self, context: &Context, id: &str) -> Result<Drift> {
        let instance = self.core.find(context, id).await?;
        may(context, Action::InstanceChange, &instance)?;
        self.core.drift(&instance).await
    }

    /// Has what differs put right: its files are written anew in its own turn, and its claw takes
    /// them up or is started again. One that is down gets them at its next start.
    ///
    /// # Errors
    /// As for [`Self::drift`]; `Conflict` when it is being removed.
    pub async fn mend_drift(&self, context: &Context, id: &str) -> Result<(Drift, Instance)> {
        let instance = self.core.find(context, id).await?;
        let grant = may(context, Action::InstanceChange, &instance)?;
        let drift = self.core.drift(&instance).await?;
        if drift.is_none() {
            return Ok((drift, instance));
        }
        let writing = self.core.store.update_instance(&grant, &instance.id, None, |it| {
            refuse_if_going(it)?;
            it.layers.revision += 1;
            it.layers.rewrite = it.layers.revision;
            it.intent.generation += 1;
            it.attempts = 0;
            it.not_before = None;
            Ok(Changes::event(NewEvent::warning("drift", "its configuration had drifted, and is put right")))
        });
        let (instance, _) = self.core.wishing(&instance.id, Box::pin(writing)).await?;
        Ok((drift, instance))
    }
}

fn refuse_if_going(instance: &Instance) -> Result<()> {
    if instance.intent.desired == Desired::Destroyed {
        return Err(Error::new(Code::Conflict, format!("'{}' is being removed", instance.id))
            .fix("look at another instance, see clawfarm ls"));
    }
    Ok(())
}

impl Core {
    async fn drift(&self, instance: &Instance) -> Result<Drift> {
        refuse_if_going(instance)?;
        let hold = match self.claim(instance) {
            Claim::Mine(hold) => hold,
            Claim::Stale | Claim::NotMine => return Err(not_reached(&instance.spec.target)),
        };
        if instance.observed.as_ref().is_none_or(|it| it.run == 0) {
            return Err(Error::new(Code::Conflict, format!("'{}' was never started", instance.id))
                .field("started")
                .fix(format!("clawfarm start {}", instance.id)));
        }
        let runtime = self.acting(&hold, &instance.spec.target)?;
        let steps = StepLog::nobody(self.store.clone());
        let launch = self.rendered(&hold, instance, &steps).await?.launch;
        let mut files = Vec::new();
        let mut wanted: BTreeMap<PathBuf, Vec<u8>> = BTreeMap::new();
        for file in &launch.files {
            let contents = file.contents.expose_secret().as_bytes();
            if let Some(place) = runtime.files() {
                let present = place.read(&instance.id, &file.path, MAX_FILE).await?;
                if present.as_deref() != Some(contents) {
                    let path = file.path.to_string_lossy().into_owned();
                    files.push(DriftedFile { path, missing: present.is_none() });
                }
            }
            wanted.insert(file.path.clone(), contents.to_vec());
        }
        let up = instance.phase == Phase::Ready
            && instance.observed.as_ref().is_some_and(|it| it.state == ObservedState::Running);
        let mut drift = Drift {
            id: instance.id.clone(),
            files,
            in_memory: Vec::new(),
            asked: false,
            changing: instance.in_force < instance.layers.revision,
        };
        if up {
            let reach = Reach::acting(self, &hold, instance).await?;
            match reach.adapter().in_force(&reach.access(), &wanted).await {
                Ok(InForce::Yes) => drift.asked = true,
                Ok(InForce::Not(fields)) => {
                    drift.asked = true;
                    drift.in_memory = fields;
                }
                Ok(InForce::Unknown) => {}
                Err(error) => {
                    tracing::debug!(instance = %instance.id, ?error, "it did not say what it goes by");
                }
            }
        }
        Ok(drift)
    }
}
