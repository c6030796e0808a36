//! `policy`: when instances sleep by themselves.

use clap::{ArgGroup, Args, Subcommand};
use clawfarm_api::{ChangePolicy, SleepView};
use clawfarm_client::Client;
use clawfarm_model::name::ProjectName;
use clawfarm_model::policy::{AwakeHours, Layer, Window};
use clawfarm_model::{Error, RuntimePolicy, Timestamp};

use super::input;
use crate::app::App;
use crate::errors::{Failure, OK, Outcome};
use crate::output::{Column, Table, Ui, clean_line, clock, duration};

/// The help's examples.
pub(crate) const EXAMPLES: &str = "\
Examples:
  clawfarm policy set alice --idle 15m
      frozen in memory after a quarter of an hour without use, suspended two minutes later
  clawfarm policy set --project default --idle 30m
  clawfarm policy set alice --hours 'mon-fri 09:00-18:00' --zone Europe/Berlin
      up in office hours, whatever else is said
  clawfarm policy set alice --unset idle
      what its project, its tenant or the server says holds again
  clawfarm policy show alice";

/// `clawfarm policy`.
#[derive(Debug, Subcommand)]
pub(crate) enum PolicyCommand {
    /// Show what holds for an instance, who said it, and when it sleeps and wakes
    #[command(
        after_help = "Examples:\n  clawfarm policy show alice\n  clawfarm policy show --project default\n  clawfarm policy show --server"
    )]
    Show(ShowArgs),
    /// Change what is said for an instance, a project, the tenant or the server
    #[command(
        long_about = "Changes when instances sleep by themselves. Each value comes from the nearest that says it: the instance, its project, its tenant, the server. What is left out stays as it is.",
        after_help = "Examples:\n  clawfarm policy set alice --idle 15m\n  clawfarm policy set --tenant --idle 1h --min-running 10m\n  clawfarm policy set alice --never\n  clawfarm policy set alice --unset never --unset hours"
    )]
    Set(Box<SetArgs>),
}

/// Whose policy.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("whose").required(true))]
pub(crate) struct Whose {
    /// An instance, by id, name or a unique beginning of either
    #[arg(value_name = "INSTANCE", group = "whose")]
    id: Option<String>,
    /// A project of the tenant
    #[arg(long, value_name = "PROJECT", group = "whose")]
    project: Option<ProjectName>,
    /// The tenant
    #[arg(long, group = "whose")]
    tenant: bool,
    /// The server
    #[arg(long, group = "whose")]
    server: bool,
}

impl Whose {
    /// The end of the path of a broader policy.
    fn path(&self) -> Vec<&str> {
        match (&self.project, self.tenant) {
            (Some(project), _) => vec!["projects", project.as_str()],
            (None, true) => vec!["tenant"],
            (None, false) => vec!["server"],
        }
    }
}

/// `clawfarm policy show`.
#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    #[command(flatten)]
    whose: Whose,
}

/// An idle time, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Idle {
    After(u32),
    Never,
}

/// Reads `15m` or `never`.
pub(crate) fn idle(text: &str) -> Result<Idle, String> {
    if text == "never" { Ok(Idle::Never) } else { input::seconds(text).map(Idle::After) }
}

/// What `--idle` of `new` makes of a policy.
pub(crate) fn of_idle(idle: Idle) -> RuntimePolicy {
    match idle {
        Idle::After(seconds) => {
            RuntimePolicy { never: Some(false), idle_seconds: Some(seconds), ..RuntimePolicy::default() }
        }
        Idle::Never => RuntimePolicy { never: Some(true), ..RuntimePolicy::default() },
    }
}

/// `clawfarm policy set`.
#[derive(Debug, Args)]
pub(crate) struct SetArgs {
    #[command(flatten)]
    whose: Whose,
    /// It sleeps when it was idle for so long: 90s, 15m, 2h
    #[arg(long, value_name = "TIME", value_parser = input::seconds)]
    idle: Option<u32>,
    /// It never sleeps by itself
    #[arg(long, conflicts_with = "idle")]
    never: bool,
    /// Warm for so long it is suspended
    #[arg(long, value_name = "TIME", value_parser = input::seconds)]
    min_warm: Option<u32>,
    /// It stays up for so long at least
    #[arg(long, value_name = "TIME", value_parser = input::seconds)]
    min_running: Option<u32>,
    /// How long it may finish what came in while it was being put to sleep
    #[arg(long, value_name = "TIME", value_parser = input::seconds)]
    drain_timeout: Option<u32>,
    /// Hours in which it is up, as 'mon-fri 09:00-18:00'; several times for several; 'none' for none
    #[arg(long, value_name = "HOURS")]
    hours: Vec<String>,
    /// The time zone of --hours, such as Europe/Berlin
    #[arg(long, value_name = "ZONE", default_value = "UTC", requires = "hours")]
    zone: String,
    /// Whether it is woken before the hours in which it is usually used
    #[arg(long, value_name = "YES OR NO", value_parser = clap::builder::BoolishValueParser::new(), action = clap::ArgAction::Set)]
    prewake: Option<bool>,
    /// Say this no more, so that a broader policy holds: idle, never, min-warm, min-running, drain-timeout, hours, prewake
    #[arg(long, value_name = "WHAT", value_parser = ["idle", "never", "min-warm", "min-running", "drain-timeout", "hours", "prewake"])]
    unset: Vec<String>,
}

impl SetArgs {
    fn change(&self) -> Result<ChangePolicy, Error> {
        let mut change = ChangePolicy {
            // An idle time is of no use where it is to be awake for ever.
            never: if self.never { Some(Some(true)) } else { self.idle.map(|_| Some(false)) },
            idle_seconds: self.idle.map(Some),
            min_warm_seconds: self.min_warm.map(Some),
            min_running_seconds: self.min_running.map(Some),
            drain_timeout_seconds: self.drain_timeout.map(Some),
            hours: self.awake_hours()?.map(Some),
            prewake: self.prewake.map(Some),
        };
        for what in &self.unset {
            match what.as_str() {
                "idle" => change.idle_seconds = Some(None),
                "never" => change.never = Some(None),
                "min-warm" => change.min_warm_seconds = Some(None),
                "min-running" => change.min_running_seconds = Some(None),
                "drain-timeout" => change.drain_timeout_seconds = Some(None),
                "hours" => change.hours = Some(None),
                _ => change.prewake = Some(None),
            }
        }
        if change == ChangePolicy::default() {
            return Err(Error::invalid("policy", "nothing was said to change")
                .fix("give --idle, --never, --min-warm, --min-running, --drain-timeout, --hours, --prewake or --unset"));
        }
        Ok(change)
    }

    fn awake_hours(&self) -> Result<Option<AwakeHours>, Error> {
        if self.hours.is_empty() {
            return Ok(None);
        }
        let windows = self.hours.iter().filter(|text| *text != "none");
        let windows: Result<Vec<Window>, Error> = windows.map(|text| text.parse()).collect();
        let hours = AwakeHours { zone: self.zone.clone(), windows: windows? };
        hours.check()?;
        Ok(Some(hours))
    }
}

/// `clawfarm policy`.
pub(crate) async fn run(app: &App, command: &PolicyCommand) -> Outcome {
    match command {
        PolicyCommand::Show(args) => show(app, &args.whose).await,
        PolicyCommand::Set(args) => set(app, args).await,
    }
}

async fn show(app: &App, whose: &Whose) -> Outcome {
    let client = app.client().await?;
    match &whose.id {
        Some(id) => {
            let view = client.sleep(id).await?;
            if app.ui.json { app.ui.document(&view)? } else { print(&app.ui, &view)? }
        }
        None => tell(app, &client.policy_of(&whose.path()).await?)?,
    }
    Ok(OK)
}

async fn set(app: &App, args: &SetArgs) -> Outcome {
    let change = args.change()?;
    let client: Client = app.client().await?;
    match &args.whose.id {
        Some(id) => {
            client.change_policy(id, &change).await?;
            let view = client.sleep(id).await?;
            if app.ui.json { app.ui.document(&view)? } else { print(&app.ui, &view)? }
        }
        None => tell(app, &client.change_policy_of(&args.whose.path(), &change).await?)?,
    }
    Ok(OK)
}

/// What one layer says.
fn tell(app: &App, policy: &RuntimePolicy) -> Result<(), Failure> {
    if app.ui.json {
        return app.ui.document(policy);
    }
    let said = [
        ("idle", policy.idle_seconds.map(time)),
        ("never", policy.never.map(yes_or_no)),
        ("min-warm", policy.min_warm_seconds.map(time)),
        ("min-running", policy.min_running_seconds.map(time)),
        ("drain-timeout", policy.drain_timeout_seconds.map(time)),
        ("hours", policy.hours.as_ref().map(hours)),
        ("prewake", policy.prewake.map(yes_or_no)),
    ];
    if policy.is_empty() {
        return app.ui.line("nothing is said");
    }
    for (name, value) in said {
        if let Some(value) = value {
            app.ui.line(format_args!("{name:<14} {value}"))?;
        }
    }
    Ok(())
}

fn time(secs: u32) -> String {
    duration(std::time::Duration::from_secs(u64::from(secs)))
}

fn yes_or_no(is: bool) -> String {
    if is { "yes" } else { "no" }.to_owned()
}

fn hours(hours: &AwakeHours) -> String {
    if hours.windows.is_empty() {
        return "none".to_owned();
    }
    let windows: Vec<_> = hours.windows.iter().map(ToString::to_string).collect();
    format!("{} ({})", windows.join("; "), clean_line(&hours.zone))
}

/// What holds for an instance, who said it, and how it stands with its sleep.
fn print(ui: &Ui, view: &SleepView) -> Result<(), Failure> {
    let (policy, from) = (&view.policy, &view.policy.from);
    let mut table = Table::new(ui, &["POLICY", "VALUE", "FROM"].map(Column));
    let idle = policy.idle_seconds.map_or_else(|| "never by itself".to_owned(), time);
    for (name, value, from) in [
        ("idle", idle, from.idle_seconds),
        ("never", yes_or_no(policy.never), from.never),
        ("min-warm", time(policy.min_warm_seconds), from.min_warm_seconds),
        ("min-running", time(policy.min_running_seconds), from.min_running_seconds),
        ("drain-timeout", time(policy.drain_timeout_seconds), from.drain_timeout_seconds),
        ("hours", hours(&policy.hours), from.hours),
        ("prewake", yes_or_no(policy.prewake), from.prewake),
    ] {
        let row = [name, &value, Layer::as_str(from)].map(|text| table.text(text));
        table.row(row.to_vec());
    }
    ui.line(table.render())?;
    ui.line("")?;
    for line in outlook(view) {
        ui.line(line)?;
    }
    Ok(())
}

/// What keeps an instance up, when it sleeps, when it is woken, and how its last wake went; each
/// on a line. Shown by `status`, too.
pub(super) fn outlook(view: &SleepView) -> Vec<String> {
    let now = Timestamp::now();
    let ahead = |at: Timestamp| match at > now {
        true => format!("in {} ({} UTC)", duration(at.since(now)), clock(at)),
        false => "now".to_owned(),
    };
    let mut lines: Vec<String> =
        view.kept_awake_by.iter().map(|why| format!("kept up: {}", clean_line(why))).collect();
    if let Some(at) = view.sleeps_at {
        lines.push(format!("sleeps {} unless it is used or works", ahead(at)));
    }
    if let (Some(at), Some(cause)) = (view.wakes_at, view.wakes_for) {
        lines.push(format!("wakes {}{}", ahead(at), cause.told()));
    }
    if let Some(wake) = &view.last_wake {
        let part = |ms: u64| duration(std::time::Duration::from_millis(ms));
        lines.push(format!(
            "last wake: from {} in {} (queue {}, runtime {}, claw {}) at {} UTC{}",
            wake.from.as_str(),
            part(wake.total_ms()),
            part(wake.queue_ms),
            part(wake.runtime_ms),
            part(wake.claw_ms),
            clock(wake.at),
            wake.cause.told()
        ));
    }
    lines
}
