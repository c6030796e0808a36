//! Putting a changed configuration in force at a claw that is up.
//!
//! A claw that was just started was given the newest; one that is up is given the files again
//! when its type can take the change up while it runs. In both cases the claw itself is asked
//! whether it goes by it: that a file was written says nothing of what is in its memory.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use clawfarm_adapters::InForce;
use clawfarm_model::event::NewEvent;
use clawfarm_model::{Code, Error, Instance, Result, Urgency};
use clawfarm_runtime::Progress;
use secrecy::ExposeSecret;

use super::launch::write_files;
use super::pass::Again;
use super::reach::Reach;
use crate::core::Core;
use crate::operations::StepLog;
use crate::sharing::held::Hold;

/// How long a claw may take to go by what was written: OpenClaw looks at its file every 300 ms or
/// so, and takes a few seconds for a channel.
const LIMIT: Duration = Duration::from_secs(20);
/// How often it is asked meanwhile.
const ASK: Duration = Duration::from_millis(100);
/// How long it may be without an answer before that is the answer.
const UNSAID: Duration = Duration::from_secs(2);
/// How long one question may take.
const ASK_LIMIT: Duration = Duration::from_secs(10);

/// Whether what the instance is configured with is not known to be what its claw goes by.
pub(super) fn is_due(instance: &Instance) -> bool {
    instance.in_force < instance.layers.revision
}

/// Puts it in force, or starts the claw again when it does not take it up.
pub(super) async fn act(core: &Core, hold: &Hold, instance: &Instance, steps: &StepLog) -> Result<Again> {
    steps.step("configure", "having it take up its configuration", None, "");
    let stamps = core.stamps(instance).await?;
    let (launch, _) = core.launch(hold, instance, steps).await?;
    core.note_taken_up(hold, instance, stamps).await?;
    let files: BTreeMap<PathBuf, Vec<u8>> = launch
        .files
        .iter()
        .map(|file| (file.path.clone(), file.contents.expose_secret().as_bytes().to_vec()))
        .collect();
    let reach = Reach::acting(core, hold, instance).await?;
    let runtime = core.acting(hold, &instance.spec.target)?;
    // A claw may go by the right values while its files have others.
    let anew = instance.layers.rewrite > instance.in_force;
    match asked(&reach, &files).await? {
        InForce::Yes if !anew => return in_force(core, hold, instance).await,
        InForce::Unknown => {
            // One that was just started has it all already; of a type that can't say what it goes
            // by and reads its files by itself, that they are there is all that can be known.
            if let Some(place) = runtime.files() {
                write_files(place, instance, &launch).await?;
            }
            if settled(&reach, &files).await? {
                return in_force(core, hold, instance).await;
            }
        }
        InForce::Yes | InForce::Not(_) => {}
    }
    clawfarm_failpoint::point!(ApplyWrites);
    let mut told = InForce::Unknown;
    if let Some(place) = runtime.files() {
        write_files(place, instance, &launch).await?;
        let until = tokio::time::Instant::now() + LIMIT;
        while tokio::time::Instant::now() < until {
            told = asked(&reach, &files).await?;
            if told == InForce::Yes {
                return in_force(core, hold, instance).await;
            }
            tokio::time::sleep(ASK).await;
        }
    }
    not_taken_up(core, hold, instance, told).await
}

/// It is started with it, once: one that does not go by what it was started with would be started
/// for ever.
async fn not_taken_up(core: &Core, hold: &Hold, instance: &Instance, told: InForce) -> Result<Again> {
    let id = &instance.id;
    if core.reconciler.was_started_for(id, instance.layers.revision) {
        let why = match told {
            InForce::Not(why) if !why.is_empty() => format!(": {}", why.join(", ")),
            _ => String::new(),
        };
        let what = format!("it does not go by its configuration, although it was started with it{why}");
        let error = Error::new(Code::ClawFailed, what).fix(format!(
            "see clawfarm config drift {id} and clawfarm logs {id}; then change what it is configured with, or: clawfarm start {id}"
        ));
        return super::act::give_up(core, hold, instance, &error).await;
    }
    tracing::info!(instance = %id, "a changed configuration was not taken up; it is started again");
    core.reconciler.started_for(id, instance.layers.revision);
    core.record(hold, id, |it| {
        // It stops as it does for any other fresh start.
        it.intent.run += 1;
        it.intent.urgency = Urgency::Graceful;
        vec![NewEvent::warning(
            "config",
            format!("it did not take its configuration up within {} s; it is started again", LIMIT.as_secs()),
        )]
    })
    .await?;
    Ok(Again::Now)
}

/// Whether it goes by them, as it says. One that does not answer does not.
async fn asked(reach: &Reach, files: &BTreeMap<PathBuf, Vec<u8>>) -> Result<InForce> {
    match tokio::time::timeout(ASK_LIMIT, reach.adapter().in_force(&reach.access(), files)).await {
        Ok(Ok(told)) => {
            tracing::debug!(?told, "asked what it goes by");
            Ok(told)
        }
        Ok(Err(error)) if clawfarm_model::is_fenced(&error) => Err(error),
        Ok(Err(error)) => Ok(InForce::Not(vec![error.message().to_owned()])),
        Err(_) => Ok(InForce::Not(vec!["it did not answer".to_owned()])),
    }
}

/// Whether one that could not tell still can't after a while, or says that it does: one that
/// drains can't tell for a moment.
async fn settled(reach: &Reach, files: &BTreeMap<PathBuf, Vec<u8>>) -> Result<bool> {
    let until = tokio::time::Instant::now() + UNSAID;
    while tokio::time::Instant::now() < until {
        tokio::time::sleep(ASK).await;
        match asked(reach, files).await? {
            InForce::Unknown => {}
            told => return Ok(told == InForce::Yes),
        }
    }
    Ok(true)
}

async fn in_force(core: &Core, hold: &Hold, instance: &Instance) -> Result<Again> {
    let revision = instance.layers.revision;
    core.record(hold, &instance.id, move |it| {
        it.in_force = it.in_force.max(revision);
        vec![NewEvent::info("config", "its configuration is in force")]
    })
    .await?;
    core.driver.wake();
    Ok(Again::Now)
}
