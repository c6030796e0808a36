//! Lists of digests as `sha256sum` and `sha512sum` write them, and who signed them.

use std::path::Path;
use std::time::Duration;

use clawfarm_files::io_error;
use clawfarm_model::{Code, Error, Result};
use clawfarm_runtime::Progress;
use ring::digest::{Algorithm, SHA256, SHA512};

use crate::record::Signature;
use crate::run::{Program, find};

/// How long a signature may take to be checked.
const LIMIT: Duration = Duration::from_secs(60);

/// A digest that a file must have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Expected {
    /// By which algorithm, as the list's name says.
    pub(super) algorithm: &'static Algorithm,
    /// In hexadecimal, small letters.
    pub(super) hex: String,
}

/// The digest of `file` in a list that is called `name`.
///
/// # Errors
/// `NotFound` when the list has no such file, or none with a digest of the list's own kind.
pub(super) fn expected(list: &[u8], name: &str, file: &str) -> Result<Expected> {
    let algorithm = if name.starts_with("SHA512") { &SHA512 } else { &SHA256 };
    let length = 2 * algorithm.output_len();
    let text = String::from_utf8_lossy(list);
    let found = text.lines().find_map(|line| {
        let (hex, rest) = line.split_once(' ')?;
        // A blank or `*` stands before the name: read as text or as bytes, which is one here.
        let named = rest.strip_prefix([' ', '*']).unwrap_or(rest);
        let good = hex.len() == length && hex.bytes().all(|byte| byte.is_ascii_hexdigit());
        (named.trim_end() == file && good).then(|| hex.to_ascii_lowercase())
    });
    let hex = found.ok_or_else(|| {
        Error::new(Code::NotFound, format!("the site's {name} has no digest of {file}"))
            .field("image")
            .fix("look whether there is an image for this processor, and at a mirror whether it is complete")
    })?;
    Ok(Expected { algorithm, hex })
}

/// Checks a list's signature: both are files in `folder`, which is also where gpgv, told so,
/// looks for settings, of which there are none.
///
/// # Errors
/// `Forbidden` when it is not the keyring's key that signed it, `Unsupported` when there is a
/// keyring and no gpgv.
pub(super) async fn check_signature(
    folder: &Path,
    list: &[u8],
    signature: &[u8],
    keyring: &Path,
    progress: &dyn Progress,
) -> Result<Signature> {
    if find("gpgv").is_none() {
        return Err(Error::new(
            Code::Unsupported,
            format!("there is a keyring ({}), and no gpgv to check signatures with", keyring.display()),
        )
        .fix("install it (Debian, Ubuntu: sudo apt-get install gpgv), then try again"));
    }
    let (list_at, signature_at) = (folder.join("sums"), folder.join("sums.gpg"));
    for (path, contents) in [(&list_at, list), (&signature_at, signature)] {
        std::fs::write(path, contents)
            .map_err(|error| io_error(format!("write '{}'", path.display()), error))?;
    }
    let checked = Program::new("gpgv", "gpgv", LIMIT)
        .args(["--homedir".as_ref(), folder.as_os_str()])
        .args(["--keyring".as_ref(), keyring.as_os_str(), "--".as_ref()])
        .args([&signature_at, &list_at])
        .run(None, progress)
        .await;
    for path in [&list_at, &signature_at] {
        std::fs::remove_file(path)
            .map_err(|error| io_error(format!("remove '{}'", path.display()), error))?;
    }
    match checked {
        Ok(()) => Ok(Signature::Good),
        Err(error) if error.code() == Code::Internal => Err(Error::new(
            Code::Forbidden,
            format!(
                "the site's list of digests is not signed by a key of {}: {}",
                keyring.display(),
                error.message()
            ),
        )
        .field("image")
        .fix(
            "fetch from the maker's own site; if the maker has a new key, update the package of the keyring",
        )),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_as_sha256sum_writes_them() {
        let (one, two) = ("a".repeat(64), "B".repeat(64));
        let list = format!("{one} *x.img\n{two}  y.img\nzz  z.img\n{one}  dir/y.img\n");
        assert_eq!(expected(list.as_bytes(), "SHA256SUMS", "x.img").unwrap().hex, one);
        assert_eq!(expected(list.as_bytes(), "SHA256SUMS", "y.img").unwrap().hex, two.to_lowercase());
        for missing in ["z.img", "img", "x.im", ""] {
            let error = expected(list.as_bytes(), "SHA256SUMS", missing).expect_err(missing);
            assert_eq!(error.code(), Code::NotFound);
        }
        // A digest of the other kind is none.
        assert!(expected(list.as_bytes(), "SHA512SUMS", "x.img").is_err());
        let long = format!("{}  x.img\n", "c".repeat(128));
        assert_eq!(expected(long.as_bytes(), "SHA512SUMS", "x.img").unwrap().algorithm, &SHA512);
    }

    #[test]
    fn fuzz_lists_of_digests() {
        let line = format!("{} *x.img\n", "a".repeat(64));
        clawfarm_fuzz::fuzz(&[line.as_bytes()], |list| {
            if let Ok(found) = expected(list, "SHA256SUMS", "x.img") {
                assert!(found.hex.len() == 64 && found.hex.bytes().all(|byte| byte.is_ascii_hexdigit()));
            }
        });
    }
}
