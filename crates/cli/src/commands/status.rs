//! `status`: everything known of one instance.

use std::fmt::Display;

use clap::Args;
use clawfarm_api::{EventsQuery, InstanceView, MACHINE, MetricsView, OperationsQuery, SleepView};
use clawfarm_client::Client;
use clawfarm_model::config::{ConfigMode, Provider};
use clawfarm_model::event::{Event, Level};
use clawfarm_model::observed::{Confinement, Health};
use clawfarm_model::vm::VmSpec;
use clawfarm_model::{Operation, OperationState, Phase, Timestamp};
use serde::Serialize;

use crate::app::App;
use crate::errors::{Failure, OK, Outcome};
use crate::output::{Ui, bytes, clean_block, clean_line, clock, duration, passed};

/// How many of the last events are shown.
const EVENTS: u32 = 5;

/// `clawfarm status`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  clawfarm status alice\n  clawfarm status alice --json")]
pub(crate) struct StatusArgs {
    /// The instance, by id, name or a unique beginning of either
    #[arg(value_name = "INSTANCE")]
    id: String,
}

/// The document that `--json` prints.
#[derive(Serialize)]
struct Status {
    instance: InstanceView,
    /// What it uses; absent while it does not run.
    usage: Option<MetricsView>,
    /// What holds for its sleep, and how it stands with it.
    sleep: Option<SleepView>,
    /// What was asked of it last.
    operation: Option<Operation>,
    /// The last events, oldest first.
    events: Vec<Event>,
}

/// `clawfarm status`.
pub(crate) async fn run(app: &App, args: &StatusArgs) -> Outcome {
    let client = app.client().await?;
    let status = look(&client, &args.id).await?;
    if app.ui.json {
        app.ui.document(&status)?;
    } else {
        print(&app.ui, &status)?;
    }
    Ok(OK)
}

async fn look(client: &Client, id: &str) -> Result<Status, Failure> {
    let instance = client.instance(id).await?;
    let id = instance.id.as_str();
    // What surrounds the instance is told when it can be had, and is no reason to fail.
    let usage = match instance.started_at {
        Some(_) => client.metrics(id).await.ok(),
        None => None,
    };
    let sleep = client.sleep(id).await.ok();
    let query = OperationsQuery { instance: Some(id.to_owned()), limit: Some(100), cursor: None };
    let operations = client.operations(&query).await.map(|list| list.items).unwrap_or_default();
    let operation = operations.into_iter().max_by_key(|o| o.created_at);
    let query = EventsQuery { limit: Some(EVENTS), ..EventsQuery::default() };
    let events = client.events(Some(id), query).await.map(|list| list.items).unwrap_or_default();
    Ok(Status { instance, usage, sleep, operation, events })
}

fn field(ui: &Ui, name: &str, value: impl Display) -> Result<(), Failure> {
    // Padded before it is coloured, because colours have no width.
    let name = ui.out.dim(format_args!("{name:<12}"));
    ui.line(format_args!("{name} {value}"))
}

fn print(ui: &Ui, status: &Status) -> Result<(), Failure> {
    let instance = &status.instance;
    field(ui, "id", ui.out.bold(&instance.id))?;
    if instance.tenant.as_str() != "default" || instance.project.as_str() != "default" {
        field(ui, "project", format_args!("{}/{}", instance.tenant, instance.project))?;
    }
    field(ui, "image", clean_line(&instance.image))?;
    if let Some(reference) = &instance.image_reference {
        field(ui, "runs image", reference)?;
    }
    // A machine is of what its image was when its disk was made.
    if let Some(digest) = instance.image_digest.as_ref().filter(|_| instance.vm.is_none()) {
        field(ui, "digest", clean_line(digest))?;
    }
    machine(ui, instance)?;
    if let Some(update) = &instance.update {
        let (from, to) = (clean_line(&update.from), clean_line(&update.to));
        match update.is_under_way() {
            true => field(ui, "update", format_args!("from {from} to {to}, under way"))?,
            false => field(ui, "update", format_args!("{to} is tried at its next start"))?,
        }
    }
    field(ui, "runtime", format_args!("{} on target {}", instance.runtime, instance.target))?;
    state(ui, instance)?;
    if let Some(gateway) = &instance.gateway {
        field(ui, "gateway", clean_line(gateway))?;
    }
    if let Some(pid) = instance.pid {
        let up = instance.started_at.map(|at| format!(", up for {}", passed(at))).unwrap_or_default();
        field(ui, "process", format_args!("pid {pid}{up}"))?;
    }
    if let Some(exit) = &instance.exit {
        field(ui, "last exit", format_args!("{exit} at {} UTC", clock(exit.at)))?;
    }
    configured(ui, instance)?;
    if let Some(metrics) = &status.usage {
        usage(ui, metrics, instance.vm.is_some())?;
    }
    for (nth, line) in status.sleep.iter().flat_map(super::policy::outlook).enumerate() {
        field(ui, if nth == 0 { "sleep" } else { "" }, line)?;
    }
    field(ui, "restarts", format_args!("{} ({} in all)", instance.restarts, instance.restarts_total))?;
    if let Some(confinement) = &instance.confinement {
        confined(ui, confinement)?;
    }
    if let Some(operation) = &status.operation {
        asked(ui, operation)?;
    }
    error(ui, instance)?;
    field(ui, "created", format_args!("{} UTC", clock(instance.created_at)))?;
    events(ui, &status.events)
}

/// What only a virtual machine has.
fn machine(ui: &Ui, instance: &InstanceView) -> Result<(), Failure> {
    let Some(vm) = &instance.vm else { return Ok(()) };
    if vm.image.as_str() != instance.image {
        field(ui, "machine", &vm.image)?;
    }
    for volume in &vm.volumes {
        field(ui, "volume", format_args!("{} at {}", volume.name, volume.guest))?;
    }
    if let Some(folder) = &vm.workspace {
        field(ui, "workspace", format_args!("{} at {}", clean_line(folder), VmSpec::WORKSPACE))?;
    }
    for port in &vm.publish {
        field(ui, "published", format_args!("127.0.0.1:{} leads to port {}", port.host, port.guest))?;
    }
    let steps = instance.setup.iter().flat_map(|setup| &setup.steps);
    for (nth, (step, command)) in steps.zip(&vm.setup).enumerate() {
        let code = step.exit_code.map_or_else(String::new, |code| format!(" (code {code})"));
        let name = if nth == 0 { "setup" } else { "" };
        field(ui, name, format_args!("{}{code}: {}", step.state.as_str(), clean_line(command)))?;
    }
    Ok(())
}

fn state(ui: &Ui, instance: &InstanceView) -> Result<(), Failure> {
    let health = match instance.health {
        Health::Unknown => "",
        Health::Starting => ", its startup probe has not passed yet",
        Health::Passing => ", its probes pass",
        Health::Failing => ", its probes fail",
    };
    // Old news about the health of something that is down says nothing.
    let health = if instance.started_at.is_some() { health } else { "" };
    let since = clock(instance.phase_since);
    field(ui, "status", format_args!("{} since {since} UTC{health}", ui.out.phase(instance.phase)))?;
    if let Some(at) = instance.unknown_since {
        let text = format!("its target has not answered since {} UTC: this is what was last seen", clock(at));
        field(ui, "", ui.out.yellow(text))?;
    }
    if let Some(at) = instance.next_attempt_at.filter(|at| *at > Timestamp::now()) {
        field(ui, "next try", format_args!("in {}", duration(at.since(Timestamp::now()))))?;
    }
    let wanted = instance.desired.as_str();
    let reached = wanted == instance.phase.as_str()
        || (wanted == "running" && matches!(instance.phase, Phase::Ready | Phase::Running));
    if reached { Ok(()) } else { field(ui, "wanted", wanted) }
}

fn configured(ui: &Ui, instance: &InstanceView) -> Result<(), Failure> {
    let resources = instance.resources;
    field(ui, "limits", format_args!("{} CPU, {} MiB memory", resources.cpus, resources.memory_mib))?;
    if instance.claw_type.as_str() == MACHINE {
        return labels(ui, instance);
    }
    let model = match &instance.config.model {
        // An imported home, or a dataset, has a choice of its own, unless it is overwritten.
        None if instance.config_mode == ConfigMode::Managed => {
            "demo (answers without a key, thinks nothing)".to_owned()
        }
        None => "as its own configuration says".to_owned(),
        Some(model) if model.provider == Provider::Demo => {
            "demo (answers without a key, thinks nothing)".to_owned()
        }
        Some(model) => {
            let name = model.name.as_deref().unwrap_or("the provider's usual one");
            format!("{} at {}", clean_line(name), model.provider.as_str())
        }
    };
    field(ui, "model", model)?;
    let mode = match instance.config_mode {
        ConfigMode::Seeded => "seeded: its user may change it",
        ConfigMode::Managed => "managed: read-only for the claw",
    };
    field(ui, "config", mode)?;
    labels(ui, instance)
}

fn labels(ui: &Ui, instance: &InstanceView) -> Result<(), Failure> {
    if !instance.labels.is_empty() {
        let labels: Vec<_> = instance.labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
        field(ui, "labels", clean_line(&labels.join(" ")))?;
    }
    Ok(())
}

fn usage(ui: &Ui, metrics: &MetricsView, machine: bool) -> Result<(), Failure> {
    let usage = &metrics.usage;
    let limit = match usage.memory_limit_bytes {
        0 => "no limit in force".to_owned(),
        limit => format!("limit {}", bytes(limit)),
    };
    let cpu = duration(std::time::Duration::from_millis(usage.cpu_millis));
    let with = if machine { ", the emulator's own with it" } else { "" };
    field(ui, "memory", format_args!("{} ({limit}{with})", bytes(usage.memory_bytes)))?;
    field(ui, "cpu time", format_args!("{cpu}, {} tasks", usage.tasks))?;
    field(
        ui,
        "disk",
        format_args!("{} read, {} written", bytes(usage.read_bytes), bytes(usage.written_bytes)),
    )
}

/// What confines it, and honestly what does not.
fn confined(ui: &Ui, confinement: &Confinement) -> Result<(), Failure> {
    let mut parts = Vec::new();
    if let Some(abi) = confinement.landlock_abi {
        parts.push(format!("Landlock {abi}"));
    }
    if let Some(uid) = confinement.own_uid {
        parts.push(format!("own user {uid}"));
    }
    if confinement.private_mounts {
        parts.push("own mounts".to_owned());
    }
    for (what, by) in
        [("memory", &confinement.memory), ("cpu", &confinement.cpu), ("freezer", &confinement.freezer)]
    {
        if let Some(by) = by {
            parts.push(format!("{what} by {}", clean_line(by)));
        }
    }
    let text = if parts.is_empty() { "nothing".to_owned() } else { parts.join(", ") };
    field(ui, "confined by", text)?;
    for missing in &confinement.missing {
        field(ui, "", ui.out.yellow(format_args!("not: {}", clean_line(missing))))?;
    }
    Ok(())
}

fn asked(ui: &Ui, operation: &Operation) -> Result<(), Failure> {
    let kind = operation.kind.as_str();
    let at = clock(operation.created_at);
    match operation.state {
        OperationState::Running => {
            let step = operation.steps.iter().rev().find(|s| s.ended_at.is_none());
            let step = step.map(|s| format!(": {}", clean_line(&s.message))).unwrap_or_default();
            field(ui, "under way", format_args!("{kind} for {}{step}", passed(operation.created_at)))
        }
        OperationState::Succeeded => field(ui, "last asked", format_args!("{kind} at {at} UTC: done")),
        OperationState::Superseded => {
            field(ui, "last asked", format_args!("{kind} at {at} UTC: another request took its place"))
        }
        OperationState::Failed => {
            field(ui, "last asked", format_args!("{kind} at {at} UTC: {}", ui.out.red("failed")))
        }
    }
}

fn error(ui: &Ui, instance: &InstanceView) -> Result<(), Failure> {
    let Some(error) = &instance.last_error else { return Ok(()) };
    // Under its first line, so that a log's last lines keep their place.
    let text = clean_block(&error.message).trim_end().replace('\n', "\n             ");
    field(ui, "last error", ui.out.red(text))?;
    match &error.fix {
        Some(fix) => field(ui, "fix", clean_line(fix)),
        None => Ok(()),
    }
}

fn events(ui: &Ui, events: &[Event]) -> Result<(), Failure> {
    if events.is_empty() {
        return Ok(());
    }
    ui.line(ui.out.bold("\nLast events (UTC)"))?;
    for event in events {
        ui.line(format_args!("  {}", event_line(ui, event, false)))?;
    }
    Ok(())
}

/// An event on one line.
pub(crate) fn event_line(ui: &Ui, event: &Event, with_instance: bool) -> String {
    let message = clean_line(&event.message);
    let message = if event.level == Level::Warning { ui.out.yellow(message) } else { message };
    let instance = match (&event.instance, with_instance) {
        (Some(id), true) => format!("{id}  "),
        (None, true) => "-  ".to_owned(),
        (_, false) => String::new(),
    };
    format!("{}  {instance}{:<10}  {message}", ui.out.dim(clock(event.at)), clean_line(&event.reason))
}
