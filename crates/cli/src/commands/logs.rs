//! `logs`: what an instance has printed.

use clap::Args;
use clawfarm_api::{LogEntry, LogsQuery};
use clawfarm_model::Timestamp;
use futures::StreamExt;

use super::input;
use crate::app::App;
use crate::errors::{Failure, OK, Outcome};
use crate::output::{clean_line, clock};

/// `clawfarm logs`.
#[derive(Debug, Args)]
#[command(
    long_about = "Prints what an instance has printed. On a terminal without the claw's control sequences; into a file or pipe as it is.",
    after_help = "Examples:\n  clawfarm logs alice --tail 50\n  clawfarm logs -f alice --since 10m\n  clawfarm logs alice --since 2026-11-21T07:36:40Z > alice.log"
)]
pub(crate) struct LogsArgs {
    /// The instance, by id, name or a unique beginning of either
    #[arg(value_name = "INSTANCE")]
    id: String,
    /// Go on with lines as they are printed
    #[arg(long, short)]
    follow: bool,
    /// Only lines printed since then: a span such as 10m or 1h30m, or a time
    #[arg(long, value_name = "WHEN", value_parser = input::since)]
    since: Option<Timestamp>,
    /// Only this many of the last lines
    #[arg(long, short = 'n', value_name = "COUNT", value_parser = clap::value_parser!(u32).range(0..=10_000))]
    tail: Option<u32>,
    /// Begin each line with its time (UTC)
    #[arg(long, short)]
    timestamps: bool,
}

/// `clawfarm logs`. With `--json` one document a line.
pub(crate) async fn run(app: &App, args: &LogsArgs) -> Outcome {
    let client = app.client().await?;
    let query = LogsQuery { follow: args.follow, since: args.since, tail: args.tail };
    if args.follow {
        let mut stream = client.follow_logs(&args.id, query).await?;
        while let Some(entry) = stream.next().await {
            print(app, args, &entry?)?;
        }
    } else {
        for entry in client.logs(&args.id, query).await? {
            print(app, args, &entry)?;
        }
    }
    Ok(OK)
}

fn print(app: &App, args: &LogsArgs, entry: &LogEntry) -> Result<(), Failure> {
    if app.ui.json {
        return app.ui.document_line(entry);
    }
    let text = if app.ui.out_is_terminal { &clean_line(&entry.text) } else { &entry.text };
    if args.timestamps {
        app.ui.line(format_args!("{}  {text}", app.ui.out.dim(clock(entry.at))))
    } else {
        app.ui.line(text)
    }
}
