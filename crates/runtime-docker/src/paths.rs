//! Where everything is.
//!
//! ```text
//! <home>/claws/<CLAWID>/       0700, the server's
//!   container.json             what is needed to find the instance again without the store
//!   config/                    the container user's: mounted as its state folder
//!   workspace/                 the container user's: mounted at `workspace` in the state folder
//!   dot-config/                the container user's: mounted as ~/.config
//! <home>/datasets/<CLAWID>/    data of a removed instance: the three folders, container-dataset.json
//! ```
//!
//! The three folders lie beside each other, never one in the other: a claw could put a link in
//! the place of a folder within its own, and the engine would mount what the link leads to.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clawfarm_model::ClawId;

/// The claw's state.
pub(crate) const CONFIG: &str = "config";
/// Where it works for its user.
pub(crate) const WORKSPACE: &str = "workspace";
/// What programs keep in `~/.config`.
pub(crate) const DOT_CONFIG: &str = "dot-config";
/// All that is the claw's.
pub(crate) const PARTS: [&str; 3] = [CONFIG, WORKSPACE, DOT_CONFIG];

/// The home of the container's user.
pub(crate) const HOME_IN: &str = "/home/node";
/// Where the state is in the container.
pub(crate) const STATE_IN: &str = "/home/node/.openclaw";
/// Where the workspace is in the container.
pub(crate) const WORKSPACE_IN: &str = "/home/node/.openclaw/workspace";
/// Where `dot-config` is in the container.
pub(crate) const DOT_CONFIG_IN: &str = "/home/node/.config";
/// Where the software is in its image.
pub(crate) const INSTALL_IN: &str = "/app";
/// The port of the gateway in the container's own network, as in OpenClaw's own image.
pub(crate) const PORT_IN: u16 = 18_789;

/// The folders of one server.
#[derive(Clone, Debug)]
pub(crate) struct Paths {
    pub(crate) home: PathBuf,
}

impl Paths {
    pub(crate) fn claws(&self) -> PathBuf {
        self.home.join("claws")
    }

    pub(crate) fn claw(&self, id: &ClawId) -> PathBuf {
        self.claws().join(id.as_str())
    }

    /// What is known of images: what was pulled, and what builds printed.
    pub(crate) fn images(&self) -> PathBuf {
        self.home.join("images")
    }

    pub(crate) fn datasets(&self) -> PathBuf {
        self.home.join("datasets")
    }

    pub(crate) fn dataset(&self, id: &ClawId) -> PathBuf {
        self.datasets().join(id.as_str())
    }
}

/// The name of an instance's folder while it is being removed. No id begins with a dot.
pub(crate) fn removing(id: &ClawId) -> OsString {
    format!(".removing-{id}").into()
}

/// The name of a dataset while it is being set aside.
pub(crate) fn partial(id: &ClawId) -> OsString {
    format!(".{id}.partial").into()
}

/// Where a path relative to the state folder lies: in which of the parts, and where in it.
pub(crate) fn part_of(path: &Path) -> (&'static str, PathBuf) {
    match path.strip_prefix(WORKSPACE) {
        Ok(rest) if !rest.as_os_str().is_empty() => (WORKSPACE, rest.to_owned()),
        _ => (CONFIG, path.to_owned()),
    }
}
