//! Commands in a guest over SSH, to the port of its that is forwarded to 127.0.0.1.
//!
//! The client is OpenSSH's, as a process: it is on every machine that has virtual ones, knows
//! terminals and their sizes, passes output on as it comes, and hands the exit code on. It gets
//! every setting here, and none of the user's or the system's.

mod key;
mod quote;

use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use clawfarm_model::{Code, Error, Result};
use tokio::time::Instant;

pub use key::{Key, known_host};
pub use quote::{login_bash, posix_word};

use crate::run::{SEARCH, command, read_some};
use crate::text::tame;

/// What ssh ends with when it could not do its part. A command may end with it, too.
const OWN_FAILURE: i32 = 255;
/// How long connecting and the greeting may take, in seconds: a guest that is emulated on a busy
/// machine needs some.
const CONNECT: u32 = 60;
/// The same while a guest is waited for. QEMU takes a connection before the guest does, and asks
/// that more and more seldom: so a new attempt is made soon, and each second one may take twice
/// as long, for a guest that is only slow.
const FIRST_CONNECT: u32 = 5;
/// What is read of ssh's own messages, in bytes.
const MESSAGES: usize = 4096;
/// So much of what a command says is kept, in bytes.
const OUTPUT: u64 = 64 * 1024;
/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(200);

/// A way into one guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ssh {
    /// ssh's program.
    pub program: PathBuf,
    /// The forwarded port on 127.0.0.1.
    pub port: u16,
    /// The guest's user.
    pub user: String,
    /// The file with our private key, 0600.
    pub identity: PathBuf,
    /// The file with the guest's key, under `alias` ([`known_host`]).
    pub known_hosts: PathBuf,
    /// What the guest is called in that file.
    pub alias: String,
}

/// How a command over SSH ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It ran, and ended with this code; 128 and more for a signal.
    Code(i32),
    /// ssh did not get so far, or lost the connection; in its words.
    Lost(String),
}

impl Ssh {
    /// ssh's program.
    ///
    /// # Errors
    /// `Unsupported` when it is not installed.
    pub fn find() -> Result<PathBuf> {
        SEARCH.split(':').map(|folder| Path::new(folder).join("ssh")).find(|path| path.is_file()).ok_or_else(
            || {
                Error::new(Code::Unsupported, "ssh is not installed").fix(
                "install it (Debian, Ubuntu: sudo apt-get install openssh-client; Fedora: sudo dnf install \
                 openssh-clients)",
            )
            },
        )
    }

    /// ssh's program and arguments for a command line of the guest's shell ([`login_bash`]);
    /// with `tty` it gets a terminal, whose other side is ssh's standard input. What ssh itself
    /// has to say goes to the file `messages`, so that it is not taken for the command's output
    /// ([`Self::ended`]).
    ///
    /// # Errors
    /// `InvalidInput` for a path or name that ssh would take otherwise.
    pub fn argv(&self, line: &str, tty: bool, messages: &Path) -> Result<Vec<String>> {
        self.argv_within(CONNECT, line, tty, messages)
    }

    fn argv_within(&self, connect: u32, line: &str, tty: bool, messages: &Path) -> Result<Vec<String>> {
        if self.user.is_empty()
            || !self.user.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
        {
            return Err(Error::invalid("user", format!("'{}' can't be a user", self.user.escape_default())));
        }
        if line.contains('\0') {
            return Err(Error::invalid("command", "holds a NUL byte").fix("remove it"));
        }
        let plain = |field: &str, path: &Path| {
            path.to_str().map(str::to_owned).ok_or_else(|| {
                Error::invalid(field, format!("'{}' is no UTF-8", path.display())).fix("use another home")
            })
        };
        let mut argv = vec![plain("program", &self.program)?, "-F".into(), "none".into()];
        let connect = connect.to_string();
        let (identity, known_hosts) =
            (option_path("identity", &self.identity)?, option_path("known_hosts", &self.known_hosts)?);
        let settings = [
            ("IdentityFile", identity.as_str()),
            ("IdentitiesOnly", "yes"),
            ("IdentityAgent", "none"),
            ("UserKnownHostsFile", &known_hosts),
            ("GlobalKnownHostsFile", "/dev/null"),
            ("HostKeyAlias", &self.alias),
            ("HostKeyAlgorithms", "ssh-ed25519"),
            ("StrictHostKeyChecking", "yes"),
            ("UpdateHostKeys", "no"),
            ("CheckHostIP", "no"),
            ("BatchMode", "yes"),
            ("PreferredAuthentications", "publickey"),
            ("ConnectTimeout", &connect),
            // A guest that was suspended is silent for a while, and a broken one for ever.
            ("ServerAliveInterval", "15"),
            ("ServerAliveCountMax", "8"),
            ("ClearAllForwardings", "yes"),
            ("ForwardAgent", "no"),
            ("ForwardX11", "no"),
            ("ControlPath", "none"),
            ("PermitLocalCommand", "no"),
            ("EscapeChar", "none"),
            ("LogLevel", "ERROR"),
        ];
        for (name, value) in settings {
            argv.extend(["-o".to_owned(), format!("{name}={value}")]);
        }
        argv.extend(["-E".to_owned(), plain("messages", messages)?]);
        argv.extend(["-p".to_owned(), self.port.to_string(), "-l".to_owned(), self.user.clone()]);
        // Twice: also when our own standard input is no terminal, but a pipe that is one's end.
        argv.push(if tty { "-tt" } else { "-T" }.to_owned());
        argv.extend(["--".to_owned(), "127.0.0.1".to_owned(), line.to_owned()]);
        Ok(argv)
    }

    /// How it ended: ssh's exit code, read with what it wrote to `messages`.
    ///
    /// # Errors
    /// `Conflict` when the guest has another key than the pinned one, which no waiting mends.
    pub async fn ended(&self, status: ExitStatus, messages: &Path) -> Result<Ended> {
        use std::os::unix::process::ExitStatusExt;
        let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
        if code != OWN_FAILURE {
            return Ok(Ended::Code(code));
        }
        let said = tokio::fs::read(messages).await.unwrap_or_default();
        let said =
            String::from_utf8_lossy(said.get(..MESSAGES.min(said.len())).unwrap_or_default()).into_owned();
        if said.contains("Host key verification failed") || said.contains("REMOTE HOST IDENTIFICATION") {
            return Err(Error::new(
                Code::Conflict,
                format!("what answers on 127.0.0.1:{} is not the guest: it has another host key", self.port),
            )
            .field("port")
            .fix("see which program listens there (ss -ltnp); remake the instance if the guest's key was changed"));
        }
        if said.trim().is_empty() { Ok(Ended::Code(code)) } else { Ok(Ended::Lost(tame(&said))) }
    }

    /// Waits until the guest lets us in. `messages` is a file as for [`Self::argv`].
    ///
    /// # Errors
    /// `Timeout` with ssh's last words, or as for [`Self::ended`].
    pub async fn answers(&self, limit: Duration, messages: &Path) -> Result<()> {
        let until = Instant::now() + limit;
        let mut last = "no attempt was made".to_owned();
        let mut attempt = 0u32;
        while Instant::now() < until {
            let connect = FIRST_CONNECT.saturating_mul(1 << (attempt / 2).min(8)).min(CONNECT);
            attempt += 1;
            match tokio::time::timeout_at(until, self.said(connect, "true", messages)).await {
                Ok(ended) => match ended?.0 {
                    Ended::Code(0) => return Ok(()),
                    Ended::Code(code) => last = format!("'true' ended with {code}"),
                    Ended::Lost(why) => last = why,
                },
                Err(_) => break,
            }
            tokio::time::sleep(PAUSE).await;
        }
        Err(Error::new(Code::Timeout, format!("the guest did not answer SSH within {limit:?}: {last}"))
            .fix("see the instance's serial.log for what its system does"))
    }

    /// Runs a command line and returns how it ended, and the first 64 KiB of its standard output.
    ///
    /// # Errors
    /// As for [`Self::argv`] and [`Self::ended`].
    pub async fn output(&self, line: &str, messages: &Path) -> Result<(Ended, Vec<u8>)> {
        self.said(CONNECT, line, messages).await
    }

    async fn said(&self, connect: u32, line: &str, messages: &Path) -> Result<(Ended, Vec<u8>)> {
        let argv = self.argv_within(connect, line, false, messages)?;
        let failed = |e| Error::internal("ssh could not be run", e);
        // Its own messages are added to what there is.
        match tokio::fs::remove_file(messages).await {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(failed(e)),
            _ => {}
        }
        let mut ssh = command(&self.program);
        ssh.args(argv.get(1..).unwrap_or_default()).stdin(Stdio::null()).stderr(Stdio::null());
        let mut child = ssh.stdout(Stdio::piped()).spawn().map_err(failed)?;
        let out = child.stdout.take();
        // A guest may say as much as it likes, and what it says is for a few words of an error.
        let (out, status) = tokio::join!(read_some(out, OUTPUT), child.wait());
        Ok((self.ended(status.map_err(failed)?, messages).await?, out))
    }
}

/// A path as the value of an option: quoted, with its `%` doubled; ssh expands those, and `~`
/// and `${…}` at places of its own, so paths that have such are refused.
fn option_path(field: &str, path: &Path) -> Result<String> {
    let text =
        path.to_str().filter(|text| path.is_absolute() && !text.contains(['"', '\\', '$', '\n', '\0']));
    match text {
        Some(text) => Ok(format!("\"{}\"", text.replace('%', "%%"))),
        None => Err(Error::invalid(field, format!("ssh can't be given '{}'", path.display()))
            .fix("use a home whose path is absolute and has no '\"', '\\' or '$'")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_the_caller_is_an_option() {
        let ssh = Ssh {
            program: "/usr/bin/ssh".into(),
            port: 40022,
            user: "root".into(),
            identity: "/h/a b%c".into(),
            known_hosts: "/h/known".into(),
            alias: "clawfarm-x".into(),
        };
        let argv = ssh.argv("-oProxyCommand=x", true, Path::new("/h/said")).unwrap();
        assert_eq!(argv[argv.len() - 4..], ["-tt", "--", "127.0.0.1", "-oProxyCommand=x"]);
        assert!(argv.contains(&"IdentityFile=\"/h/a b%%c\"".to_owned()), "{argv:?}");
        let mut other = ssh.clone();
        other.user = "-x".into();
        other.identity = "/h/$x".into();
        assert_eq!(other.argv("x", false, Path::new("/s")).unwrap_err().field_name(), Some("identity"));
        other.user = "a b".into();
        assert_eq!(other.argv("x", false, Path::new("/s")).unwrap_err().field_name(), Some("user"));
    }
}
