//! Starting a machine: from its memory where that was saved, else from its disk.

use std::cmp::Ordering;
use std::sync::Arc;
use std::time::Duration;

use clawfarm_files::blocking;
use clawfarm_local::keeper;
use clawfarm_model::{ClawId, Code, Error, Launch, Observation, ObservedState, Result};
use clawfarm_qemu::machine::Shape;
use clawfarm_qemu::snapshot::Limits;
use clawfarm_qemu::{Machine, Qemu, Qmp};
use clawfarm_shim::ShimState;

use crate::inner::Inner;
use crate::machine::machine;
use crate::paths::{LAUNCH, VM};
use crate::prepare::make_folders;
use crate::record::{Booted, DiskRecord, MachineRecord, Started};
use crate::spec::spec;
use crate::{base, boot, claw, end, freeze, observe, ports, shares};

/// What a guest's kernel starts: what a bare machine's launch may say, and no other program.
const INIT: &str = "/sbin/init";
/// How long QEMU may take until it greets: it takes its memory and opens its disk before.
const GREETING: Duration = Duration::from_secs(90);
/// How long one that hung up may take until its end is written down.
const ENDING: Duration = Duration::from_secs(20);

/// How long to wait before a restore that failed is tried once more.
const ONCE_MORE: Duration = Duration::from_secs(2);

/// [`clawfarm_runtime::Runtime::start`].
pub(crate) async fn start(inner: &Arc<Inner>, launch: &Launch) -> Result<Observation> {
    launch.resources.check()?;
    let id = &launch.id;
    let _verb = inner.lock(id).await;
    let record = inner.record(id)?;
    let bare = launch.argv.is_empty() || launch.argv == [INIT] && launch.files.is_empty();
    if record.installed.is_none() && !bare {
        return Err(Error::new(Code::Internal, format!("'{id}' is a bare machine, and was to run a claw")));
    }
    up(inner, id, launch.run, record.installed.is_some().then_some(launch)).await
}

/// [`clawfarm_runtime::Suspend::resume`]. What a claw was started with is not known here, and kept nowhere
/// but in its machine: one that was woken by this can't be booted anew from inside, as one can that was
/// woken by [`start`].
pub(crate) async fn resume(inner: &Arc<Inner>, id: &ClawId) -> Result<Observation> {
    let _verb = inner.lock(id).await;
    let record = inner.record(id)?;
    let seen = observe::observe(inner, id).await?;
    if !seen.state.is_up() && inner.snapshot(id)?.about().await?.is_none() {
        return Err(Error::new(Code::Gone, format!("'{id}' has no saved memory"))
            .fix(format!("start it with `clawfarm start {id}`")));
    }
    up(inner, id, record.run, None).await
}

/// Brings it up for a launch, with its lock held; `claw` is what a claw is to be started with.
async fn up(inner: &Arc<Inner>, id: &ClawId, run: i64, claw: Option<&Launch>) -> Result<Observation> {
    inner.record(id)?;
    let seen = observe::observe(inner, id).await?;
    // What a start or a save has left that was cut off is made one machine first.
    let seen = match seen.state.is_up() && !observe::settle(inner, id).await? {
        true => observe::observe(inner, id).await?,
        false => seen,
    };
    if let Some(running) = already(id, run, &seen)? {
        watch(inner, id, run);
        return Ok(running);
    }
    let mut record = prepared(inner, id, run).await?;
    if base::is_half(&record) {
        record = match Box::pin(base::first_start(inner, &record)).await? {
            base::First::Runs => return came_up(inner, id, run, false).await,
            base::First::Boots(record) => *record,
        };
    }
    // Why it could not be made from a base snapshot is told of its first start, and of no later one.
    let first = record.started.is_none();
    let digest = claw.map(|launch| claw::digest(launch, record.installed.as_deref())).transpose()?;
    if let Some(launch) = claw {
        claw::write_files(inner, &record, launch).await?;
    }
    let found = match memory(inner, &record).await? {
        // What it has in its memory runs with what it was given then.
        Memory::Fits(_) if digest.is_some() && digest != record.launched => {
            Memory::Useless("what it is started with was changed while it slept".to_owned())
        }
        found => found,
    };
    let why = match found {
        Memory::None => None,
        Memory::Useless(why) => Some(why),
        Memory::Fits(shape) => {
            let record = as_started(&record);
            let mut why = Box::pin(from_memory(inner, &record, &shape, claw)).await?;
            // What failed may have been the moment (QEMU was ended, no more open files): memory is
            // given up only when it can't be restored twice.
            if let Some(first) = &why {
                tracing::warn!(%id, why = first, "its saved memory could not be restored; once more");
                tokio::time::sleep(ONCE_MORE).await;
                why = Box::pin(from_memory(inner, &record, &shape, claw)).await?;
            }
            match why {
                Some(why) => Some(why),
                None => return came_up(inner, id, run, true).await,
            }
        }
    };
    if claw.is_none() && record.installed.is_some() {
        return Err(Error::new(Code::Gone, format!("the memory of '{id}' can't be used any more"))
            .fix(format!("start it with `clawfarm start {id}`")));
    }
    if let Some(why) = &why {
        tracing::warn!(%id, why, "its saved memory can't be used: it is started from its disk");
        // Told first: who is killed in between still has the memory, and the next start decides anew.
        let why = why.clone();
        noted(inner, id, move |record| record.memory_lost = Some(why)).await?;
        inner.snapshot(id)?.remove().await?;
    }
    let record = noted(inner, id, move |record| {
        (record.memory_lost, record.launched) = (why, digest);
        if !first {
            record.base_lost = None;
        }
    })
    .await?;
    from_disk(inner, &record, claw).await?;
    came_up(inner, id, run, false).await
}

/// What is to be done about a launch when this was seen: `Some` when it runs already.
fn already(id: &ClawId, run: i64, seen: &Observation) -> Result<Option<Observation>> {
    match (seen.state.is_up(), seen.run.cmp(&run)) {
        (true, Ordering::Equal | Ordering::Greater) => Ok(Some(seen.clone())),
        (true, Ordering::Less) => Err(Error::new(
            Code::Conflict,
            format!("'{id}' still runs an earlier launch ({} instead of {run})", seen.run),
        )
        .field("run")
        .fix(format!("stop it first with `clawfarm stop {id}`"))),
        (false, Ordering::Greater) if seen.state == ObservedState::Exited => Err(Error::new(
            Code::Conflict,
            format!("'{id}' had a later launch already ({} after {run})", seen.run),
        )
        .field("run")
        .fix("look at the instance again before deciding")),
        (false, _) => Ok(None),
    }
}

/// Its folders and its ports, and the launch written down.
async fn prepared(inner: &Arc<Inner>, id: &ClawId, run: i64) -> Result<MachineRecord> {
    let (this, id) = (Arc::clone(inner), id.clone());
    blocking(move || {
        let record = this.record(&id)?;
        if record.disk.is_none() {
            return Err(Error::new(Code::NotFound, format!("'{id}' has no disk")).field("disk"));
        }
        shares::check_workspace(&this.paths.home, &record.vm)?;
        ports::check(&record)?;
        make_folders(&this, &record)?;
        // The port of SSH is ours to choose: one that somebody took is left to them.
        let ssh_port = match ports::is_free(record.ssh_port) {
            true => record.ssh_port,
            false => ports::pick_ssh(&this, &id, &ports::chosen(&record.vm, record.port))?,
        };
        this.change(&id, |record| {
            (record.run, record.ssh_port, record.frozen) = (run, ssh_port, false);
        })
    })
    .await
}

pub(crate) async fn noted(
    inner: &Arc<Inner>,
    id: &ClawId,
    change: impl FnOnce(&mut MachineRecord) + Send + 'static,
) -> Result<MachineRecord> {
    let (this, id) = (Arc::clone(inner), id.clone());
    blocking(move || this.change(&id, change)).await
}

/// What there is of a machine's memory.
enum Memory {
    None,
    /// It can't be used, because of this.
    Useless(String),
    /// It is of a machine of this shape.
    Fits(Shape),
}

async fn memory(inner: &Arc<Inner>, record: &MachineRecord) -> Result<Memory> {
    let about = match inner.snapshot(&record.id)?.about().await {
        Ok(None) => return Ok(Memory::None),
        Ok(Some(about)) => about,
        // What it says is of no use to anybody; a disk that can't be read just now is no reason.
        Err(error) if error.field_name() == Some("snapshot") => {
            return Ok(Memory::Useless(error.message().to_owned()));
        }
        Err(error) => return Err(error),
    };
    let qemu = inner.qemu().await?;
    let disk = disk(record)?;
    let shape = about.shape.clone();
    let now = machine(
        &inner.dir(&record.id),
        &as_started(record),
        disk,
        (&qemu, &shape.machine, inner.accelerator(&qemu).await?),
        true,
    );
    match about.fits(qemu.version, &now.shape()) {
        Ok(()) => Ok(Memory::Fits(shape)),
        Err(error) => Ok(Memory::Useless(error.message().to_owned())),
    }
}

/// The machine with the resources and the software that it was started with, which a memory of it
/// has: what it was given since is for when it begins anew.
pub(crate) fn as_started(record: &MachineRecord) -> MachineRecord {
    let Some(started) = &record.started else { return record.clone() };
    let (resources, installed) = (started.resources, started.installed.clone());
    MachineRecord { resources, installed, ..record.clone() }
}

pub(crate) fn disk(record: &MachineRecord) -> Result<DiskRecord> {
    record
        .disk
        .ok_or_else(|| Error::new(Code::NotFound, format!("'{}' has no disk", record.id)).field("disk"))
}

/// Restores it. `Some` with the reason when the memory turns out to be of no use; then nothing of
/// it runs.
async fn from_memory(
    inner: &Arc<Inner>,
    record: &MachineRecord,
    shape: &Shape,
    claw: Option<&Launch>,
) -> Result<Option<String>> {
    let id = &record.id;
    let qemu = inner.qemu().await?;
    let dir = inner.dir(id);
    let machine = machine(&dir, record, disk(record)?, (&qemu, &shape.machine, shape.accelerator), true);
    // It goes on with what it has in its memory; when it is booted anew from inside, it needs it again.
    let qmp = launch_with(inner, record, &machine, &qemu, claw).await?;
    let snapshot = inner.snapshot(id)?;
    let limits = Limits::of(record.resources.memory_mib);
    let Err(error) = snapshot.restore(&qmp, &machine.shape(), limits, true).await else {
        noted(inner, id, |record| (record.memory_lost, record.base_lost) = (None, None)).await?;
        return Ok(None);
    };
    if snapshot.about().await?.is_none() {
        // Its memory is in the process, and nowhere else: that goes on, or is a power cut.
        return match observe::settle(inner, id).await {
            Ok(true) => Ok(None),
            _ => Err(error),
        };
    }
    drop(qmp);
    end::kill(inner, id).await?;
    match error.code() {
        // Of a busy machine, a full disk or a test: the memory is what it was.
        Code::Timeout | Code::Insufficient => Err(error),
        _ => Ok(Some(error.message().to_owned())),
    }
}

async fn from_disk(inner: &Arc<Inner>, record: &MachineRecord, claw: Option<&Launch>) -> Result<()> {
    let qemu = inner.qemu().await?;
    let accelerator = inner.accelerator(&qemu).await?;
    let dir = inner.dir(&record.id);
    let started = Started {
        machine: qemu.machine.clone(),
        accelerator,
        resources: record.resources,
        installed: record.installed.clone(),
        plugged: false,
    };
    // Before it runs: who saves its memory needs to know what it is.
    let record = &noted(inner, &record.id, |record| record.started = Some(started)).await?;
    let machine = machine(&dir, record, disk(record)?, (&qemu, &qemu.machine, accelerator), false);
    launch_with(inner, record, &machine, &qemu, claw).await.map(drop)
}

/// [`launch`], with what a claw is started with handed in.
async fn launch_with(
    inner: &Arc<Inner>,
    record: &MachineRecord,
    machine: &Machine,
    qemu: &Qemu,
    claw: Option<&Launch>,
) -> Result<Arc<Qmp>> {
    let Some(claw) = claw else { return launch(inner, record, machine, qemu).await };
    let file = inner.dir(&record.id).join(VM).join(LAUNCH);
    let machine = Machine { launch: Some(file), ..machine.clone() };
    claw::lay(inner, record, claw).await?;
    let launched = launch(inner, record, &machine, qemu).await;
    // It was read before QEMU greeted.
    claw::take_away(inner, &record.id).await;
    launched
}

/// Starts QEMU, and what it needs beside it, under a shim; returns when QEMU has greeted.
pub(crate) async fn launch(
    inner: &Arc<Inner>,
    record: &MachineRecord,
    machine: &Machine,
    qemu: &Qemu,
) -> Result<Arc<Qmp>> {
    let id = &record.id;
    let virtiofsd = match shares::count(record) {
        0 => None,
        _ => Some(inner.virtiofsd().await?),
    };
    let spec = {
        let (this, record, machine, qemu) =
            (Arc::clone(inner), record.clone(), machine.clone(), qemu.clone());
        blocking(move || {
            let dir = this.dir(&record.id);
            spec(&this, &dir, &record, &machine, (&qemu, virtiofsd.as_ref()))
        })
        .await?
    };
    inner.hang_up(id);
    let dir = inner.dir(id);
    if let Err(error) = keeper::start(&inner.config.shim_command, &dir, &spec).await {
        return Err(after_failure(inner, id, not_gone(error)).await);
    }
    clawfarm_failpoint::point!(ShimStarted);
    match greeted(inner, id).await {
        Ok(qmp) => Ok(qmp),
        Err(error) => Err(after_failure(inner, id, error).await),
    }
}

/// Waits until QEMU answers, or has ended: then it is told in its own words.
async fn greeted(inner: &Arc<Inner>, id: &ClawId) -> Result<Arc<Qmp>> {
    let dir = inner.dir(id);
    let ready = async {
        let qmp = inner.qmp_within(id, GREETING).await?;
        // It greets before it has opened its disks; what it answers, it answers afterwards.
        qmp.run_state().await?;
        Ok(qmp)
    };
    let error = tokio::select! {
        Ok(()) = keeper::wait_for_end(&dir, id, GREETING) => return Err(said(inner, id).await),
        ready = ready => match ready {
            Ok(qmp) => return Ok(qmp),
            Err(error) => error,
        },
    };
    // It hung up, as a rule because it ends.
    match keeper::wait_for_end(&dir, id, ENDING).await {
        Ok(()) => Err(said(inner, id).await),
        Err(_) => Err(error),
    }
}

/// Why QEMU ended as soon as it was started.
async fn said(inner: &Arc<Inner>, id: &ClawId) -> Error {
    let dir = inner.dir(id);
    let state = blocking(move || ShimState::read(&dir)).await.ok().flatten();
    let exit = state.and_then(|state| state.exit);
    let how = exit.as_ref().map_or_else(|| "ended".to_owned(), ToString::to_string);
    let said = exit.map(|exit| exit.log_tail.trim().to_owned()).unwrap_or_default();
    if let Some(port) = forwarded(&said) {
        let gateway = inner.record(id).is_ok_and(|record| record.port == port);
        let error = Error::new(Code::Conflict, format!("port {port} was taken by another program"));
        return if gateway {
            error.field("port").fix("choose another port, or end that program")
        } else {
            // The next start looks who has it.
            Error::new(Code::Unavailable, error.message().to_owned()).fix("try again")
        };
    }
    Error::new(Code::ClawFailed, format!("QEMU {how} as soon as it was started: {said}"))
        .fix(format!("see `clawfarm logs {id}` and `clawfarm doctor`"))
}

/// The port that QEMU could not forward, by its words `Could not set up host forwarding rule
/// 'tcp:127.0.0.1:PORT-…'`.
fn forwarded(said: &str) -> Option<u16> {
    let rest = said.split("host forwarding rule 'tcp:127.0.0.1:").nth(1)?;
    rest.split('-').next()?.parse().ok()
}

/// "No such program" must not be mistaken for "no such instance".
fn not_gone(error: Error) -> Error {
    match error.code() {
        Code::NotFound => Error::new(Code::ClawFailed, error.message().to_owned())
            .fix("see `clawfarm doctor`")
            .source(error),
        _ => error,
    }
}

/// A failed start leaves nothing that runs.
async fn after_failure(inner: &Arc<Inner>, id: &ClawId, error: Error) -> Error {
    inner.hang_up(id);
    if let Err(further) = end::kill(inner, id).await {
        tracing::warn!(%id, error = %further, "what a failed start left could not be cleared away yet");
    }
    error
}

async fn came_up(inner: &Arc<Inner>, id: &ClawId, run: i64, from_memory: bool) -> Result<Observation> {
    if from_memory {
        // It had booted before, as well as it had.
        noted(inner, id, move |record| {
            record.booted = record.booted.take().map(|it| Booted { run, ..it });
        })
        .await?;
        freeze::step_clock(inner, id);
    }
    watch(inner, id, run);
    inner.watch.tell(id);
    observe::observe(inner, id).await
}

/// Follows its shim, and its boot where that is not over.
fn watch(inner: &Arc<Inner>, id: &ClawId, run: i64) {
    inner.watch.follow(id);
    boot::follow(inner, id, run);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_could_not_be_forwarded_is_read_out_of_qemus_words() {
        let said = "2026-11-22T07:00:00.1Z qemu-system-x86_64: -netdev user,id=net0: Could not set up host forwarding rule 'tcp:127.0.0.1:20123-:22'";
        assert_eq!(forwarded(said), Some(20123));
        assert_eq!(forwarded("Could not open 'x'"), None);
        assert_eq!(forwarded("host forwarding rule 'tcp:127.0.0.1:99999-:22'"), None);
    }
}
