//! Replacing an instance's software, a stage a turn.
//!
//! Each stage is written down before the next begins, and does again what it did when it was
//! cut off. Until the new version has passed its startup probe nothing is given up: the old
//! software stays installed, and the data from before lies beside. `docs/design/0013-update.md`
//! has the stages, and what a server that dies in each leaves.

mod decide;

use clawfarm_adapters::SoftwareFile;
use clawfarm_model::error::{Class, ErrorReport};
use clawfarm_model::event::NewEvent;
use clawfarm_model::instance::RestartPolicy;
use clawfarm_model::{
    Action, ClawId, Code, Context, Desired, Error, Instance, ObservedState, OperationKind, OperationState,
    Result, Signal, Software, SoftwareUpdate, Timestamp, UpdateStage, Urgency,
};
use clawfarm_runtime::{LogQuery, Progress, Runtime, Upgrade};
use clawfarm_store::{Changes, OperationEnd};
use futures::StreamExt;

use super::absorb::{jittered, moved};
use super::act;
use super::decide::MAX_ATTEMPTS;
use super::pass::Again;
use crate::core::{Core, may};
use crate::operations::StepLog;
use crate::sharing::held::Hold;

pub(super) use decide::decide;

/// The largest description of a package that is read, in bytes.
const MAX_FILE: u64 = 4 << 20;
/// How many of the new version's last lines are told.
const LAST_LINES: usize = 20;
/// How long a target may take to tell them.
const LINES_LIMIT: std::time::Duration = std::time::Duration::from_secs(5);

/// Does the next stage.
pub(super) async fn act(core: &Core, hold: &Hold, instance: &Instance, steps: &StepLog) -> Result<Again> {
    let Some(update) = &instance.update else { return Ok(Again::Now) };
    let runtime = core.acting(hold, &instance.spec.target)?;
    let stage = async {
        match update.stage {
            UpdateStage::Installing => install(core, hold, instance, update, runtime.as_ref(), steps).await,
            UpdateStage::Pending => go_to(core, hold, instance, UpdateStage::Stopping).await,
            UpdateStage::Stopping => stop(core, hold, instance, steps).await,
            UpdateStage::Copying => copy(core, hold, instance, update, runtime.as_ref(), steps).await,
            UpdateStage::Trying => {
                let error = ended(instance);
                failed(core, hold, instance, update, error).await
            }
            UpdateStage::Undoing => undo(core, hold, instance, update, runtime.as_ref(), steps).await,
            UpdateStage::Keeping | UpdateStage::Undone => {
                finish(core, hold, instance, update, runtime.as_ref(), steps).await
            }
        }
    };
    match Box::pin(stage).await {
        Err(error) if gives_up(update, update.attempts, &error) => {
            failed(core, hold, instance, update, error).await
        }
        other => other,
    }
}

/// A stage failed in a way that may pass: it is done again after a while.
pub(super) async fn try_again(core: &Core, hold: &Hold, instance: &Instance, error: &Error) -> Result<Again> {
    let report = error.report();
    let attempts = instance.update.as_ref().map_or(0, |update| update.attempts) + 1;
    let not_before = Timestamp::now().after(jittered(RestartPolicy::backoff(attempts)));
    change(core, hold, instance, |it, update| {
        update.attempts = attempts;
        update.not_before = Some(not_before);
        let event = NewEvent::warning("error", report.message.clone());
        if update.is_undone() {
            it.last_error = Some(report);
        }
        Changes::event(event)
    })
    .await?;
    Ok(Again::At(not_before))
}

/// Whether an error is the end of an update rather than of an attempt.
fn gives_up(update: &SoftwareUpdate, attempts: u32, error: &Error) -> bool {
    let undoes = matches!(
        update.stage,
        UpdateStage::Installing | UpdateStage::Stopping | UpdateStage::Copying | UpdateStage::Trying
    );
    let last = attempts + 1 >= MAX_ATTEMPTS;
    // A full disk is as full a second later, and the instance is down meanwhile.
    let at_once = matches!(error.code().class(), Class::User | Class::Fatal | Class::Gone)
        || error.code() == Code::Insufficient;
    undoes && !clawfarm_model::is_fenced(error) && (at_once || last)
}

/// Whether the failed start of a new version is the end of its update; then the update is undone.
pub(super) async fn start_failed(
    core: &Core,
    hold: &Hold,
    instance: &Instance,
    error: &Error,
) -> Option<Result<Again>> {
    let update = instance.update.as_ref().filter(|u| u.stage == UpdateStage::Trying)?;
    if !gives_up(update, instance.attempts, error) {
        return None;
    }
    Some(failed(core, hold, instance, update, Error::from(error.report())).await)
}

async fn install(
    core: &Core,
    hold: &Hold,
    instance: &Instance,
    update: &SoftwareUpdate,
    runtime: &dyn Runtime,
    steps: &StepLog,
) -> Result<Again> {
    let upgrade = offered(runtime)?;
    let adapter = core.adapter(instance)?;
    let (old, new) = (adapter.software(&update.from)?, adapter.software(&update.to)?);
    let recipe = adapter.image_recipe(&update.to)?;
    let limit = act::START_LIMIT;
    tokio::time::timeout(limit, upgrade.install(&new, recipe.as_ref(), steps)).await.map_err(|_| {
        Error::new(Code::Timeout, format!("{} was not installed within 45 minutes", update.to))
    })??;
    let read = async |software: &Software| match upgrade
        .software_file(software, &adapter.software_file(), MAX_FILE)
        .await
    {
        // The old software may be gone: its data is still there.
        Err(error) if error.code() == Code::NotFound => Ok(None),
        other => other,
    };
    let (of_old, of_new) = (read(&old).await?, read(&new).await?);
    adapter.check_update(
        &SoftwareFile { version: &update.from, contents: of_old.as_deref() },
        &SoftwareFile { version: &update.to, contents: of_new.as_deref() },
    )?;
    let waiting = core.store.running_operation(&Context::system("update"), &instance.id).await?;
    let steps = waiting.as_ref().map(|o| core.board.last_steps(o).ended_with(OperationState::Succeeded));
    change(core, hold, instance, |it, update| {
        if it.intent.desired == Desired::Running {
            update.stage = UpdateStage::Stopping;
            fresh(it, update);
            return Changes::none();
        }
        update.stage = UpdateStage::Pending;
        update.attempts = 0;
        let text = format!("{} is installed, and is tried at its next start", update.to);
        let ended = waiting.filter(|o| o.kind == OperationKind::Update);
        let end = ended.map(|o| OperationEnd { steps, ..OperationEnd::succeeded(o.id) });
        Changes {
            events: vec![NewEvent::info("update", text)],
            end: end.into_iter().collect(),
            ..Changes::default()
        }
    })
    .await
}

async fn stop(core: &Core, hold: &Hold, instance: &Instance, steps: &StepLog) -> Result<Again> {
    change(core, hold, instance, |it, _| {
        let mut events = Vec::new();
        moved(it, Signal::UpdateBegun, Timestamp::now(), &mut events);
        Changes { events, ..Changes::default() }
    })
    .await?;
    if instance.observed.as_ref().is_some_and(|o| o.state.is_up()) {
        if instance.observed.as_ref().is_some_and(|o| o.state == ObservedState::Running) {
            act::drain_all(core, hold, instance, steps).await?;
        }
        act::stop(core, hold, instance, instance.intent.urgency, steps).await?;
    }
    go_to(core, hold, instance, UpdateStage::Copying).await
}

async fn copy(
    core: &Core,
    hold: &Hold,
    instance: &Instance,
    update: &SoftwareUpdate,
    runtime: &dyn Runtime,
    steps: &StepLog,
) -> Result<Again> {
    // Started by somebody else meanwhile: what runs is stopped first.
    if instance.observed.as_ref().is_some_and(|o| o.state.is_up()) {
        return go_to(core, hold, instance, UpdateStage::Stopping).await;
    }
    offered(runtime)?.copy_data(&instance.id, update.copy, steps).await?;
    change(core, hold, instance, |it, update| {
        update.stage = UpdateStage::Trying;
        it.spec.version.clone_from(&update.to);
        it.intent.run += 1;
        fresh(it, update);
        Changes::none()
    })
    .await
}

/// It is to be undone, for this reason.
async fn failed(
    core: &Core,
    hold: &Hold,
    instance: &Instance,
    update: &SoftwareUpdate,
    error: Error,
) -> Result<Again> {
    tracing::warn!(instance = %instance.id, from = update.from, to = update.to, ?error, "an update failed");
    let report = error.report();
    let told = NewEvent::warning("update", format!("{} does not work: {}", update.to, report.message));
    let waiting = core.store.running_operation(&Context::system("update"), &instance.id).await?;
    let ended = waiting.as_ref().filter(|o| o.kind == OperationKind::Update).map(|o| o.id.clone());
    let installing = update.stage == UpdateStage::Installing;
    let again = change(core, hold, instance, |it, update| {
        fresh(it, update);
        if installing {
            // Nothing of the instance was touched.
            let why = why(update, &report);
            it.update = None;
            let end = ended.iter().map(|id| OperationEnd::failed(id.clone(), why.clone())).collect();
            return Changes { events: vec![told], end, ..Changes::default() };
        }
        update.stage = match update.stage {
            UpdateStage::Trying => UpdateStage::Undoing,
            _ => UpdateStage::Undone,
        };
        update.error = Some(report);
        Changes::event(told)
    })
    .await?;
    if let Some(operation) = waiting.filter(|_| installing) {
        core.board.ended(&operation.id);
    }
    Ok(again)
}

async fn undo(
    core: &Core,
    hold: &Hold,
    instance: &Instance,
    update: &SoftwareUpdate,
    runtime: &dyn Runtime,
    steps: &StepLog,
) -> Result<Again> {
    let lines = last_lines(instance, runtime).await;
    if instance.observed.as_ref().is_some_and(|o| o.state.is_up()) {
        // It never answered: it has time to close its files, and no work to finish.
        act::stop(core, hold, instance, Urgency::Hurried, steps).await?;
    }
    steps.step("undo", &format!("putting {} back with its data", update.from), None, "");
    offered(runtime)?.put_back(&instance.id, update.copy).await?;
    change(core, hold, instance, |it, update| {
        update.stage = UpdateStage::Undone;
        if let Some(error) = &mut update.error
            && !lines.is_empty()
        {
            error.message = format!("{}; its last lines:\n{lines}", error.message);
        }
        it.spec.version.clone_from(&update.from);
        it.intent.run += 1;
        fresh(it, update);
        Changes::none()
    })
    .await
}

async fn finish(
    core: &Core,
    hold: &Hold,
    instance: &Instance,
    update: &SoftwareUpdate,
    runtime: &dyn Runtime,
    steps: &StepLog,
) -> Result<Again> {
    let kept = update.stage == UpdateStage::Keeping;
    if !kept && instance.observed.as_ref().is_some_and(|o| o.state == ObservedState::Running) {
        // It was to be stopped, and goes on.
        act::undrain(core, hold, instance).await?;
    }
    steps.step("clean up", "removing the copy of its data", None, "");
    offered(runtime)?.remove_copy(&instance.id).await?;
    let waiting = core.store.running_operation(&Context::system("update"), &instance.id).await?;
    let last = waiting.as_ref().map(|o| core.board.last_steps(o));
    let asked = waiting.as_ref().filter(|o| o.kind == OperationKind::Update).map(|o| o.id.clone());
    let again = change(core, hold, instance, |it, update| {
        let update = update.clone();
        it.update = None;
        let mut events = Vec::new();
        if kept {
            events.push(NewEvent::info("update", format!("it runs {}", update.to)));
            let steps = last.map(|steps| steps.ended_with(OperationState::Succeeded));
            let end = asked
                .iter()
                .map(|id| OperationEnd { steps: steps.clone(), ..OperationEnd::succeeded(id.clone()) });
            return Changes { end: end.collect(), events, ..Changes::default() };
        }
        let now = Timestamp::now();
        moved(it, Signal::UpdateEnded, now, &mut events);
        events.push(NewEvent::warning("update", format!("it has {} again, with its data", update.from)));
        it.attempts = 0;
        it.not_before = None;
        let Some(error) = &update.error else { return Changes { events, ..Changes::default() } };
        let why = why(&update, error);
        if update.had_failed && it.intent.desired == Desired::Running {
            it.last_error = Some(why.clone());
            moved(it, Signal::GaveUp, now, &mut events);
        }
        let end = asked.iter().map(|id| OperationEnd::failed(id.clone(), why.clone())).collect();
        Changes { events, end, ..Changes::default() }
    })
    .await?;
    if let Some(operation) = waiting.filter(|o| o.kind == OperationKind::Update) {
        core.board.ended(&operation.id);
    }
    Ok(again)
}

/// What whoever waits for the update is told.
fn why(update: &SoftwareUpdate, error: &ErrorReport) -> ErrorReport {
    let (from, to) = (&update.from, &update.to);
    ErrorReport {
        code: error.code,
        message: format!("the update to {to} did not work, and it is at {from} again: {}", error.message),
        field: error.field.clone(),
        fix: Some(
            error.fix.clone().unwrap_or_else(|| "mend the cause, or choose another version".to_owned()),
        ),
    }
}

/// How the new version ended.
fn ended(instance: &Instance) -> Error {
    let exit = instance.observed.as_ref().and_then(|o| o.exit.as_ref()).filter(|e| !e.requested);
    match (exit, &instance.last_error) {
        (Some(exit), _) => Error::new(Code::ClawFailed, format!("it {exit} instead of answering"))
            .fix("read its last lines, and the notes of its release"),
        (None, Some(error)) => Error::from(error.clone()),
        (None, None) => Error::new(Code::ClawFailed, "it could not be started"),
    }
}

/// What the version that is tried printed last.
async fn last_lines(instance: &Instance, runtime: &dyn Runtime) -> String {
    let (Some(logs), Some(seen)) = (runtime.logs(), &instance.observed) else { return String::new() };
    // What never started has printed nothing: the lines would be the old version's.
    if seen.run < instance.intent.run {
        return String::new();
    }
    let query = LogQuery { since: seen.started_at, tail: Some(LAST_LINES), follow: false };
    let read = async {
        let lines = logs.logs(&instance.id, query).await?;
        Ok::<_, Error>(
            lines.filter_map(|line| async { line.ok() }).map(|line| line.text).collect::<Vec<_>>().await,
        )
    };
    let told = match tokio::time::timeout(LINES_LIMIT, read).await {
        Ok(Ok(lines)) => lines.join("\n"),
        Ok(Err(_)) | Err(_) => String::new(),
    };
    // A container that its engine started once more, before it was told not to, has printed nothing
    // since: what was kept with its end counts.
    match &seen.exit {
        Some(exit) if told.trim().is_empty() => exit.log_tail.trim().to_owned(),
        _ => told,
    }
}

/// Attempts are counted by stage.
fn fresh(it: &mut Instance, update: &mut SoftwareUpdate) {
    it.attempts = 0;
    it.not_before = None;
    update.attempts = 0;
    update.not_before = None;
}

async fn go_to(core: &Core, hold: &Hold, instance: &Instance, stage: UpdateStage) -> Result<Again> {
    change(core, hold, instance, |it, update| {
        update.stage = stage;
        fresh(it, update);
        Changes::none()
    })
    .await
}

/// Writes a step of an update down, unless somebody wanted something else since it was decided
/// on. `then` gets the instance without its update, which is put back unless `then` took it.
async fn change(
    core: &Core,
    hold: &Hold,
    instance: &Instance,
    then: impl FnOnce(&mut Instance, &mut SoftwareUpdate) -> Changes + Send,
) -> Result<Again> {
    let system = Context::system("update");
    let grant = may(&system, Action::InstanceChange, instance)?.under(hold.fence().cloned());
    let (decided_on, wanted) = (instance.update.clone(), instance.intent.desired);
    let id: &ClawId = &instance.id;
    core.store
        .update_instance(&grant, id, None, move |it| {
            if it.update != decided_on || it.intent.desired != wanted {
                return Ok(Changes::none());
            }
            let Some(mut update) = it.update.clone() else { return Ok(Changes::none()) };
            let changes = then(it, &mut update);
            if it.update.is_some() {
                it.update = Some(update);
            }
            Ok(changes)
        })
        .await?;
    Ok(Again::Now)
}

fn offered(runtime: &dyn Runtime) -> Result<&dyn Upgrade> {
    runtime.upgrade().ok_or_else(|| {
        Error::new(Code::Unsupported, format!("the runtime {} can't update instances", runtime.kind()))
            .field("id")
            .fix("make a new instance of the other version")
    })
}
