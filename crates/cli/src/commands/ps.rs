//! `ps`: lists the instances.

use std::time::Duration;

use clap::Args;
use clawfarm_api::{EventsQuery, InstanceList, InstanceQuery, InstanceView};
use clawfarm_client::Client;
use clawfarm_model::{Code, Error, Phase};
use futures::StreamExt;
use tokio::time::{Instant, sleep};

use super::input;
use crate::app::App;
use crate::errors::{Failure, OK, Outcome};
use crate::output::{Column, Table, clock};
use crate::terminal;

/// The columns. Scripts may count on them.
const COLUMNS: [Column; 7] = [
    Column("CLAWID"),
    Column("IMAGE"),
    Column("STATUS"),
    Column("GATEWAY"),
    Column("PID"),
    Column("UPDATED(UTC)"),
    Column("LAST_ERROR"),
];
/// With `--watch`: drawn again after this long also when nothing was heard.
const REDRAW: Duration = Duration::from_secs(2);
/// Events come in bunches; one drawing for each bunch.
const BUNCH: Duration = Duration::from_millis(100);
/// How long `--watch` waits for a server that went away.
const LOST_MAX: Duration = Duration::from_secs(60);

/// `clawfarm ps`.
#[derive(Debug, Args)]
#[command(
    long_about = "Lists the instances. A '?' behind the status means that the instance's target does not answer, so that this is what was last seen; 'clawfarm status' says since when.",
    after_help = "Examples:\n  clawfarm ps\n  clawfarm ps --watch\n  clawfarm ps -q --filter phase=ready --filter label=team=support"
)]
pub(crate) struct PsArgs {
    /// Draw the list again whenever something changes
    #[arg(long, short)]
    watch: bool,
    /// Print the ids only
    #[arg(long, short)]
    quiet: bool,
    /// Show removed instances too
    #[arg(long, short)]
    all: bool,
    /// Only some: phase=..., type=..., runtime=..., target=..., project=... or label=KEY=VALUE
    #[arg(long, short, value_name = "KEY=VALUE", value_parser = input::pair)]
    filter: Vec<(String, String)>,
}

impl PsArgs {
    fn query(&self) -> Result<InstanceQuery, Error> {
        let mut query = InstanceQuery { include_destroyed: self.all, ..InstanceQuery::default() };
        for (key, value) in &self.filter {
            match key.as_str() {
                "phase" | "status" => query.phase = Some(phase(value)?),
                "type" => query.claw_type = Some(value.parse()?),
                "runtime" => query.runtime = Some(value.parse()?),
                "target" => query.target = Some(value.parse()?),
                "project" => query.project = Some(value.parse()?),
                "label" => query.label.push(value.clone()),
                _ => {
                    return Err(Error::invalid("--filter", format!("'{key}' can't be filtered by"))
                        .fix("use phase, type, runtime, target, project or label"));
                }
            }
        }
        Ok(query)
    }
}

fn phase(text: &str) -> Result<Phase, Error> {
    Phase::from_name(text).ok_or_else(|| {
        let known: Vec<_> = Phase::ALL.iter().map(|p| p.as_str()).collect();
        Error::invalid("--filter", format!("'{text}' is no phase"))
            .fix(format!("use one of {}", known.join(", ")))
    })
}

/// `clawfarm ps`.
pub(crate) async fn run(app: &App, args: &PsArgs) -> Outcome {
    let query = args.query()?;
    let client = app.client().await?;
    if args.watch {
        return watch(app, &client, args, &query).await;
    }
    let items = client.all_instances(&query).await?;
    if items.is_empty() && !app.ui.json {
        hint(app, args);
        return Ok(OK);
    }
    app.ui.raw(show(app, args, items)?.as_bytes())?;
    Ok(OK)
}

fn hint(app: &App, args: &PsArgs) {
    if !args.filter.is_empty() {
        app.ui.note("No instance matches.");
    } else {
        app.ui.note("No instances yet. Make one with: clawfarm new openclaw");
    }
}

/// The list in the form that was asked for, with the last line's end.
fn show(app: &App, args: &PsArgs, items: Vec<InstanceView>) -> Result<String, Failure> {
    let mut text = if app.ui.json {
        let list = InstanceList { items, next: None };
        let form = if args.watch { serde_json::to_string } else { serde_json::to_string_pretty };
        form(&list).map_err(std::io::Error::other)?
    } else if args.quiet {
        items.iter().map(|i| i.id.as_str()).collect::<Vec<_>>().join("\n")
    } else {
        table(app, &items)
    };
    text.push('\n');
    Ok(text)
}

fn table(app: &App, items: &[InstanceView]) -> String {
    let mut table = Table::new(&app.ui, &COLUMNS);
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    for item in items {
        let error = item.last_error.as_ref().and_then(|e| e.message.lines().next().map(str::to_owned));
        table.row(vec![
            table.text(item.id.as_str()),
            table.text(&item.image),
            table.phase(item.phase, item.unknown_since.is_some()),
            table.text(&or_dash(item.gateway.clone())),
            table.text(&or_dash(item.pid.map(|pid| pid.to_string()))),
            table.text(&clock(item.updated_at)),
            table.text(&or_dash(error)),
        ]);
    }
    table.render()
}

async fn watch(app: &App, client: &Client, args: &PsArgs, query: &InstanceQuery) -> Outcome {
    let mut screen = Screen::default();
    let follow = EventsQuery { limit: Some(1), ..EventsQuery::default() };
    let mut events = client.follow_events(None, follow).await.ok();
    let mut seen = Instant::now();
    loop {
        match client.all_instances(query).await {
            Ok(items) => {
                seen = Instant::now();
                let text = if items.is_empty() && !app.ui.json {
                    "No instances. Waiting ...\n".to_owned()
                } else {
                    show(app, args, items)?
                };
                screen.draw(app, text)?;
            }
            Err(e) if e.code() == Code::Unavailable && seen.elapsed() < LOST_MAX => {}
            Err(e) => return Err(e.into()),
        }
        let heard = async {
            match &mut events {
                Some(stream) => stream.next().await.is_some(),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            // A stream that has ended would be ready for ever.
            more = heard => if more { sleep(BUNCH).await } else { events = None },
            () = sleep(REDRAW) => {}
        }
    }
}

/// What `--watch` has drawn, to draw over it.
#[derive(Default)]
struct Screen {
    drawn: String,
}

impl Screen {
    fn draw(&mut self, app: &App, text: String) -> Result<(), Failure> {
        let text = if app.ui.out_is_terminal { fit(text) } else { text };
        if text == self.drawn {
            return Ok(());
        }
        if !app.ui.out_is_terminal {
            if !self.drawn.is_empty() && !app.ui.json {
                app.ui.line("")?;
            }
            app.ui.raw(text.as_bytes())?;
            self.drawn = text;
            return Ok(());
        }
        let up = self.drawn.lines().count();
        let back = if up > 0 { format!("\u{1b}[{up}A\r\u{1b}[J") } else { String::new() };
        app.ui.raw(format!("{back}{text}").as_bytes())?;
        self.drawn = text;
        Ok(())
    }
}

/// Cuts the list to the terminal's height: what has scrolled out can't be drawn over.
fn fit(text: String) -> String {
    let Some(size) = terminal::size() else { return text };
    let (rows, lines) = (usize::from(size.rows), text.lines().count());
    if lines < rows || rows < 3 {
        return text;
    }
    let kept: Vec<&str> = text.lines().take(rows - 2).collect();
    format!("{}\n... and {} more\n", kept.join("\n"), lines - kept.len())
}
