//! A file that is appended to in whole records and set aside when it is full.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use clawfarm_model::{Error, Result};

use crate::layout::LOG_FILE;

/// The newest log file with its predecessors.
#[derive(Debug)]
pub(super) struct RotatedFile {
    path: PathBuf,
    file: File,
    /// The end of the last whole record.
    size: u64,
    max_bytes: u64,
    keep: u32,
    #[cfg(test)]
    refuse_after: u64,
}

impl RotatedFile {
    pub(super) fn open(dir: &Path, max_bytes: u64, keep: u32) -> Result<Self> {
        let path = dir.join(LOG_FILE);
        let opened = fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .and_then(|()| open(&path))
            .and_then(|mut file| end_of_records(&mut file).map(|size| (file, size)));
        let (file, size) = opened.map_err(|error| {
            Error::internal(format!("{} could not be opened: {error}", path.display()), error)
                .fix("check that the disk has space and that the folder belongs to the server's user")
        })?;
        Ok(Self {
            path,
            file,
            size,
            max_bytes,
            keep,
            #[cfg(test)]
            refuse_after: u64::MAX,
        })
    }

    /// Appends a record, or nothing of it.
    pub(super) fn append(&mut self, record: &[u8]) -> io::Result<()> {
        let length = record.len() as u64;
        if self.size > 0 && self.size + length > self.max_bytes {
            self.rotate()?;
        }
        if let Err(error) = self.write(record) {
            // What was written of the record would be a torn line in the middle of the file.
            let _ = self.file.set_len(self.size);
            return Err(error);
        }
        self.size += length;
        Ok(())
    }

    #[cfg(not(test))]
    fn write(&mut self, record: &[u8]) -> io::Result<()> {
        self.file.write_all(record)
    }

    #[cfg(test)]
    fn write(&mut self, record: &[u8]) -> io::Result<()> {
        let room = usize::try_from(self.refuse_after).unwrap_or(usize::MAX);
        if record.len() > room {
            self.file.write_all(&record[..room])?;
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.file.write_all(record)
    }

    /// Plays a disk on which only so many bytes of each record find room.
    #[cfg(test)]
    pub(super) fn refuse_after(&mut self, bytes: u64) {
        self.refuse_after = bytes;
    }

    fn rotate(&mut self) -> io::Result<()> {
        for number in (1..self.keep).rev() {
            let moved = fs::rename(self.numbered(number), self.numbered(number + 1));
            if let Err(error) = moved.as_ref()
                && error.kind() != io::ErrorKind::NotFound
            {
                return moved;
            }
        }
        if self.keep > 0 {
            fs::rename(&self.path, self.numbered(1))?;
        } else {
            fs::remove_file(&self.path)?;
        }
        self.file = open(&self.path)?;
        self.size = 0;
        Ok(())
    }

    fn numbered(&self, number: u32) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(format!(".{number}"));
        name.into()
    }
}

fn open(path: &Path) -> io::Result<File> {
    File::options().read(true).append(true).create(true).mode(0o600).open(path)
}

/// The file's size, after a line that a crash has torn is closed.
fn end_of_records(file: &mut File) -> io::Result<u64> {
    let size = file.metadata()?.len();
    if size == 0 {
        return Ok(0);
    }
    let mut last = [0];
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;
    if last == *b"\n" {
        return Ok(size);
    }
    file.write_all(b"\n")?;
    Ok(size + 1)
}
