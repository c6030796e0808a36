//! How a command ends: what is told on standard error, and the exit code.

use std::io;

use clawfarm_api::Problem;
use clawfarm_model::{Code, Error};

use crate::output::{Ui, clean_block};

/// What a command returns: its exit code, or why it failed.
pub(crate) type Outcome = Result<u8, Failure>;

/// It did what was asked.
pub(crate) const OK: u8 = 0;
/// It did not, for a reason that no other code names.
pub(crate) const FAILED: u8 = 1;
/// What was typed can't be accepted. The code clap uses as well.
pub(crate) const USAGE: u8 = 2;
/// Ctrl-C, as shells say it: 128 and the number of SIGINT.
pub(crate) const INTERRUPTED: u8 = 130;

/// Why a command did not succeed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// To be told, with the exit code that its kind has.
    Error(Error),
    /// Everything was told already.
    Told(u8),
    /// Whoever read the output has gone (`clawfarm ps | head -1`): nothing to tell.
    PipeClosed,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            Self::PipeClosed
        } else {
            Self::Error(
                Error::new(Code::Internal, format!("the output could not be written: {error}")).source(error),
            )
        }
    }
}

/// The exit code of an error: the one place that maps them. Told in `clawfarm --help`.
pub(crate) const fn exit_code(code: Code) -> u8 {
    match code {
        Code::InvalidInput => USAGE,
        Code::NotFound | Code::Gone => 3,
        Code::Conflict | Code::PreconditionFailed | Code::Busy | Code::Insufficient => 4,
        Code::Unavailable | Code::Timeout | Code::Overloaded => 5,
        _ => FAILED,
    }
}

/// What `--help` says about exit codes.
pub(crate) const EXIT_CODES: &str = "\
Exit codes:
  0    it was done
  1    it failed
  2    what was typed can't be accepted
  3    there is no such thing
  4    in conflict with what is there: another change, a working claw, not enough memory
  5    no answer in time: try again
  130  Ctrl-C; what was begun goes on
  exec and shell end with the exit code of what they ran";

/// Tells a failure on standard error and returns the exit code.
pub(crate) fn tell(ui: &Ui, failure: &Failure) -> u8 {
    match failure {
        Failure::Error(error) => {
            tell_error(ui, error);
            exit_code(error.code())
        }
        Failure::Told(code) => *code,
        // As a shell reports a command that SIGPIPE ended would be 141; but a reader that has
        // seen enough is no failure, and `set -o pipefail` should not make it one.
        Failure::PipeClosed => OK,
    }
}

/// Tells one error on standard error: as text, or with `--json` as a problem document.
pub(crate) fn tell_error(ui: &Ui, error: &Error) {
    if ui.json {
        let problem = Problem::new(error, "");
        // A value of plain strings always serializes.
        let text = serde_json::to_string_pretty(&problem).unwrap_or_default();
        ui.note(text);
    } else {
        ui.note(describe(ui, error));
    }
}

/// An error in the form people read it: what, field, fix.
fn describe(ui: &Ui, error: &Error) -> String {
    let mut text = format!("{} {}", ui.err.red("error:"), indent(&clean_block(error.message())));
    if let Some(field) = error.field_name() {
        text.push_str(&format!("\n  field: {}", clean_block(field)));
    }
    if let Some(fix) = error.fix_text() {
        text.push_str(&format!("\n  fix: {}", indent(&clean_block(fix))));
    }
    text
}

/// Further lines (a log's last lines) stand under the first.
fn indent(text: &str) -> String {
    text.trim_end().replace('\n', "\n    ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_error_has_its_exit_code() {
        for (code, exit) in [
            (Code::InvalidInput, 2),
            (Code::NotFound, 3),
            (Code::Gone, 3),
            (Code::Busy, 4),
            (Code::Conflict, 4),
            (Code::Insufficient, 4),
            (Code::Timeout, 5),
            (Code::Unavailable, 5),
            (Code::Internal, 1),
            (Code::Unsupported, 1),
            (Code::ClawFailed, 1),
        ] {
            assert_eq!(exit_code(code), exit, "{code:?}");
        }
    }

    #[test]
    fn an_error_from_a_hostile_claw_does_not_reach_the_terminal_raw() {
        let error = Error::new(Code::ClawFailed, "it said \u{1b}]0;owned\u{7}hi\nmore\u{9b}2J")
            .field("a\u{1b}[31mb")
            .fix("look\r\u{8}");
        let text = describe(&Ui::plain(), &error);
        assert_eq!(text, "error: it said hi\n    more\n  field: ab\n  fix: look");
    }

    /// The page of all codes, as `docs/errors.md` has it.
    fn page() -> String {
        let mut text = include_str!("errors.md").to_owned();
        text.push_str("\n| code | status | exit | means | what to do |\n|---|---|---|---|---|\n");
        for code in Code::ALL {
            let (name, status, exit) = (code.as_str(), clawfarm_api::problem::status(code), exit_code(code));
            let (means, advice) = code.explained();
            text.push_str(&format!("| `{name}` | {status} | {exit} | {means} | {advice} |\n"));
        }
        text
    }

    #[test]
    fn the_page_of_errors_is_current() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/errors.md");
        let now = page();
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(path, &now).expect("written");
        }
        assert!(
            std::fs::read_to_string(path).unwrap_or_default() == now,
            "docs/errors.md is out of date: UPDATE_DOCS=1 cargo nextest run -p clawfarm the_page_of_errors"
        );
    }

    #[test]
    fn no_code_is_left_out() {
        let named: std::collections::BTreeSet<_> = Code::ALL.iter().map(|code| code.as_str()).collect();
        assert_eq!(named.len(), Code::ALL.len());
        // What the API's description lists is made from the type itself.
        let description = include_str!("../../../docs/openapi.json");
        let description: serde_json::Value = serde_json::from_str(description).expect("a document");
        let listed = &description["components"]["schemas"]["Code"]["enum"];
        assert_eq!(listed.as_array().map(Vec::len), Some(named.len()), "{listed}");
        let listed = listed.to_string();
        for name in &named {
            assert!(listed.contains(&format!("\"{name}\"")), "{name} is missing in {listed}");
        }
    }
}
