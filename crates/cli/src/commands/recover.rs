//! `recover`: rebuilds a lost store from what is kept beside the claws.

use std::io::{self, BufRead, IsTerminal};
use std::path::Path;
use std::sync::Arc;

use clap::Args;
use clawfarm_control::{Finding, Findings, LostInstance, Parts, Verdict};
use clawfarm_model::dataset::Dataset;
use clawfarm_model::target::Target;
use clawfarm_model::{Code, Desired, Error, Phase};
use clawfarm_runtime::Runtime;
use clawfarm_server::HomeLock;
use clawfarm_store::{Database, Store, StoreConfig};
use serde_json::{Value, json};

use crate::app::App;
use crate::database::{DatabaseArgs, remember};
use crate::docker::DockerTargets;
use crate::errors::{FAILED, Failure, OK, Outcome};
use crate::kept_targets;
use crate::master_key::MasterKeyArgs;
use crate::node::Node;
use crate::output::{Column, Table, clean_line};
use crate::server::targets;

/// `clawfarm recover`.
#[derive(Debug, Args)]
#[command(
    long_about = "Rebuilds a lost database from what is kept beside the claws. Lists what is there and unknown to the database, and writes it down once you agree; what the database knows is not touched. Claws that run go on, and the next server takes them over. The server must not run: 'clawfarm down' stops it and leaves the claws alone.",
    after_help = "Examples:\n  clawfarm recover          see what would be put back, and be asked\n  clawfarm recover --yes    put it back"
)]
pub(crate) struct RecoverArgs {
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
    #[command(flatten)]
    database: DatabaseArgs,
    #[command(flatten)]
    master_key: MasterKeyArgs,
}

/// `clawfarm recover`.
pub(crate) async fn run(app: &App, args: &RecoverArgs) -> Outcome {
    let home = app.home()?;
    if !home.is_dir() {
        return Err(Error::not_found("home", home.display())
            .field("--home")
            .fix("give the folder that the claws are in with --home or CLAWFARM_HOME")
            .into());
    }
    let _lock = HomeLock::take(&home).map_err(|error| match error.code() {
        Code::Conflict => error.fix("stop the server first; its claws go on: clawfarm down"),
        _ => error,
    })?;
    let database = args.database.choose(&home)?;
    let key = args.master_key.source(&home)?.load_or_create().await?;
    let store = Store::open(StoreConfig::new(database.clone(), key)).await?;
    remember(&home, &database, store.description())?;
    // No claw is prepared or started here, so none calls a server.
    let node = match database {
        Database::Postgres(_) => Some(Node::load_or_make(&home, None)?),
        Database::Sqlite(_) => None,
    };
    let mut targets = targets(&home, 0, node.as_ref(), &store).await?;
    if node.is_none() {
        add_lost_targets(app, &home, &mut targets).await?;
    }
    let parts = Parts {
        store: store.clone(),
        adapters: super::claw_type::registry(&home),
        targets,
        opener: None,
        sharing: None,
    };
    let outcome = recover(app, args, &home, &parts).await;
    store.close().await;
    outcome
}

/// Those that were added to the server whose database is lost. They are written down again with
/// what is on them.
async fn add_lost_targets(
    app: &App,
    home: &Path,
    targets: &mut Vec<(Target, Arc<dyn Runtime>)>,
) -> Result<(), Error> {
    let docker = DockerTargets { home: home.to_owned(), claw_port: 0 };
    for kept in kept_targets::all(home)? {
        let opened = match kept {
            Ok(target) if targets.iter().any(|(known, _)| known.name == target.name) => continue,
            Ok(target) => docker.open_again(&target).await.map(|runtime| (target, runtime)),
            Err(error) => Err(error),
        };
        match opened {
            Ok(opened) => targets.push(opened),
            Err(error) => app.ui.warn(format_args!("{}", clean_line(error.message()))),
        }
    }
    Ok(())
}

async fn recover(app: &App, args: &RecoverArgs, home: &Path, parts: &Parts) -> Outcome {
    let mut found = Findings::look(parts).await?;
    let lost = found.lost();
    if !app.ui.json {
        show(app, &found)?;
    }
    let agreed = lost > 0 && (args.yes || asked(app, lost)?);
    if agreed {
        found.put_back(parts).await?;
    }
    if app.ui.json {
        app.ui.document(&document(&found, agreed))?;
    } else if agreed {
        tell(app, &found)?;
    } else if lost > 0 {
        app.ui.note(format_args!("Nothing was changed. To put it back: clawfarm recover --yes"));
    } else {
        app.ui.note(format_args!("Nothing is to be put back in {}", home.display()));
    }
    Ok(if args.yes && found.has_refused() { FAILED } else { OK })
}

/// Asks on a terminal; without one nobody agrees.
fn asked(app: &App, lost: usize) -> Result<bool, Failure> {
    if app.ui.json || !app.ui.err_is_terminal || !io::stdin().is_terminal() {
        return Ok(false);
    }
    app.ui.note(format_args!("Put back these {lost}? [y/N]"));
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line)?;
    Ok(matches!(line.trim(), "y" | "Y" | "yes"))
}

fn show(app: &App, found: &Findings) -> Result<(), Failure> {
    let mut table = Table::new(&app.ui, &["ID", "WHERE", "WHAT"].map(Column));
    for it in &found.instances {
        let cells = [it.id.as_str(), it.target.as_str(), &instance_text(&it.verdict)];
        table.row(cells.map(|text| table.text(text)).into());
    }
    for it in &found.datasets {
        let cells = [it.id.as_str(), it.target.as_str(), data_text(&it.verdict)];
        table.row(cells.map(|text| table.text(text)).into());
    }
    if !found.instances.is_empty() || !found.datasets.is_empty() {
        app.ui.line(table.render())?;
    }
    for (target, error) in &found.silent {
        app.ui
            .warn(format_args!("target '{target}' can't tell what it has: {}", clean_line(error.message())));
    }
    for (id, error) in refused(found) {
        app.ui.warn(format_args!("{id}: {}", clean_line(error.message())));
        if let Some(fix) = error.fix_text() {
            app.ui.note(format_args!("  fix: {}", clean_line(fix)));
        }
    }
    Ok(())
}

fn instance_text(verdict: &Verdict<LostInstance>) -> String {
    match verdict {
        Verdict::Known => "known; stays as it is".to_owned(),
        Verdict::Refused(_) => "can't be put back".to_owned(),
        Verdict::Lost(lost) => format!("lost: {}", becomes(lost)),
        Verdict::Recovered(lost) => format!("put back: {}", becomes(lost)),
    }
}

fn becomes(lost: &LostInstance) -> &'static str {
    match (lost.instance.phase, lost.instance.intent.desired) {
        _ if lost.restarts => "it runs, and is started again once",
        (Phase::Running | Phase::Warm, Desired::Running | Desired::Warm) => "it runs, and goes on",
        (Phase::Running | Phase::Warm, _) => "it runs, and was on its way down",
        (Phase::Destroying, _) => "it was being removed",
        (Phase::Suspended, _) => "asleep",
        (Phase::Stopped, _) => "stopped",
        (Phase::Failed, _) => "failed",
        _ => "down, and to be started",
    }
}

fn data_text(verdict: &Verdict<Dataset>) -> &'static str {
    match verdict {
        Verdict::Known => "data; known",
        Verdict::Refused(_) => "data; can't be put back",
        Verdict::Lost(_) => "data; lost",
        Verdict::Recovered(_) => "data; put back",
    }
}

fn refused(found: &Findings) -> impl Iterator<Item = (&str, &Error)> {
    fn error<T>(finding: &Finding<T>) -> Option<(&str, &Error)> {
        match &finding.verdict {
            Verdict::Refused(error) => Some((finding.id.as_str(), error)),
            _ => None,
        }
    }
    found.instances.iter().filter_map(error).chain(found.datasets.iter().filter_map(error))
}

fn tell(app: &App, found: &Findings) -> Result<(), Failure> {
    let back = found.instances.iter().filter_map(|f| match &f.verdict {
        Verdict::Recovered(lost) => Some(lost),
        _ => None,
    });
    let (mut count, mut restarts) = (0, 0);
    for lost in back {
        count += 1;
        restarts += usize::from(lost.restarts);
        for secret in &lost.secrets {
            app.ui.warn(format_args!(
                "{}: its next start needs the secret '{secret}', which can't be put back: clawfarm secret set {secret}",
                lost.instance.id
            ));
        }
    }
    let data = found.datasets.iter().filter(|f| matches!(f.verdict, Verdict::Recovered(_))).count();
    app.ui.line(format_args!("Put back: {count} instances, {data} datasets"))?;
    if restarts > 0 {
        app.ui.note(format_args!(
            "{restarts} of them are started again by the next server: their keys could not be read back"
        ));
    }
    let left = refused(found).count();
    if left > 0 {
        app.ui.warn(format_args!("{left} could not be put back; see above, or: clawfarm recover"));
    }
    app.ui.note("The next command starts the server, which takes them over: clawfarm ps");
    Ok(())
}

fn document(found: &Findings, done: bool) -> Value {
    let instances: Vec<Value> = found
        .instances
        .iter()
        .map(|it| {
            let mut entry = entry(it);
            if let Verdict::Lost(lost) | Verdict::Recovered(lost) = &it.verdict {
                entry["name"] = json!(lost.instance.name);
                entry["tenant"] = json!(lost.instance.tenant);
                entry["phase"] = json!(lost.instance.phase);
                entry["restarts"] = json!(lost.restarts);
                entry["missing_secrets"] = json!(lost.secrets);
            }
            entry
        })
        .collect();
    let silent: Vec<Value> = found
        .silent
        .iter()
        .map(|(target, error)| json!({ "target": target, "error": error.report() }))
        .collect();
    json!({
        "done": done,
        "instances": instances,
        "datasets": found.datasets.iter().map(entry).collect::<Vec<_>>(),
        "silent_targets": silent,
    })
}

fn entry<T>(finding: &Finding<T>) -> Value {
    let (verdict, error) = match &finding.verdict {
        Verdict::Known => ("known", None),
        Verdict::Lost(_) => ("lost", None),
        Verdict::Recovered(_) => ("recovered", None),
        Verdict::Refused(error) => ("refused", Some(error.report())),
    };
    json!({ "id": finding.id, "target": finding.target, "verdict": verdict, "error": error })
}
