//! `apply` and `export`: configurations and instances as documents in a file.

mod export;
mod fleet;
mod instance;
mod template;

use std::path::PathBuf;

use clap::Args;
use clawfarm_api::{Accepted, WarningView};
use clawfarm_client::Client;
use clawfarm_config::{Change, diff};
use serde::Serialize;
use serde_json::Value;

use super::config::change_line;
use super::wait;
use crate::app::App;
use crate::errors::{Failure, INTERRUPTED, OK, Outcome};
use crate::manifest::{self, Manifest};
use crate::output::clean_line;
use fleet::Fleet;

pub(crate) use export::{ExportArgs, export};

/// `clawfarm apply`.
#[derive(Debug, Args)]
#[command(
    long_about = "Makes configurations and instances as the documents of a file say: kind ConfigTemplate and ClawInstance of clusterclaw.io/v1. What is so already is left alone, and what a document leaves out stays as it is. All documents are tried before the first is written. Templates come first. A new template is published, since nobody goes by it yet; a later revision, and what is said for all instances (global, tenant, project.<name>), only with --publish or with 'clawfarm config publish'. Nothing is removed.",
    after_help = "Examples:\n  clawfarm apply -f team.yaml --dry-run\n      what would change\n  clawfarm apply -f team.yaml -m 'the larger model' --publish\n  clawfarm export | clawfarm apply -f -\n      changes nothing"
)]
pub(crate) struct ApplyArgs {
    /// The file; '-' is standard input
    #[arg(long, short = 'f', value_name = "FILE")]
    file: PathBuf,
    /// Only show what would change
    #[arg(long)]
    dry_run: bool,
    /// Bring changed configurations to their instances at once
    #[arg(long)]
    publish: bool,
    /// What for; kept with the revisions
    #[arg(long, short, value_name = "TEXT", default_value = "")]
    message: String,
    /// Return without waiting until new instances answer
    #[arg(long, short)]
    detach: bool,
}

/// What came of a document, or would come of it.
#[derive(Clone, Debug, Serialize)]
struct Applied {
    kind: &'static str,
    name: String,
    /// `unchanged`, `created` or `changed`.
    action: Action,
    /// What differs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    changes: Vec<Change>,
    /// What to know beside.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    notes: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Action {
    Unchanged,
    Created,
    Changed,
}

/// What is to be done for a document.
enum Plan<'a> {
    Template(template::Plan<'a>),
    Instance(instance::Plan<'a>),
}

impl Plan<'_> {
    fn applied(&self) -> &Applied {
        match self {
            Self::Template(it) => &it.applied,
            Self::Instance(it) => &it.applied,
        }
    }
}

/// `clawfarm apply`.
pub(crate) async fn apply(app: &App, args: &ApplyArgs) -> Outcome {
    let manifests = manifest::read(&manifest::text_of(&args.file)?)?;
    let client = app.client().await?;
    let mut ctrl_c = wait::CtrlC::watch()?;
    let plans = tokio::select! {
        plans = tried(app, &client, &manifests, args) => plans?,
        () = ctrl_c.pressed() => return Err(Failure::Told(INTERRUPTED)),
    };
    let mut done = Vec::new();
    let end = match args.dry_run {
        true => plans.iter().try_for_each(|it| {
            told(app, args, it.applied())?;
            done.push(it.applied().clone());
            Ok(())
        }),
        false => written(app, &client, plans, args, &mut ctrl_c, &mut done).await,
    };
    // What was done before it failed is told, too.
    if app.ui.json {
        app.ui.document(&done)?;
    }
    end.map(|()| OK)
}

/// Looks at every document and tries what can be tried; nothing is written before.
async fn tried<'a>(
    app: &App,
    client: &Client,
    manifests: &'a [Manifest],
    args: &ApplyArgs,
) -> Result<Vec<Plan<'a>>, Failure> {
    let fleet = Fleet::read(client).await?;
    let mut plans = Vec::new();
    let mut coming = Vec::new();
    // An instance may be bound to a template of the same file.
    let place = |index: usize| {
        move |failure: Failure| match failure {
            Failure::Error(error) if manifests.len() > 1 && error.field_name().is_some() => {
                Failure::Error(manifest::at(&format!("documents[{index}]."), &error))
            }
            other => other,
        }
    };
    for (index, it) in manifests.iter().enumerate() {
        let Manifest::Template(template) = it else { continue };
        let plan = template::tried(client, template, args, &fleet).await.map_err(place(index))?;
        if plan.is_coming() {
            coming.push(template.metadata.name.clone());
        }
        plans.push(Plan::Template(plan));
    }
    for (index, it) in manifests.iter().enumerate() {
        let Manifest::Instance(instance) = it else { continue };
        let plan = instance::tried(app, client, instance, &fleet, &coming).await.map_err(place(index))?;
        plans.push(Plan::Instance(plan));
    }
    Ok(plans)
}

/// Does what is to be done, one document after the other, and adds what was done to `done`.
async fn written(
    app: &App,
    client: &Client,
    plans: Vec<Plan<'_>>,
    args: &ApplyArgs,
    ctrl_c: &mut wait::CtrlC,
    done: &mut Vec<Applied>,
) -> Result<(), Failure> {
    let all = plans.len();
    let mut making: Vec<Accepted> = Vec::new();
    for plan in plans {
        if ctrl_c.was_pressed() {
            app.ui.note(format_args!(
                "{} of {all} documents are applied, and the rest is as it was. Apply the file again to go on.",
                done.len()
            ));
            return Err(Failure::Told(INTERRUPTED));
        }
        let applied = match plan {
            Plan::Template(plan) => template::written(app, client, plan, args, ctrl_c).await,
            Plan::Instance(plan) => Box::pin(instance::written(app, client, plan, args, ctrl_c)).await.map(
                |(applied, accepted)| {
                    making.extend(accepted);
                    applied
                },
            ),
        };
        let applied = applied.inspect_err(|_| {
            app.ui.note(format_args!("{} of {all} documents were applied before this.", done.len()));
        })?;
        told(app, args, &applied)?;
        done.push(applied);
    }
    for accepted in making {
        if !args.detach {
            wait::one(app, client, accepted, ctrl_c).await?;
        }
    }
    Ok(())
}

fn told(app: &App, args: &ApplyArgs, applied: &Applied) -> Result<(), Failure> {
    if app.ui.json {
        return Ok(());
    }
    let action = match (applied.action, args.dry_run) {
        (Action::Unchanged, _) => "unchanged",
        (Action::Created, false) => "created",
        (Action::Created, true) => "would be created",
        (Action::Changed, false) => "changed",
        (Action::Changed, true) => "would be changed",
    };
    app.ui.line(format_args!("{} {}: {action}", applied.kind, applied.name))?;
    for change in &applied.changes {
        app.ui.line(format_args!("  {}", change_line(change)))?;
    }
    for note in &applied.notes {
        app.ui.line(format_args!("  {}", clean_line(note)))?;
    }
    Ok(())
}

/// What leads from one document to another, or from nothing.
fn changes(before: Option<&Value>, after: &Value) -> Vec<Change> {
    diff(before.unwrap_or(&Value::Object(serde_json::Map::new())), after)
}

/// What is worth a word, on a line each.
fn worded(warnings: Vec<WarningView>) -> Vec<String> {
    warnings.into_iter().map(|it| format!("{}: {}", it.field, it.message)).collect()
}
