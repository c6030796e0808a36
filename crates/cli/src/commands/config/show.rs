//! `config ls`, `get`, `revisions`, `diff`.

use clap::Args;
use clawfarm_api::{DiffQuery, RevisionsQuery};
use clawfarm_model::{ConfigKind, ConfigName};

use super::change_line;
use crate::app::App;
use crate::errors::{OK, Outcome};
use crate::manifest;
use crate::output::{Column, Table, clean_block, clock};

/// `clawfarm config get`.
#[derive(Debug, Args)]
pub(crate) struct GetArgs {
    /// The configuration: a template's name, global, tenant or project.NAME
    name: ConfigName,
    /// The revision [default: the newest]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(i64).range(1..))]
    revision: Option<i64>,
}

/// `clawfarm config revisions`.
#[derive(Debug, Args)]
pub(crate) struct RevisionsArgs {
    /// The configuration: a template's name, global, tenant or project.NAME
    name: ConfigName,
    /// So many of the newest
    #[arg(long, short = 'n', value_name = "COUNT", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=500))]
    limit: u32,
}

/// `clawfarm config diff`.
#[derive(Debug, Args)]
pub(crate) struct DiffArgs {
    /// The configuration: a template's name, global, tenant or project.NAME
    name: ConfigName,
    /// The revision to begin with [default: the published one]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(i64).range(1..))]
    from: Option<i64>,
    /// The revision to end with [default: the newest]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(i64).range(1..))]
    to: Option<i64>,
}

pub(super) async fn list(app: &App) -> Outcome {
    let configs = app.client().await?.configs().await?;
    if app.ui.json {
        app.ui.document(&configs)?;
        return Ok(OK);
    }
    if configs.items.is_empty() {
        app.ui.note("There are no configurations. Make one with: clawfarm config save NAME -f FILE");
        return Ok(OK);
    }
    let columns = ["CONFIG", "FOR", "NEWEST", "PUBLISHED", "ROLLOUT", "SAVED(UTC)"].map(Column);
    let mut table = Table::new(&app.ui, &columns);
    for config in &configs.items {
        let whose = match config.name.kind() {
            ConfigKind::Global => "all instances".to_owned(),
            ConfigKind::Tenant => "the tenant".to_owned(),
            ConfigKind::Project(name) => format!("project {name}"),
            ConfigKind::Template => "who is bound to it".to_owned(),
            ConfigKind::Own => "what instances say themselves".to_owned(),
        };
        let published = config.published.map_or_else(|| "-".to_owned(), |number| number.to_string());
        table.row(vec![
            table.text(config.name.as_str()),
            table.text(&whose),
            table.text(&config.head.to_string()),
            table.text(&published),
            table.text(config.rollout.as_deref().unwrap_or("-")),
            table.text(&clock(config.updated_at)),
        ]);
    }
    app.ui.line(table.render())?;
    Ok(OK)
}

pub(super) async fn get(app: &App, args: &GetArgs) -> Outcome {
    let client = app.client().await?;
    let revision = match args.revision {
        Some(number) => client.revision(&args.name, number).await?,
        None => client.config(&args.name).await?.newest,
    };
    if app.ui.json {
        app.ui.document(&revision)?;
    } else if app.ui.out_is_terminal {
        app.ui.line(clean_block(manifest::write_one(&revision.content)?.trim_end()))?;
    } else {
        // As it may be saved again.
        app.ui.raw(manifest::write_one(&revision.content)?.as_bytes())?;
    }
    Ok(OK)
}

pub(super) async fn revisions(app: &App, args: &RevisionsArgs) -> Outcome {
    let client = app.client().await?;
    let config = client.config(&args.name).await?.config;
    let query = RevisionsQuery { before: None, limit: Some(args.limit) };
    let revisions = client.revisions(&args.name, query).await?;
    if app.ui.json {
        app.ui.document(&revisions)?;
        return Ok(OK);
    }
    let columns = ["REVISION", "SAVED(UTC)", "BY", "CHANGES", "STATE", "MESSAGE"].map(Column);
    let mut table = Table::new(&app.ui, &columns);
    for revision in &revisions.items {
        let state = match revision.proven_at {
            _ if config.published == Some(revision.number) => "published".to_owned(),
            Some(at) => format!("was everywhere {}", clock(at)),
            None => "-".to_owned(),
        };
        table.row(vec![
            table.text(&revision.number.to_string()),
            table.text(&clock(revision.created_at)),
            table.text(&revision.author),
            table.text(&revision.change_count.to_string()),
            table.text(&state),
            table.text(&revision.message),
        ]);
    }
    app.ui.line(table.render())?;
    if revisions.next.is_some() {
        app.ui.note(format_args!("There are older ones: -n {}", args.limit.saturating_mul(2).min(500)));
    }
    Ok(OK)
}

pub(super) async fn diff(app: &App, args: &DiffArgs) -> Outcome {
    let query = DiffQuery { from: args.from, to: args.to };
    let diff = app.client().await?.config_diff(&args.name, query).await?;
    if app.ui.json {
        app.ui.document(&diff)?;
        return Ok(OK);
    }
    let from = diff.from.map_or_else(|| "nothing".to_owned(), |number| format!("revision {number}"));
    app.ui.note(format_args!("From {from} to revision {} of {}:", diff.to, args.name));
    for change in &diff.changes {
        app.ui.line(change_line(change))?;
    }
    if diff.changes.is_empty() {
        app.ui.note("They say the same.");
    }
    Ok(OK)
}
