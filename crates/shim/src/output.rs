//! Keeping what the claw prints: lines with their time, in files that are set aside when
//! they are full, and never a reason for the claw to stop.
//!
//! A disk that is full loses lines, not the claw: they are counted, and when there is space
//! again a note says how many are missing.

mod file;
mod tail;

use std::path::Path;
use std::time::{Duration, Instant};

use clawfarm_model::{Result, Timestamp};

use crate::logline::{LogRecord, MAX_TEXT_BYTES, Source};
use crate::spec::LogSpec;
use file::RotatedFile;
use tail::Tail;

/// How long an unfinished line (a prompt, a progress bar) waits for its end before it is
/// written as it is.
const PATIENCE: Duration = Duration::from_secs(1);

/// The output of one claw.
#[derive(Debug)]
pub(crate) struct Output {
    file: RotatedFile,
    lost: u64,
    stdout: Unfinished,
    stderr: Unfinished,
    tail: Tail,
}

#[derive(Debug, Default)]
struct Unfinished {
    bytes: Vec<u8>,
    since: Option<Instant>,
}

impl Output {
    /// Opens the log for appending.
    ///
    /// # Errors
    /// `Internal` when the folder or file can't be made.
    pub(crate) fn open(instance_dir: &Path, spec: &LogSpec) -> Result<Self> {
        let dir = spec.dir.clone().unwrap_or_else(|| instance_dir.join(crate::layout::LOG_DIR));
        let file = RotatedFile::open(&dir, spec.max_bytes, spec.keep)?;
        Ok(Self {
            file,
            lost: 0,
            stdout: Unfinished::default(),
            stderr: Unfinished::default(),
            tail: Tail::default(),
        })
    }

    /// Takes what was read from one of the claw's streams.
    pub(crate) fn feed(&mut self, source: Source, mut bytes: &[u8]) {
        let at = Timestamp::now();
        while !bytes.is_empty() {
            let held = &mut self.unfinished(source).bytes;
            let room = MAX_TEXT_BYTES - held.len();
            let window = bytes.get(..room).unwrap_or(bytes);
            let end = window.iter().position(|&b| b == b'\n');
            held.extend_from_slice(window.get(..end.unwrap_or(window.len())).unwrap_or_default());
            let full = held.len() == MAX_TEXT_BYTES;
            bytes = bytes.get(end.map_or(window.len(), |end| end + 1)..).unwrap_or_default();
            if end.is_some() || full {
                self.finish(source, at, end.is_none());
            }
        }
        let unfinished = self.unfinished(source);
        unfinished.since = (!unfinished.bytes.is_empty()).then(Instant::now);
    }

    /// Writes unfinished lines that waited long enough; with `all`, every one.
    pub(crate) fn flush(&mut self, all: bool) {
        for source in [Source::Stdout, Source::Stderr] {
            let waited = self.unfinished(source).since.is_some_and(|since| all || since.elapsed() > PATIENCE);
            if waited {
                self.finish(source, Timestamp::now(), !all);
            }
        }
        if all && self.lost > 0 {
            self.note_losses(Timestamp::now());
        }
    }

    /// How long the earliest unfinished line may still wait.
    pub(crate) fn next_flush(&self) -> Option<Duration> {
        let since = [self.stdout.since, self.stderr.since].into_iter().flatten().min()?;
        Some(PATIENCE.saturating_sub(since.elapsed()) + Duration::from_millis(1))
    }

    /// Notes something of the shim's own.
    pub(crate) fn note(&mut self, text: &str) {
        self.write(Source::Note, Timestamp::now(), false, text);
    }

    /// The last lines, without terminal control characters.
    pub(crate) fn tail(&self) -> String {
        self.tail.text()
    }

    fn unfinished(&mut self, source: Source) -> &mut Unfinished {
        if source == Source::Stderr { &mut self.stderr } else { &mut self.stdout }
    }

    fn finish(&mut self, source: Source, at: Timestamp, continues: bool) {
        let unfinished = self.unfinished(source);
        let mut bytes = std::mem::take(&mut unfinished.bytes);
        unfinished.since = None;
        let keep = if continues { unfinished_char(&bytes) } else { 0 };
        let kept = bytes.split_off(bytes.len() - keep);
        let text = String::from_utf8_lossy(&bytes);
        let text = if continues { &text } else { text.strip_suffix('\r').unwrap_or(&text) };
        self.write(source, at, continues, text);
        self.tail.push(text, continues);
        let unfinished = self.unfinished(source);
        unfinished.since = (keep > 0).then(Instant::now);
        unfinished.bytes = kept;
    }

    fn write(&mut self, source: Source, at: Timestamp, continues: bool, text: &str) {
        if self.lost > 0 {
            self.note_losses(at);
        }
        let record = format!("{}\n", LogRecord { at, source, continues, text });
        if self.lost > 0 || self.file.append(record.as_bytes()).is_err() {
            self.lost += 1;
        }
    }

    fn note_losses(&mut self, at: Timestamp) {
        let text = format!("{} lines of output were lost because they could not be written", self.lost);
        let record = format!("{}\n", LogRecord { at, source: Source::Note, continues: false, text: &text });
        if self.file.append(record.as_bytes()).is_ok() {
            self.lost = 0;
        }
    }
}

/// How many bytes at the end are the beginning of a character that goes on later. A
/// character cut in two would be replaced twice.
fn unfinished_char(bytes: &[u8]) -> usize {
    match std::str::from_utf8(bytes) {
        Err(error) if error.error_len().is_none() => bytes.len() - error.valid_up_to(),
        _ => {
            // Earlier bytes may be invalid; only the last three can belong to a cut one.
            let tail = bytes.get(bytes.len().saturating_sub(3)..).unwrap_or_default();
            let lead = tail.iter().rposition(|&b| b >= 0xC0);
            lead.and_then(|at| tail.get(at..))
                .filter(|cut| std::str::from_utf8(cut).is_err_and(|e| e.error_len().is_none()))
                .map_or(0, <[u8]>::len)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(max_bytes: u64, keep: u32) -> (tempfile::TempDir, Output) {
        let dir = tempfile::tempdir().unwrap();
        let output = Output::open(dir.path(), &LogSpec { dir: None, max_bytes, keep }).unwrap();
        (dir, output)
    }

    fn records(dir: &Path, file: &str) -> Vec<(Source, bool, String)> {
        let text = std::fs::read_to_string(dir.join("logs").join(file)).unwrap();
        let parse = |line| LogRecord::parse(line).unwrap_or_else(|| panic!("no record: {line}"));
        text.lines().map(parse).map(|r| (r.source, r.continues, r.text.to_owned())).collect()
    }

    #[test]
    fn lines_are_put_together_from_pieces() {
        let (dir, mut output) = output(1 << 20, 1);
        output.feed(Source::Stdout, b"one\ntw");
        output.feed(Source::Stderr, b"err\r\n");
        output.feed(Source::Stdout, b"o\n\nlast \xff");
        output.flush(true);
        let (out, err) = (Source::Stdout, Source::Stderr);
        assert_eq!(
            records(dir.path(), "output.log"),
            [
                (out, false, "one".into()),
                (err, false, "err".into()),
                (out, false, "two".into()),
                (out, false, String::new()),
                (out, false, "last \u{fffd}".into()),
            ]
        );
    }

    #[test]
    fn long_lines_are_split_between_characters() {
        let (dir, mut output) = output(1 << 20, 1);
        let line = format!("a{}", "ö".repeat(20_000));
        for piece in line.as_bytes().chunks(1000) {
            output.feed(Source::Stdout, piece);
        }
        output.feed(Source::Stdout, b"\n");
        let records = records(dir.path(), "output.log");
        assert_eq!(records.iter().map(|r| r.1).collect::<Vec<_>>(), [true, true, false]);
        assert_eq!(records.into_iter().map(|r| r.2).collect::<String>(), line);
    }

    #[test]
    fn a_prompt_without_end_is_written_after_a_while() {
        let (dir, mut output) = output(1 << 20, 1);
        output.feed(Source::Stdout, b"Password: ");
        output.flush(false);
        assert!(records(dir.path(), "output.log").is_empty());
        let wait = output.next_flush().unwrap();
        crate::lock::nap(wait);
        output.flush(false);
        assert_eq!(records(dir.path(), "output.log"), [(Source::Stdout, true, "Password: ".into())]);
        assert!(output.next_flush().is_none());
    }

    #[test]
    fn full_files_are_set_aside_and_the_oldest_removed() {
        let (dir, mut output) = output(1024, 2);
        for n in 0..100 {
            output.feed(Source::Stdout, format!("line {n} {}\n", "x".repeat(50)).as_bytes());
        }
        let mut files: Vec<_> = std::fs::read_dir(dir.path().join("logs"))
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        files.sort();
        assert_eq!(files, ["output.log", "output.log.1", "output.log.2"]);
        let all: Vec<_> = ["output.log.2", "output.log.1", "output.log"]
            .iter()
            .flat_map(|file| records(dir.path(), file))
            .collect();
        assert!(all.last().unwrap().2.starts_with("line 99 "));
        let first = all[0].2.split(' ').nth(1).unwrap().parse::<usize>().unwrap();
        assert_eq!(all.len(), 100 - first, "no line in between is lost");
        for file in files {
            assert!(dir.path().join("logs").join(file).metadata().unwrap().len() <= 1024);
        }
    }

    #[test]
    fn a_full_disk_loses_lines_and_says_how_many() {
        let (dir, mut output) = output(1 << 20, 1);
        output.feed(Source::Stdout, b"before\n");
        output.file.refuse_after(10);
        output.feed(Source::Stdout, b"lost 1\nlost 2\n");
        output.file.refuse_after(u64::MAX);
        output.feed(Source::Stdout, b"after\n");
        let texts: Vec<_> = records(dir.path(), "output.log").into_iter().map(|r| r.2).collect();
        assert_eq!(texts.len(), 3, "{texts:?}");
        assert!(texts[1].starts_with("2 lines"), "{texts:?}");
        assert_eq!(texts[2], "after");
    }

    #[test]
    fn a_torn_end_is_closed_by_the_next_run() {
        let (dir, output) = output(1 << 20, 1);
        drop(output);
        std::fs::write(dir.path().join("logs/output.log"), "2026-11-21T02:4").unwrap();
        let mut output = Output::open(dir.path(), &LogSpec::default()).unwrap();
        output.note("hello");
        let text = std::fs::read_to_string(dir.path().join("logs/output.log")).unwrap();
        assert!(LogRecord::parse(text.lines().nth(1).unwrap()).is_some(), "{text}");
    }
}
