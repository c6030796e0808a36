//! One word of a POSIX shell.

use clawfarm_model::{Error, Result};

/// Quotes `text` so that any POSIX shell takes it as one word, with exactly these bytes.
///
/// In single quotes nothing has a meaning but the single quote itself
/// (POSIX.1-2024, Shell Command Language, 2.2.2).
///
/// # Errors
/// `InvalidInput` for a NUL, which no argument of a program can hold.
pub fn posix_word(text: &str) -> Result<String> {
    if text.contains('\0') {
        return Err(Error::invalid("command", "holds a NUL byte").fix("remove it"));
    }
    let plain = |b: u8| {
        b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'/' | b':' | b'@' | b'%' | b'+')
    };
    if !text.is_empty() && text.bytes().all(plain) {
        return Ok(text.to_owned());
    }
    Ok(format!("'{}'", text.replace('\'', r"'\''")))
}

/// What sshd hands to the user's shell for `bash -lc COMMAND`: the command as one word, so that
/// it arrives as it was typed whatever that shell is.
///
/// # Errors
/// As for [`posix_word`].
pub fn login_bash(command: &str) -> Result<String> {
    Ok(format!("exec bash -lc {}", posix_word(command)?))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use proptest::prelude::*;

    use super::*;

    fn printed(shell: &str, script: &str) -> String {
        let said = Command::new(shell).arg("-c").arg(script).env_clear().output().unwrap();
        assert!(said.status.success(), "{script:?}: {}", String::from_utf8_lossy(&said.stderr));
        String::from_utf8(said.stdout).unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        #[test]
        fn a_real_shell_takes_it_as_one_word(text in "([ -~]|['\"\\\\$`!*?~#;&|<>(){}\\[\\]\n\r\t\u{1}\u{7f}é漢]){0,40}") {
            let word = posix_word(&text).unwrap();
            prop_assert_eq!(&printed("/bin/sh", &format!("printf '%s|' {word} end")), &format!("{text}|end|"));
        }

        #[test]
        fn it_survives_two_shells(text in "[ -~\n'é]{0,30}") {
            let inner = format!("printf '%s|' {}", posix_word(&text).unwrap());
            let outer = format!("exec bash -c {}", posix_word(&inner).unwrap());
            prop_assert_eq!(printed("/bin/sh", &outer), format!("{text}|"));
        }
    }

    #[test]
    fn plain_words_stay_readable_and_nul_is_refused() {
        assert_eq!(posix_word("apt-get").unwrap(), "apt-get");
        assert_eq!(posix_word("").unwrap(), "''");
        assert_eq!(posix_word("it's").unwrap(), r"'it'\''s'");
        assert_eq!(posix_word("a\0b").unwrap_err().field_name(), Some("command"));
        assert_eq!(login_bash("echo hi").unwrap(), "exec bash -lc 'echo hi'");
    }
}
