//! A `ConfigTemplate` of a file.

use clawfarm_api::manifest::{TEMPLATE_KIND, TemplateManifest};
use clawfarm_api::{ConfigView, PlanRequest, PublishRequest, SaveConfig};
use clawfarm_client::Client;
use clawfarm_config::{Template, diff};
use clawfarm_model::{Code, ConfigKind, Error};
use serde_json::Value;

use super::{Action, Applied, ApplyArgs, Fleet, changes};
use crate::app::App;
use crate::commands::config::impact_words;
use crate::commands::{rollout, wait};
use crate::errors::Failure;

/// What is to be done for a document.
pub(super) struct Plan<'a> {
    pub(super) applied: Applied,
    wanted: &'a TemplateManifest,
    /// The version that it is based on; 0 when there was none.
    version: i64,
    /// The revision that says what is wanted, once it is saved.
    revision: i64,
    /// Whether that is brought to its instances.
    publish: bool,
    /// Whether it was published before, whatever it said then.
    known: bool,
    /// Whether its instances go by what is wanted already.
    holds: bool,
    /// Whether a revision that says something else was saved since.
    newer: bool,
}

impl Plan<'_> {
    /// Whether instances can be bound to it only once this was done.
    pub(super) fn is_coming(&self) -> bool {
        self.publish && !self.known
    }
}

pub(super) async fn tried<'a>(
    client: &Client,
    wanted: &'a TemplateManifest,
    args: &ApplyArgs,
    fleet: &Fleet,
) -> Result<Plan<'a>, Failure> {
    let name = &wanted.metadata.name;
    let present = match client.config(name).await {
        Ok(view) => Some(view),
        Err(error) if error.code() == Code::NotFound => None,
        Err(error) => return Err(error.into()),
    };
    let after = document(&wanted.spec)?;
    let newest = present.as_ref().map(|it| document(&it.newest.content)).transpose()?;
    let same = |it: &Value| diff(it, &after).is_empty();
    let published = match &present {
        Some(view) => published(client, view).await?,
        None => None,
    };
    let holds = published.as_ref().is_some_and(same);
    let action = match &newest {
        None => Action::Created,
        Some(newest) if holds || same(newest) => Action::Unchanged,
        Some(_) => Action::Changed,
    };
    let head = present.as_ref().map_or(0, |it| it.config.head);
    let mut revision = head;
    let mut applied = Applied {
        kind: TEMPLATE_KIND,
        name: name.to_string(),
        action,
        changes: Vec::new(),
        notes: Vec::new(),
    };
    if action != Action::Unchanged {
        let save = SaveConfig { content: wanted.spec.clone(), message: args.message.clone() };
        revision = client.check_config(name, &save).await?.revision;
        applied.changes = changes(newest.as_ref(), &after);
    }
    // By itself only what nobody can go by yet: a layer of all instances is everybody's from its
    // first revision on, and a draft of somebody else is theirs to publish.
    let of_its_own = action == Action::Created && name.kind() == ConfigKind::Template;
    let publish = !holds && (of_its_own || args.publish);
    let plan = Plan {
        version: present.as_ref().map_or(0, |it| it.config.version),
        known: published.is_some(),
        applied,
        wanted,
        revision,
        publish,
        holds,
        newer: newest.as_ref().is_some_and(|it| !same(it)),
    };
    if publish && let Some(id) = present.as_ref().and_then(|it| it.config.rollout.as_ref()) {
        return Err(Error::new(Code::Conflict, format!("the rollout {id} of '{name}' is under way"))
            .field("metadata.name")
            .fix(format!("wait for its end: clawfarm rollout status {id} --watch; or end it: clawfarm rollout abort {id}"))
            .into());
    }
    Ok(noted(plan, fleet.go_by(name), args))
}

/// Adds what to know before it is done.
fn noted<'a>(mut plan: Plan<'a>, instances: usize, args: &ApplyArgs) -> Plan<'a> {
    let number = plan.revision;
    if plan.holds {
        if plan.newer {
            plan.applied.notes.push(format!("revision {number} says something else, and is not published"));
        }
    } else if args.dry_run {
        plan.applied.notes.push(match plan.publish {
            true => format!("revision {number} would be published; instances that go by it: {instances}"),
            false => format!(
                "revision {number} would not be published without --publish; instances that go by it: {instances}"
            ),
        });
    }
    plan
}

pub(super) async fn written(
    app: &App,
    client: &Client,
    plan: Plan<'_>,
    args: &ApplyArgs,
    ctrl_c: &mut wait::CtrlC,
) -> Result<Applied, Failure> {
    let Plan { mut applied, wanted, version, mut revision, publish, holds, .. } = plan;
    let name = &wanted.metadata.name;
    if applied.action != Action::Unchanged {
        let save = SaveConfig { content: wanted.spec.clone(), message: args.message.clone() };
        revision = client.save_config(name, &save, Some(version)).await?.config.head;
    }
    if holds {
        return Ok(applied);
    }
    if publish {
        let request = PublishRequest {
            revision: Some(revision),
            message: args.message.clone(),
            ..PublishRequest::default()
        };
        let begun = client.publish(name, &request).await?;
        let ended = rollout::ended(app, client, begun, ctrl_c).await?;
        rollout::check(&ended)?;
        applied.notes.push(format!("revision {revision} is published"));
        return Ok(applied);
    }
    let asked = PlanRequest { revision: Some(revision), limit: Some(1), ..PlanRequest::default() };
    // It is saved; that its plan can't be made now does not undo that.
    let impact = match client.plan(name, &asked).await {
        Ok(plan) => impact_words(&plan.counts),
        Err(error) => error.message().to_owned(),
    };
    applied
        .notes
        .push(format!("revision {revision} is not published: {impact}; clawfarm config publish {name}"));
    Ok(applied)
}

/// What the instances of a configuration go by.
async fn published(client: &Client, view: &ConfigView) -> Result<Option<Value>, Error> {
    match view.config.published {
        Some(number) if number == view.config.head => document(&view.newest.content).map(Some),
        Some(number) => {
            let revision = client.revision(&view.config.name, number).await?;
            document(&revision.content).map(Some)
        }
        None => Ok(None),
    }
}

fn document(content: &Template) -> Result<Value, Error> {
    serde_json::to_value(content).map_err(|e| Error::internal("a configuration can't be written as JSON", e))
}
