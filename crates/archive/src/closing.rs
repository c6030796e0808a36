//! The end of an archive: a skippable frame of Zstandard (RFC 8878, 3.1.2) with the SHA-256 of
//! every byte before it.

use std::io::{self, Read, Write};

use clawfarm_model::Result;
use sha2::{Digest, Sha256};

use crate::refused;

/// A skippable frame's magic number, the sixth of sixteen, and the length of what follows, both
/// little-endian.
const HEAD: [u8; 8] = [0x55, 0x2a, 0x4d, 0x18, 32, 0, 0, 0];
/// All of it.
const LENGTH: usize = HEAD.len() + 32;
const PIECE: usize = 1 << 16;

/// Writes through, and the closing frame at the end.
pub(crate) struct Closing<W> {
    inner: W,
    hash: Sha256,
}

impl<W: Write> Closing<W> {
    pub(crate) fn new(inner: W) -> Self {
        Self { inner, hash: Sha256::new() }
    }

    pub(crate) fn finish(mut self) -> io::Result<()> {
        self.inner.write_all(&HEAD)?;
        self.inner.write_all(&self.hash.finalize())?;
        self.inner.flush()
    }
}

impl<W: Write> Write for Closing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = self.inner.write(bytes)?;
        self.hash.update(&bytes[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Reads all but the closing frame, which it holds back.
pub(crate) struct Closed<R> {
    inner: R,
    hash: Sha256,
    /// Read, and not handed on: from `from` on. The last [`LENGTH`] bytes may be the frame.
    held: Vec<u8>,
    from: usize,
    ended: bool,
}

impl<R: Read> Closed<R> {
    pub(crate) fn new(inner: R) -> Self {
        Self { inner, hash: Sha256::new(), held: Vec::new(), from: 0, ended: false }
    }

    fn fill(&mut self) -> io::Result<()> {
        self.held.drain(..self.from);
        self.from = 0;
        while !self.ended && self.held.len() <= LENGTH {
            let had = self.held.len();
            self.held.resize(had + PIECE, 0);
            let read = match self.inner.read(&mut self.held[had..]) {
                Ok(read) => read,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {
                    self.held.truncate(had);
                    continue;
                }
                Err(e) => {
                    self.held.truncate(had);
                    return Err(e);
                }
            };
            self.held.truncate(had + read);
            self.ended = read == 0;
        }
        Ok(())
    }

    /// Whether nothing is left but the closing frame, and it fits what was read.
    pub(crate) fn close(mut self) -> Result<()> {
        let mut rest = [0];
        if self.read(&mut rest).map_err(|e| refused(format!("the archive can't be read to its end: {e}")))?
            > 0
        {
            return Err(refused("there is more in the archive than its contents"));
        }
        self.matches()
    }

    fn matches(self) -> Result<()> {
        let end = &self.held[self.from..];
        if end.len() < LENGTH || end[..HEAD.len()] != HEAD {
            return Err(refused("the archive is cut off: its closing frame is missing"));
        }
        if end[HEAD.len()..] != self.hash.finalize()[..] {
            return Err(refused("the archive is damaged: it is not what was written (its SHA-256 differs)"));
        }
        Ok(())
    }
}

impl<R: Read> Read for Closed<R> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        if self.held.len() - self.from <= LENGTH {
            self.fill()?;
        }
        let ready = (self.held.len() - self.from).saturating_sub(LENGTH).min(to.len());
        to[..ready].copy_from_slice(&self.held[self.from..self.from + ready]);
        self.hash.update(&to[..ready]);
        self.from += ready;
        Ok(ready)
    }
}

/// Reads a whole archive and says whether every byte of it is as it was written, without looking
/// at what is in it.
///
/// # Errors
/// `InvalidInput` on `archive` when it is cut off or damaged, or can't be read.
pub fn check_closed(archive: impl Read, advance: &mut dyn FnMut(u64)) -> Result<()> {
    let mut closed = Closed::new(archive);
    let mut piece = vec![0; PIECE];
    let mut all = 0;
    loop {
        match closed.read(&mut piece) {
            Ok(0) => return closed.matches(),
            Ok(read) => {
                all += read as u64;
                advance(all);
            }
            Err(e) => return Err(refused(format!("the archive can't be read to its end: {e}"))),
        }
    }
}
