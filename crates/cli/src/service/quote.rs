//! Words of a unit file, as systemd.syntax(7) and systemd.service(5) read them.

use std::path::Path;

use clawfarm_model::{Code, Error};

/// One word of a setting: in double quotes, with `\`, `"` escaped as in C, and `%`, which begins
/// a specifier, doubled. `$` is left: `ExecStart=` has the prefix that turns variables off, and
/// `Environment=` knows none.
///
/// # Errors
/// `InvalidInput` for control characters: no path or option of ours needs one, and a line's end
/// would begin a setting of its own.
pub(super) fn word(field: &str, text: &str) -> Result<String, Error> {
    if let Some(odd) = text.chars().find(|c| c.is_control()) {
        return Err(Error::invalid(
            field,
            format!("a unit file can't hold the control character {odd:?} of {text:?}"),
        )
        .fix("use a path without it"));
    }
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            '%' => quoted.push_str("%%"),
            _ => quoted.push(c),
        }
    }
    quoted.push('"');
    Ok(quoted)
}

/// A path as a word.
///
/// # Errors
/// `InvalidInput` for one that is no UTF-8 text, and as [`word`].
pub(super) fn path(field: &str, path: &Path) -> Result<String, Error> {
    word(field, utf8(field, path)?)
}

/// The program of `ExecStart=`, with the prefix `:` (no variables). systemd refuses a program's
/// path with quotes or backslashes ("contains special characters"), however they are escaped.
pub(super) fn program(program: &Path) -> Result<String, Error> {
    let text = utf8("program", program)?;
    if text.contains(['"', '\'', '`', '\\']) {
        return Err(Error::new(
            Code::Unsupported,
            format!("systemd runs no program whose path has quotes or backslashes: {text}"),
        )
        .field("program")
        .fix("put the program clawfarm into a folder without them, such as /usr/local/bin"));
    }
    word("program", &format!(":{text}"))
}

fn utf8<'a>(field: &str, path: &'a Path) -> Result<&'a str, Error> {
    path.to_str().ok_or_else(|| {
        Error::invalid(field, format!("{} is no UTF-8 text, which a unit file has to be", path.display()))
            .fix("use a path in UTF-8")
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What systemd makes of one quoted word (`extract_first_word` with `EXTRACT_UNQUOTE` and
    /// `EXTRACT_CUNESCAPE`, then `unit_full_printf`): the escapes and specifiers that can occur.
    fn as_systemd_reads(line: &str) -> Option<Vec<String>> {
        let mut words = Vec::new();
        let mut chars = line.chars().peekable();
        loop {
            while chars.next_if_eq(&' ').is_some() {}
            if chars.peek().is_none() {
                return Some(words);
            }
            chars.next_if_eq(&'"')?;
            let mut word = String::new();
            loop {
                match chars.next()? {
                    '"' => break,
                    '\\' => match chars.next()? {
                        c @ ('"' | '\\') => word.push(c),
                        _ => return None,
                    },
                    '%' => word.push(chars.next_if_eq(&'%')?),
                    '\n' => return None,
                    c => word.push(c),
                }
            }
            words.push(word);
        }
    }

    proptest! {
        #[test]
        fn words_are_read_as_they_were_meant(words in prop::collection::vec("[ -~\\u{a1}-\\u{2ff}]{0,40}", 1..5)) {
            let line: Result<Vec<String>, _> = words.iter().map(|w| word("f", w)).collect();
            let line = line.expect("quoted").join(" ");
            prop_assert_eq!(as_systemd_reads(&line), Some(words));
        }

        #[test]
        fn a_control_character_is_refused(before in "[a-z%$\"]{0,9}", odd in "[\\x00-\\x1f\\x7f]", after in ".{0,9}") {
            let text = format!("{before}{odd}{after}");
            prop_assert!(word("f", &text).is_err());
        }
    }

    #[test]
    fn what_systemd_can_not_run_is_refused() {
        assert_eq!(program(Path::new("/a b/$x%")).expect("quoted"), r#"":/a b/$x%%""#);
        for odd in ["/a\"b", "/a'b", "/a\\b", "/a`b", "/a\nb"] {
            assert!(program(Path::new(odd)).is_err(), "{odd}");
        }
    }
}
