//! Asks systemd, by its own command.

use std::io;
use std::process::Stdio;
use std::time::Duration;

use clawfarm_model::{Code, Error};
use tokio::process::Command;
use tokio::time::timeout;

use super::Scope;
use crate::output::clean_block;

/// Starting waits for the server's READY=1, which the unit gives five minutes.
const LIMIT: Duration = Duration::from_secs(320);

/// The systemd of a scope.
pub(crate) struct Systemctl {
    user: bool,
}

impl Systemctl {
    /// The one that a scope's units belong to.
    pub(crate) fn of(scope: &Scope) -> Self {
        Self { user: *scope == Scope::User }
    }

    /// The command as a person types it.
    pub(crate) fn typed(&self, rest: &str) -> String {
        if self.user { format!("systemctl --user {rest}") } else { format!("systemctl {rest}") }
    }

    /// Whether there is a systemd that can be asked.
    ///
    /// # Errors
    /// `Unsupported`, with what to do instead.
    pub(crate) async fn check(&self) -> Result<(), Error> {
        self.run(&["show", "--property=Version"]).await.map(drop)
    }

    /// Does something, and returns what it printed.
    ///
    /// # Errors
    /// `Unsupported` when there is no systemd, or it refuses.
    pub(crate) async fn run(&self, arguments: &[&str]) -> Result<String, Error> {
        let (success, out, err) = self.output(arguments).await?;
        if success {
            return Ok(out);
        }
        let typed = self.typed(&arguments.join(" "));
        Err(Error::new(Code::Unsupported, format!("{typed}: {}", clean_block(err.trim()))).fix(
            if self.user {
                "log in as the user (not with su or sudo), so that its systemd runs; without systemd run 'clawfarm serve' under what starts services here, with what 'clawfarm service install --print' shows"
            } else {
                "without systemd run 'clawfarm serve' under what starts services here, with what 'clawfarm service install --system --print' shows"
            },
        ))
    }

    /// One word about the unit, such as `active`: an answer that is also a failure.
    pub(crate) async fn word(&self, question: &str, unit: &str) -> Result<String, Error> {
        let (_, out, _) = self.output(&[question, unit]).await?;
        Ok(out.lines().next().unwrap_or("unknown").trim().to_owned())
    }

    async fn output(&self, arguments: &[&str]) -> Result<(bool, String, String), Error> {
        let mut command = Command::new("systemctl");
        if self.user {
            command.arg("--user");
        }
        command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
        let done = match timeout(LIMIT, command.output()).await {
            Ok(Ok(done)) => done,
            Ok(Err(e)) if e.kind() == io::ErrorKind::NotFound => {
                return Err(Error::new(Code::Unsupported, "this machine has no systemd: there is no systemctl")
                    .fix("run 'clawfarm serve' under what starts services here; 'clawfarm service install --print' shows the command and its settings"));
            }
            Ok(Err(e)) => return Err(Error::internal(format!("systemctl can't be run: {e}"), e)),
            Err(_) => {
                return Err(Error::new(
                    Code::Timeout,
                    format!("systemctl {} took longer than {} s", arguments.join(" "), LIMIT.as_secs()),
                )
                .fix(self.typed(&format!("status {}", super::NAME))));
            }
        };
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok((done.status.success(), text(&done.stdout), text(&done.stderr)))
    }
}
