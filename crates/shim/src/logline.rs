//! How a line of output is kept in `output.log`.
//!
//! One record a line, so that a reader can start anywhere after a line's end:
//! `2026-11-21T02:41:25.109Z o the text`. The time has always 24 characters. The letter is
//! `o` for standard output, `e` for standard error, `n` for a note of the shim itself. After
//! it comes a space, or a `+` when the line was too long and goes on in the next record of
//! the same stream. Bytes that are no UTF-8 are replaced; a carriage return at the end is
//! dropped; the text is otherwise as the claw printed it, control characters too.

use clawfarm_model::Timestamp;

/// The longest text of one record, in bytes; a longer line goes on in the next.
pub const MAX_TEXT_BYTES: usize = 16 * 1024;

/// Where a line was printed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// Nowhere: the shim notes something, such as lost lines.
    Note,
}

impl Source {
    const fn letter(self) -> char {
        match self {
            Self::Stdout => 'o',
            Self::Stderr => 'e',
            Self::Note => 'n',
        }
    }
}

/// One record of `output.log`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogRecord<'a> {
    /// When it was printed.
    pub at: Timestamp,
    /// Where to.
    pub source: Source,
    /// The line goes on in the next record of this source.
    pub continues: bool,
    /// The text, without the line's end.
    pub text: &'a str,
}

impl<'a> LogRecord<'a> {
    /// Reads a line of the file, given without its line end. `None` when it is none (the
    /// torn end of a file after a crash).
    #[must_use]
    pub fn parse(line: &'a str) -> Option<Self> {
        let (at, rest) = line.split_at_checked(24)?;
        let at = Timestamp::parse(at).ok()?;
        let (mark, text) = rest.split_at_checked(3)?;
        let (source, continues) = match mark {
            " o " => (Source::Stdout, false),
            " o+" => (Source::Stdout, true),
            " e " => (Source::Stderr, false),
            " e+" => (Source::Stderr, true),
            " n " => (Source::Note, false),
            _ => return None,
        };
        Some(Self { at, source, continues, text })
    }
}

impl std::fmt::Display for LogRecord<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let end = if self.continues { '+' } else { ' ' };
        write!(f, "{} {}{end}{}", self.at, self.source.letter(), self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_survive() {
        for (source, continues, text) in
            [(Source::Stdout, false, "hello  wörld"), (Source::Stderr, true, ""), (Source::Note, false, "n")]
        {
            let record = LogRecord { at: Timestamp::from_millis(1_795_228_885_109), source, continues, text };
            assert_eq!(LogRecord::parse(&record.to_string()), Some(record));
        }
    }

    #[test]
    fn torn_lines_are_no_records() {
        for line in
            ["", "2026-11-21T02:41:25.109Z", "2026-11-21T02:41:25.109Z x y", "ööööööööööööööööööööö o "]
        {
            assert_eq!(LogRecord::parse(line), None, "{line}");
        }
    }

    #[test]
    fn fuzz_lines_of_a_log() {
        let seeds = ["2026-11-21T02:41:25.109Z o hello", "2026-11-21T02:41:25.109Z e+half"];
        clawfarm_fuzz::fuzz_text(&seeds, |text| {
            if let Some(record) = LogRecord::parse(text) {
                let again = record.to_string();
                assert_eq!(LogRecord::parse(&again), Some(record), "{text:?}");
            }
        });
    }
}
