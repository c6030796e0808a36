//! `config explain`.

use clap::Args;
use clawfarm_api::ExplainView;
use clawfarm_config::{ConfigPath, Explained};

use super::told;
use crate::app::App;
use crate::errors::{Failure, OK, Outcome};
use crate::output::{Column, Table, Ui, clean_line};

/// `clawfarm config explain`.
#[derive(Debug, Args)]
pub(crate) struct ExplainArgs {
    /// The instance, by id, name or a unique beginning of either
    #[arg(value_name = "INSTANCE")]
    id: String,
    /// Only what is at this place or below it, such as model or channels.telegram
    #[arg(value_name = "PLACE")]
    place: Option<ConfigPath>,
}

pub(super) async fn run(app: &App, args: &ExplainArgs) -> Outcome {
    let mut view = app.client().await?.explain(&args.id).await?;
    if let Some(place) = &args.place {
        view.values.retain(|it| place.touches(&it.path));
        view.refused.retain(|it| place.touches(&it.path));
    }
    if app.ui.json {
        app.ui.document(&view)?;
    } else {
        print(&app.ui, &view)?;
    }
    Ok(OK)
}

fn print(ui: &Ui, view: &ExplainView) -> Result<(), Failure> {
    let mut table = Table::new(ui, &["PLACE", "VALUE", "FROM", "OVERRODE", "LOCKED BY"].map(Column));
    for it in &view.values {
        let lock = it.locked_by.as_ref().map_or_else(String::new, ToString::to_string);
        let value = it.value.as_ref().map_or_else(|| "(taken away)".to_owned(), told);
        table.row(vec![
            table.text(&it.path.to_string()),
            table.text(&value),
            table.text(&it.from.to_string()),
            table.text(&overrode(it)),
            table.text(&lock),
        ]);
    }
    ui.line(table.render())?;
    for it in &view.refused {
        ui.line(format_args!(
            "{} of {} does not hold: {} is locked by {}",
            clean_line(&it.path.to_string()),
            it.by,
            clean_line(&it.lock.to_string()),
            it.locked_by
        ))?;
    }
    for it in &view.warnings {
        ui.warn(format_args!("{}: {}", clean_line(&it.field), clean_line(&it.message)));
    }
    if let Some(template) = &view.layers.template {
        let number = view.layers.applied.get(template);
        let revision = number.map_or_else(String::new, |number| format!("@{number}"));
        ui.note(format_args!("{} is bound to {template}{revision}.", view.id));
    }
    if !view.in_force {
        ui.note("It is not known yet to run with this.");
    }
    Ok(())
}

/// What others said before, the latest first.
fn overrode(it: &Explained) -> String {
    let each = it.overrode.iter().map(|other| {
        // What was below the place is told with its own place.
        let place = if other.path == it.path { String::new() } else { format!("{}: ", other.path) };
        format!("{place}{} ({})", told(&other.value), other.from)
    });
    each.collect::<Vec<_>>().join("; ")
}
