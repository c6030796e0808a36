//! Noticing that a machine has booted, and how its set-up went.
//!
//! QEMU can't tell: a guest's system says it by answering SSH, cloud-init when it is done, and its list of
//! mounts whether what is to be kept is.
//! It is written down once for each launch, so that a later server does not ask again.

use std::net::Ipv4Addr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use clawfarm_files::blocking;
use clawfarm_local::keeper;
use clawfarm_model::{ClawId, Code, Error, Result};
use clawfarm_qemu::ssh::{Ended, Ssh, posix_word};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::inner::{Inner, guard};
use crate::record::{Booted, MachineRecord};
use crate::start::as_started;
use crate::{claw, seed, shares};

/// How long one attempt to reach it goes on before its process is looked at again.
const ROUND: Duration = Duration::from_secs(60);
/// How long cloud-init may take once SSH answers: it may install what an image lacks.
const SET_UP: Duration = Duration::from_secs(30 * 60);

/// How long a connection may stay silent: at first, and at most.
const SILENCE: Duration = Duration::from_secs(2);
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// Between two connections that were refused.
const PAUSE: Duration = Duration::from_millis(100);

/// Waits for the end of the boot's set-up, and tells what cloud-init tells. Its 2 is a warning (a word of
/// the image's own settings that is out of use, say), and newer than the others.
///
/// Its arguments are the folders that are to be mounted. cloud-init mounts them at the first boot alone,
/// and their lines of fstab keep no boot back (`nofail`): so they are looked at each time, and waited for,
/// because nothing waits for them before SSH answers.
///
/// What the boot wrote is on the disk before it counts: from then on a machine may be suspended, and one
/// whose memory is lost goes on from its disk.
const STATUS: &str = r#"set_up=0
if command -v cloud-init >/dev/null; then
  cloud-init status --wait >/dev/null 2>&1
  case $? in 0 | 2) ;; *) set_up=10 ;; esac
fi
left=30
while :; do
  missing=
  for folder do
    mountpoint -q -- "$folder" || missing="$missing${missing:+, }$folder"
  done
  left=$((left - 1))
  [ -n "$missing" ] && [ "$left" -gt 0 ] && [ "$set_up" = 0 ] || break
  sleep 2
done
if [ -n "$missing" ]; then
  echo "$missing"
fi
if [ "$set_up" != 0 ]; then
  cloud-init status --long 2>&1 | tail -n 20
fi
sync
[ -z "$missing" ] || exit 11
exit "$set_up"
"#;
/// What that ends with when the set-up failed: nothing else in there does.
const FAILED: i32 = 10;
/// The same when a folder is not mounted, for whatever reason; its names come first then.
const UNMOUNTED: i32 = 11;

/// What is wrong with a machine that has booted.
#[derive(Debug, PartialEq, Eq)]
struct Fault {
    why: String,
    /// What it would write to a folder would not be kept.
    unmounted: bool,
}

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
        if guard(&inner.booting).get(id) != Some(&run) {
            return;
        }
        match one_look(&inner, id, run).await {
            Ok(true) => return,
            Ok(false) => {}
            // A disk that is full has room again.
            Err(error) => tracing::warn!(%id, %error, "its boot can't be followed for a moment"),
        }
        drop(inner);
        // An attempt that failed at once (no ssh here) is not made without end.
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// Looks once, and writes down what became of the boot; whether there is nothing to look for any more.
async fn one_look(inner: &Arc<Inner>, id: &ClawId, run: i64) -> Result<bool> {
    if !keeper::is_up(&inner.dir(id)).await? {
        return Ok(true);
    }
    let fault = match look(inner, id).await {
        Ok(fault) => fault,
        Err(error) => {
            tracing::debug!(%id, %error, "it has not booted yet");
            return Ok(false);
        }
    };
    if let Some(Fault { why, .. }) = &fault {
        tracing::warn!(%id, why, "its boot did not go as it should");
    }
    let unmounted = fault.as_ref().is_some_and(|fault| fault.unmounted);
    let booted = Booted { run, failed: fault.map(|fault| fault.why), unmounted };
    let (this, claw) = (Arc::clone(inner), id.clone());
    blocking(move || this.change(&claw, |record| record.booted = Some(booted))).await?;
    Ok(true)
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

/// The folders that a machine is of no use without, as it has them.
fn folders(inner: &Inner, record: &MachineRecord) -> Vec<String> {
    let mut all: Vec<String> = claw::mount(record).map(|[folder, _]| folder).into_iter().collect();
    all.extend(shares::all(&inner.dir(&record.id), record).into_iter().map(|share| share.guest));
    all
}

/// The question how the boot went, for whatever shell there is.
fn question(folders: &[String]) -> Result<String> {
    let mut line = format!("exec sh -c {} sh", posix_word(STATUS)?);
    for folder in folders {
        line = format!("{line} {}", posix_word(folder)?);
    }
    Ok(line)
}

/// How the boot went: `Some` with what went wrong.
async fn look(inner: &Inner, id: &ClawId) -> Result<Option<Fault>> {
    let record = inner.record(id)?;
    let ssh: Ssh = seed::ssh(inner, &record)?;
    // With the software and the folders that it was started with.
    let question = question(&folders(inner, &as_started(&record)))?;
    let messages = seed::messages(inner, id)?;
    greets(ssh.port, ROUND).await?;
    let asked = tokio::time::timeout(SET_UP, ssh.output(&question, messages.path())).await;
    let (ended, said) =
        asked.map_err(|_| Error::new(Code::Timeout, "its first boot's set-up does not come to an end"))??;
    verdict(ended, &said)
}

/// What is to be made of the answer: `Some` with what went wrong; an error when there was none, and it is
/// asked again.
fn verdict(ended: Ended, said: &[u8]) -> Result<Option<Fault>> {
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
    let why = match (code, said.trim()) {
        (UNMOUNTED, said) => format!("not mounted in it: {said}"),
        (FAILED, "") => "cloud-init does not say why".to_owned(),
        (FAILED, said) => said.to_owned(),
        (code, said) => {
            format!("the shell that was to ask cloud-init ended with code {code} {said}").trim().to_owned()
        }
    };
    Ok(Some(Fault { why, unmounted: code == UNMOUNTED }))
}

/// Refuses as long as it boots, and when its set-up failed.
pub(crate) fn check(record: &MachineRecord) -> Result<()> {
    let id = &record.id;
    match record.booted.as_ref().filter(|booted| booted.run >= record.run) {
        None => Err(Error::new(Code::Unavailable, format!("'{id}' still boots"))
            .fix(format!("wait until it is ready; `clawfarm logs -f {id}` shows how far it is"))),
        Some(Booted { failed: Some(why), unmounted: true, .. }) => Err(unmounted(id, why)),
        Some(Booted { failed: Some(why), .. }) => {
            Err(Error::new(Code::ClawFailed, format!("the set-up of '{id}' failed at its first boot: {why}"))
                .fix(format!("look with `clawfarm shell {id}` (cloud-init's log is /var/log/cloud-init-output.log) and mend it there, then `clawfarm restart {id}`; or make it anew")))
        }
        Some(_) => Ok(()),
    }
}

/// Refuses a claw that came up without a folder of its own: it may answer, and what it is told then
/// would not be kept. While it boots it may be asked.
pub(crate) fn check_folders(record: &MachineRecord) -> Result<()> {
    match &record.booted {
        Some(Booted { run, failed: Some(why), unmounted: true }) if *run >= record.run => {
            Err(unmounted(&record.id, why))
        }
        _ => Ok(()),
    }
}

fn unmounted(id: &ClawId, why: &str) -> Error {
    Error::new(Code::ClawFailed, format!("'{id}' has booted without its folders; {why}")).fix(format!(
        "look with `clawfarm shell {id}` (`mount FOLDER` there says why; its line is in /etc/fstab), then \
         `clawfarm restart {id}`"
    ))
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

    /// A machine whose cloud-init and `mountpoint` are lines of shell, asked about folders.
    fn asked(cloud_init: &str, mountpoint: &str, folders: &[&str]) -> Option<Fault> {
        let dir = tempfile::TempDir::new().unwrap();
        let program = |name: &str, script: String| {
            let program = dir.path().join(name);
            std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
            std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        };
        let waits = "[ \"$2\" = --wait ] || { echo 'status: error'; exit 1; }";
        program("cloud-init", format!("{waits}\n{cloud_init}"));
        program("mountpoint", format!("[ \"$1 $2\" = '-q --' ] || exit 0\nfolder=$3\n{mountpoint}"));
        program("sync", String::new());
        program("sleep", format!("echo x >>'{}'", dir.path().join("slept").display()));
        let folders: Vec<String> = folders.iter().map(|&folder| folder.to_owned()).collect();
        let path = format!("{}:/usr/bin:/bin", dir.path().display());
        let mut shell = std::process::Command::new("/bin/sh");
        let question = question(&folders).unwrap();
        let output = shell.args(["-c", &question]).env("PATH", path).env("AT", dir.path()).output().unwrap();
        verdict(Ended::Code(output.status.code().unwrap()), &output.stdout).unwrap()
    }

    fn fault(why: &str, unmounted: bool) -> Option<Fault> {
        Some(Fault { why: why.to_owned(), unmounted })
    }

    #[test]
    fn the_question_how_the_boot_went_is_one_that_a_shell_takes() {
        assert_eq!(asked("exit 0", "exit 1", &[]), None);
        assert_eq!(asked("exit 2", "exit 0", &["/srv/a"]), None);
        assert_eq!(asked("exit 1", "exit 0", &["/srv/a"]), fault("status: error", false));
        assert_eq!(asked("kill -9 $$", "exit 0", &[]), fault("status: error", false));
    }

    #[test]
    fn a_folder_that_is_not_mounted_is_named_whatever_cloud_init_says() {
        let folders = ["/srv/a", "/srv/b c", "/srv/it's $HOME"];
        let but_a = "[ \"$folder\" = /srv/a ]";
        let why = "not mounted in it: /srv/b c, /srv/it's $HOME";
        assert_eq!(asked("exit 0", but_a, &folders), fault(why, true));
        assert_eq!(
            asked("exit 1", but_a, &folders[..2]),
            fault("not mounted in it: /srv/b c status: error", true)
        );
        assert_eq!(asked("exit 0", "exit 0", &folders), None);
        // One that takes its time.
        assert_eq!(asked("exit 0", "[ -e \"$AT/slept\" ]", &folders), None);
    }

    #[test]
    fn nobody_uses_a_claw_without_its_folders() {
        let image: clawfarm_model::vm_image::VmImageReference = "debian:12".parse().unwrap();
        let mut record =
            crate::warm::described(&image, clawfarm_model::resources::Resources::default()).unwrap();
        check_folders(&record).unwrap();
        assert_eq!(check(&record).unwrap_err().code(), Code::Unavailable);
        let booted = |run, unmounted| Some(Booted { run, failed: Some("not mounted".into()), unmounted });
        record.booted = booted(record.run, true);
        for error in [check_folders(&record).unwrap_err(), check(&record).unwrap_err()] {
            assert_eq!(error.code(), Code::ClawFailed);
            assert!(error.message().contains("without its folders") && error.fix_text().is_some(), "{error}");
        }
        // A failure of another kind may leave a claw that works; an earlier launch says nothing.
        record.booted = booted(record.run, false);
        check_folders(&record).unwrap();
        record.booted = booted(record.run - 1, true);
        check_folders(&record).unwrap();
    }

    #[test]
    fn a_guest_that_hangs_up_while_it_boots_has_not_failed() {
        for ended in [Ended::Code(255), Ended::Code(137), Ended::Lost("reset".into())] {
            assert_eq!(verdict(ended, b"").unwrap_err().code(), Code::Unavailable);
        }
        assert_eq!(verdict(Ended::Code(10), b"").unwrap().unwrap().why, "cloud-init does not say why");
        let why = verdict(Ended::Code(127), b"\x1b[1mno\n").unwrap().unwrap().why;
        assert_eq!(why, "the shell that was to ask cloud-init ended with code 127 [1mno");
    }
}
