//! The unit that runs the server.

use std::path::{Path, PathBuf};

use clawfarm_model::Error;

use super::quote;

/// The unit's name.
pub(crate) const NAME: &str = "clawfarm.service";
/// What the file of a unit that this program wrote begins with: no other is touched.
pub(crate) const MARK: &str =
    "# Written by 'clawfarm service install'; 'clawfarm service uninstall' removes it.";

/// Whose service it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    /// Of the user who installs it, run by the user's own systemd.
    User,
    /// Of the machine. As root each claw has a user id of its own; as another user it has not.
    System {
        /// Another user to run it as.
        run_as: Option<String>,
    },
}

/// What the unit is made from.
#[derive(Clone, Debug)]
pub(crate) struct Unit {
    /// Whose.
    pub(crate) scope: Scope,
    /// This program.
    pub(crate) program: PathBuf,
    /// The server's home.
    pub(crate) home: PathBuf,
    /// Further options of `serve`.
    pub(crate) options: Vec<String>,
    /// Variables for it.
    pub(crate) environment: Vec<(String, String)>,
}

/// For both kinds. Why each is there stands in docs/design.
const SERVICE: &str = "\
# The claws run under keepers of their own, which are left alone when the server is stopped or
# started anew: only its main process is ended.
KillMode=process
Delegate=yes
# A claw that runs out of memory is its keeper's affair, and no reason to stop the server.
OOMPolicy=continue
TasksMax=infinity
LimitNOFILE=65536
UMask=0077
Restart=always
RestartSec=2
TimeoutStartSec=300
TimeoutStopSec=60
WatchdogSec=120
NoNewPrivileges=yes
LockPersonality=yes
RestrictRealtime=yes
";

/// What needs the machine's own systemd. Claws inherit all of it. Not among it, because claws
/// or their keepers need them: a private /tmp (it would end with the server), private devices,
/// no new namespaces, no writable memory that can be executed, a filter of system calls.
const SYSTEM: &str = "\
ProtectSystem=full
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectClock=yes
CapabilityBoundingSet=~CAP_SYS_MODULE CAP_SYS_RAWIO CAP_SYS_TIME CAP_SYS_BOOT CAP_SYSLOG CAP_WAKE_ALARM
";

impl Unit {
    /// Where it belongs. `config` is the user's configuration folder.
    pub(crate) fn path(scope: &Scope, config: &Path) -> PathBuf {
        match scope {
            Scope::User => config.join("systemd/user").join(NAME),
            Scope::System { .. } => Path::new("/etc/systemd/system").join(NAME),
        }
    }

    /// The unit as text.
    ///
    /// # Errors
    /// `InvalidInput` for what a unit file can't hold.
    pub(crate) fn text(&self) -> Result<String, Error> {
        let mut exec = format!(
            "{} \"serve\" \"--home\" {}",
            quote::program(&self.program)?,
            quote::path("--home", &self.home)?
        );
        for option in &self.options {
            exec.push(' ');
            exec.push_str(&quote::word("options", option)?);
        }
        let mut text = format!("{MARK}\n[Unit]\nDescription=clawfarm, the server of a fleet of claws\n");
        if matches!(self.scope, Scope::System { .. }) {
            text.push_str("After=network-online.target\nWants=network-online.target\n");
        }
        text.push_str("StartLimitIntervalSec=0\n\n[Service]\nType=notify\nNotifyAccess=main\n");
        text.push_str(&format!("ExecStart={exec}\nWorkingDirectory=/\n"));
        if let Scope::System { run_as: Some(user) } = &self.scope {
            // Checked to be a user's name by whoever looked it up.
            text.push_str(&format!("User={}\n", user.replace('%', "%%")));
        }
        for (name, value) in &self.environment {
            text.push_str(&format!("Environment={}\n", quote::word(name, &format!("{name}={value}"))?));
        }
        text.push_str(SERVICE);
        let wanted_by = match self.scope {
            Scope::User => "default.target",
            Scope::System { .. } => {
                text.push_str(SYSTEM);
                "multi-user.target"
            }
        };
        text.push_str(&format!("\n[Install]\nWantedBy={wanted_by}\n"));
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::process::Command;

    use super::*;

    fn unit(scope: Scope) -> Unit {
        Unit {
            scope,
            program: "/usr/local/bin/clawfarm".into(),
            home: "/srv/my claws/50% $HOME \"q\"".into(),
            options: vec!["--listen".into(), "127.0.0.1:8420".into()],
            environment: vec![("CLAWFARM_LOG".into(), "info,clawfarm_control=debug".into())],
        }
    }

    #[test]
    fn the_units_are_as_agreed() {
        insta::assert_snapshot!("user", unit(Scope::User).text().expect("a unit"));
        insta::assert_snapshot!("system", unit(Scope::System { run_as: None }).text().expect("a unit"));
        let run_as = Scope::System { run_as: Some("claws".into()) };
        assert!(unit(run_as).text().expect("a unit").contains("\nUser=claws\n"));
    }

    /// systemd itself reads the units, with paths as odd as it takes.
    #[test]
    fn systemd_takes_the_units() {
        let folder = tempfile::tempdir().expect("a folder");
        let odd = folder.path().join("a b %h $HOME ü;#");
        std::fs::create_dir(&odd).expect("made");
        symlink(std::env::current_exe().expect("this program"), odd.join("claw farm")).expect("linked");
        for scope in
            [Scope::User, Scope::System { run_as: None }, Scope::System { run_as: Some("root".into()) }]
        {
            let mut unit = unit(scope.clone());
            unit.program = odd.join("claw farm");
            let file = folder.path().join(NAME);
            std::fs::write(&file, unit.text().expect("a unit")).expect("written");
            let mut verify = Command::new("systemd-analyze");
            verify.arg("verify").arg("--man=no");
            if scope == Scope::User {
                verify.arg("--user").env("XDG_RUNTIME_DIR", folder.path());
            }
            let done = verify.arg(&file).output().expect("systemd-analyze runs; `make test` installs it");
            let said = String::from_utf8_lossy(&done.stderr);
            // It looks at other units of the machine as well, which are none of our business.
            let ours: Vec<&str> = said.lines().filter(|line| line.contains("clawfarm")).collect();
            assert!(done.status.success() && ours.is_empty(), "{scope:?}: {said}");
        }
    }
}
