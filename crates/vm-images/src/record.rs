//! What is written down of an image.

use clawfarm_model::Timestamp;
use clawfarm_model::vm_image::VmImageReference;
use serde::{Deserialize, Serialize};

use crate::format::Format;

/// What an image is, as its `image.json` says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// What it is called.
    pub reference: VmImageReference,
    /// How the file is laid out.
    pub format: Format,
    /// The size of the file, in bytes.
    pub size_bytes: u64,
    /// The size of the disk in it, in bytes.
    pub disk_bytes: u64,
    /// The digest of the file: `sha256:` and 64 of 0-9 and a-f.
    pub digest: String,
    /// Where it came from.
    pub origin: Origin,
    /// When it was here, whole.
    pub made_at: Timestamp,
}

/// Where an image came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "by")]
pub enum Origin {
    /// A distribution's site or a mirror of it.
    Fetched {
        /// The file's address.
        url: String,
        /// Whether the list of digests was signed by its maker.
        signature: Signature,
    },
    /// A file of this machine.
    Imported {
        /// What the file was called, without its folder.
        file: String,
    },
    /// Made here from packages.
    Built {
        /// The digest of the recipe that it was made by.
        recipe: String,
    },
}

/// What is known of who signed a list of digests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Signature {
    /// Its maker's key did.
    Good,
    /// This machine has no keyring to check it with.
    NoKeyring,
    /// Its maker does not sign.
    NotSigned,
}
