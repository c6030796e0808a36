//! What goes beside a claw, and how it is asked to end.

use std::path::PathBuf;

use clawfarm_model::{Error, Result};
use serde::{Deserialize, Serialize};

use super::{LandlockSpec, User, absolute};

/// A program that the claw needs beside it, such as the one that serves a folder to a virtual
/// machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HelperSpec {
    /// What it is called in messages.
    pub name: String,
    /// The program and its arguments, as for the claw.
    pub argv: Vec<String>,
    /// Which user it gets.
    #[serde(default)]
    pub user: RunsAs,
    /// The unix socket, absolute, that it must listen on before the claw is executed; the claw's
    /// user gets it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listens: Option<PathBuf>,
    /// The files that it may use, of those that [`super::ShimSpec::landlock`] allows to all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub landlock: Option<LandlockSpec>,
    /// The folder that it serves to the claw. It may use that, too, and with it nothing can be made
    /// setuid or setgid, wherever it is: somebody here could execute it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serves: Option<ServedSpec>,
}

/// A folder whose path somebody else may change at any moment, as the workspace's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServedSpec {
    /// The folder, absolute. No part of the path may be a link.
    pub folder: PathBuf,
    /// Which it is, as who decided about it saw it: device and number (`stat(2)`). Another one in
    /// its place is refused.
    pub inode: (u64, u64),
    /// It may not write there.
    #[serde(default)]
    pub read_only: bool,
}

/// Which user a helper runs as. None of them has any capability.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunsAs {
    /// The claw's.
    #[default]
    Claw,
    /// The server's, for files that belong to it.
    Server,
    /// This one, for files that belong to it. Needs root.
    User(User),
}

/// A message that asks the claw to end, for one that does not understand SIGTERM as such: QEMU
/// would switch its machine off like a power cut.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AskSpec {
    /// The unix socket, absolute, that it listens on.
    pub socket: PathBuf,
    /// What is written there. Said again every few seconds until it has ended: a system that
    /// starts hears nothing yet.
    pub text: String,
    /// What is said before, to one that stands still.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wake: Option<WakeSpec>,
}

/// How a claw that was put to sleep is let go on, where that is not the shim's own freezer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WakeSpec {
    /// A file of JSON, absolute, that only the server writes.
    pub file: PathBuf,
    /// Its field that is `true` while the claw is to stand still; only then is it let go on.
    pub field: String,
    /// What lets it go on.
    pub text: String,
}

impl AskSpec {
    pub(super) fn check(&self) -> Result<()> {
        absolute("ask.socket", &self.socket)?;
        self.wake.as_ref().map_or(Ok(()), |wake| absolute("ask.wake.file", &wake.file))
    }
}

impl HelperSpec {
    pub(super) fn check(&self) -> Result<()> {
        if self.argv.first().is_none_or(String::is_empty) || self.argv.iter().any(|arg| arg.contains('\0')) {
            return Err(Error::invalid("helpers.argv", format!("'{}' can't be executed", self.name))
                .fix("give at least the program to run, and no NUL bytes"));
        }
        if let RunsAs::User(user) = self.user
            && (user.uid == 0 || user.gid == 0)
        {
            return Err(Error::invalid("helpers.user", "root can't be a helper's own user")
                .fix("choose ids above 0, or the server's user"));
        }
        if let Some(served) = &self.serves {
            absolute("helpers.serves.folder", &served.folder)?;
        }
        match &self.listens {
            Some(socket) => absolute("helpers.listens", socket),
            None => Ok(()),
        }
    }
}
