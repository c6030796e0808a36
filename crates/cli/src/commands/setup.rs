//! `setup`: the commands that set a machine up, run one after the other with this terminal as
//! theirs.

use std::time::Duration;

use clap::Args;
use clawfarm_api::{ConsoleRequest, InstanceView, SetupRequest};
use clawfarm_client::Client;
use clawfarm_model::setup::{Setup, StepState};
use clawfarm_model::{Code, Error, Phase};

use super::wait::{self, CtrlC};
use crate::app::App;
use crate::console;
use crate::errors::{Failure, INTERRUPTED, OK, Outcome};
use crate::output::clean_line;
use crate::terminal;

/// How long is waited until the server knows what became of a command whose console broke off: it
/// looks for a server that was killed for a minute, and that looks at its instances then.
const SETTLE: Duration = Duration::from_secs(90);
/// How long a machine may take to be ready once its last command is over: a look away.
const READY: Duration = Duration::from_secs(60);

/// `clawfarm setup`.
#[derive(Debug, Args)]
#[command(
    long_about = "Goes on with the commands that set a virtual machine up ('clawfarm new IMAGE --run COMMAND'): runs those that were not run, one after the other, each once. One that failed or was cut off is run again, or left, only when that is said: at the terminal's question, by --again, or by --ignore.",
    after_help = "Examples:\n  clawfarm setup lab\n  clawfarm setup lab --again\n  clawfarm setup lab --ignore --detach"
)]
pub(crate) struct SetupArgs {
    /// The instance, by id, name or a unique beginning of either
    #[arg(value_name = "INSTANCE")]
    id: String,
    /// Run the command that failed or was cut off once more
    #[arg(long, conflicts_with = "ignore")]
    again: bool,
    /// Go on behind the command that failed or was cut off
    #[arg(long)]
    ignore: bool,
    /// Let the server run what is left, without a terminal, and return at once
    #[arg(long, short)]
    detach: bool,
}

/// `clawfarm setup`.
pub(crate) async fn run(app: &App, args: &SetupArgs) -> Outcome {
    let client = app.client().await?;
    let mut instance = client.instance(&args.id).await?;
    let id = instance.id.as_str().to_owned();
    let mut ctrl_c = CtrlC::watch()?;
    if args.again || args.ignore {
        let at = instance.setup.as_ref().and_then(Setup::next).and_then(|at| u32::try_from(at).ok());
        let at = at.ok_or_else(|| {
            Error::new(Code::Conflict, format!("'{id}' has no setup command that failed"))
                .fix(format!("see how it is: clawfarm status {id}"))
        })?;
        let request = SetupRequest {
            ignore: args.ignore.then_some(at),
            again: args.again.then_some(at),
            by_server: args.detach,
        };
        instance = client.change_setup(&id, &request).await?;
    } else if args.detach {
        let request = SetupRequest { by_server: true, ..SetupRequest::default() };
        instance = client.change_setup(&id, &request).await?;
    }
    if !args.detach {
        instance = attend(app, &client, instance, &mut ctrl_c).await?;
    }
    if app.ui.json {
        app.ui.document(&instance)?;
    } else if args.detach {
        app.ui.note(format_args!("The server runs what is left. Look at it with: clawfarm status {id}"));
    } else {
        app.ui.line(format_args!("{id} is {}", app.ui.out.phase(instance.phase)))?;
    }
    Ok(OK)
}

/// Runs what is left, and waits until the machine is ready. What fails and is not ignored is an
/// error.
pub(super) async fn attend(
    app: &App,
    client: &Client,
    mut instance: InstanceView,
    ctrl_c: &mut CtrlC,
) -> Result<InstanceView, Failure> {
    let id = instance.id.as_str().to_owned();
    while let Some(left) = next(&instance) {
        match left.state {
            StepState::Pending => {
                tell(app, &instance, left.at);
                let at = u32::try_from(left.at).unwrap_or(u32::MAX);
                let ran = tokio::select! {
                    ran = console::run_setup(app, &id, at) => ran,
                    () = ctrl_c.pressed() => Err(Failure::Told(INTERRUPTED)),
                };
                match ran {
                    Ok(_) => {}
                    // It ran and its console broke off, or it did not begin: the server knows.
                    Err(Failure::Error(error)) => {
                        let now = wait::until_it(app, client, &id, SETTLE, |it| !runs(it, left.at)).await?;
                        if next(&now) == Some(left) {
                            return Err(error.into());
                        }
                    }
                    Err(failure) => {
                        app.ui.note(format_args!("Not waiting any longer. Go on with: clawfarm setup {id}"));
                        return Err(failure);
                    }
                }
            }
            StepState::Failed | StepState::CutOff if asks(app) => {
                what_now(app, client, &instance, left, ctrl_c).await?;
            }
            _ => return Err(stuck(&instance, left).into()),
        }
        // How it ended was written down before it was told.
        instance = wait::until_it(app, client, &id, SETTLE, |it| !runs(it, left.at)).await?;
    }
    let now = wait::until_it(app, client, &id, READY, |it| {
        !matches!(it.phase, Phase::Running | Phase::Unhealthy | Phase::Booting)
    })
    .await?;
    Ok(now)
}

/// The first command that is not over.
#[derive(Clone, Copy, PartialEq)]
struct Left {
    at: usize,
    state: StepState,
    code: Option<i32>,
}

fn next(instance: &InstanceView) -> Option<Left> {
    let setup = instance.setup.as_ref()?;
    let at = setup.next()?;
    let step = setup.steps.get(at)?;
    Some(Left { at, state: step.state, code: step.exit_code })
}

fn runs(instance: &InstanceView, at: usize) -> bool {
    next(instance).is_some_and(|left| left.at == at && left.state == StepState::Running)
}

/// Whether there is somebody who can be asked.
fn asks(app: &App) -> bool {
    !app.ui.json && app.ui.err_is_terminal && terminal::stdin_is_terminal()
}

fn count(instance: &InstanceView) -> usize {
    instance.setup.as_ref().map_or(0, |setup| setup.steps.len())
}

fn tell(app: &App, instance: &InstanceView, at: usize) {
    let command = instance.vm.as_ref().and_then(|vm| vm.setup.get(at)).map_or("", String::as_str);
    app.ui.note(format_args!("[{}/{}] {}", at + 1, count(instance), clean_line(command)));
}

fn how(left: Left) -> String {
    match left.code {
        Some(code) => format!("exited with code {code}"),
        None if left.state == StepState::Running => "is run by somebody else".to_owned(),
        None => "was cut off; how far it came is not known".to_owned(),
    }
}

fn stuck(instance: &InstanceView, left: Left) -> Error {
    let id = &instance.id;
    let why = format!("{id}: setup command {} of {} {}", left.at + 1, count(instance), how(left));
    if left.state == StepState::Running {
        return Error::new(Code::Conflict, why).fix(format!("see how far it is: clawfarm status {id}"));
    }
    Error::new(Code::ClawFailed, why).fix(format!(
        "look into it with clawfarm shell {id}, then run it again or go on: clawfarm setup {id} --again, or --ignore"
    ))
}

/// Asks what is to become of a command that failed.
async fn what_now(
    app: &App,
    client: &Client,
    instance: &InstanceView,
    left: Left,
    ctrl_c: &mut CtrlC,
) -> Result<(), Failure> {
    let id = instance.id.as_str();
    let at = u32::try_from(left.at).ok();
    let _ = ctrl_c.was_pressed();
    app.ui.note(format_args!(
        "Command {} of {} {}.\n  e  exit; the machine stays as it is, unhealthy\n  s  open a rescue shell in it\n  i  ignore it and go on\n  r  run it again",
        left.at + 1,
        count(instance),
        how(left)
    ));
    loop {
        let answer = tokio::select! {
            answer = terminal::ask_line("What now? [e/s/i/r] ") => answer?,
            () = ctrl_c.pressed() => None,
        };
        let Some(answer) = answer else { return Err(stuck(instance, left).into()) };
        match answer.trim() {
            "e" | "exit" => return Err(stuck(instance, left).into()),
            "i" | "ignore" => {
                let request = SetupRequest { ignore: at, ..SetupRequest::default() };
                client.change_setup(id, &request).await?;
                return Ok(());
            }
            "r" | "run" => {
                let request = SetupRequest { again: at, ..SetupRequest::default() };
                client.change_setup(id, &request).await?;
                return Ok(());
            }
            "s" | "shell" => {
                app.ui.note("You come back to this question when the shell ends (exit).");
                let request = ConsoleRequest { tty: true, ..ConsoleRequest::default() };
                if let Err(failure) = console::run(app, id, request, true).await {
                    match failure {
                        Failure::Error(error) => crate::errors::tell_error(&app.ui, &error),
                        other => return Err(other),
                    }
                }
            }
            _ => app.ui.note("Type one of e, s, i and r."),
        }
    }
}
