//! Reading `output.log` and its set-aside files as one, while they are being rotated.
//!
//! A file keeps its inode when it is set aside. So the place in the log is an open file and
//! an offset: when that file is read to its end and is no longer the newest, the next one is
//! the file that stands just before it by number.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use clawfarm_runtime::{LogLine, LogQuery, OutputStream};
use clawfarm_shim::layout::{LOG_DIR, LOG_FILE};
use clawfarm_shim::logline::{LogRecord, Source};

/// How much is read at a time.
const CHUNK: u64 = 256 * 1024;
/// The most set-aside files that are looked for.
const MOST_FILES: u32 = 1000;

/// A place in an instance's log.
pub(super) struct Reader {
    dir: PathBuf,
    query: LogQuery,
    /// The file that is being read.
    file: Option<File>,
    /// The end of what was read, without its line's end yet.
    rest: Vec<u8>,
    /// Lines that were read ahead to find the last ones.
    ready: VecDeque<LogLine>,
}

impl Reader {
    pub(super) fn open(instance: &Path, query: LogQuery) -> io::Result<Self> {
        let dir = instance.join(LOG_DIR);
        let mut reader = Self { dir, query, file: None, rest: Vec::new(), ready: VecDeque::new() };
        match query.tail {
            Some(count) => reader.open_tail(count)?,
            None => reader.file = reader.files()?.into_iter().next_back(),
        }
        Ok(reader)
    }

    /// Whether there is anything to read.
    pub(super) const fn found_any(&self) -> bool {
        self.file.is_some()
    }

    pub(super) fn folder_exists(&self) -> bool {
        self.dir.exists()
    }

    /// The next lines; none when everything that was printed so far has been read.
    pub(super) fn next_batch(&mut self) -> io::Result<Vec<LogLine>> {
        if !self.ready.is_empty() {
            return Ok(self.ready.drain(..).collect());
        }
        loop {
            if self.file.is_none() {
                self.file = self.files()?.into_iter().next_back();
            }
            let Some(file) = &mut self.file else { return Ok(Vec::new()) };
            // Looked at before reading: what is printed into it until it is set aside is read below.
            let next = Self::after(&self.dir, file)?;
            let mut bytes = Vec::new();
            if file.take(CHUNK).read_to_end(&mut bytes)? > 0 {
                let lines = self.lines(&bytes);
                if lines.is_empty() {
                    continue;
                }
                return Ok(lines);
            }
            let Some(next) = next else { return Ok(Vec::new()) };
            // A line that was torn by a crash has no end: it is not part of the next file's first.
            self.rest.clear();
            self.file = Some(next);
        }
    }

    /// The whole lines in these bytes that are asked for.
    fn lines(&mut self, bytes: &[u8]) -> Vec<LogLine> {
        self.rest.extend_from_slice(bytes);
        let Some(end) = self.rest.iter().rposition(|byte| *byte == b'\n') else { return Vec::new() };
        let whole: Vec<u8> = self.rest.drain(..=end).collect();
        whole.split(|byte| *byte == b'\n').filter_map(|line| self.line(line)).collect()
    }

    fn line(&self, line: &[u8]) -> Option<LogLine> {
        let text = String::from_utf8_lossy(line);
        let record = LogRecord::parse(&text)?;
        if self.query.since.is_some_and(|since| record.at < since) {
            return None;
        }
        let stream = match record.source {
            Source::Stdout => OutputStream::Stdout,
            Source::Stderr | Source::Note => OutputStream::Stderr,
        };
        Some(LogLine { at: record.at, stream, text: record.text.to_owned() })
    }

    /// Reads the last `count` lines ahead, from the newest file back as far as needed, and
    /// stands behind them.
    fn open_tail(&mut self, count: usize) -> io::Result<()> {
        let mut newest = None;
        for mut file in self.files()? {
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            self.rest.clear();
            let mut lines = self.lines(&bytes);
            if newest.is_none() {
                newest = Some((file, std::mem::take(&mut self.rest)));
            }
            lines.extend(self.ready.drain(..));
            let first = lines.len().saturating_sub(count);
            self.ready = lines.split_off(first).into();
            if self.ready.len() >= count {
                break;
            }
        }
        if let Some((file, rest)) = newest {
            (self.file, self.rest) = (Some(file), rest);
        }
        Ok(())
    }

    /// The file after `file`: the one that has taken its place.
    fn after(dir: &Path, file: &File) -> io::Result<Option<File>> {
        let inode = file.metadata()?.ino();
        let mut newer = None;
        for number in 0..MOST_FILES {
            let Some(found) = open(&path(dir, number))? else { break };
            if found.metadata()?.ino() == inode {
                return Ok(newer);
            }
            newer = Some(found);
        }
        // It has been removed since: the oldest that is left comes next.
        Ok(newer)
    }

    /// All files, newest first.
    fn files(&self) -> io::Result<Vec<File>> {
        let mut files: Vec<File> = Vec::new();
        for number in 0..MOST_FILES {
            let Some(file) = open(&path(&self.dir, number))? else { break };
            files.push(file);
        }
        Ok(files)
    }
}

fn path(dir: &Path, number: u32) -> PathBuf {
    match number {
        0 => dir.join(LOG_FILE),
        n => dir.join(format!("{LOG_FILE}.{n}")),
    }
}

fn open(path: &Path) -> io::Result<Option<File>> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests;
