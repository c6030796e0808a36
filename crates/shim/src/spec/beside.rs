//! What goes beside a claw, and how it is asked to end.

use std::path::PathBuf;

use clawfarm_model::{Error, Result};
use serde::{Deserialize, Serialize};

use super::{User, absolute};

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
        match &self.listens {
            Some(socket) => absolute("helpers.listens", socket),
            None => Ok(()),
        }
    }
}
