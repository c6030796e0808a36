//! A guest's console on disk.

use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

use rustix::fs::{Mode, OFlags};

/// Cuts a log that QEMU appends to down to its last half when it is over `max` bytes: a guest
/// that writes without end must not fill the disk. Returns whether it did.
///
/// QEMU bounds no file. It opens the console's with `append=on`, so its next write goes to the
/// end of the shortened file; what it writes in the instant between the copy and the cut is lost.
///
/// # Errors
/// When the file is no plain file, or can't be read or written.
pub fn bound_log(path: &Path, max: u64) -> io::Result<bool> {
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let mut file = std::fs::File::from(rustix::fs::open(path, flags, Mode::empty())?);
    let about = file.metadata()?;
    if !about.is_file() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("'{}' is no plain file", path.display()),
        ));
    }
    if about.len() <= max {
        return Ok(false);
    }
    let mut last = Vec::new();
    file.seek(SeekFrom::Start(about.len() - max / 2))?;
    Read::by_ref(&mut file).take(max).read_to_end(&mut last)?;
    // A line that was cut through is left out.
    let from = last.iter().position(|b| *b == b'\n').map_or(0, |at| at + 1);
    file.seek(SeekFrom::Start(0))?;
    file.write_all(&last[from..])?;
    file.set_len((last.len() - from) as u64)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_half_stays_and_a_writer_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("serial.log");
        let mut writer = std::fs::OpenOptions::new().append(true).create(true).open(&path).unwrap();
        for n in 0..100 {
            writeln!(writer, "line {n:04}").unwrap();
        }
        assert!(!bound_log(&path, 1000).unwrap());
        assert!(bound_log(&path, 200).unwrap());
        writeln!(writer, "more").unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("line 00") && text.ends_with("line 0099\nmore\n"), "{text}");
        assert!(text.len() <= 105);
    }

    #[test]
    fn a_link_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("file"), folder.path().join("link"));
        std::fs::write(&file, [b'x'; 100]).unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        assert!(bound_log(&link, 10).is_err());
        assert_eq!(std::fs::metadata(&file).unwrap().len(), 100);
    }
}
