//! Noticing that a machine has booted, and how its set-up went.
//!
//! QEMU can't tell: a guest's system says it by answering SSH, and cloud-init when it is done.
//! It is written down once for each launch, so that a later server does not ask again.

use std::sync::{Arc, Weak};
use std::time::Duration;

use clawfarm_files::blocking;
use clawfarm_local::keeper;
use clawfarm_model::{ClawId, Code, Error, Result};
use clawfarm_qemu::ssh::{Ended, Ssh};

use crate::inner::{Inner, guard};
use crate::record::{Booted, MachineRecord};
use crate::seed;

/// How long one attempt to reach it goes on before its process is looked at again.
const ROUND: Duration = Duration::from_secs(60);
/// How long cloud-init may take once SSH answers: it may install what an image lacks.
const SET_UP: Duration = Duration::from_secs(30 * 60);

/// Waits for the end of the first boot's set-up, and tells what cloud-init tells.
const STATUS: &str = "if command -v cloud-init >/dev/null; then \
    cloud-init status --wait >/dev/null 2>&1 || { cloud-init status --long 2>&1 | tail -n 20; exit 1; }; fi";

/// Follows the boot of a launch, if nobody does yet and it is not over.
pub(crate) fn follow(inner: &Arc<Inner>, id: &ClawId, run: i64) {
    let over = MachineRecord::read(&inner.dir(id)).ok().flatten().and_then(|record| record.booted);
    if over.is_some_and(|booted| booted.run >= run) {
        return;
    }
    if guard(&inner.booting).insert(id.clone(), run) == Some(run) {
        return;
    }
    let (weak, id, ending) = (Arc::downgrade(inner), id.clone(), inner.watch.ending().clone());
    tokio::spawn(async move {
        tokio::select! {
            () = ending.cancelled() => {}
            () = to_the_end(&weak, &id, run) => {}
        }
        if let Some(inner) = weak.upgrade() {
            let mut booting = guard(&inner.booting);
            if booting.get(&id) == Some(&run) {
                booting.remove(&id);
            }
            drop(booting);
            inner.watch.tell(&id);
        }
    });
}

async fn to_the_end(weak: &Weak<Inner>, id: &ClawId, run: i64) {
    loop {
        let Some(inner) = weak.upgrade() else { return };
        // Another launch has its own.
        if guard(&inner.booting).get(id) != Some(&run)
            || !keeper::is_up(&inner.dir(id)).await.unwrap_or(false)
        {
            return;
        }
        match look(&inner, id).await {
            Ok(failed) => {
                if let Some(why) = &failed {
                    tracing::warn!(%id, why, "its first boot did not go as it should");
                }
                let (this, claw) = (Arc::clone(&inner), id.clone());
                let noted = blocking(move || {
                    this.change(&claw, |record| record.booted = Some(Booted { run, failed })).map(drop)
                });
                if let Err(error) = noted.await {
                    tracing::warn!(%id, %error, "that it has booted can't be written down");
                }
                return;
            }
            Err(error) => tracing::debug!(%id, %error, "it has not booted yet"),
        }
        drop(inner);
        // An attempt that failed at once (no ssh here) is not made without end.
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// How the boot went: `Some` with what went wrong in its set-up.
async fn look(inner: &Inner, id: &ClawId) -> Result<Option<String>> {
    let ssh: Ssh = seed::ssh(inner, &inner.record(id)?)?;
    let messages = seed::messages(inner, id)?;
    ssh.answers(ROUND, messages.path()).await?;
    let asked = tokio::time::timeout(SET_UP, ssh.output(STATUS, messages.path())).await;
    match asked
        .map_err(|_| Error::new(Code::Timeout, "its first boot's set-up does not come to an end"))??
    {
        (Ended::Code(0), _) => Ok(None),
        (Ended::Code(_), said) => {
            let said: String = String::from_utf8_lossy(&said)
                .chars()
                .map(|c| if c.is_control() { ' ' } else { c })
                .take(500)
                .collect();
            Ok(Some(said.trim().to_owned()))
        }
        (Ended::Lost(why), _) => Err(Error::new(Code::Unavailable, why)),
    }
}

/// Refuses as long as it boots, and when its set-up failed.
pub(crate) fn check(record: &MachineRecord) -> Result<()> {
    let id = &record.id;
    match record.booted.as_ref().filter(|booted| booted.run >= record.run) {
        None => Err(Error::new(Code::Unavailable, format!("'{id}' still boots"))
            .fix(format!("wait until it is ready; `clawfarm logs -f {id}` shows how far it is"))),
        Some(Booted { failed: Some(why), .. }) => {
            Err(Error::new(Code::ClawFailed, format!("the set-up of '{id}' failed at its first boot: {why}"))
                .fix(format!("look with `clawfarm shell {id}` (cloud-init's log is /var/log/cloud-init-output.log), or make it anew")))
        }
        Some(_) => Ok(()),
    }
}
