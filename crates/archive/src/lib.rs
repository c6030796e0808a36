//! The archive that a backup of an instance is: `tar` compressed with Zstandard.
//!
//! ```text
//! <CLAWID>/                 one top folder
//!   manifest.json           first: what it is of, and every entry with size and SHA-256
//!   state/ ...              the claw's own folder, its workspace in it
//!   dot-config/ ...         what its programs keep in ~/.config
//!   volumes/ ...            what was shared into it
//! ```
//!
//! It ends with a frame that decompressors skip and that holds the SHA-256 of all before it
//! (`closing`): so any byte that is changed, missing or added is noticed, whatever it means.
//! That is against accidents. Against forgery nothing is believed: what is read has to be, entry
//! by entry and in order, what the manifest says, and the manifest has to be one that this
//! program could have written (`manifest`).
//!
//! Both ways a file is handled in pieces; only the manifest is held in memory.

mod closing;
mod manifest;
mod read;
mod write;

pub use closing::check_closed;
pub use manifest::{ENTRIES_MAX, Entry, FORMAT, LeftOut, MANIFEST_MAX, Manifest, Origin, PARTS, What};
pub use read::unpack;
pub use write::pack;

/// The claw's own folder.
pub const STATE: &str = "state";
/// Where it works for its user, in [`STATE`].
pub const WORKSPACE: &str = "workspace";
/// What its programs keep in `~/.config`.
pub const DOT_CONFIG: &str = "dot-config";
/// What was shared into it.
pub const VOLUMES: &str = "volumes";

/// The file that tells what the archive is of.
const MANIFEST: &str = "manifest.json";
/// Pieces in which files are read and written, in bytes.
const PIECE: usize = 1 << 17;

/// An error about an archive that is not taken.
fn refused(what: impl Into<String>) -> clawfarm_model::Error {
    clawfarm_model::Error::invalid("archive", what)
        .fix("use another copy of the file, or another backup: nothing was made of this one")
}

#[cfg(test)]
mod tests;
