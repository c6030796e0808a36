//! `config`: what is said for many instances, in revisions, and what one is configured with.

mod bind;
mod drift;
mod explain;
mod keep;
mod plan;
mod publish;
mod set;
mod show;
mod variables;

use std::collections::BTreeMap;

use clap::{Args, Subcommand};
use clawfarm_config::{Change, Impact, Selector};
use clawfarm_model::Error;
use clawfarm_model::name::{ClawType, ProjectName};
use serde_json::Value;

use super::input;
use crate::app::App;
use crate::errors::Outcome;
use crate::output::clean_line;

pub(super) use plan::sums as impact_words;
pub(super) use set::settings;
pub(super) use variables::typed as typed_variables;

/// The help's examples.
pub(crate) const EXAMPLES: &str = "\
Examples:
  clawfarm config save support -f support.yaml -m 'the larger model'
      a template's next revision; it goes to nobody before it is published
  clawfarm config plan support
      which instances would be started again, and why
  clawfarm config publish support --step 1:manual --step 10%:5m
      one first, then a tenth, then all
  clawfarm config rollback support
  clawfarm config explain alice";

/// `clawfarm config`.
#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// List the configurations: what is said for all instances, and templates
    #[command(after_help = "Examples:\n  clawfarm config ls")]
    Ls,
    /// Print what a configuration says
    #[command(
        after_help = "Examples:\n  clawfarm config get support\n  clawfarm config get support --revision 3 > support.yaml"
    )]
    Get(show::GetArgs),
    /// Change a configuration in an editor, and save its next revision
    #[command(after_help = "Examples:\n  clawfarm config edit support -m 'shorter answers'")]
    Edit(keep::EditArgs),
    /// Save what a file says as a configuration's next revision
    #[command(
        long_about = "Saves what a file says (YAML or JSON) as a configuration's next revision, or as its first. It goes to nobody before it is published. The names global, tenant and project.<name> are what is said for all instances there; any other name is a template's.",
        after_help = "Examples:\n  clawfarm config save support -f support.yaml -m 'the larger model'\n  clawfarm config save global -f company.yaml"
    )]
    Save(keep::SaveArgs),
    /// List the revisions of a configuration
    #[command(after_help = "Examples:\n  clawfarm config revisions support")]
    Revisions(show::RevisionsArgs),
    /// Show what differs between two revisions
    #[command(
        after_help = "Examples:\n  clawfarm config diff support\n      from what is published to the newest\n  clawfarm config diff support --from 3 --to 5"
    )]
    Diff(show::DiffArgs),
    /// Show what publishing would do: which instances are started again, and why
    #[command(
        after_help = "Examples:\n  clawfarm config plan support\n  clawfarm config plan support --revision 3 --selector team=sales"
    )]
    Plan(plan::PlanArgs),
    /// Bring a revision to the instances that go by its configuration
    #[command(
        long_about = "Brings a revision to the instances that go by its configuration, in steps when there are such, and shows how that goes. Nobody gets it unless all of them can have it. When more than --max-failures of them are not well with it, those that were changed are given back what they had. Ctrl-C leaves it running.",
        after_help = "Examples:\n  clawfarm config publish support\n  clawfarm config publish support --step 1:manual --step 10%:5m --parallel 20\n  clawfarm config publish support --revision 3 --selector team=sales --detach"
    )]
    Publish(publish::PublishArgs),
    /// Go back to an earlier revision
    #[command(
        long_about = "Goes back to the revision that was published before, or to the one of --to. A rollout that is under way is turned round instead. A revision that was everywhere not long ago goes out at once, without steps.",
        after_help = "Examples:\n  clawfarm config rollback support\n  clawfarm config rollback support --to 3"
    )]
    Rollback(publish::RollbackArgs),
    /// Remove configurations that no instance goes by
    #[command(after_help = "Examples:\n  clawfarm config rm support")]
    Rm(keep::RmArgs),
    /// Show each value of an instance's configuration, and where it came from
    #[command(
        after_help = "Examples:\n  clawfarm config explain alice\n  clawfarm config explain alice model"
    )]
    Explain(explain::ExplainArgs),
    /// Compare what instances run with and what they should
    #[command(
        long_about = "Compares what instances have on disk and in memory with what they should, and puts it right with --mend. Ends with code 1 when something differs and is left so.",
        after_help = "Examples:\n  clawfarm config drift alice\n  clawfarm config drift --all --mend"
    )]
    Drift(drift::DriftArgs),
    /// Change what instances say themselves
    #[command(
        long_about = "Changes what instances say themselves: those that are named, or all that a selection takes. With --dry-run it is only shown what that would do. When one of a selection can't have it, none gets it. A selection is changed as a revision goes out: in steps when there are such, and when more than --max-failures are not well with it, those that were changed say again what they said before. null takes a value away, also one that a template gives.",
        after_help = "Examples:\n  clawfarm config set alice model.name=claude-3-opus\n  clawfarm config set env.REGION=eu --selector team=support --dry-run\n  clawfarm config set env.REGION=eu --selector team=support --step 1:1m\n  clawfarm config set alice env.REGION=null"
    )]
    Set(set::SetArgs),
    /// Let what the layers below say hold again
    #[command(
        long_about = "Forgets what instances say themselves at places, so that what the layers below them say holds there again: for the instance that is named, or, as config set does, for all that a selection takes.",
        after_help = "Examples:\n  clawfarm config unset alice env.REGION\n  clawfarm config unset model.name memory --selector team=support --dry-run"
    )]
    Unset(set::UnsetArgs),
    /// Bind an instance to a template, and say what its variables are for it
    #[command(
        long_about = "Binds an instance to a template of the configuration centre, to another one, or with --none to none, and says what the template's variables are for it. A variable's text is read by the type that the template gives it. What was said for variables of the same template before stays; --unvar takes one back.",
        after_help = "Examples:\n  clawfarm config bind alice support --var greeting=servus\n  clawfarm config bind alice --var limit=50000\n  clawfarm config bind alice --none"
    )]
    Bind(bind::BindArgs),
}

/// `clawfarm config`.
pub(crate) async fn run(app: &App, command: &ConfigCommand) -> Outcome {
    match command {
        ConfigCommand::Ls => show::list(app).await,
        ConfigCommand::Get(args) => show::get(app, args).await,
        ConfigCommand::Edit(args) => keep::edit(app, args).await,
        ConfigCommand::Save(args) => keep::save(app, args).await,
        ConfigCommand::Revisions(args) => show::revisions(app, args).await,
        ConfigCommand::Diff(args) => show::diff(app, args).await,
        ConfigCommand::Plan(args) => plan::run(app, args).await,
        ConfigCommand::Publish(args) => publish::publish(app, args).await,
        ConfigCommand::Rollback(args) => publish::roll_back(app, args).await,
        ConfigCommand::Rm(args) => keep::remove(app, args).await,
        ConfigCommand::Explain(args) => explain::run(app, args).await,
        ConfigCommand::Drift(args) => drift::run(app, args).await,
        ConfigCommand::Set(args) => set::run(app, args).await,
        ConfigCommand::Unset(args) => set::unset(app, args).await,
        ConfigCommand::Bind(args) => bind::run(app, args).await,
    }
}

/// Which instances, by what they have in common.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Selection {
    /// Only those with this label, as LABEL=TEXT; several times: all must match
    #[arg(long, value_name = "LABEL=TEXT", value_parser = input::pair)]
    selector: Vec<(String, String)>,
    /// Only those of a claw type
    #[arg(long = "type", value_name = "CLAW TYPE")]
    claw_type: Option<ClawType>,
    /// Only those of a project
    #[arg(long, value_name = "PROJECT")]
    project: Option<ProjectName>,
}

impl Selection {
    /// The selector that it stands for.
    ///
    /// # Errors
    /// When a label is given with two values, which no instance has.
    pub(super) fn selector(&self) -> Result<Selector, Error> {
        let mut labels = BTreeMap::new();
        for (label, value) in &self.selector {
            if let Some(before) = labels.insert(label.clone(), value.clone()).filter(|it| it != value) {
                return Err(Error::invalid(
                    "--selector",
                    format!("no instance has both '{before}' and '{value}' for the label '{label}'"),
                )
                .fix("give each label once; for each of several values there is a command of its own"));
            }
        }
        Ok(Selector { labels, claw_type: self.claw_type.clone(), project: self.project.clone() })
    }
}

/// A difference on one line: `+ place: value`, `- place: value`, `~ place: before -> after`.
pub(super) fn change_line(change: &Change) -> String {
    let path = clean_line(&change.path.to_string());
    match (&change.before, &change.after) {
        (None, Some(after)) => format!("+ {path}: {}", told(after)),
        (Some(before), None) => format!("- {path}: {}", told(before)),
        (Some(before), Some(after)) => format!("~ {path}: {} -> {}", told(before), told(after)),
        (None, None) => format!("  {path}"),
    }
}

/// A value on one line.
pub(super) fn told(value: &Value) -> String {
    match value {
        // A word is a word without quotes; what could be read as something else has them.
        Value::String(text)
            if !text.is_empty()
                && text.chars().all(|c| c.is_alphanumeric() || "-_./:@".contains(c))
                && serde_json::from_str::<Value>(text).is_err() =>
        {
            text.clone()
        }
        other => clean_line(&other.to_string()),
    }
}

/// What a change asks of an instance, in words.
pub(super) fn impact_of(impact: &Impact) -> &'static str {
    match impact {
        Impact::None => "unchanged",
        Impact::Hot => "hot",
        Impact::Restart { .. } => "restart",
        Impact::NextStart => "next start",
    }
}

/// The same as a sentence.
pub(super) fn told_impact(impact: &Impact) -> String {
    match impact {
        Impact::None => "what it is configured with stays the same".to_owned(),
        Impact::Hot => "it takes it up while it runs".to_owned(),
        Impact::Restart { fields } if fields.is_empty() => {
            "it is started with it, for it is not up, or not well".to_owned()
        }
        Impact::Restart { fields } => format!("it is started again for {}", clean_line(&fields.join(", "))),
        Impact::NextStart => "it takes it up at its next start".to_owned(),
    }
}

/// Why that, where there is a reason to tell.
pub(super) fn why(impact: &Impact) -> String {
    match impact {
        Impact::Restart { fields } if fields.is_empty() => "not up, or not well".to_owned(),
        Impact::Restart { fields } => fields.join(", "),
        _ => String::new(),
    }
}
