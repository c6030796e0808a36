//! `config drift`.

use clap::Args;
use clawfarm_api::{DriftView, InstanceQuery, Problem};
use clawfarm_model::{Code, Desired, Error};
use futures::StreamExt;
use serde::Serialize;

use crate::app::App;
use crate::errors::{FAILED, Failure, OK, Outcome, exit_code, tell_error};
use crate::output::clean_line;

/// So many are looked at at once.
const AT_ONCE: usize = 8;

/// `clawfarm config drift`.
#[derive(Debug, Args)]
pub(crate) struct DriftArgs {
    /// Instances, by id, name or a unique beginning of either
    #[arg(value_name = "INSTANCE", required_unless_present = "all", conflicts_with = "all")]
    ids: Vec<String>,
    /// Every instance that was started
    #[arg(long)]
    all: bool,
    /// Put right what differs: its files are written anew, and it takes them up or is started again
    #[arg(long)]
    mend: bool,
}

pub(super) async fn run(app: &App, args: &DriftArgs) -> Outcome {
    let client = app.client().await?;
    let client = &client;
    let ids = match args.all {
        true => {
            let all = client.all_instances(&InstanceQuery::default()).await?;
            all.into_iter()
                .filter(|it| it.desired != Desired::Destroyed)
                .map(|it| it.id.as_str().to_owned())
                .collect()
        }
        false => args.ids.clone(),
    };
    let look = |id: String| async move {
        let looked = match args.mend {
            true => client.mend_drift(&id).await,
            false => client.drift(&id).await,
        };
        (id, looked)
    };
    let looked: Vec<_> = futures::stream::iter(ids.into_iter().map(look)).buffered(AT_ONCE).collect().await;
    let (mut all, mut code) = (Vec::new(), OK);
    for (id, looked) in looked {
        all.push(match looked {
            Ok(view) => Looked::View(view),
            // With --all it is no mistake that one was never started, but it is told.
            Err(error) if args.all && never_started(&error) => {
                app.ui.warn(format_args!("{id}: {}", clean_line(error.message())));
                Looked::NeverStarted { id, never_started: true }
            }
            Err(error) => {
                tell_error(&app.ui, &error);
                code = if code == OK { exit_code(error.code()) } else { code };
                Looked::Failed { id, error: Box::new(Problem::new(&error, "")) }
            }
        });
    }
    let views = || all.iter().filter_map(|it| if let Looked::View(view) = it { Some(view) } else { None });
    if app.ui.json {
        app.ui.document(&all)?;
    } else {
        for view in views() {
            tell(app, view)?;
        }
    }
    if code == OK && views().any(|it| it.drifted && !it.mending) {
        code = FAILED;
    }
    if code == OK { Ok(OK) } else { Err(Failure::Told(code)) }
}

/// What came of one.
#[derive(Serialize)]
#[serde(untagged)]
enum Looked {
    View(DriftView),
    /// It has nothing that could differ.
    NeverStarted {
        id: String,
        never_started: bool,
    },
    /// It could not be looked at.
    Failed {
        id: String,
        error: Box<Problem>,
    },
}

/// Whether there is nothing to look at because it was never started.
fn never_started(error: &Error) -> bool {
    error.code() == Code::Conflict && error.field_name() == Some("started")
}

fn tell(app: &App, view: &DriftView) -> Result<(), Failure> {
    let (ui, id) = (&app.ui, &view.id);
    if !view.drifted {
        let memory = if view.asked { " on its disk and in its memory" } else { " on its disk" };
        return ui.line(format_args!("{id} is as it should be{memory}"));
    }
    for file in &view.files {
        let how = if file.missing { "is missing" } else { "differs" };
        ui.line(format_args!("{id}: {} {how}", clean_line(&file.path)))?;
    }
    for place in &view.in_memory {
        ui.line(format_args!("{id}: it goes by another {}", clean_line(place)))?;
    }
    if view.mending {
        return ui.line(format_args!("{id} is being put right"));
    }
    if view.changing {
        ui.note(format_args!("A change is on its way to {id}: this may be that."));
    } else {
        ui.note(format_args!("Put it right with: clawfarm config drift {id} --mend"));
    }
    Ok(())
}
