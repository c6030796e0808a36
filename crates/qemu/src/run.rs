//! Running a program that answers and ends.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use clawfarm_model::{Code, Error, Result};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;

/// The most that is read of each of its streams, in bytes; a list of devices has some 30 KiB.
const OUTPUT_LIMIT: u64 = 1 << 20;

/// What a program said.
pub(crate) struct Said {
    /// How it ended.
    pub(crate) status: ExitStatus,
    /// Its standard output.
    pub(crate) out: String,
    /// Its standard error.
    pub(crate) err: String,
}

/// Runs `program` with nothing in its environment but a search path, and ends it after `limit`.
///
/// # Errors
/// `Unavailable` when it can't be started, `Timeout` when it does not end.
pub(crate) async fn run<A: AsRef<OsStr>>(
    program: &Path,
    arguments: impl IntoIterator<Item = A>,
    limit: Duration,
) -> Result<Said> {
    let shown = program.display();
    let mut child = command(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| Error::new(Code::Unavailable, format!("{shown} could not be started: {e}")).source(e))?;
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let ended = tokio::time::timeout(limit, async {
        let (out, err, status) = tokio::join!(read(out), read(err), child.wait());
        status.map(|status| Said { status, out, err })
    })
    .await;
    match ended {
        Ok(said) => said.map_err(|e| Error::internal(format!("{shown} could not be waited for"), e)),
        // The process is killed with the command, which is dropped here.
        Err(_) => Err(Error::new(Code::Timeout, format!("{shown} did not end within {limit:?}"))
            .fix("see whether the machine is overloaded, then try again")),
    }
}

/// A command that leaves nothing behind when it is dropped, and gets none of our environment:
/// there may be secrets in that, and settings that change what the program does.
pub(crate) fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.env_clear().env("PATH", SEARCH).env("LC_ALL", "C").kill_on_drop(true);
    command
}

/// Where programs are looked for, whatever `PATH` the server was started with.
pub(crate) const SEARCH: &str = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin";

async fn read(stream: Option<impl AsyncRead + Unpin>) -> String {
    String::from_utf8_lossy(&read_some(stream, OUTPUT_LIMIT).await).into_owned()
}

/// The first `limit` bytes of a stream, which is read to its end.
pub(crate) async fn read_some(stream: Option<impl AsyncRead + Unpin>, limit: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Some(mut stream) = stream {
        // An error is the end of what can be known; the exit code tells the rest.
        let _ = (&mut stream).take(limit).read_to_end(&mut bytes).await;
        // What is more is drained, so that it does not wait for us for ever.
        let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_it_says_is_bounded_and_it_gets_no_environment() {
        let said = run(
            Path::new("/bin/sh"),
            ["-c", "head -c 3000000 /dev/zero | tr '\\0' x; env | grep -c -v -e '^PATH=' -e '^LC_ALL=' -e '^PWD=' -e '^_=' -e '^SHLVL=' >&2; exit 3"],
            Duration::from_secs(30),
        )
        .await
        .unwrap();
        assert_eq!((said.out.len(), said.err.trim(), said.status.code()), (1 << 20, "0", Some(3)));
    }

    #[tokio::test]
    async fn one_that_does_not_end_is_ended() {
        let error =
            run(Path::new("/bin/sleep"), ["600"], Duration::from_millis(50)).await.err().expect("an error");
        assert_eq!(error.code(), Code::Timeout);
        let error = run(Path::new("/nowhere/qemu"), ["a"], Duration::from_secs(5)).await.err().unwrap();
        assert_eq!(error.code(), Code::Unavailable);
    }
}
