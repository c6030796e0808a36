//! Where everything is.
//!
//! ```text
//! <home>/                     0700
//!   claws/<CLAWID>/           0700; what is in it beside the following is the shim's (`clawfarm_shim::layout`)
//!     instance.json           what is needed to find the instance again without the store
//!     state/                  the claw's own: its home, its configuration, its workspace
//!     volumes/                the claw's own: what is shared into it
//!     logs/claw/              the claw's own: its own log file
//!     tmp/                    the claw's own
//!     copy/                   its data before an update that is under way: state/, volumes/, number
//!   claws/.removing-<CLAWID>  a removal that is under way
//!   datasets/<CLAWID>/        data of a removed instance: state/, volumes/, dataset.json
//!   datasets/.<CLAWID>.partial  a dataset that is being set aside
//! <cache>/installs/<folder>/  one shared, read-only installation a version
//! ```
//!
//! A claw can write only inside of its own folders, never beside them: so no name that the
//! server takes for granted can be replaced by a link.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use clawfarm_model::ClawId;

pub(crate) use clawfarm_local::state::{STATE, WORKSPACE};

/// What is shared into the claw.
pub(crate) const VOLUMES: &str = "volumes";
/// Its temporary files.
pub(crate) const TMP: &str = "tmp";
/// Its own log file.
pub(crate) const CLAW_LOGS: &str = "logs/claw";

/// The folders of one server.
#[derive(Clone, Debug)]
pub(crate) struct Paths {
    pub(crate) home: PathBuf,
    pub(crate) cache: PathBuf,
}

impl Paths {
    pub(crate) fn claws(&self) -> PathBuf {
        self.home.join("claws")
    }

    pub(crate) fn claw(&self, id: &ClawId) -> PathBuf {
        self.claws().join(id.as_str())
    }

    pub(crate) fn datasets(&self) -> PathBuf {
        self.home.join("datasets")
    }

    pub(crate) fn dataset(&self, id: &ClawId) -> PathBuf {
        self.datasets().join(id.as_str())
    }
}

const REMOVING: &str = ".removing-";

/// The name of an instance's folder while it is being removed. No id begins with a dot.
pub(crate) fn removing(id: &ClawId) -> OsString {
    format!("{REMOVING}{id}").into()
}

/// Whether a name is one that [`removing`] gives.
pub(crate) fn is_removing(name: &OsStr) -> bool {
    name.to_str().and_then(|text| text.strip_prefix(REMOVING)).is_some_and(|id| ClawId::new(id).is_ok())
}

/// The name of a dataset while it is being set aside.
pub(crate) fn partial(id: &ClawId) -> OsString {
    format!(".{id}.partial").into()
}
