//! The master key: 32 random bytes, from a file that only the server can read or from elsewhere.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use clawfarm_model::{Error, Result};
use zeroize::{Zeroize, Zeroizing};

/// AES-256 takes 32 bytes.
pub(crate) const KEY_LEN: usize = 32;

/// The key that the data keys of all secrets are wrapped with. Never shown, wiped from
/// memory when it is dropped.
pub struct MasterKey(Zeroizing<[u8; KEY_LEN]>);

impl MasterKey {
    /// Reads the key from `path`, making it at the first start. The file appears with its
    /// whole contents or not at all, and a key that is there is never replaced: without it
    /// every stored secret is lost.
    ///
    /// # Errors
    /// When the file can't be made or read, can be read by others, or is no key.
    pub fn load_or_create(path: &Path) -> Result<Self> {
        match Self::load(path)? {
            Some(key) => Ok(key),
            None => {
                Self::create(path)?;
                // Read back what is there: another process may have been first.
                Self::load(path)?.ok_or_else(|| broken(path, "it vanished while it was being made"))
            }
        }
    }

    fn load(path: &Path) -> Result<Option<Self>> {
        let mut file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(broken(path, &error.to_string()).source(error)),
        };
        let meta = file.metadata().map_err(|e| broken(path, &e.to_string()))?;
        if !meta.is_file() {
            return Err(broken(path, "it is no file"));
        }
        if meta.mode() & 0o077 != 0 {
            return Err(broken(
                path,
                &format!("others can read or write it (mode {:04o})", meta.mode() & 0o7777),
            )
            .fix(format!(
                "chmod 600 {}; if others may have read it, treat every stored secret as known to them",
                path.display()
            )));
        }
        if meta.len() != KEY_LEN as u64 {
            return Err(broken(path, &format!("it has {} bytes, a key has {KEY_LEN}", meta.len())));
        }
        let mut key = Zeroizing::new([0; KEY_LEN]);
        file.read_exact(key.as_mut()).map_err(|e| broken(path, &e.to_string()))?;
        if key.iter().all(|b| *b == 0) {
            return Err(broken(path, "it is all zeros, as a file is after a crash of the machine"));
        }
        Ok(Some(Self(key)))
    }

    /// Writes a fresh key beside its place and links it there: a link, unlike a rename,
    /// fails when the place is taken.
    fn create(path: &Path) -> Result<()> {
        let mut bytes = Zeroizing::new([0; KEY_LEN]);
        getrandom::fill(bytes.as_mut())
            .map_err(|e| broken(path, &format!("the operating system gives no random bytes ({e})")))?;
        let mut suffix = [0; 8];
        getrandom::fill(&mut suffix)
            .map_err(|e| broken(path, &format!("the operating system gives no random bytes ({e})")))?;
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{:016x}.part", u64::from_le_bytes(suffix)));
        let part = Path::new(&name);
        let written = write_new(part, bytes.as_ref()).and_then(|()| match fs::hard_link(part, path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            other => other,
        });
        let _ = fs::remove_file(part);
        written.and_then(|()| sync_parent(path)).map_err(|e| {
            broken(path, &e.to_string())
                .fix("check that its folder exists, belongs to you, and that its disk has space")
                .source(e)
        })
    }

    /// Reads the key from a file that has to be there.
    ///
    /// # Errors
    /// `NotFound` when there is none; as for [`Self::load_or_create`].
    pub fn read(path: &Path) -> Result<Self> {
        Self::load(path)?.ok_or_else(|| {
            Error::new(clawfarm_model::Code::NotFound, format!("there is no master key {}", path.display()))
                .fix("put the key there that belongs to the database, or say where it is: --master-key-file")
        })
    }

    /// Writes the key to a new file for its owner only.
    ///
    /// # Errors
    /// When the file exists, or can't be written.
    pub fn write_to(&self, path: &Path) -> Result<()> {
        write_new(path, self.bytes()).and_then(|()| sync_parent(path)).map_err(|e| {
            Error::new(clawfarm_model::Code::Unavailable, format!("{} can't be written: {e}", path.display()))
                .fix("check that its folder exists, belongs to you, and that its disk has space")
                .source(e)
        })
    }

    /// Puts the key of one file in the place of that of another, as one step.
    ///
    /// # Errors
    /// When it can't be done; then both are as they were.
    pub fn replace(path: &Path, by: &Path) -> Result<()> {
        fs::rename(by, path).and_then(|()| sync_parent(path)).map_err(|e| {
            broken(path, &format!("{} can't be put in its place: {e}", by.display()))
                .fix("try again")
                .source(e)
        })
    }

    /// A new key.
    ///
    /// # Errors
    /// When the operating system gives no random bytes.
    pub fn generate() -> Result<Self> {
        let mut bytes = Zeroizing::new([0; KEY_LEN]);
        getrandom::fill(bytes.as_mut())
            .map_err(|e| Error::internal("the operating system gives no random bytes", e.to_string()))?;
        Ok(Self(bytes))
    }

    /// A key as text: 64 hexadecimal digits, or the base64 of its 32 bytes. White space around it
    /// does not count.
    ///
    /// # Errors
    /// `InvalidInput` when it is neither. The text is not in the error.
    pub fn from_text(text: &str) -> Result<Self> {
        use base64::Engine as _;
        use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
        let text = text.trim();
        let bytes = if text.len() == 2 * KEY_LEN && text.bytes().all(|b| b.is_ascii_hexdigit()) {
            let digit = |at: usize| u8::from_str_radix(text.get(at..at + 2).unwrap_or_default(), 16);
            (0..KEY_LEN).map(|n| digit(2 * n)).collect::<Result<Vec<u8>, _>>().ok()
        } else {
            let relaxed =
                GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
            GeneralPurpose::new(&base64::alphabet::STANDARD, relaxed).decode(text).ok()
        };
        let bytes = Zeroizing::new(bytes.unwrap_or_default());
        match <[u8; KEY_LEN]>::try_from(bytes.as_slice()) {
            Ok(bytes) if bytes.iter().any(|b| *b != 0) => Ok(Self::from_bytes(bytes)),
            _ => Err(Error::invalid("master key", "what was given is no master key").fix(
                "give 32 random bytes as 64 hexadecimal digits or as base64, such as 'openssl rand -hex 32' prints",
            )),
        }
    }

    /// By what people tell keys apart: 16 hexadecimal digits, which say nothing of the key.
    ///
    /// # Errors
    /// None that is to be expected.
    pub fn fingerprint(&self) -> Result<String> {
        use secrecy::ExposeSecret as _;
        let derived = crate::crypto::derive(self, "fingerprint")?;
        Ok(derived.expose_secret().iter().take(8).map(|b| format!("{b:02x}")).collect())
    }

    /// A key from bytes, for tests and for keys that are kept elsewhere.
    #[must_use]
    pub fn from_bytes(mut bytes: [u8; KEY_LEN]) -> Self {
        let key = Self(Zeroizing::new(bytes));
        bytes.zeroize();
        key
    }

    pub(crate) fn bytes(&self) -> &[u8; KEY_LEN] {
        &self.0
    }
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MasterKey(..)")
    }
}

fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn sync_parent(path: &Path) -> io::Result<()> {
    File::open(path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")))?.sync_all()
}

fn broken(path: &Path, why: &str) -> Error {
    Error::new(
        clawfarm_model::Code::Internal,
        format!("the master key {} can't be used: {why}", path.display()),
    )
    .fix("put back the key from your backup: without it the stored secrets can't be read")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn is_made_once_for_its_owner_only_and_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("master.key");
        let first = MasterKey::load_or_create(&path).unwrap();
        let again = MasterKey::load_or_create(&path).unwrap();
        assert_eq!(first.bytes(), again.bytes());
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        let names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, ["master.key"]);
        assert_eq!(format!("{first:?}"), "MasterKey(..)");
    }

    #[test]
    fn a_key_as_text_is_the_same_key() {
        let key = MasterKey::generate().unwrap();
        let hex: String = key.bytes().iter().map(|b| format!("{b:02X}")).collect();
        let base64 = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, key.bytes());
        for text in
            [hex.clone(), format!(" {hex}\n"), base64.clone(), base64.trim_end_matches('=').to_owned()]
        {
            let read = MasterKey::from_text(&text).unwrap();
            assert_eq!(read.bytes(), key.bytes());
            assert_eq!(read.fingerprint().unwrap(), key.fingerprint().unwrap());
        }
        assert_ne!(key.fingerprint().unwrap(), MasterKey::generate().unwrap().fingerprint().unwrap());
        for text in ["", "sesame", &hex[1..], &"0".repeat(64), &"ä".repeat(32), &"zz".repeat(32)] {
            let error = MasterKey::from_text(text).unwrap_err();
            assert!(text.is_empty() || !format!("{error:?}").contains(text), "{error:?}");
        }
    }

    #[test]
    fn many_first_starts_at_once_agree_on_one_key() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("master.key");
        let keys: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| MasterKey::load_or_create(&path))).collect();
            threads.into_iter().map(|t| t.join().unwrap().unwrap()).collect()
        });
        let stored = MasterKey::load_or_create(&path).unwrap();
        assert!(keys.iter().all(|k| k.bytes() == stored.bytes()));
    }

    #[test]
    fn a_file_that_is_no_key_is_refused_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("master.key");
        for (contents, mode, why) in [
            (vec![1; 31], 0o600, "31 bytes"),
            (vec![1; 33], 0o600, "33 bytes"),
            (vec![], 0o600, "0 bytes"),
            (vec![0; 32], 0o600, "all zeros"),
            (vec![1; 32], 0o640, "mode 0640"),
            (vec![1; 32], 0o604, "mode 0604"),
        ] {
            fs::write(&path, &contents).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let error = MasterKey::load_or_create(&path).unwrap_err();
            assert!(error.message().contains(why), "{error}");
            assert!(error.fix_text().is_some());
            assert_eq!(fs::read(&path).unwrap(), contents);
        }
    }
}
