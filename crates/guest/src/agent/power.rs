//! The machine's end, and its clock.

use std::io;

use nix::errno::Errno;
use tokio::process::Command;

use crate::message::Power;

/// Asks the system's manager, which ends services in their order and then the machine. It answers
/// before it does.
pub(super) async fn end(how: Power) -> io::Result<()> {
    let verb = match how {
        Power::Off => "poweroff",
        Power::Reboot => "reboot",
    };
    let asked = Command::new("systemctl").args(["--no-block", verb]).output().await;
    match asked {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            Err(io::Error::other(format!("systemctl {verb}: {}: {}", output.status, said.trim())))
        }
        Err(error) => Err(io::Error::other(format!("systemctl {verb} can't be started: {error}"))),
    }
}

/// Steps the clock.
pub(super) fn set_time(unix_nanos: i64) -> io::Result<()> {
    if unix_nanos <= 0 {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "there is no time before 1970"));
    }
    let time = libc::timespec { tv_sec: unix_nanos / 1_000_000_000, tv_nsec: unix_nanos % 1_000_000_000 };
    // SAFETY: the time lives during the call, which only reads it.
    Errno::result(unsafe { libc::clock_settime(libc::CLOCK_REALTIME, &raw const time) })?;
    Ok(())
}
