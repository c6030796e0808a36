//! A machine that is up and does nothing: what its processors' state means, and letting it go on
//! where that is ours to do.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use clawfarm_files::blocking;
use clawfarm_local::{host, keeper};
use clawfarm_model::{ClawId, Code, Error, Result};
use clawfarm_qemu::qmp::RunState;

use crate::inner::{Inner, guard};
use crate::record::MachineRecord;
use crate::{end, observe};

/// How long QEMU may take to say whether it runs; who looks at many can't wait long for one.
const ASK: Duration = Duration::from_secs(5);
/// The same while somebody works on it, and for one that did not answer for long.
const ASK_SHORTLY: Duration = Duration::from_secs(1);
/// How long one that does not answer may be only slow: what serves us serves its network too, and
/// on a machine that swaps both stand still now and then.
const SILENT: Duration = Duration::from_secs(60);

/// How much room a disk that was full needs before the machine is let go on, in bytes: with less
/// it would stop again at once.
const ROOM: u64 = 16 << 20;
/// How long until one that can't go on is looked at again, at first and at most.
const AGAIN: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(30));

/// What a machine that is up is doing.
#[derive(Debug)]
pub(crate) enum Doing {
    /// It runs, or nobody knows better.
    Runs,
    /// It stands still, as it was told to.
    Frozen,
    /// It stands still, and nobody wants that: a save or a restore of it was cut off.
    Left,
    /// It stands still until the host can write its disk again.
    NoDisk,
    /// It stands still for good, because of this.
    Dead(&'static str),
    /// QEMU says nothing, for long, and this is how.
    Silent(String),
}

impl Doing {
    fn of(state: RunState, frozen: bool) -> Self {
        match state {
            RunState::Running | RunState::Other => Self::Runs,
            _ if frozen => Self::Frozen,
            RunState::Paused
            | RunState::Prelaunch
            | RunState::Inmigrate
            | RunState::Postmigrate
            | RunState::FinishMigrate => Self::Left,
            RunState::IoError => Self::NoDisk,
            RunState::Shutdown => Self::Dead("it has switched itself off, and its process does not end"),
            // For a moment: QEMU ends then, with a failure.
            RunState::GuestPanicked => Self::Dead("its system crashed"),
            RunState::InternalError => Self::Dead("the emulator gave it up (internal error)"),
            RunState::Suspended => Self::Dead("its system put itself to sleep, and nothing can wake it"),
        }
    }

    /// Why it does nothing, where its owner should know.
    pub(crate) fn trouble(&self, inner: &Inner, id: &ClawId) -> Option<Error> {
        let anew =
            format!("start it anew with `clawfarm restart {id}`; `clawfarm logs {id}` has what QEMU said");
        match self {
            Self::Runs | Self::Frozen | Self::Left => None,
            Self::Dead(why) => {
                Some(Error::new(Code::ClawFailed, format!("it stands still: {why}")).fix(anew))
            }
            Self::Silent(how) => Some(
                Error::new(Code::Timeout, format!("QEMU is stuck, or waits for the disk: {how}"))
                    .fix(format!("see what holds this machine's disk up; `clawfarm kill {id}` ends it")),
            ),
            Self::NoDisk => Some(no_disk(inner, id)),
        }
    }
}

/// What is told of a machine that lost what runs beside it: QEMU takes no other one's connection.
pub(crate) fn lost(id: &ClawId, helpers: &[String]) -> Option<Error> {
    if helpers.is_empty() {
        return None;
    }
    let names = helpers.join(", ");
    Some(
        Error::new(Code::ClawFailed, format!("{names} has ended: whatever uses that folder in it hangs"))
            .fix(format!(
                "start it anew with `clawfarm restart {id}`; `clawfarm logs {id}` has its last words"
            )),
    )
}

fn no_disk(inner: &Inner, id: &ClawId) -> Error {
    let dir = inner.dir(id);
    let at = dir.display();
    match room(inner, id) {
        Some(left) if left < ROOM => Error::new(
            Code::Insufficient,
            format!("it stands still: there is no room left to write its disk ({} MiB free at '{at}')", left >> 20),
        )
        .fix("make room there: it goes on by itself within half a minute, and has lost nothing"),
        _ => Error::new(Code::Unavailable, format!("it stands still: its disk at '{at}' can't be written"))
            .fix("see this machine's kernel log and its quotas; it goes on by itself when the disk can be written again"),
    }
}

/// How much can be written where its disk is, in bytes. `None` when that can't be seen.
fn room(inner: &Inner, id: &ClawId) -> Option<u64> {
    let (bytes, inodes) = host::free_space(&inner.dir(id)).ok()?;
    Some(if inodes == 0 { 0 } else { bytes })
}

/// Looks at a machine that is up, and goes on with what was left half-done.
pub(crate) async fn look(inner: &Arc<Inner>, id: &ClawId, frozen: bool) -> Doing {
    // Whoever works on it brings it to its end.
    let busy = inner.is_busy(id);
    let silence = clawfarm_failpoint::wait(SILENT);
    let silent_for = guard(&inner.silent).get(id).map(Instant::elapsed);
    let limit = if busy || silent_for.is_some_and(|it| it > silence) { ASK_SHORTLY } else { ASK };
    let asked = async { inner.qmp_within(id, limit).await?.run_state().await };
    let asked = tokio::time::timeout(limit, asked).await;
    let doing = match asked {
        Ok(Ok(state)) => {
            guard(&inner.silent).remove(id);
            Doing::of(state, frozen)
        }
        Ok(Err(_)) | Err(_) if busy => Doing::Runs,
        unheard => {
            let how = match unheard {
                Ok(Err(error)) => error.message().to_owned(),
                _ => format!("it does not answer within {limit:?}"),
            };
            tracing::debug!(%id, how, "QEMU does not say whether it is stopped");
            let since = *guard(&inner.silent).entry(id.clone()).or_insert_with(Instant::now);
            if since.elapsed() > silence { Doing::Silent(how) } else { Doing::Runs }
        }
    };
    if matches!(doing, Doing::Left) && !busy || matches!(doing, Doing::NoDisk) {
        mend(inner, id);
    }
    doing
}

/// Brings one that stands still back, in the background, as soon as that can be.
fn mend(inner: &Arc<Inner>, id: &ClawId) {
    if !guard(&inner.mending).insert(id.clone()) {
        return;
    }
    let (weak, id, ending) = (Arc::downgrade(inner), id.clone(), inner.watch.ending().clone());
    tokio::spawn(async move {
        tokio::select! {
            () = ending.cancelled() => {}
            () = until_mended(&weak, &id) => {}
        }
        if let Some(inner) = weak.upgrade() {
            guard(&inner.mending).remove(&id);
            inner.watch.tell(&id);
        }
    });
}

async fn until_mended(weak: &Weak<Inner>, id: &ClawId) {
    let mut wait = AGAIN.0;
    loop {
        let Some(inner) = weak.upgrade() else { return };
        let verb = inner.lock(id).await;
        match once(&inner, id).await {
            Ok(true) => return,
            Ok(false) => {}
            Err(error) => tracing::warn!(%id, %error, "a machine that stands still could not be let go on"),
        }
        drop(verb);
        drop(inner);
        tokio::time::sleep(clawfarm_failpoint::wait(wait)).await;
        wait = (wait * 2).min(AGAIN.1);
    }
}

/// Tries once, with its lock. Whether nothing more is to be done.
async fn once(inner: &Arc<Inner>, id: &ClawId) -> Result<bool> {
    if !keeper::is_up(&inner.dir(id)).await? {
        return Ok(true);
    }
    match doing(inner, id).await? {
        Doing::Left => observe::settle(inner, id).await.map(|_| true),
        Doing::NoDisk if room(inner, id).is_none_or(|left| left >= ROOM) => {
            tracing::info!(%id, "there is room for its disk again: it goes on");
            // What it could not write is written now; it stops again when that can't be either, so
            // it is looked at once more.
            inner.qmp(id).await?.cont().await.map(|()| false)
        }
        Doing::NoDisk => Ok(false),
        _ => Ok(true),
    }
}

async fn doing(inner: &Arc<Inner>, id: &ClawId) -> Result<Doing> {
    let dir = inner.dir(id);
    let frozen = blocking(move || MachineRecord::read(&dir)).await?.is_some_and(|record| record.frozen);
    Ok(Doing::of(inner.qmp_within(id, ASK).await?.run_state().await?, frozen))
}

/// Lets a machine hear that it is asked to end: whatever stopped it is undone. `false` when it
/// can't hear anything any more.
pub(crate) async fn awaken(inner: &Arc<Inner>, id: &ClawId) -> Result<bool> {
    if !keeper::is_up(&inner.dir(id)).await? {
        return Ok(true);
    }
    // Not while its memory is saved or restored: let go on in that, it would be two machines, of
    // which one is on the disk.
    let Ok(_verb) = tokio::time::timeout(ASK_SHORTLY, inner.lock(id)).await else { return Ok(true) };
    match doing(inner, id).await? {
        Doing::Runs | Doing::Silent(_) => {}
        Doing::Frozen => {
            inner.qmp(id).await?.cont().await?;
            let (this, id) = (Arc::clone(inner), id.clone());
            blocking(move || this.change(&id, |record| record.frozen = false)).await?;
        }
        Doing::Left => drop(observe::settle(inner, id).await?),
        Doing::NoDisk => inner.qmp(id).await?.cont().await?,
        Doing::Dead(_) => return Ok(false),
    }
    Ok(true)
}

/// Waits for the end of a process that is a machine no more, because its memory is saved: one
/// that does not end by itself (a disk that hangs) is killed.
pub(crate) async fn see_off(inner: &Arc<Inner>, id: &ClawId) -> Result<()> {
    /// QEMU has been told already, and been waited for.
    const QUITTING: Duration = Duration::from_secs(10);
    inner.hang_up(id);
    let dir = inner.dir(id);
    if keeper::wait_for_end(&dir, id, QUITTING).await.is_err() {
        tracing::warn!(%id, "its memory is saved and its process does not end: it is killed");
        end::kill(inner, id).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_of_the_processors_has_a_meaning() {
        use RunState as S;
        let shown = |state, frozen| format!("{:?}", Doing::of(state, frozen));
        for state in [S::Running, S::Other] {
            assert_eq!((shown(state, false), shown(state, true)), ("Runs".into(), "Runs".into()));
        }
        for state in [S::Paused, S::Prelaunch, S::Inmigrate, S::Postmigrate, S::FinishMigrate] {
            assert_eq!((shown(state, false), shown(state, true)), ("Left".into(), "Frozen".into()));
        }
        for state in [S::Shutdown, S::GuestPanicked, S::InternalError, S::Suspended] {
            assert!(shown(state, false).starts_with("Dead"), "{state:?}");
        }
        assert_eq!(shown(S::IoError, false), "NoDisk");
        // What stopped by itself before it was frozen is asleep to whoever looks, and is let go on
        // by the same verb.
        assert_eq!(shown(S::IoError, true), "Frozen");
    }
}
