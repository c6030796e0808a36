//! A `ClawInstance` of a file.

use clawfarm_api::manifest::{INSTANCE_KIND, InstanceConfig, InstanceManifest, Quantity, Resources};
use clawfarm_api::{
    Accepted, ChangeConfig, CreateInstance, ExplainView, InstanceView, ResourcesInput, UpdateInstance,
};
use clawfarm_client::Client;
use clawfarm_config::Change;
use clawfarm_model::name::ProjectName;
use clawfarm_model::{Code, ConfigName, Error};
use serde_json::Value;

use super::{Action, Applied, ApplyArgs, Fleet, changes, worded};
use crate::app::App;
use crate::commands::config::told_impact;
use crate::commands::wait;
use crate::errors::Failure;
use crate::manifest::{comparable, of_instance, of_view};

/// What of an instance is for its whole life, and how it is changed all the same.
const FIXED: [(&str, &str); 7] = [
    ("type", "make a new instance of that type under another name"),
    ("version", "clawfarm update NAME --version VERSION"),
    ("runtime", "make a new one there: clawfarm backup, clawfarm restore"),
    ("target", "make a new one there: clawfarm backup, clawfarm restore"),
    ("image", "make a new one from it, under another name"),
    ("vm", "make a new one with a name of its own: what a machine is made of stays"),
    ("project", "leave it out: an instance stays in its project"),
];
/// What `PUT /instances/{id}` changes.
const REST: [&str; 8] =
    ["labels", "cpu", "memoryMib", "port", "configMode", "restart", "readyTimeoutSecs", "sleep"];
/// How often it is looked at anew when somebody else changed it at the same moment.
const TRIES: u32 = 8;

/// What is to be done for a document.
pub(super) struct Plan<'a> {
    pub(super) applied: Applied,
    wanted: &'a InstanceManifest,
    /// The instance, when there is one.
    id: Option<String>,
}

/// How an instance differs from its document.
struct Difference {
    view: InstanceView,
    /// What it says of its configuration; read where the document says something of it, or where
    /// the rest is changed.
    explained: Option<ExplainView>,
    changes: Vec<Change>,
}

impl Difference {
    /// `present` is the instance as it was seen.
    async fn of(client: &Client, wanted: &InstanceManifest, present: InstanceView) -> Result<Self, Error> {
        let mut explained = None;
        let document = match wanted.spec.config {
            Some(_) => {
                let now = client.explain(present.id.as_str()).await?;
                let document = of_instance(&present, &now);
                explained = Some(now);
                document
            }
            None => of_view(&present),
        };
        let changes = changes(Some(&comparable(&document, wanted)?), &comparable(wanted, wanted)?);
        let mut it = Self { view: present, explained, changes };
        if it.touches(&REST) && it.explained.is_none() {
            it.explained = Some(client.explain(it.view.id.as_str()).await?);
        }
        Ok(it)
    }

    fn touches(&self, names: &[&str]) -> bool {
        self.changes
            .iter()
            .any(|it| it.path.parts().first().is_some_and(|part| names.contains(&part.as_str())))
    }

    /// The change of its configuration; after one of the rest what it said itself is said again, all
    /// of it: `PUT` keeps only what the layers below it don't say.
    fn config(&self, wanted: &InstanceManifest) -> Result<Option<ChangeConfig>, Error> {
        let (config, rest) = (self.touches(&["config"]), self.touches(&REST));
        if !config && !rest {
            return Ok(None);
        }
        let said = wanted.spec.config.clone().unwrap_or_default();
        let own = self.explained.as_ref().and_then(|it| it.layers.own.clone());
        Ok(Some(ChangeConfig {
            overrides: match said.overrides {
                Some(_) => said.patch()?,
                None if rest => own.unwrap_or_default(),
                None => serde_json::Map::new(),
            },
            unset: Vec::new(),
            replace: said.overrides.is_some() || rest,
            template: said.template,
            variables: said.variables,
            dry_run: false,
        }))
    }
}

/// `coming` are the templates that this file makes, to which nobody can be bound before.
pub(super) async fn tried<'a>(
    app: &App,
    client: &Client,
    wanted: &'a InstanceManifest,
    fleet: &Fleet,
    coming: &[ConfigName],
) -> Result<Plan<'a>, Failure> {
    if wanted.spec.storage.is_some() && !app.ui.json {
        app.ui.warn(format_args!(
            "{}: spec.storage: clawfarm has folders of its own for each claw, so this changes nothing",
            wanted.metadata.name
        ));
    }
    let bound_later = template(wanted).is_some_and(|it| coming.contains(it));
    let Some(present) = fleet.named(&wanted.metadata.name)? else {
        return Ok(to_make(client, wanted, bound_later).await?);
    };
    let found = Difference::of(client, wanted, present.clone()).await?;
    fixed(wanted, &found.changes)?;
    let id = found.view.id.as_str();
    let mut notes = Vec::new();
    if found.touches(&REST) {
        let tried = client.try_update(id, &update(wanted, &found.view)).await.map_err(of_document)?;
        notes.extend(worded(tried.warnings));
    }
    // What needs a template that is not there yet can't be tried.
    if let Some(change) = found.config(wanted)?.filter(|_| found.touches(&["config"]) && !bound_later) {
        let change = ChangeConfig { dry_run: true, ..change };
        let done = client.configure(id, &change, None).await.map_err(of_document)?;
        notes.extend(worded(done.warnings));
        notes.push(told_impact(&done.impact));
    }
    let action = if found.changes.is_empty() { Action::Unchanged } else { Action::Changed };
    let id = Some(id.to_owned());
    let mut applied = applied(wanted, action, found.changes);
    applied.notes = notes;
    Ok(Plan { applied, wanted, id })
}

async fn to_make<'a>(
    client: &Client,
    wanted: &'a InstanceManifest,
    bound_later: bool,
) -> Result<Plan<'a>, Error> {
    if let Some(project) = wanted.spec.project.as_ref().filter(|it| **it != ProjectName::default_project()) {
        return Err(Error::new(
            Code::Unsupported,
            format!("a new instance can't be made in the project '{project}' yet"),
        )
        .field("spec.project")
        .fix("leave the project out"));
    }
    let mut new = request(wanted)?;
    if bound_later {
        (new.template, new.variables, new.overrides) = Default::default();
    }
    let tried = client.try_create(&new).await.map_err(of_document)?;
    let mut applied = applied(wanted, Action::Created, changes(None, &comparable(wanted, wanted)?));
    applied.notes = worded(tried.warnings);
    Ok(Plan { applied, wanted, id: None })
}

pub(super) async fn written(
    app: &App,
    client: &Client,
    plan: Plan<'_>,
    args: &ApplyArgs,
    ctrl_c: &mut wait::CtrlC,
) -> Result<(Applied, Option<Accepted>), Failure> {
    let Plan { mut applied, wanted, id } = plan;
    match id {
        _ if applied.action == Action::Unchanged => Ok((applied, None)),
        None => {
            let accepted = client.create(&request(wanted)?, None).await.map_err(of_document)?;
            applied.notes.push(format!("it is {}", accepted.instance.id));
            Ok((applied, Some(accepted)))
        }
        Some(id) => {
            Box::pin(changed(app, client, wanted, &id, args, ctrl_c)).await?;
            Ok((applied, None))
        }
    }
}

/// Changes it as it was tried; what somebody else changed meanwhile is looked at anew first.
async fn changed(
    app: &App,
    client: &Client,
    wanted: &InstanceManifest,
    id: &str,
    args: &ApplyArgs,
    ctrl_c: &mut wait::CtrlC,
) -> Result<(), Failure> {
    for tries in 1.. {
        let found = Difference::of(client, wanted, client.instance(id).await?).await?;
        fixed(wanted, &found.changes)?;
        match change(client, wanted, &found).await {
            Ok(accepted) => {
                if let Some(accepted) = accepted.filter(|_| !args.detach) {
                    wait::one(app, client, accepted, ctrl_c).await?;
                }
                return Ok(());
            }
            Err(error) if error.code() == Code::PreconditionFailed && tries < TRIES => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// One try, on what was found.
async fn change(
    client: &Client,
    wanted: &InstanceManifest,
    found: &Difference,
) -> Result<Option<Accepted>, Error> {
    let (id, version) = (found.view.id.as_str(), Some(found.view.resource_version));
    let config = found.config(wanted)?;
    if !found.touches(&REST) {
        if let Some(config) = config {
            client.configure(id, &config, version).await?;
        }
        return Ok(None);
    }
    let accepted = client.update(id, &update(wanted, &found.view), version).await?;
    // At once, so that nobody says something between the two.
    if let Some(config) = config {
        client.configure(id, &config, None).await?;
    }
    Ok(Some(accepted))
}

/// The request for a new one.
fn request(wanted: &InstanceManifest) -> Result<CreateInstance, Error> {
    let (spec, config) = (&wanted.spec, wanted.spec.config.clone().unwrap_or_default());
    Ok(CreateInstance {
        claw_type: spec.claw_type.to_lowercase(),
        name: Some(wanted.metadata.name.clone()),
        version: spec.version.clone(),
        runtime: spec.runtime,
        target: spec.target.clone(),
        image: spec.image.clone(),
        vm: spec.vm.clone(),
        resources: spec.resources.as_ref().map(share),
        port: spec.port,
        overrides: config.patch()?,
        template: config.template.flatten(),
        variables: config.variables.unwrap_or_default(),
        config_mode: spec.config_mode,
        restart: spec.restart,
        ready_timeout_secs: spec.ready_timeout_secs,
        labels: wanted.metadata.labels.clone().unwrap_or_default(),
        policy: spec.sleep.clone().unwrap_or_default(),
        ..CreateInstance::default()
    })
}

/// The changeable rest of an instance with what a document says in it.
fn update(wanted: &InstanceManifest, now: &InstanceView) -> UpdateInstance {
    let spec = &wanted.spec;
    let said = spec.resources.as_ref().map(share).unwrap_or_default();
    UpdateInstance {
        resources: Some(ResourcesInput {
            cpus: said.cpus.or(Some(now.resources.cpus)),
            memory_mib: said.memory_mib.or(Some(now.resources.memory_mib)),
        }),
        port: spec.port.or(now.wanted_port),
        config: now.config.clone(),
        config_mode: spec.config_mode.unwrap_or(now.config_mode),
        restart: Some(spec.restart.unwrap_or(now.restart)),
        ready_timeout_secs: Some(spec.ready_timeout_secs.unwrap_or(now.ready_timeout_secs)),
        labels: wanted.metadata.labels.clone().unwrap_or_else(|| now.labels.clone()),
        policy: spec.sleep.clone(),
    }
}

fn share(resources: &Resources) -> ResourcesInput {
    ResourcesInput {
        cpus: resources.cpu.as_ref().and_then(Quantity::cores),
        memory_mib: resources.memory.as_ref().and_then(Quantity::mebibytes),
    }
}

fn template(wanted: &InstanceManifest) -> Option<&ConfigName> {
    let config: Option<&InstanceConfig> = wanted.spec.config.as_ref();
    config.and_then(|it| it.template.as_ref()).and_then(Option::as_ref)
}

/// An error of the request, at its place in the document.
fn of_document(error: Error) -> Error {
    let place = match error.field_name() {
        Some("claw_type") => "spec.type".to_owned(),
        Some("template") => "spec.config.template".to_owned(),
        Some(field) if field == "labels" || field == "name" => format!("metadata.{field}"),
        Some("config_mode") => "spec.configMode".to_owned(),
        Some("ready_timeout_secs") => "spec.readyTimeoutSecs".to_owned(),
        Some(field) if field.starts_with("variables") => format!("spec.config.{field}"),
        Some(field) if field.starts_with("policy") => field.replacen("policy", "spec.sleep", 1),
        Some(field) => format!("spec.{field}"),
        None => return error,
    };
    let moved = Error::new(error.code(), error.message().to_owned()).field(place);
    match error.fix_text() {
        Some(fix) => moved.fix(fix.to_owned()),
        None => moved,
    }
}

/// Refuses what can't be changed on an instance that there is.
fn fixed(wanted: &InstanceManifest, changes: &[Change]) -> Result<(), Error> {
    for change in changes {
        let part = change.path.parts().first().map_or("", String::as_str);
        let Some((_, fix)) = FIXED.iter().find(|(field, _)| *field == part) else { continue };
        let field = change.path.to_string();
        let said = |value: &Option<Value>| match value {
            Some(Value::String(text)) => format!("'{text}'"),
            Some(Value::Null) | None => "none".to_owned(),
            Some(other) => other.to_string(),
        };
        let after = said(&change.after);
        return Err(Error::new(
            Code::Conflict,
            format!(
                "'{}' has the {field} {}, and the document says {after}",
                wanted.metadata.name,
                said(&change.before),
            ),
        )
        .field(format!("spec.{field}"))
        .fix(
            fix.replace("NAME", wanted.metadata.name.as_str()).replace("VERSION", after.trim_matches('\'')),
        ));
    }
    Ok(())
}

fn applied(wanted: &InstanceManifest, action: Action, changes: Vec<Change>) -> Applied {
    let name = wanted.metadata.name.to_string();
    Applied { kind: INSTANCE_KIND, name, action, changes, notes: Vec::new() }
}
