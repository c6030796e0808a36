//! Keys made for one instance.

use clawfarm_model::{Error, Result};
use ring::rand::{SecureRandom, SystemRandom};
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use ssh_key::private::{Ed25519Keypair, Ed25519PrivateKey};
use ssh_key::public::Ed25519PublicKey;
use ssh_key::{LineEnding, PrivateKey, PublicKey};
use zeroize::Zeroizing;

/// An ed25519 key, as OpenSSH writes one. It serves both for who signs in and for the guest's
/// sshd: the guest's is made here too and put on its seed, so it is known before the first
/// connection and nobody in between can give another.
#[derive(Clone)]
pub struct Key {
    /// For an identity file, or `/etc/ssh/ssh_host_ed25519_key`. A secret.
    pub private: Zeroizing<String>,
    /// For `authorized_keys`, or the known hosts: `ssh-ed25519 AAAA… COMMENT`.
    pub public: String,
}

impl Key {
    /// Makes one. The comment is seen by whoever lists keys.
    ///
    /// # Errors
    /// `Internal` when the system has no random numbers.
    pub fn make(comment: &str) -> Result<Self> {
        let no_random = || Error::internal("no key could be made", "the system gave no random numbers");
        let mut seed = Zeroizing::new([0; 32]);
        SystemRandom::new().fill(seed.as_mut()).map_err(|_| no_random())?;
        let pair = Ed25519KeyPair::from_seed_unchecked(seed.as_ref()).map_err(|_| no_random())?;
        let mut public = [0; 32];
        public.copy_from_slice(pair.public_key().as_ref());
        let pair = Ed25519Keypair {
            public: Ed25519PublicKey(public),
            private: Ed25519PrivateKey::from_bytes(&seed),
        };
        let written = |e: ssh_key::Error| Error::internal("a key could not be written", e);
        let key = PrivateKey::new(pair.into(), comment).map_err(written)?;
        Ok(Self {
            private: key.to_openssh(LineEnding::LF).map_err(written)?,
            public: key.public_key().to_openssh().map_err(written)?,
        })
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Key").field("public", &self.public).finish_non_exhaustive()
    }
}

/// A line of known hosts: `key` and no other is taken for the host that is called `alias`.
///
/// # Errors
/// `InvalidInput` when the key can't be read, or the alias could mean other hosts too.
pub fn known_host(alias: &str, key: &str) -> Result<String> {
    if alias.is_empty() || !alias.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
        return Err(Error::invalid("alias", format!("'{}' can't be a host's name", alias.escape_default()))
            .fix("use letters, digits and '-'"));
    }
    let unreadable = |why: String| {
        Error::invalid("host_key", format!("the guest's key can't be read: {why}"))
            .fix("give the one line of its /etc/ssh/ssh_host_ed25519_key.pub")
    };
    if key.trim().contains(['\n', '\r']) {
        return Err(unreadable("it has several lines".into()));
    }
    let mut key = PublicKey::from_openssh(key.trim()).map_err(|e| unreadable(e.to_string()))?;
    key.set_comment("");
    let line = key.to_openssh().map_err(|e| Error::internal("a key could not be written", e))?;
    Ok(format!("{alias} {}\n", line.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_another_and_the_secret_is_not_shown() {
        let (one, other) = (Key::make("a").unwrap(), Key::make("a").unwrap());
        assert_ne!(one.public, other.public);
        assert!(one.public.starts_with("ssh-ed25519 AAAA") && one.public.ends_with(" a"));
        let read = PrivateKey::from_openssh(one.private.as_str()).unwrap();
        assert_eq!(read.public_key().to_openssh().unwrap(), one.public);
        assert!(!format!("{one:?}").contains("PRIVATE"));
    }

    #[test]
    fn a_known_host_is_one_line_for_one_name() {
        let key = Key::make("root@guest").unwrap();
        let line = known_host("clawfarm-a1", &key.public).unwrap();
        assert_eq!(line.lines().count(), 1);
        assert!(line.starts_with("clawfarm-a1 ssh-ed25519 ") && !line.contains("root@guest"), "{line}");
        for alias in ["", "*", "a,b", "a b", "a\nb", "@cert-authority"] {
            assert_eq!(known_host(alias, &key.public).unwrap_err().field_name(), Some("alias"), "{alias}");
        }
        let two = format!("{}\n* {}", key.public, key.public);
        for key in ["", "ssh-ed25519", "ssh-ed25519 AAAA", two.as_str()] {
            assert_eq!(known_host("a", key).unwrap_err().field_name(), Some("host_key"), "{key}");
        }
    }
}
