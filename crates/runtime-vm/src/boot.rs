//! Noticing that a machine has booted, and how its set-up went.
//!
//! QEMU can't tell: a guest's system says it by answering SSH, and cloud-init when it is done.
//! It is written down once for each launch, so that a later server does not ask again.

use std::net::Ipv4Addr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use clawfarm_files::blocking;
use clawfarm_local::keeper;
use clawfarm_model::{ClawId, Code, Error, Result};
use clawfarm_qemu::ssh::{Ended, Ssh};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::inner::{Inner, guard};
use crate::record::{Booted, MachineRecord};
use crate::seed;

/// How long one attempt to reach it goes on before its process is looked at again.
const ROUND: Duration = Duration::from_secs(60);
/// How long cloud-init may take once SSH answers: it may install what an image lacks.
const SET_UP: Duration = Duration::from_secs(30 * 60);

/// How long a connection may stay silent: at first, and at most.
const SILENCE: Duration = Duration::from_secs(2);
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// Between two connections that were refused.
const PAUSE: Duration = Duration::from_millis(100);

/// Waits for the end of the first boot's set-up, and tells what cloud-init tells. Its 2 is a warning (a
/// word of the image's own settings that is out of use, say), and newer than the others.
const STATUS: &str = "command -v cloud-init >/dev/null || exit 0; cloud-init status --wait >/dev/null 2>&1; \
    case $? in 0 | 2) ;; *) cloud-init status --long 2>&1 | tail -n 20; exit 10 ;; esac";
/// What that ends with when the set-up failed: nothing else in there does.
const FAILED: i32 = 10;

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

/// Waits until an SSH server greets at a forwarded port.
///
/// QEMU takes every connection, and hands it on when the guest has a network, with longer and longer
/// pauses between its attempts: so one that stays silent is given up soon, and another made. Only who
/// was greeted starts an ssh: each that is in vain costs an emulated guest, and this machine, more time
/// than there is between two looks.
async fn greets(port: u16, limit: Duration) -> Result<()> {
    let until = Instant::now() + limit;
    let mut silence = SILENCE;
    while Instant::now() < until {
        let greeted = async {
            let mut greeting = [0; 4];
            let mut line = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
            line.read_exact(&mut greeting).await.map(|_| greeting == *b"SSH-")
        };
        match tokio::time::timeout(silence.min(until - Instant::now()), greeted).await {
            Ok(Ok(true)) => return Ok(()),
            // Nobody listens there yet.
            Ok(Ok(false) | Err(_)) => tokio::time::sleep(PAUSE).await,
            // It may only be slow: one that has a small part of a processor needs seconds for a word.
            Err(_) => silence = (silence * 5 / 4).min(SILENCE_MAX),
        }
    }
    Err(Error::new(Code::Timeout, "no SSH server greets yet"))
}

/// How the boot went: `Some` with what went wrong in its set-up.
async fn look(inner: &Inner, id: &ClawId) -> Result<Option<String>> {
    let ssh: Ssh = seed::ssh(inner, &inner.record(id)?)?;
    let messages = seed::messages(inner, id)?;
    greets(ssh.port, ROUND).await?;
    let asked = tokio::time::timeout(SET_UP, ssh.output(STATUS, messages.path())).await;
    let (ended, said) =
        asked.map_err(|_| Error::new(Code::Timeout, "its first boot's set-up does not come to an end"))??;
    verdict(ended, &said)
}

/// What is to be made of the answer: `Some` with what went wrong in the set-up; an error when there
/// was none, and it is asked again.
fn verdict(ended: Ended, said: &[u8]) -> Result<Option<String>> {
    let code = match ended {
        Ended::Code(0) => return Ok(None),
        Ended::Lost(why) => return Err(Error::new(Code::Unavailable, why)),
        // ssh has 255 for itself, and says nothing when the guest ends the connection or the shell: a
        // guest that boots does both. 128 and more are signals.
        Ended::Code(code @ 128..) => {
            return Err(Error::new(Code::Unavailable, format!("ssh ended with code {code}")));
        }
        Ended::Code(code) => code,
    };
    let said: String = String::from_utf8_lossy(said)
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(500)
        .collect();
    Ok(Some(match (code, said.trim()) {
        (FAILED, "") => "cloud-init does not say why".to_owned(),
        (FAILED, said) => said.to_owned(),
        (code, said) => {
            format!("the shell that was to ask cloud-init ended with code {code} {said}").trim().to_owned()
        }
    }))
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

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_server_that_greets_is_noticed_behind_ones_that_are_silent_or_hang_up() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let guest = tokio::spawn(async move {
            let mut silent = Vec::new();
            for nth in 0.. {
                let (mut line, _) = listener.accept().await.unwrap();
                match nth {
                    // As QEMU is before the guest has a network, and while nobody listens there.
                    0 => silent.push(line),
                    1 => drop(line),
                    2 => line.write_all(b"220 mail\r\n").await.unwrap(),
                    _ => return line.write_all(b"SSH-2.0-x\r\n").await.unwrap(),
                }
            }
        });
        greets(port, Duration::from_secs(60)).await.unwrap();
        guest.await.unwrap();
        let error = greets(port, Duration::from_millis(300)).await.unwrap_err();
        assert_eq!(error.code(), Code::Timeout);
    }

    #[test]
    fn the_question_how_the_boot_went_is_one_that_a_shell_takes() {
        let folder = tempfile::TempDir::new().unwrap();
        let asked = |status: &str| {
            let program = folder.path().join("cloud-init");
            let script =
                format!("#!/bin/sh\n[ \"$2\" = --wait ] || {{ echo 'status: error'; exit 1; }}\n{status}\n");
            std::fs::write(&program, script).unwrap();
            std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
            let path = format!("{}:/usr/bin:/bin", folder.path().display());
            let mut shell = std::process::Command::new("/bin/sh");
            let output = shell.args(["-c", STATUS]).env("PATH", path).output().unwrap();
            verdict(Ended::Code(output.status.code().unwrap()), &output.stdout)
        };
        assert_eq!(asked("exit 0").unwrap(), None);
        assert_eq!(asked("exit 2").unwrap(), None);
        assert_eq!(asked("exit 1").unwrap(), Some("status: error".to_owned()));
        assert_eq!(asked("kill -9 $$").unwrap(), Some("status: error".to_owned()));
    }

    #[test]
    fn a_guest_that_hangs_up_while_it_boots_has_not_failed() {
        for ended in [Ended::Code(255), Ended::Code(137), Ended::Lost("reset".into())] {
            assert_eq!(verdict(ended, b"").unwrap_err().code(), Code::Unavailable);
        }
        assert_eq!(verdict(Ended::Code(10), b"").unwrap().unwrap(), "cloud-init does not say why");
        let why = verdict(Ended::Code(127), b"\x1b[1mno\n").unwrap().unwrap();
        assert_eq!(why, "the shell that was to ask cloud-init ended with code 127  [1mno");
    }
}
