//! That what the pages quote from the program is still in it: the messages of the
//! troubleshooting page, and the names of what is measured.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::markdown::Page;
use super::sources::{self, Literal};

/// Each of its headings of the third level is a message, with `…` for what is put in.
const MESSAGES: &str = "docs/troubleshooting.md";
/// Names each measurement, as code.
const METRICS: &str = "docs/metrics.md";

pub(super) fn problems(root: &Path, files: &[PathBuf]) -> Result<Vec<String>> {
    let literals = sources::literals(root, files)?;
    let read =
        |name: &str| fs::read_to_string(root.join(name)).with_context(|| format!("{name} can't be read"));
    let mut problems = messages(&read(MESSAGES)?, &literals);
    problems.extend(metrics(&Page::read(&read(METRICS)?), &literals));
    Ok(problems)
}

fn messages(page: &str, literals: &[Literal]) -> Vec<String> {
    let mut problems = Vec::new();
    let mut quoted = 0;
    for (number, line) in page.lines().enumerate() {
        let Some(message) = line.strip_prefix("### `").and_then(|rest| rest.strip_suffix('`')) else {
            continue;
        };
        quoted += 1;
        if !literals.iter().any(|literal| says(&literal.text, message)) {
            problems.push(format!(
                "{MESSAGES}:{}: no source says '{message}' any more; write it as it is now, with … for values",
                number + 1
            ));
        }
    }
    if quoted == 0 {
        problems.push(format!("{MESSAGES} quotes no message"));
    }
    problems
}

/// Whether a text of the sources is the message, or ends or begins with it: messages are put
/// together of a context and a reason.
fn says(text: &str, message: &str) -> bool {
    let text = text.trim();
    text == message || text.starts_with(message) || text.ends_with(message)
}

fn metrics(page: &Page, literals: &[Literal]) -> Vec<String> {
    let is_name = |text: &str| {
        text.starts_with("clawfarm_")
            && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
    };
    let measured: BTreeSet<&str> =
        literals.iter().filter(|l| l.measures && is_name(&l.text)).map(|l| l.text.as_str()).collect();
    let told: BTreeSet<&str> = page.codes.iter().map(String::as_str).filter(|code| is_name(code)).collect();
    let missing = measured.difference(&told).map(|name| format!("{METRICS} does not tell of `{name}`"));
    let gone = told
        .difference(&measured)
        .filter(|name| !is_series_of(name, &measured))
        .map(|name| format!("{METRICS} tells of `{name}`, which is not measured"));
    missing.chain(gone).collect()
}

/// A histogram is shown as several series with names of their own.
fn is_series_of(name: &str, measured: &BTreeSet<&str>) -> bool {
    ["_bucket", "_sum", "_count"]
        .iter()
        .any(|end| name.strip_suffix(end).is_some_and(|n| measured.contains(n)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn literal(text: &str, measures: bool) -> Literal {
        Literal { text: text.to_owned(), measures }
    }

    #[test]
    fn a_message_that_no_source_says_is_named() {
        let literals = [literal("there is no instance '…'", false)];
        assert!(messages("### `there is no instance '…'`\n", &literals).is_empty());
        assert_eq!(messages("# A\n### `there is no claw '…'`\n", &literals).len(), 1);
        assert_eq!(messages("### there is no instance\n", &literals).len(), 1, "nothing quoted");
    }

    #[test]
    fn measurements_are_told_all_of_them_and_no_others() {
        let literals =
            [literal("clawfarm_a", true), literal("clawfarm_b", false), literal("clawfarm_c", true)];
        assert!(metrics(&Page::read("`clawfarm_a` `clawfarm_a_bucket` `clawfarm_c`"), &literals).is_empty());
        let problems = metrics(&Page::read("`clawfarm_a` `clawfarm_b`"), &literals);
        assert_eq!(problems.len(), 2, "{problems:?}");
        assert!(problems[0].contains("clawfarm_c") && problems[1].contains("clawfarm_b"), "{problems:?}");
    }
}
