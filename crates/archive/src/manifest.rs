//! What an archive says of itself, and what of it is believed.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use clawfarm_model::{ClawId, InstanceSpec, Result, Timestamp};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{DOT_CONFIG, STATE, VOLUMES, refused};

/// The form of an archive; a newer form has a higher number.
pub const FORMAT: u32 = 1;
/// The most entries: ten times an OpenClaw with large projects in its workspace.
pub const ENTRIES_MAX: usize = 500_000;
/// The largest manifest, in bytes: that many entries with long names.
pub const MANIFEST_MAX: u64 = 256 << 20;
/// The largest sum of all files' sizes, in bytes (16 TiB): beyond it lies no disk of an instance.
const SIZE_MAX: u64 = 16 << 40;
/// How deep folders may be nested: what walks them holds that many open.
const DEPTH_MAX: usize = clawfarm_files::MAX_DEPTH;
/// The folders at the top.
pub const PARTS: [&str; 3] = [DOT_CONFIG, STATE, VOLUMES];

/// The file `manifest.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// See [`FORMAT`].
    pub format: u32,
    /// The version of clawfarm that wrote it.
    pub clawfarm: String,
    /// When.
    pub created_at: Timestamp,
    /// What it is of.
    pub origin: Origin,
    /// Every folder, file and link, in the order in which they follow.
    pub entries: Vec<Entry>,
    /// What could not be taken along.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<LeftOut>,
}

/// The instance that an archive is of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Origin {
    /// Its id; also the archive's top folder.
    pub id: ClawId,
    /// Its name.
    pub name: clawfarm_model::name::InstanceName,
    /// What is needed to make it again. Its configuration refers to secrets by name.
    pub spec: InstanceSpec,
    /// The versions of its data's schemas, where its software tells them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub schemas: BTreeMap<String, u64>,
}

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its path below the top folder.
    #[serde(with = "path")]
    pub path: PathBuf,
    /// What it is.
    #[serde(flatten)]
    pub what: What,
}

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum What {
    /// A folder.
    Folder {
        /// Its permission bits.
        mode: u32,
    },
    /// A plain file.
    File {
        /// In bytes.
        size: u64,
        /// Its permission bits.
        mode: u32,
        /// When it was last written, in seconds since 1970.
        mtime: i64,
        /// Of its contents, in lower-case hexadecimal digits.
        sha256: String,
    },
    /// A symbolic link that leads to somewhere within its part.
    Link {
        /// Its text.
        #[serde(with = "path")]
        target: PathBuf,
    },
}

/// Something that is not in the archive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    /// Its path.
    #[serde(with = "path")]
    pub path: PathBuf,
    /// Why.
    pub why: String,
}

impl Manifest {
    /// Refuses what this program would never have written.
    pub(crate) fn check(&self) -> Result<()> {
        if self.format != FORMAT {
            return Err(refused(format!(
                "the archive has the form {}, and this clawfarm reads {FORMAT}",
                self.format
            ))
            .fix("use the version of clawfarm that wrote it, or a newer one"));
        }
        if self.entries.len() > ENTRIES_MAX {
            return Err(refused(format!(
                "{} entries are too many: {ENTRIES_MAX} are read",
                self.entries.len()
            )));
        }
        let (mut size, mut before): (u64, Option<&Entry>) = (0, None);
        let mut open: Vec<&Path> = Vec::new();
        for entry in &self.entries {
            check_path(&entry.path)?;
            if before.is_some_and(|before| before.path.components().ge(entry.path.components())) {
                return Err(wrong(&entry.path, "it is there twice, or out of order"));
            }
            before = Some(entry);
            let parent = entry.path.parent().unwrap_or(Path::new(""));
            while open.last().is_some_and(|folder| *folder != parent) {
                open.pop();
            }
            let at_the_top = parent.as_os_str().is_empty();
            if open.is_empty() && !at_the_top {
                return Err(wrong(&entry.path, "the folder that it lies in is missing"));
            }
            match &entry.what {
                What::Folder { mode } => {
                    check_mode(&entry.path, *mode)?;
                    open.push(&entry.path);
                }
                _ if at_the_top => return Err(wrong(&entry.path, "it is no folder")),
                What::File { size: its, mode, sha256, .. } => {
                    check_mode(&entry.path, *mode)?;
                    if sha256.len() != 64 || !sha256.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
                        return Err(wrong(&entry.path, "its checksum is none"));
                    }
                    size = size.saturating_add(*its);
                    if size > SIZE_MAX {
                        return Err(wrong(&entry.path, "all files together have more than 16 TiB"));
                    }
                }
                What::Link { target } => {
                    if !stays(&entry.path, target) {
                        return Err(wrong(&entry.path, "the link leads out of its folder"));
                    }
                }
            }
        }
        Ok(())
    }

    /// Whether there is a file in it at all.
    #[must_use]
    pub fn has_files(&self) -> bool {
        self.entries.iter().any(|entry| matches!(entry.what, What::File { .. }))
    }

    /// What its files hold together, in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let size = |entry: &Entry| if let What::File { size, .. } = &entry.what { *size } else { 0 };
        self.entries.iter().map(size).sum()
    }
}

/// An error about one entry.
pub(crate) fn wrong(path: &Path, what: &str) -> clawfarm_model::Error {
    let shown: String = path.to_string_lossy().chars().take(200).flat_map(char::escape_default).collect();
    refused(format!("'{shown}' in the archive: {what}"))
}

fn check_path(path: &Path) -> Result<()> {
    let bytes = path.as_os_str().as_bytes();
    let plain = path.components().all(|part| matches!(part, Component::Normal(_)));
    // `components` overlooks `a//b`, `a/./b` and `a/`.
    let written: PathBuf = path.components().collect();
    if bytes.is_empty() || !plain || written.as_os_str() != path.as_os_str() || bytes.contains(&0) {
        return Err(wrong(path, "that is no path below its folder"));
    }
    if path.components().count() > DEPTH_MAX {
        return Err(wrong(path, &format!("it is nested deeper than {DEPTH_MAX} levels")));
    }
    let first = path.components().next().map(Component::as_os_str);
    if !PARTS.iter().any(|part| first == Some(part.as_ref())) {
        return Err(wrong(path, "it is in none of the folders that an archive has"));
    }
    Ok(())
}

fn check_mode(path: &Path, mode: u32) -> Result<()> {
    if mode & !0o777 != 0 {
        return Err(wrong(path, "it has permission bits that are not restored"));
    }
    Ok(())
}

/// Whether a link stays, by its text, within the part that it is in.
pub(crate) fn stays(link: &Path, target: &Path) -> bool {
    if target.as_os_str().is_empty() || target.as_os_str().as_bytes().contains(&0) {
        return false;
    }
    // Of the part's own folder and the link's own name, neither is gone up through.
    let Some(mut depth) = link.components().count().checked_sub(2) else { return false };
    for part in target.components() {
        match part {
            Component::Normal(_) => depth += 1,
            Component::CurDir => {}
            Component::ParentDir => match depth.checked_sub(1) {
                Some(up) => depth = up,
                None => return false,
            },
            Component::RootDir | Component::Prefix(_) => return false,
        }
    }
    true
}

/// Paths as JSON: a text; or the bytes in hexadecimal digits, where they are no UTF-8.
mod path {
    use super::*;

    #[derive(Serialize, Deserialize)]
    #[serde(untagged)]
    enum Written {
        Text(String),
        Bytes { bytes: String },
    }

    pub(super) fn serialize<S: Serializer>(path: &Path, to: S) -> std::result::Result<S::Ok, S::Error> {
        match path.to_str() {
            Some(text) => to.serialize_str(text),
            None => {
                let bytes = path.as_os_str().as_bytes().iter().map(|b| format!("{b:02x}")).collect();
                Written::Bytes { bytes }.serialize(to)
            }
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> std::result::Result<PathBuf, D::Error> {
        match Written::deserialize(from)? {
            Written::Text(text) => Ok(text.into()),
            Written::Bytes { bytes } => {
                let digit = |b: u8| char::from(b).to_digit(16).and_then(|d| u8::try_from(d).ok());
                let pairs = bytes.as_bytes().chunks(2);
                let byte = |pair: &[u8]| match *pair {
                    [a, b] => Some(digit(a)? << 4 | digit(b)?),
                    _ => None,
                };
                let bytes: Option<Vec<u8>> = pairs.map(byte).collect();
                let bytes = bytes
                    .ok_or_else(|| serde::de::Error::custom("bytes in hexadecimal digits are wanted"))?;
                Ok(OsString::from_vec(bytes).into())
            }
        }
    }
}
