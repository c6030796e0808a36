//! The commands that set a machine up, each run once: by a client, whose person can answer what
//! they ask, or by the server.
//!
//! That a command begins is in the store before it does, and how it ended before anybody is told.
//! One that the store has as running though nobody here runs it was cut off by a kill; it is told,
//! and not run again until somebody says so.

mod look;
mod unattended;

use std::collections::{BTreeSet, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use clawfarm_model::event::NewEvent;
use clawfarm_model::setup::Setup;
use clawfarm_model::{Action, ClawId, Code, Context, Error, Health, Instance, Phase, Result, Timestamp};
use clawfarm_runtime::{ExecOutput, ExecRequest, ExecSession, TermSize};
use clawfarm_store::Outcome;
use tokio::sync::{Notify, mpsc};

use crate::Control;
use crate::core::{Core, may};
use crate::reconcile::queue::Priority;
use crate::sharing::held::{Claim, not_reached};
use crate::sleep::InUse;

pub(crate) use look::{booted, look};
pub(crate) use unattended::run;

/// How many pieces of a command's output wait for a slow reader.
const DEPTH: usize = 16;
/// How long the turn of somebody whose command has ended may take to be given back: a write of the
/// store, on a busy machine.
const GIVEN_BACK: Duration = Duration::from_secs(3);
/// How long a machine may take to write what a command left in its memory to its disk.
const WRITTEN: Duration = Duration::from_secs(60);
/// How often is looked for it.
const LOOK: Duration = Duration::from_millis(20);

/// Who runs commands here, and for whom the server is to.
#[derive(Default)]
pub(crate) struct Setups {
    running: Mutex<HashSet<ClawId>>,
    due: Mutex<BTreeSet<ClawId>>,
    notify: Notify,
}

/// The one who runs the commands of an instance, until it is dropped.
pub(crate) struct Turn {
    setups: Arc<Setups>,
    id: ClawId,
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.setups.running.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
    }
}

impl Setups {
    /// Takes the turn; `None` while somebody has it.
    fn enter(self: &Arc<Self>, id: &ClawId) -> Option<Turn> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.insert(id.clone()).then(|| Turn { setups: Arc::clone(self), id: id.clone() })
    }

    /// Takes the turn, once whoever has just ended a command has given it back: how a command ended
    /// can be seen a moment before that.
    ///
    /// # Errors
    /// `Conflict` while somebody runs one.
    async fn turn(self: &Arc<Self>, id: &ClawId) -> Result<Turn> {
        let begun = tokio::time::Instant::now();
        loop {
            if let Some(turn) = self.enter(id) {
                return Ok(turn);
            }
            if begun.elapsed() > GIVEN_BACK {
                return Err(Error::new(Code::Conflict, format!("a setup command of '{id}' runs"))
                    .field("setup")
                    .fix(format!("wait for its end; see how far they are: clawfarm status {id}")));
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    fn is_running(&self, id: &ClawId) -> bool {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).contains(id)
    }

    /// The server is to run the commands of this instance.
    fn wants(&self, id: &ClawId) {
        if self.due.lock().unwrap_or_else(PoisonError::into_inner).insert(id.clone()) {
            self.notify.notify_one();
        }
    }

    fn take_due(&self) -> BTreeSet<ClawId> {
        std::mem::take(&mut *self.due.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What somebody says about the commands that set a machine up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SetupChange {
    /// What is to become of one that failed or was cut off.
    pub stuck: Option<Stuck>,
    /// The server is to run what is left, without a terminal; else whoever says this does.
    pub by_server: bool,
}

/// What is to become of a command that failed or was cut off; counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stuck {
    /// The next one may be run.
    Ignore(usize),
    /// It is to be run once more.
    Again(usize),
}

impl Control {
    /// Runs one of the commands that set a machine up, as a command inside it. How it ends is
    /// written down before it is told.
    ///
    /// # Errors
    /// `Conflict` when it is not its turn, when somebody else runs them, or when the machine is
    /// not up; `Unsupported` when its runtime can't.
    pub async fn exec_setup(
        &self,
        context: &Context,
        id: &str,
        at: usize,
        tty: Option<TermSize>,
        term: Option<String>,
    ) -> Result<(ExecSession, InUse)> {
        let core = &self.core;
        let instance = core.find(context, id).await?;
        let grant = may(context, Action::InstanceUse, &instance)?;
        let turn = core.setups.turn(&instance.id).await?;
        core.store.record_audit(&grant, Outcome::Done, &format!("setup command {}", at + 1)).await?;
        let using = core.using(&instance.id);
        let session = core.begin_setup(&instance, at, true, tty, term).await?;
        let (to_client, output) = mpsc::channel(DEPTH);
        let ExecSession { input, output: mut inner } = session;
        let (core, id) = (Arc::clone(core), instance.id);
        tokio::spawn(async move {
            let code = relay(&mut inner, &to_client).await;
            // Whoever left hangs up on the command.
            drop(inner);
            let told = core.end_setup(&id, at, code, String::new()).await;
            drop(turn);
            core.reconciler.queue.push(&id, Priority::Event);
            match (code, told) {
                (Some(code), Ok(())) => {
                    let _ = to_client.send(ExecOutput::Exit(code)).await;
                }
                // The client sees the console break off, and looks how far it is.
                (_, Err(error)) => tracing::error!(instance = %id, ?error, "a command's end is not noted"),
                (None, Ok(())) => {}
            }
        });
        Ok((ExecSession { input, output }, using))
    }

    /// Says what is to become of a command that failed, or who runs the next.
    ///
    /// # Errors
    /// `Conflict` on `setup` when the command did not fail, or there are none.
    pub async fn change_setup(&self, context: &Context, id: &str, change: SetupChange) -> Result<Instance> {
        let core = &self.core;
        let instance = core.find(context, id).await?;
        let grant = may(context, Action::InstanceChange, &instance)?;
        let turn = core.setups.turn(&instance.id).await?;
        let now = Timestamp::now();
        let who = if change.by_server { "the server runs what is left" } else { "whoever says this goes on" };
        let what = match change.stuck {
            Some(Stuck::Ignore(at)) => format!("setup command {} is ignored; {who}", at + 1),
            Some(Stuck::Again(at)) => format!("setup command {} is to be run again; {who}", at + 1),
            None => who.to_owned(),
        };
        let after = core
            .write_setup(&instance.id, &what, |it| {
                match change.stuck {
                    Some(Stuck::Ignore(at)) => it.ignore(at, now)?,
                    Some(Stuck::Again(at)) => it.again(at, now)?,
                    None => {}
                }
                it.attended = !change.by_server;
                it.waiting_since = it.waiting_since.map(|_| now);
                Ok(())
            })
            .await?;
        drop(turn);
        core.store.record_audit(&grant, Outcome::Done, &what).await?;
        core.reconciler.queue.push(&instance.id, Priority::Person);
        Ok(after)
    }
}

/// Hands on what a command prints; its exit code, or `None` when it was hung up on.
async fn relay(inner: &mut mpsc::Receiver<ExecOutput>, to_client: &mpsc::Sender<ExecOutput>) -> Option<i32> {
    loop {
        let piece = tokio::select! {
            piece = inner.recv() => piece?,
            () = to_client.closed() => return None,
        };
        match piece {
            ExecOutput::Exit(code) => return Some(code),
            piece => to_client.send(piece).await.ok()?,
        }
    }
}

impl Core {
    /// Begins a command, after that was written down.
    async fn begin_setup(
        &self,
        instance: &Instance,
        at: usize,
        attended: bool,
        tty: Option<TermSize>,
        term: Option<String>,
    ) -> Result<ExecSession> {
        let command = instance.spec.vm.as_ref().and_then(|vm| vm.setup.get(at)).cloned();
        let runtime = self.runtime(&instance.spec.target)?;
        let exec = runtime.exec().ok_or_else(|| {
            let kind = instance.spec.runtime;
            Error::new(Code::Unsupported, format!("the runtime {kind} can't run commands inside instances"))
        })?;
        if !matches!(instance.phase, Phase::Running | Phase::Ready | Phase::Unhealthy) {
            return Err(Error::new(Code::Conflict, format!("'{}' is {}", instance.id, instance.phase))
                .field("id")
                .fix("commands set up a machine that has booted; wait for it, or start it"));
        }
        let now = Timestamp::now();
        self.write_setup(&instance.id, &format!("setup command {} begins", at + 1), |it| {
            it.begin(at, now)?;
            it.attended = attended;
            Ok(())
        })
        .await?;
        // A step without a command is none of `begin`.
        let argv = vec!["bash".to_owned(), "-lc".to_owned(), command.unwrap_or_default()];
        match exec.exec(&instance.id, ExecRequest { argv, tty, term }).await {
            Ok(session) => Ok(session),
            Err(error) => {
                let what = format!("setup command {} could not be begun: {}", at + 1, error.message());
                self.write_setup(&instance.id, &what, |it| {
                    it.not_begun(at, Timestamp::now());
                    Ok(())
                })
                .await?;
                Err(error)
            }
        }
    }

    /// Writes down how a command ended; `None` when nobody saw it. One that went well is never done
    /// again, so what it did is on the machine's disk before.
    async fn end_setup(&self, id: &ClawId, at: usize, code: Option<i32>, tail: String) -> Result<()> {
        if code == Some(0) {
            let written = tokio::select! {
                written = tokio::time::timeout(WRITTEN, self.write_out(id)) => written.map_err(|_| None),
                // There is a moment to write down that it has ended, and no more.
                () = self.stopping.cancelled() => Err(None),
            };
            if let Err(error) = written.and_then(|done| done.map_err(Some)) {
                tracing::warn!(%id, ?error, limit = ?WRITTEN, "what a command did may not be on the disk");
            }
        }
        let how = code.map_or_else(|| "was cut off".to_owned(), |code| format!("exited with code {code}"));
        let what = format!("setup command {} {how}", at + 1);
        self.write_setup(id, &what, |it| {
            it.end(at, code, tail, Timestamp::now());
            Ok(())
        })
        .await
        .map(|_| ())
    }

    /// Has a machine write what it holds to its disk, where it could be missing after a power cut.
    async fn write_out(&self, id: &ClawId) -> Result<()> {
        let instance = self.store.instance(&Context::system("setup"), id).await?;
        let runtime = self.runtime(&instance.spec.target)?;
        let Some(exec) = runtime.exec() else { return Ok(()) };
        let request = ExecRequest { argv: vec!["sync".to_owned()], tty: None, term: None };
        let mut session = exec.exec(id, request).await?;
        while let Some(piece) = session.output.recv().await {
            match piece {
                ExecOutput::Exit(0) => return Ok(()),
                ExecOutput::Exit(code) => {
                    return Err(Error::new(Code::ClawFailed, format!("'sync' exited with code {code}")));
                }
                ExecOutput::Stdout(_) | ExecOutput::Stderr(_) => {}
            }
        }
        Err(Error::new(Code::Unavailable, "'sync' was cut off"))
    }

    /// Changes how far the commands are, with an event; a refused change writes nothing.
    async fn write_setup(
        &self,
        id: &ClawId,
        what: &str,
        change: impl FnOnce(&mut Setup) -> Result<()> + Send,
    ) -> Result<Instance> {
        let instance = self.store.instance(&Context::system("setup"), id).await?;
        let Claim::Mine(hold) = self.claim(&instance) else {
            return Err(not_reached(&instance.spec.target));
        };
        let mut refused = None;
        let after = self
            .record(&hold, id, |it| {
                let id = &it.id;
                let Some(setup) = it.setup.as_mut() else {
                    refused = Some(none(id));
                    return Vec::new();
                };
                match change(setup) {
                    Ok(()) => {
                        // What another command failed with is no longer why it is unhealthy.
                        if it.health == Health::Failing {
                            it.health = Health::Starting;
                        }
                        vec![NewEvent::info("setup", what.to_owned())]
                    }
                    Err(error) => {
                        refused = Some(error);
                        Vec::new()
                    }
                }
            })
            .await?;
        refused.map_or(Ok(after), Err)
    }
}

fn none(id: &ClawId) -> Error {
    Error::new(Code::Conflict, format!("'{id}' has no setup commands"))
        .field("setup")
        .fix("they are given when a machine is made: clawfarm new IMAGE --run COMMAND")
}
