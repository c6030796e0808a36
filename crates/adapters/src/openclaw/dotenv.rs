//! `.env` in the state folder: the secrets of a claw whose environment others could read.
//!
//! Node reads it (`--env-file`), and so does OpenClaw's own command line. What its owner wrote
//! into it stays; clawfarm's part is between two marks and written anew at each start.

use clawfarm_model::{Error, LaunchFile, Result};
use secrecy::{ExposeSecret as _, SecretString};

/// Where it is, relative to the state folder.
pub(super) const FILE: &str = ".env";
const BEGIN: &str = "# begin clawfarm: written anew at each start";
const END: &str = "# end clawfarm";

/// The file with these variables, and what `present` holds of its owner's.
///
/// # Errors
/// `InvalidInput` for a value that the format can't express.
pub(super) fn file(present: Option<&[u8]>, variables: &[(String, SecretString)]) -> Result<LaunchFile> {
    // A variable that is set twice has its last value.
    let mut text = zeroize::Zeroizing::new(own(present.unwrap_or_default()));
    text.push_str(BEGIN);
    text.push('\n');
    for (name, value) in variables {
        text.push_str(&format!("{name}={}\n", quoted(name, value.expose_secret())?));
    }
    text.push_str(END);
    text.push('\n');
    Ok(LaunchFile { path: FILE.into(), contents: SecretString::from(text.as_str()), read_only: false })
}

/// What its owner wrote into it.
pub(super) fn own(present: &[u8]) -> String {
    let (mut text, mut ours) = (String::new(), false);
    for line in String::from_utf8_lossy(present).lines() {
        match line {
            BEGIN => ours = true,
            END => ours = false,
            _ if !ours => {
                text.push_str(line);
                text.push('\n');
            }
            _ => {}
        }
    }
    text
}

/// A value in quotes that end nowhere in it. Within double quotes `\n` would become a line's
/// end, so they are the last choice.
fn quoted(name: &str, value: &str) -> Result<String> {
    let quote = ['\'', '`', '"']
        .into_iter()
        .find(|quote| !value.contains(*quote) && (*quote != '"' || !value.contains('\\')));
    quote.map(|quote| format!("{quote}{value}{quote}")).ok_or_else(|| {
        Error::invalid("config", format!("the value of {name} contains ' and ` and \" or a backslash"))
            .fix("leave one of the quotes out of it: an env file can't hold all of them")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(present: Option<&str>, variables: &[(&str, &str)]) -> String {
        let variables: Vec<_> =
            variables.iter().map(|(n, v)| ((*n).to_owned(), SecretString::from(*v))).collect();
        file(present.map(str::as_bytes), &variables).unwrap().contents.expose_secret().to_owned()
    }

    #[test]
    fn what_its_owner_wrote_stays_and_ours_is_written_anew() {
        let first = text(Some("MINE=1\n"), &[("TOKEN", "a")]);
        assert_eq!(first, format!("MINE=1\n{BEGIN}\nTOKEN='a'\n{END}\n"));
        let second = text(Some(&first), &[("TOKEN", "b")]);
        assert_eq!(second, first.replace("'a'", "'b'"));
        assert_eq!(own(second.as_bytes()), "MINE=1\n");
    }

    #[test]
    fn every_value_that_can_be_quoted_is() {
        for (value, quoted) in [("a'b", "`a'b`"), ("a'`", "\"a'`\""), ("$x # \\n", "'$x # \\n'")] {
            assert!(text(None, &[("V", value)]).contains(&format!("V={quoted}\n")), "{value}");
        }
        let all = [("V".to_owned(), SecretString::from("'`\""))];
        assert_eq!(file(None, &all).unwrap_err().field_name(), Some("config"));
    }
}
