//! A copy of an instance's data beside it, to go back to.
//!
//! The copy lies in the instance's folder, in a folder of the server's own that the claw is not
//! let into. It is made beside its place and renamed when it is whole. Putting it back moves
//! its parts, one rename each: what has been moved is gone from the copy, so doing it again goes
//! on where it was cut off.

use std::io;
use std::path::Path;

use clawfarm_model::{ClawId, Error, Result};

use crate::{Folder, Links, NewFile, copy_tree, io_error, size_on_disk};

/// The copy, in the instance's folder.
const COPY: &str = "copy";
/// A copy that is being made.
const HALF: &str = "copy.partial";
/// Its number, in it.
const NUMBER: &str = "number";
/// A number is short.
const NUMBER_LIMIT: u64 = 32;

/// The copy of an instance's data, there or not.
#[derive(Clone, Copy, Debug)]
pub struct KeptCopy<'a> {
    /// Whose.
    pub id: &'a ClawId,
    /// The instance's folder. Nothing in it may change meanwhile: the instance is down.
    pub dir: &'a Path,
    /// The folders in it that are its data.
    pub parts: &'a [&'a str],
}

impl KeptCopy<'_> {
    /// Makes it, unless there is a whole one of this number, which is kept as it is; one of
    /// another number is replaced. `give` gets each copied part, to make it the claw's own.
    /// `advance` hears how many bytes are copied so far, and ends the copy by returning
    /// `false`. Returns the bytes of its files.
    ///
    /// # Errors
    /// `Insufficient` when the disk is full: then there is no copy.
    pub fn make(
        &self,
        number: i64,
        give: impl Fn(&Folder) -> io::Result<()>,
        advance: &mut dyn FnMut(u64) -> bool,
    ) -> Result<u64> {
        let failed = |e| io_error(format!("copy the data of '{}'", self.id), e);
        let claw = Folder::open(self.dir).map_err(failed)?;
        if number_of(&claw).map_err(failed)? == Some(number) {
            return Ok(size_on_disk(&claw.folder(Path::new(COPY)).map_err(failed)?));
        }
        claw.remove(COPY.as_ref()).map_err(failed)?;
        claw.remove(HALF.as_ref()).map_err(failed)?;
        let made = self.copy(&claw, number, give, advance);
        if made.is_err()
            && let Err(error) = claw.remove(HALF.as_ref())
        {
            tracing::warn!(id = %self.id, %error, "half a copy is removed at the next attempt");
        }
        let bytes = made.map_err(failed)?;
        clawfarm_failpoint::point_blocking!(DataCopied);
        Ok(bytes)
    }

    fn copy(
        &self,
        claw: &Folder,
        number: i64,
        give: impl Fn(&Folder) -> io::Result<()>,
        advance: &mut dyn FnMut(u64) -> bool,
    ) -> io::Result<u64> {
        let half = claw.make_folder(Path::new(HALF), None)?;
        let mut bytes = 0;
        for part in self.parts {
            // A claw can lock its own folders, against a server that is not root too.
            claw.unlock(part.as_ref())?;
            let from = match claw.folder(Path::new(part)) {
                Ok(from) => from,
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(e) => return Err(e),
            };
            let to = half.make_folder(Path::new(part), None)?;
            // Links as they are: nobody follows them here, and they go back to their place.
            let before = bytes;
            bytes += copy_tree(&from, &to, Links::All, &mut |more| advance(before + more))?.bytes;
            give(&to)?;
        }
        let new = NewFile { mode: 0o600, owner: None, folder_owner: None };
        half.write(Path::new(NUMBER), number.to_string().as_bytes(), new)?;
        half.sync_file_system()?;
        claw.move_to(HALF.as_ref(), claw, COPY.as_ref())?;
        Ok(bytes)
    }

    /// Puts it in the place of the data. Done again, it goes on where it was cut off, and
    /// changes nothing once it is done.
    ///
    /// # Errors
    /// `NotFound` when there is no copy of this number.
    pub fn put_back(&self, number: i64) -> Result<()> {
        let failed = |e| io_error(format!("put the data of '{}' back", self.id), e);
        let claw = Folder::open(self.dir).map_err(failed)?;
        if number_of(&claw).map_err(failed)? != Some(number) {
            return Err(Error::not_found("copy of the data", self.id)
                .field("copy")
                .fix("the data stays as the newer version left it; see what is in the instance's folder"));
        }
        let copy = claw.folder(Path::new(COPY)).map_err(failed)?;
        for part in self.parts {
            if copy.kind(part.as_ref()).map_err(failed)?.is_some() {
                claw.remove(part.as_ref()).map_err(failed)?;
                clawfarm_failpoint::point_blocking!(DataTakenOut);
                copy.move_to(part.as_ref(), &claw, part.as_ref()).map_err(failed)?;
            }
        }
        Ok(())
    }

    /// Removes it. Gone already is a success.
    ///
    /// # Errors
    /// When it can't be removed.
    pub fn remove(&self) -> Result<()> {
        let failed = |e| io_error(format!("remove the copy of the data of '{}'", self.id), e);
        let claw = match Folder::open(self.dir) {
            Ok(claw) => claw,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(failed(e)),
        };
        claw.remove(HALF.as_ref()).map_err(failed)?;
        claw.remove(COPY.as_ref()).map_err(failed)
    }
}

/// The number of the whole copy that is there.
fn number_of(claw: &Folder) -> io::Result<Option<i64>> {
    let copy = match claw.folder(Path::new(COPY)) {
        Ok(copy) => copy,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    let text = copy.read(Path::new(NUMBER), NUMBER_LIMIT)?;
    Ok(text.and_then(|text| std::str::from_utf8(&text).ok()?.trim().parse().ok()))
}
