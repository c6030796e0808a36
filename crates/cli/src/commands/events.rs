//! `events`: what has happened.

use clap::Args;
use clawfarm_api::EventsQuery;
use clawfarm_model::Code;
use clawfarm_model::event::Event;
use futures::StreamExt;

use super::status::event_line;
use crate::app::App;
use crate::errors::{Failure, OK, Outcome};

/// `clawfarm events`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  clawfarm events\n  clawfarm events -f alice\n  clawfarm events --json | jq .message"
)]
pub(crate) struct EventsArgs {
    /// Only those of one instance, by id, name or a unique beginning of either
    #[arg(value_name = "INSTANCE")]
    id: Option<String>,
    /// Go on with events as they happen
    #[arg(long, short)]
    follow: bool,
    /// The most past events to begin with
    #[arg(long, short = 'n', value_name = "COUNT", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=500))]
    tail: u32,
}

/// `clawfarm events`. With `--json` one document a line.
pub(crate) async fn run(app: &App, args: &EventsArgs) -> Outcome {
    let client = app.client().await?;
    let query = EventsQuery { limit: Some(args.tail), ..EventsQuery::default() };
    let of = args.id.as_deref();
    if args.follow {
        let mut stream = client.follow_events(of, query).await?;
        while let Some(event) = stream.next().await {
            match event {
                Ok(event) => print(app, &event, of.is_none())?,
                // The stream goes on after it.
                Err(error) if error.code() == Code::Gone => app.ui.warn(error.message()),
                Err(error) => return Err(error.into()),
            }
        }
        return Ok(OK);
    }
    let list = client.events(of, query).await?;
    for event in &list.items {
        print(app, event, of.is_none())?;
    }
    if list.items.is_empty() && !app.ui.json {
        app.ui.note("Nothing has happened yet.");
    }
    Ok(OK)
}

fn print(app: &App, event: &Event, with_instance: bool) -> Result<(), Failure> {
    if app.ui.json {
        app.ui.document_line(event)
    } else {
        app.ui.line(event_line(&app.ui, event, with_instance))
    }
}
