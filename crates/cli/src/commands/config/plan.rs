//! `config plan`.

use clap::Args;
use clawfarm_api::{ConfigWarning, ImpactCounts, PlanRequest, PlannedView, RefusalView};
use clawfarm_config::Impact;
use clawfarm_model::ConfigName;

use super::{Selection, impact_of, why};
use crate::app::App;
use crate::errors::{FAILED, Failure, OK, Outcome};
use crate::output::{Column, Table, clean_line};

/// `clawfarm config plan`.
#[derive(Debug, Args)]
pub(crate) struct PlanArgs {
    /// The configuration: a template's name, global, tenant or project.NAME
    name: ConfigName,
    /// The revision [default: the newest]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(i64).range(1..))]
    revision: Option<i64>,
    #[command(flatten)]
    selection: Selection,
    /// List so many instances; the sums are of all
    #[arg(long, value_name = "COUNT", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    limit: u32,
}

pub(super) async fn run(app: &App, args: &PlanArgs) -> Outcome {
    let request = PlanRequest {
        revision: args.revision,
        selector: args.selection.selector()?,
        limit: Some(args.limit),
    };
    let plan = app.client().await?.plan(&args.name, &request).await?;
    let end = if plan.refused == 0 { Ok(OK) } else { Err(Failure::Told(FAILED)) };
    if app.ui.json {
        app.ui.document(&plan)?;
        return end;
    }
    let restarts = plan.instances.iter().filter(|it| matches!(it.impact, Impact::Restart { .. })).count();
    table(app, &plan.instances, restarts > 0)?;
    refusals(app, &plan.refusals, plan.refused)?;
    warnings(app, &plan.warnings);
    app.ui.line(format_args!("{}@{}: {}", plan.config, plan.revision, sums(&plan.counts)))?;
    if plan.refused > 0 {
        app.ui.note("It can't be published while one of its instances can't have it.");
    }
    end
}

/// What is asked of each.
pub(super) fn table(app: &App, instances: &[PlannedView], reasons: bool) -> Result<(), Failure> {
    if instances.is_empty() {
        return Ok(());
    }
    let columns: Vec<Column> = match reasons {
        true => ["INSTANCE", "HAS", "IMPACT", "BECAUSE OF"].map(Column).into(),
        false => ["INSTANCE", "HAS", "IMPACT"].map(Column).into(),
    };
    let mut table = Table::new(&app.ui, &columns);
    for it in instances {
        let has = it.before.map_or_else(|| "-".to_owned(), |number| number.to_string());
        let mut row =
            vec![table.text(it.instance.as_str()), table.text(&has), table.text(impact_of(&it.impact))];
        if reasons {
            row.push(table.text(&why(&it.impact)));
        }
        table.row(row);
    }
    app.ui.line(table.render())
}

/// Who can't have it, and why.
pub(super) fn refusals(app: &App, refusals: &[RefusalView], all: u64) -> Result<(), Failure> {
    for it in refusals {
        let (field, reason) = (clean_line(&it.field), clean_line(&it.reason));
        app.ui.line(format_args!("{} can't have it: {field}: {reason}", it.instance))?;
    }
    let more = all.saturating_sub(refusals.len() as u64);
    if more > 0 {
        app.ui.line(format_args!("... and {more} more can't have it"))?;
    }
    Ok(())
}

/// What is worth a word, and of how many.
pub(super) fn warnings(app: &App, warnings: &[ConfigWarning]) {
    for it in warnings {
        let of =
            if it.instances == 1 { "1 instance".to_owned() } else { format!("{} instances", it.instances) };
        app.ui.warn(format_args!("{}: {} ({of})", clean_line(&it.field), clean_line(&it.message)));
    }
}

/// `2 restart, 1 next start, 3 unchanged`.
pub(in crate::commands) fn sums(counts: &ImpactCounts) -> String {
    let parts = [
        (counts.restart, "started again"),
        (counts.hot, "changed while they run"),
        (counts.next_start, "at their next start"),
        (counts.none, "unchanged"),
    ];
    let parts: Vec<_> =
        parts.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")).collect();
    if parts.is_empty() { "no instance goes by it".to_owned() } else { parts.join(", ") }
}
