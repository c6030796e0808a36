//! `config bind`.

use std::collections::BTreeMap;

use clap::Args;
use clawfarm_api::ChangeConfig;
use clawfarm_model::{ConfigName, Error};

use super::{told_impact, variables};
use crate::app::App;
use crate::commands::input;
use crate::errors::{OK, Outcome};
use crate::output::clean_line;

/// `clawfarm config bind`.
#[derive(Debug, Args)]
pub(crate) struct BindArgs {
    /// The instance, by id, name or a unique beginning of either
    #[arg(value_name = "INSTANCE")]
    id: String,
    /// The template; the one that it is bound to when left out
    #[arg(value_name = "TEMPLATE", conflicts_with = "none")]
    template: Option<ConfigName>,
    /// Bind it to none
    #[arg(long)]
    none: bool,
    /// What a variable of the template is for it, as NAME=TEXT; several times for several
    #[arg(long = "var", value_name = "NAME=TEXT", value_parser = input::pair, conflicts_with = "none")]
    variables: Vec<(String, String)>,
    /// A variable that is as the template says again
    #[arg(long = "unvar", value_name = "NAME", conflicts_with = "none")]
    forgotten: Vec<String>,
    /// Only show what it would do
    #[arg(long)]
    dry_run: bool,
}

pub(super) async fn run(app: &App, args: &BindArgs) -> Outcome {
    let nothing = !args.none && args.template.is_none();
    if nothing && args.variables.is_empty() && args.forgotten.is_empty() {
        return Err(Error::invalid("TEMPLATE", "nothing was said to change")
            .fix("name a template, or give --var, --unvar or --none")
            .into());
    }
    let client = app.client().await?;
    let change = if args.none {
        ChangeConfig { template: Some(None), variables: Some(BTreeMap::new()), ..ChangeConfig::default() }
    } else {
        let layers = client.explain(&args.id).await?.layers;
        let same = args.template.is_none() || args.template == layers.template;
        let template = args.template.clone().or(layers.template).ok_or_else(|| {
            Error::invalid("TEMPLATE", format!("'{}' is bound to no template", args.id))
                .fix(format!("name one: clawfarm config bind {} TEMPLATE --var …", args.id))
        })?;
        let revision = layers.applied.get(&template).copied();
        let mut all = if same { layers.variables } else { BTreeMap::new() };
        for name in &args.forgotten {
            if all.remove(name).is_none() {
                return Err(Error::invalid("--unvar", format!("'{}' gives nothing for '{name}'", args.id))
                    .fix(format!("see what it gives: clawfarm export {}", args.id))
                    .into());
            }
        }
        all.extend(variables::typed(&client, &template, revision, &args.variables).await?);
        ChangeConfig { template: Some(Some(template)), variables: Some(all), ..ChangeConfig::default() }
    };
    let change = ChangeConfig { dry_run: args.dry_run, ..change };
    let done = client.configure(&args.id, &change, None).await?;
    if app.ui.json {
        app.ui.document(&done)?;
        return Ok(OK);
    }
    for it in &done.warnings {
        app.ui.warn(format_args!("{}: {}", clean_line(&it.field), clean_line(&it.message)));
    }
    let id = &done.instance.id;
    let would = if args.dry_run { "would be" } else { "is" };
    match change.template.flatten() {
        Some(template) => app.ui.line(format_args!("{id} {would} bound to {template}"))?,
        None => app.ui.line(format_args!("{id} {would} bound to no template"))?,
    }
    app.ui.note(format_args!("{}.", told_impact(&done.impact)));
    Ok(OK)
}
