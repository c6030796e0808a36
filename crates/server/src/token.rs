//! The admin's token: 256 random bits in a file that only its owner can read.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use clawfarm_model::{Code, Error, Result};
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// The token's file in the home folder.
const FILE: &str = "admin.token";

/// Reads the admin's token from `home`, or makes one at the first start.
///
/// # Errors
/// `Internal` when the file can't be read or written; `Conflict` when others than its owner
/// may read it, or it holds no token.
pub fn load_or_create_admin_token(home: &Path) -> Result<SecretString> {
    let path = home.join(FILE);
    match File::open(&path) {
        Ok(file) => load(file, &path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => create(home, &path),
        Err(error) => Err(failed("read", &path, error)),
    }
}

/// Reads the admin's token from `home`; `None` when it has none yet.
///
/// # Errors
/// As [`load_or_create_admin_token`].
pub fn load_admin_token(home: &Path) -> Result<Option<SecretString>> {
    let path = home.join(FILE);
    match File::open(&path) {
        Ok(file) => load(file, &path).map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed("read", &path, error)),
    }
}

/// Puts a token into `home`, in the place of the one that is there, if one is.
///
/// # Errors
/// `Internal` when the file can't be written.
pub fn replace_admin_token(home: &Path, token: &SecretString) -> Result<()> {
    let path = home.join(FILE);
    let temporary = temporary(home)?;
    let replaced = write(&temporary, token.expose_secret())
        .and_then(|()| std::fs::rename(&temporary, &path))
        .and_then(|()| File::open(home)?.sync_all());
    replaced.map_err(|e| {
        let _ = std::fs::remove_file(&temporary);
        failed("replace", &path, e)
    })
}

/// The token that requests must present, as a server that runs knows it: all of its copies are one,
/// and of the token only a hash is kept.
#[derive(Clone, Debug)]
pub struct AdminToken(Arc<RwLock<[u8; 32]>>);

impl AdminToken {
    /// Another one counts from now on.
    pub fn set(&self, token: &SecretString) {
        let hash = Sha256::digest(token.expose_secret()).into();
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = hash;
    }

    /// Whether this is it. Hashes of equal length are compared, so that the time it takes tells
    /// nothing of the token.
    #[must_use]
    pub fn is(&self, token: &str) -> bool {
        let hash: [u8; 32] = Sha256::digest(token).into();
        let known = *self.0.read().unwrap_or_else(PoisonError::into_inner);
        hash.ct_eq(&known).into()
    }
}

impl AdminToken {
    /// A text that is another for each token and does not tell it: for what is to end when the
    /// token is replaced.
    #[must_use]
    pub fn mark(&self) -> SecretString {
        let hash = *self.0.read().unwrap_or_else(PoisonError::into_inner);
        let again = Sha256::digest(hash);
        SecretString::from(again.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
    }
}

impl From<&SecretString> for AdminToken {
    fn from(token: &SecretString) -> Self {
        Self(Arc::new(RwLock::new(Sha256::digest(token.expose_secret()).into())))
    }
}

/// A new token: 256 random bits.
///
/// # Errors
/// `Internal` when the operating system gives no random bytes.
pub fn new_admin_token() -> Result<SecretString> {
    random_hex::<32>().map(SecretString::from)
}

fn load(file: File, path: &Path) -> Result<SecretString> {
    let mode = file.metadata().map_err(|e| failed("read", path, e))?.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(Error::new(
            Code::Conflict,
            format!("{} may be read by others than its owner (mode {mode:04o})", path.display()),
        )
        .fix("it may be known: give all servers of this home's database a new one: clawfarm server renew-token"));
    }
    let mut text = String::new();
    file.take(1024).read_to_string(&mut text).map_err(|e| failed("read", path, e))?;
    let token = text.trim();
    if token.len() < 32 || !token.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(Error::new(Code::Conflict, format!("{} holds no token", path.display()))
            .fix(format!("remove it, so that one is made at the next start: rm {}", path.display())));
    }
    Ok(SecretString::from(token.to_owned()))
}

/// Writes the whole token under another name and links it into place, so that a reader sees
/// all of it or nothing, and that of two makers one wins and the other reads the winner's.
fn create(home: &Path, path: &Path) -> Result<SecretString> {
    let temporary = temporary(home)?;
    let token = random_hex::<32>()?;
    let written = write(&temporary, &token).and_then(|()| match std::fs::hard_link(&temporary, path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    });
    let removed = std::fs::remove_file(&temporary);
    written.map_err(|e| failed("make", path, e))?;
    removed.map_err(|e| failed("make", path, e))?;
    File::open(home).and_then(|folder| folder.sync_all()).map_err(|e| failed("make", path, e))?;
    load(File::open(path).map_err(|e| failed("read", path, e))?, path)
}

fn temporary(home: &Path) -> Result<PathBuf> {
    Ok(home.join(format!(".{FILE}.{}.{}", std::process::id(), random_hex::<4>()?)))
}

fn write(path: &Path, token: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(token.as_bytes())?;
    file.write_all(b"\n")?;
    file.sync_all()
}

fn failed(verb: &str, path: &Path, error: io::Error) -> Error {
    Error::new(Code::Internal, format!("can't {verb} {}: {error}", path.display()))
        .fix("check the folder's owner and that the disk is not full")
        .source(error)
}

/// `N` random bytes as hexadecimal digits.
pub(crate) fn random_hex<const N: usize>() -> Result<String> {
    let mut bytes = [0_u8; N];
    getrandom::fill(&mut bytes)
        .map_err(|error| Error::internal("the operating system gives no random bytes", error.to_string()))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn it_is_made_once_and_only_its_owner_can_read_it() {
        let home = tempfile::tempdir().unwrap();
        let first = load_or_create_admin_token(home.path()).unwrap();
        assert_eq!(first.expose_secret().len(), 64, "hexadecimal digits of 256 bits");
        let again = load_or_create_admin_token(home.path()).unwrap();
        assert_eq!(first.expose_secret(), again.expose_secret());
        let mode = std::fs::metadata(home.path().join(FILE)).unwrap().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 1, "nothing else is left behind");
    }

    #[test]
    fn one_that_others_can_read_is_refused() {
        let home = tempfile::tempdir().unwrap();
        load_or_create_admin_token(home.path()).unwrap();
        let path = home.path().join(FILE);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        let error = load_or_create_admin_token(home.path()).unwrap_err();
        assert_eq!(error.code(), Code::Conflict);
        assert!(error.message().contains("0640") && error.fix_text().is_some(), "{error}");
    }

    #[test]
    fn an_empty_file_is_no_token() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join(FILE);
        std::fs::write(&path, "").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(load_or_create_admin_token(home.path()).unwrap_err().code(), Code::Conflict);
    }

    #[test]
    fn a_new_one_replaces_it_whatever_it_was() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join(FILE);
        std::fs::write(&path, "not a token, and all can read it").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        let (old, new) = (SecretString::from("x".repeat(64)), new_admin_token().unwrap());
        let known = AdminToken::from(&old);
        let copy = known.clone();
        replace_admin_token(home.path(), &new).unwrap();
        copy.set(&load_admin_token(home.path()).unwrap().unwrap());
        assert!(known.is(new.expose_secret()) && !known.is(old.expose_secret()));
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 1, "nothing else is left behind");
    }

    #[test]
    fn two_makers_agree() {
        let home = tempfile::tempdir().unwrap();
        let tokens: Vec<String> = std::thread::scope(|scope| {
            let makers: Vec<_> =
                (0..8).map(|_| scope.spawn(|| load_or_create_admin_token(home.path()).unwrap())).collect();
            makers.into_iter().map(|m| m.join().unwrap().expose_secret().to_owned()).collect()
        });
        assert!(tokens.windows(2).all(|pair| pair[0] == pair[1]));
    }
}
