//! Takes terminal control out of text that a claw or a server has written.
//!
//! A claw runs what a model tells it to, and a terminal does what it is sent: change its
//! title, its clipboard, its key bindings, or hide the line that says what happened. So
//! nothing that a claw has written is printed to a terminal before it went through here.
//! (`exec` and `shell` are the exception: there the person asked for the claw's terminal.)

/// Characters after which an unfinished string sequence is taken for text again, so that a
/// claw can't swallow everything that follows it. Real ones (titles, hyperlinks) are shorter.
const LONGEST_STRING: usize = 2048;

/// Takes control sequences out of a stream of text that arrives in pieces.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cleaner {
    state: State,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Text,
    /// After ESC.
    Escape,
    /// After ESC and an intermediate byte (`ESC ( B`): one more character belongs to it.
    Designate,
    /// In `ESC [ …`, up to its last byte.
    Csi,
    /// In `ESC ] …`, `ESC P …` and their like, up to BEL or ESC `\`; with the length so far.
    Str(usize),
    /// In such a string, after ESC.
    StrEscape(usize),
}

impl Cleaner {
    /// The printable text of the next piece, with line ends and tabs.
    pub(crate) fn push(&mut self, piece: &str) -> String {
        let mut out = String::with_capacity(piece.len());
        for c in piece.chars() {
            self.take(c, &mut out);
        }
        out
    }

    fn take(&mut self, c: char, out: &mut String) {
        self.state = match (self.state, c) {
            (State::Str(_), '\u{7}' | '\u{9c}' | '\n') | (State::StrEscape(_), '\\') => {
                if c == '\n' {
                    out.push(c);
                }
                State::Text
            }
            (State::Str(n), '\u{1b}') => State::StrEscape(n),
            (State::Str(n), _) if n < LONGEST_STRING => State::Str(n + 1),
            // An escape inside a string that does not end it begins a sequence of its own.
            (State::StrEscape(_) | State::Escape, _) => after_escape(c, out),
            (State::Designate, _) if !c.is_control() => State::Text,
            (State::Csi, ' '..='?') => State::Csi,
            (State::Csi, '@'..='~') => State::Text,
            (_, '\u{1b}') => State::Escape,
            (_, '\u{9b}') => State::Csi,
            (_, '\u{90}' | '\u{98}' | '\u{9d}' | '\u{9e}' | '\u{9f}') => State::Str(0),
            _ => {
                if is_shown(c) {
                    out.push(c);
                }
                State::Text
            }
        };
    }
}

fn after_escape(c: char, out: &mut String) -> State {
    match c {
        '[' => State::Csi,
        ']' | 'P' | 'X' | '^' | '_' => State::Str(0),
        '\u{1b}' => State::Escape,
        ' '..='/' => State::Designate,
        '\n' => {
            out.push(c);
            State::Text
        }
        _ => State::Text,
    }
}

/// Whether a character only shows itself: no control, and none of those that turn the
/// direction of the text around it (a file name or a command could read as another one).
fn is_shown(c: char) -> bool {
    match c {
        '\n' | '\t' => true,
        '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}' => false,
        _ => !c.is_control(),
    }
}

/// Text of several lines, clean.
pub(crate) fn clean_block(text: &str) -> String {
    Cleaner::default().push(text)
}

/// Text for one line, clean: line ends and tabs become spaces.
pub(crate) fn clean_line(text: &str) -> String {
    let clean = clean_block(text);
    if clean.contains(['\n', '\t']) { clean.replace(['\n', '\t'], " ") } else { clean }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_out_what_drives_a_terminal() {
        for (raw, clean) in [
            ("plain é 漢 🦀\ttab\nline", "plain é 漢 🦀\ttab\nline"),
            ("\u{1b}[31mred\u{1b}[0m", "red"),
            ("\u{1b}]0;title\u{7}after", "after"),
            ("\u{1b}]52;c;ZXZpbA==\u{1b}\\after", "after"),
            ("\u{1b}P+q544e\u{1b}\\x", "x"),
            ("\u{9b}2Jx\u{9d}0;t\u{9c}y", "xy"),
            ("\u{1b}(0x\u{1b}cy\u{1b}=z", "xyz"),
            ("over\rwritten\u{8}\u{7f}\u{0}", "overwritten"),
            ("safe\u{202e}gpj.exe", "safegpj.exe"),
            ("\u{1b}\u{1b}[1mx", "x"),
            ("\u{1b}]0;unfinished\nnext line is seen", "\nnext line is seen"),
            ("\u{1b}[?1049;\u{1b}[Hx", "x"),
            ("\u{1b}]0;a\u{1b}[31mb", "b"),
        ] {
            assert_eq!(clean_block(raw), clean, "{raw:?}");
            let mut cleaner = Cleaner::default();
            let pieces: String = raw.chars().map(|c| cleaner.push(&c.to_string())).collect();
            assert_eq!(pieces, clean, "in pieces: {raw:?}");
        }
    }

    #[test]
    fn an_unfinished_string_does_not_swallow_the_rest_for_ever() {
        let raw = format!("\u{1b}]0;{}END", "x".repeat(LONGEST_STRING + 10));
        assert!(clean_block(&raw).ends_with("END"));
    }

    #[test]
    fn one_line_stays_one_line() {
        assert_eq!(clean_line("a\nb\tc\r"), "a b c");
    }

    #[test]
    fn fuzz_what_claws_print() {
        let seeds = ["\u{1b}]0;title\u{7}after", "\u{1b}[31mred\u{1b}[0m", "over\rwritten\u{8}"];
        clawfarm_fuzz::fuzz_text(&seeds, |text| {
            let clean = clean_block(text);
            assert!(clean.chars().all(is_shown), "{text:?}");
            assert_eq!(clean_block(&clean), clean);
        });
    }
}
