//! Reads what people write: times, pairs, secrets.

use std::io::Read;
use std::path::Path;
use std::time::Duration;

use clawfarm_model::{Code, Error, Timestamp};

use crate::errors::{Failure, INTERRUPTED};
use crate::terminal;

/// The longest secret, in bytes: what the API takes.
const SECRET_MAX: usize = 64 << 10;
/// The most that is read of one: its line's end, and one byte more to see that it is too long.
const MOST: u64 = (64 << 10) + 3;

/// A point in time: RFC 3339, or how long ago (`90s`, `10m`, `1h30m`, `2d`).
pub(crate) fn since(text: &str) -> Result<Timestamp, String> {
    if let Some(ago) = span(text) {
        let millis = i64::try_from(ago.as_millis()).unwrap_or(i64::MAX);
        return Ok(Timestamp::from_millis(Timestamp::now().as_millis().saturating_sub(millis)));
    }
    Timestamp::parse(text).map_err(|_| {
        format!("'{text}' is neither a span such as 10m nor a time such as 2026-11-21T07:36:40Z")
    })
}

fn span(text: &str) -> Option<Duration> {
    let mut total = 0_u64;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: u64 = rest.get(..digits)?.parse().ok()?;
        let mut chars = rest[digits..].chars();
        let secs = match chars.next()? {
            's' => 1,
            'm' => 60,
            'h' => 3_600,
            'd' => 86_400,
            _ => return None,
        };
        total = total.checked_add(number.checked_mul(secs)?)?;
        rest = chars.as_str();
    }
    (!text.is_empty()).then(|| Duration::from_secs(total))
}

/// `key=value`, cut at the first `=`.
pub(crate) fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(format!("'{text}' is not of the form key=value")),
    }
}

/// A length of time in whole seconds: `90`, `90s`, `15m`, `1h30m`, `1d`.
pub(crate) fn seconds(text: &str) -> Result<u32, String> {
    let plain = text.parse::<u32>().ok();
    let span = plain.or_else(|| span(text).and_then(|span| u32::try_from(span.as_secs()).ok()));
    span.ok_or_else(|| format!("'{text}' is no length of time such as 90s, 15m or 2h"))
}

/// A number that JSON can carry: `NaN` and `inf` would arrive as nothing at all.
pub(crate) fn finite(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number.is_finite() => Ok(number),
        _ => Err(format!("'{text}' is no number such as 1 or 0.5")),
    }
}

/// A secret from an environment variable.
pub(crate) fn secret_from_env(field: &str, variable: &str) -> Result<String, Error> {
    match std::env::var(variable) {
        Ok(value) => check(field, &format!("the variable {variable}"), value),
        Err(std::env::VarError::NotPresent) => {
            Err(Error::invalid(field, format!("the variable {variable} is not set"))
                .fix(format!("name the variable, not the key itself; set it with: export {variable}=...")))
        }
        Err(std::env::VarError::NotUnicode(_)) => {
            Err(Error::invalid(field, format!("the variable {variable} holds no text"))
                .fix("give the value as UTF-8 text"))
        }
    }
}

/// A secret from a file; `-` is standard input.
pub(crate) fn secret_from_file(field: &str, path: &Path) -> Result<String, Error> {
    if path.as_os_str() == "-" {
        return secret_from_stdin(field);
    }
    let file = std::fs::File::open(path).map_err(|e| unreadable(field, &path.display().to_string(), e))?;
    read(field, &path.display().to_string(), file)
}

/// A secret from standard input, which is asked for without showing it on a terminal.
pub(crate) fn secret_from_stdin(field: &str) -> Result<String, Error> {
    read(field, "standard input", std::io::stdin().lock())
}

/// A secret that is typed without being shown, or comes through a pipe.
pub(crate) fn secret_from_prompt_or_stdin(field: &str, what: &str) -> Result<String, Failure> {
    if !terminal::stdin_is_terminal() {
        return Ok(secret_from_stdin(field)?);
    }
    let asked = terminal::ask_hidden(&format!("{what} (not shown): "), MOST)
        .map_err(|e| unreadable(field, "the terminal", e))?;
    let typed = asked.ok_or(Failure::Told(INTERRUPTED))?;
    Ok(check(field, "what was typed", typed)?)
}

fn read(field: &str, from: &str, source: impl Read) -> Result<String, Error> {
    let mut bytes = Vec::new();
    source.take(MOST).read_to_end(&mut bytes).map_err(|e| unreadable(field, from, e))?;
    let text = String::from_utf8(bytes).map_err(|_| {
        Error::invalid(field, format!("{from} holds no UTF-8 text")).fix("give the value as UTF-8 text")
    })?;
    check(field, from, text)
}

/// Takes off the line's end that editors and `echo` add, and checks the length.
fn check(field: &str, from: &str, mut text: String) -> Result<String, Error> {
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    if text.is_empty() {
        return Err(
            Error::invalid(field, format!("{from} is empty")).fix("give a value of at least one character")
        );
    }
    if text.len() > SECRET_MAX {
        return Err(Error::invalid(field, format!("{from} holds more than {SECRET_MAX} bytes"))
            .fix("a secret has at most 64 KiB"));
    }
    Ok(text)
}

fn unreadable(field: &str, from: &str, error: std::io::Error) -> Error {
    Error::new(Code::InvalidInput, format!("{from} can't be read: {error}"))
        .field(field)
        .fix("give a file that you may read, and that holds the value and nothing else")
        .source(error)
}

/// The time as it can stand in a file's name.
pub(super) fn stamp(at: Timestamp) -> String {
    at.to_string().chars().take(19).filter(char::is_ascii_alphanumeric).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_and_times_are_read() {
        for (text, secs) in [("90s", 90), ("10m", 600), ("1h30m", 5_400), ("2d", 172_800), ("0s", 0)] {
            assert_eq!(span(text), Some(Duration::from_secs(secs)), "{text}");
        }
        for text in ["", "10", "m", "10x", "-5m", "1.5h", "10m ", "99999999999999999999d", "é"] {
            assert_eq!(span(text), None, "{text}");
        }
        assert_eq!(since("2026-11-21T02:41:25Z"), Timestamp::parse("2026-11-21T02:41:25Z"));
        assert!(since("yesterday").is_err_and(|e| e.contains("10m")));
        let ago = since("10m").expect("a span");
        assert!(Timestamp::now().since(ago).as_secs() >= 600);
    }

    #[test]
    fn a_secret_loses_its_line_end_and_nothing_else() {
        let take = |text: &str| check("f", "it", text.to_owned());
        assert_eq!(take("key\n").expect("taken"), "key");
        assert_eq!(take("key\r\n").expect("taken"), "key");
        assert_eq!(take(" two\nlines \n\n").expect("taken"), " two\nlines \n");
        assert!(take("\n").is_err());
        assert!(take(&"x".repeat(SECRET_MAX + 1)).is_err());
        assert!(read("f", "it", &[0xff_u8, 0xfe][..]).is_err());
    }

    #[test]
    fn a_pair_is_cut_at_the_first_equals_sign() {
        assert_eq!(pair("a=b=c"), Ok(("a".into(), "b=c".into())));
        assert_eq!(pair("a="), Ok(("a".into(), String::new())));
        assert!(pair("=b").is_err() && pair("a").is_err());
    }

    #[test]
    fn fuzz_times_and_pairs() {
        clawfarm_fuzz::fuzz_text(&["1h30m", "2026-11-21T02:41:25Z", "key=value", "0.5"], |text| {
            let _ = since(text);
            if let Ok((key, value)) = pair(text) {
                assert_eq!(format!("{key}={value}"), text);
            }
            assert!(finite(text).is_ok_and(f64::is_finite) || finite(text).is_err());
        });
    }
}
