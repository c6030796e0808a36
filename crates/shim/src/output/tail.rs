//! The last lines of the output, for the message that says how a claw ended.

use std::collections::VecDeque;

/// How many lines are kept: a stack trace of Node with its message fits in.
const LINES: usize = 20;
/// How many characters are kept of each.
const LINE_CHARS: usize = 400;

/// The last lines, cleaned.
#[derive(Debug, Default)]
pub(super) struct Tail {
    lines: VecDeque<String>,
    /// The last line goes on.
    open: bool,
}

impl Tail {
    /// Takes a record.
    pub(super) fn push(&mut self, text: &str, continues: bool) {
        let clean = clean(text);
        match self.lines.back_mut().filter(|_| self.open) {
            Some(last) => {
                let room = LINE_CHARS.saturating_sub(last.chars().count());
                last.extend(clean.chars().take(room));
            }
            None => self.lines.push_back(clean),
        }
        self.open = continues;
        if self.lines.len() > LINES {
            self.lines.pop_front();
        }
    }

    /// The lines, without empty ones at the end.
    pub(super) fn text(&self) -> String {
        let lines: Vec<&str> = self.lines.iter().map(String::as_str).collect();
        lines.join("\n").trim_end().to_owned()
    }
}

/// The text without escape sequences (ECMA-48: `ESC [ ... letter`, `ESC ] ... BEL`, `ESC x`)
/// and other control characters; tabs become spaces.
fn clean(text: &str) -> String {
    let mut out = String::new();
    let mut chars = text.chars();
    let mut room = LINE_CHARS;
    while let Some(c) = chars.next().filter(|_| room > 0) {
        match c {
            '\u{1b}' => skip_sequence(&mut chars),
            '\t' => out.push(' '),
            c if c.is_control() => continue,
            c => out.push(c),
        }
        room -= 1;
    }
    out
}

fn skip_sequence(chars: &mut std::str::Chars<'_>) {
    match chars.next() {
        Some('[') => {
            chars.find(|c| ('@'..='~').contains(c));
        }
        Some(']') => {
            let mut before = ' ';
            chars.find(|&c| {
                let ends = c == '\u{7}' || (before == '\u{1b}' && c == '\\');
                before = c;
                ends
            });
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_taken_out() {
        assert_eq!(clean("\u{1b}[1;31mred\u{1b}[0m\tand\u{1b}]0;title\u{7} plain\r\u{8}"), "red and plain");
        assert_eq!(clean("\u{1b}]0;t\u{1b}\\x\u{1b}(B"), "xB");
        assert_eq!(clean(&"ö".repeat(1000)).chars().count(), LINE_CHARS);
    }

    #[test]
    fn keeps_the_last_lines_and_joins_pieces() {
        let mut tail = Tail::default();
        for n in 0..30 {
            tail.push(&format!("line {n}"), false);
        }
        tail.push("a", true);
        tail.push("b", false);
        tail.push("", false);
        let text = tail.text();
        assert!(text.starts_with("line 12\n") && text.ends_with("\nline 29\nab"), "{text}");
    }
}
