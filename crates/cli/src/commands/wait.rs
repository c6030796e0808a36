//! Waits for operations: shows their steps, and leaves them running on Ctrl-C.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::future::Future;
use std::time::Duration;

use clawfarm_api::{Accepted, InstanceView};
use clawfarm_client::Client;
use clawfarm_model::{Code, Error, Operation, OperationKind, OperationState, Phase};
use futures::FutureExt;
use futures::future::join_all;
use futures::stream::{self, StreamExt};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, sleep};

use super::lifecycle::Which;
use crate::app::App;
use crate::connect;
use crate::errors::{Failure, INTERRUPTED, OK, Outcome, exit_code, tell_error};
use crate::output::{Steps, clean_line};

/// How long one question for changes may wait on the server.
const WAIT: Duration = Duration::from_secs(30);
/// How long a server that went away is looked for: it is back within seconds when it was
/// killed and started again.
const LOST_MAX: Duration = Duration::from_secs(60);
/// The pause before it is asked again.
const PAUSE: Duration = Duration::from_millis(500);

/// How often it is asked whether a machine has booted.
const BOOTED: Duration = Duration::from_millis(150);
/// The first pause where something is as good as done.
const SOON: Duration = Duration::from_millis(25);

/// Ctrl-C, noticed from the moment this is made.
pub(crate) struct CtrlC(Signal);

impl CtrlC {
    /// From now on Ctrl-C does not end the program.
    pub(crate) fn watch() -> Result<Self, Failure> {
        Ok(Self(signal(SignalKind::interrupt())?))
    }

    /// Whether it was pressed since this was asked last.
    pub(crate) fn was_pressed(&mut self) -> bool {
        self.0.recv().now_or_never().is_some()
    }

    /// Returns when it is pressed.
    pub(crate) async fn pressed(&mut self) {
        self.0.recv().await;
    }
}

/// Asks for the same of several instances, waits for all of them, and tells what came of each.
pub(crate) async fn each<F, Fut>(app: &App, client: &Client, which: &Which, ask: F) -> Outcome
where
    F: Fn(String) -> Fut,
    Fut: Future<Output = Result<Accepted, Error>>,
{
    let mut ctrl_c = CtrlC::watch()?;
    let mut first_error = None;
    let mut fail = |error: &Error| {
        tell_error(&app.ui, error);
        first_error.get_or_insert(exit_code(error.code()));
    };
    let mut accepted = Vec::new();
    // The same one twice would only take its own place in the queue.
    for id in which.ids.iter().collect::<BTreeSet<_>>() {
        match ask(id.clone()).await {
            Ok(one) => accepted.push(one),
            Err(error) => fail(&error),
        }
    }
    if !which.detach {
        let ended = all(app, client, &accepted, &mut ctrl_c).await?;
        let waiting = std::mem::take(&mut accepted);
        for (mut one, ended) in waiting.into_iter().zip(ended) {
            match ended {
                Ok(operation) => {
                    one.operation = operation;
                    refresh(client, &mut one).await;
                    accepted.push(one);
                }
                Err(error) => fail(&error),
            }
        }
    }
    tell(app, &accepted, which.detach)?;
    first_error.map_or(Ok(OK), |code| Err(Failure::Told(code)))
}

/// Asks for the same of several instances, of no more than `most` at the same time: the next is
/// asked when one before it has ended. After one that failed no further one is asked.
pub(crate) async fn some_at_a_time<F, Fut>(
    app: &App,
    client: &Client,
    ids: &[String],
    most: usize,
    ask: F,
) -> Outcome
where
    F: Fn(String) -> Fut,
    Fut: Future<Output = Result<Accepted, Error>>,
{
    let mut ctrl_c = CtrlC::watch()?;
    let steps = RefCell::new(Steps::new(&app.ui));
    let (failed, under_way) = (Cell::new(false), RefCell::new(Vec::<Accepted>::new()));
    let ids: BTreeSet<_> = ids.iter().collect();
    let several = ids.len() > 1;
    let (ask, steps, failed, under_way) = (&ask, &steps, &failed, &under_way);
    let one = |id: String| async move {
        // Nothing was asked of it, and it is as it was.
        if failed.get() {
            return None;
        }
        let done = async {
            let mut accepted = ask(id).await?;
            under_way.borrow_mut().push(accepted.clone());
            let label = several.then(|| accepted.instance.id.as_str().to_owned());
            let ended = until_ended(app, client, &accepted.operation, label.as_deref(), steps).await;
            under_way.borrow_mut().retain(|other| other.operation.id != accepted.operation.id);
            accepted.operation = ended?;
            refresh(client, &mut accepted).await;
            Ok::<_, Error>(accepted)
        };
        let done = done.await;
        failed.set(failed.get() || done.is_err());
        Some(done)
    };
    let all =
        stream::iter(ids.iter().map(|id| one((*id).clone()))).buffer_unordered(most).collect::<Vec<_>>();
    let all = tokio::select! {
        all = all => all,
        _ = ctrl_c.0.recv() => {
            steps.borrow_mut().close();
            return Err(interrupted(app, &under_way.borrow()));
        }
    };
    let left = all.iter().filter(|done| done.is_none()).count();
    let (mut accepted, mut first_error) = (Vec::new(), None);
    for done in all.into_iter().flatten() {
        match done {
            Ok(one) => accepted.push(one),
            Err(error) => {
                tell_error(&app.ui, &error);
                first_error.get_or_insert(exit_code(error.code()));
            }
        }
    }
    tell(app, &accepted, false)?;
    if left > 0 {
        app.ui.note(format_args!("{left} further ones were left as they are, because one failed"));
    }
    first_error.map_or(Ok(OK), |code| Err(Failure::Told(code)))
}

/// Waits for one operation.
pub(crate) async fn one(
    app: &App,
    client: &Client,
    mut accepted: Accepted,
    ctrl_c: &mut CtrlC,
) -> Result<Accepted, Failure> {
    let ended = all(app, client, std::slice::from_ref(&accepted), ctrl_c).await?;
    for result in ended {
        accepted.operation = result?;
    }
    refresh(client, &mut accepted).await;
    Ok(accepted)
}

/// Waits until the commands that set a machine up may be run, or the operation has ended before.
pub(crate) async fn until_booted(
    app: &App,
    client: &Client,
    mut accepted: Accepted,
    ctrl_c: &mut CtrlC,
) -> Result<Accepted, Failure> {
    let steps = RefCell::new(Steps::new(&app.ui));
    let id = accepted.instance.id.clone();
    let booted = async {
        loop {
            // Whether the server answers at all is the other's business.
            if let Ok(now) = client.instance(id.as_str()).await
                && now.setup.is_some_and(|setup| setup.waiting_since.is_some())
            {
                return;
            }
            sleep(BOOTED).await;
        }
    };
    tokio::select! {
        ended = until_ended(app, client, &accepted.operation, None, &steps) => {
            accepted.operation = ended?;
        }
        () = booted => steps.borrow_mut().close(),
        () = ctrl_c.pressed() => {
            steps.borrow_mut().close();
            return Err(interrupted(app, std::slice::from_ref(&accepted)));
        }
    }
    refresh(client, &mut accepted).await;
    Ok(accepted)
}

/// What an instance is like once `is` holds of it, asked again and again for so long. A server that
/// went away is looked for meanwhile.
pub(crate) async fn until_it(
    app: &App,
    client: &Client,
    id: &str,
    limit: Duration,
    is: impl Fn(&InstanceView) -> bool,
) -> Result<InstanceView, Error> {
    let begun = Instant::now();
    let mut pause = SOON;
    loop {
        match client.instance(id).await {
            Ok(now) if is(&now) || begun.elapsed() >= limit => return Ok(now),
            Ok(_) => {}
            Err(error) if is_passing(&error) && begun.elapsed() < limit => {
                let _ = connect::revive(app).await;
            }
            Err(error) => return Err(error),
        }
        sleep(pause).await;
        pause = (pause * 2).min(PAUSE);
    }
}

/// Waits for operations side by side. Ctrl-C ends the wait and nothing else.
async fn all(
    app: &App,
    client: &Client,
    accepted: &[Accepted],
    ctrl_c: &mut CtrlC,
) -> Result<Vec<Result<Operation, Error>>, Failure> {
    let steps = RefCell::new(Steps::new(&app.ui));
    let several = accepted.len() > 1;
    let waits = accepted.iter().map(|a| {
        let label = several.then_some(a.instance.id.as_str());
        until_ended(app, client, &a.operation, label, &steps)
    });
    tokio::select! {
        ended = join_all(waits) => Ok(ended),
        _ = ctrl_c.0.recv() => {
            steps.borrow_mut().close();
            Err(interrupted(app, accepted))
        }
    }
}

async fn until_ended(
    app: &App,
    client: &Client,
    first: &Operation,
    label: Option<&str>,
    steps: &RefCell<Steps>,
) -> Result<Operation, Error> {
    let mut operation = first.clone();
    let mut answered = Instant::now();
    loop {
        steps.borrow_mut().update(&operation, label);
        if operation.state.ended() {
            return result(operation);
        }
        match client.operation_changed(&operation.id, operation.updated_at, WAIT).await {
            Ok(now) => {
                operation = now;
                answered = Instant::now();
            }
            Err(e) if is_passing(&e) && answered.elapsed() < LOST_MAX + WAIT => {
                sleep(PAUSE).await;
                // What can't be mended now may mend itself until the time is over.
                let _ = connect::revive(app).await;
            }
            Err(e) => return Err(e),
        }
    }
}

fn is_passing(error: &Error) -> bool {
    matches!(error.code(), Code::Unavailable | Code::Timeout | Code::Overloaded)
}

/// An ended operation as a result.
fn result(operation: Operation) -> Result<Operation, Error> {
    let id = operation.instance.as_ref().map_or("the instance", |id| id.as_str()).to_owned();
    match operation.state {
        OperationState::Succeeded | OperationState::Running => Ok(operation),
        OperationState::Superseded => Err(Error::new(
            Code::Conflict,
            format!("another request took the place of this {} of {id}", operation.kind.as_str()),
        )
        .fix(format!("see what is wanted of it now: clawfarm status {id}"))),
        OperationState::Failed => Err(match operation.error {
            Some(report) => {
                let mut error = Error::new(report.code, format!("{id}: {}", report.message));
                if let Some(field) = report.field {
                    error = error.field(field);
                }
                error.fix(
                    report.fix.unwrap_or_else(|| format!("see clawfarm logs {id}, clawfarm events {id}")),
                )
            }
            None => Error::new(Code::Internal, format!("{} of {id} failed", operation.kind.as_str()))
                .fix(format!("see clawfarm logs {id}, clawfarm events {id}")),
        }),
    }
}

/// Looks at the instance again, now that the operation has ended. One that is gone from view
/// was removed.
async fn refresh(client: &Client, accepted: &mut Accepted) {
    match client.instance(accepted.instance.id.as_str()).await {
        Ok(now) => accepted.instance = now,
        Err(e) if matches!(e.code(), Code::NotFound | Code::Gone) => {
            accepted.instance.phase = Phase::Destroyed;
        }
        // The operation's own result is what was asked for; the view stays as it was.
        Err(_) => {}
    }
}

fn interrupted(app: &App, accepted: &[Accepted]) -> Failure {
    for one in accepted {
        let (id, kind) = (&one.instance.id, one.operation.kind.as_str());
        app.ui.note(format_args!(
            "Not waiting any longer: {kind} of {id} goes on. Look at it with: clawfarm status {id}"
        ));
    }
    Failure::Told(INTERRUPTED)
}

/// Tells what came of each.
fn tell(app: &App, accepted: &[Accepted], detached: bool) -> Result<(), Failure> {
    if app.ui.json {
        return app.ui.document(accepted);
    }
    for one in accepted {
        warnings(app, one);
        let id = &one.instance.id;
        if detached {
            app.ui.line(format_args!(
                "{id}: {} has begun ({})",
                one.operation.kind.as_str(),
                one.operation.id
            ))?;
        } else if one.operation.kind == OperationKind::Remove {
            app.ui.line(format_args!("{id} is removed"))?;
        } else if let Some(update) = one.instance.update.as_ref().filter(|u| !u.is_under_way()) {
            let phase = app.ui.out.phase(one.instance.phase);
            let to = clean_line(&update.to);
            app.ui.line(format_args!("{id} is {phase}, and tries {to} at its next start"))?;
        } else {
            app.ui.line(format_args!("{id} is {}", app.ui.out.phase(one.instance.phase)))?;
        }
    }
    Ok(())
}

/// Prints what was accepted but is worth a word.
pub(crate) fn warnings(app: &App, accepted: &Accepted) {
    for warning in &accepted.warnings {
        app.ui.warn(format_args!("{}: {}", clean_line(&warning.field), clean_line(&warning.message)));
    }
}

#[cfg(test)]
mod tests {
    use clawfarm_model::error::ErrorReport;
    use clawfarm_model::{ClawId, Timestamp};

    use super::*;

    fn operation(state: OperationState, error: Option<ErrorReport>) -> Operation {
        Operation {
            id: "op".into(),
            kind: OperationKind::Start,
            instance: Some(ClawId::new("alice-x7k2m").expect("an id")),
            generation: 1,
            state,
            steps: Vec::new(),
            error,
            created_at: Timestamp::now(),
            updated_at: Timestamp::now(),
            ended_at: None,
        }
    }

    #[test]
    fn what_an_operation_came_to_is_told_with_what_to_do() {
        assert!(result(operation(OperationState::Succeeded, None)).is_ok());
        let superseded = result(operation(OperationState::Superseded, None)).expect_err("no success");
        assert_eq!(superseded.code(), Code::Conflict);
        assert!(superseded.fix_text().is_some_and(|fix| fix.contains("clawfarm status alice-x7k2m")));
        let report = Error::new(Code::Busy, "it works").report();
        let failed = result(operation(OperationState::Failed, Some(report))).expect_err("no success");
        assert_eq!((failed.code(), failed.message()), (Code::Busy, "alice-x7k2m: it works"));
        assert!(failed.fix_text().is_some());
        assert!(result(operation(OperationState::Failed, None)).is_err());
    }
}
