//! The keys that data keys are wrapped with, and the master keys that open them.
//!
//! The database has a keyring: one or more keys, each wrapped with every master key that is valid
//! at the moment. New values are sealed under the current key of it; what a value was sealed under
//! is written before its wrapped data key (`<key>:<wrapped>`). So to change the master key is to
//! wrap a few keys anew in one transaction, in which the old and the new one are both valid; and
//! to be rid of what the old one could open is to wrap data keys anew in small batches, which
//! any server does, and goes on with after a kill.
//!
//! A database that never had its master key changed has one key, the master key itself; what is
//! sealed under it has nothing written before it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use clawfarm_model::{Code, Error, Result, Timestamp};
use sea_orm::ConnectionTrait;
use secrecy::SecretBox;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::convert::{from_json, to_json};
use crate::crypto::{self, Belongs, Sealed};
use crate::error::unreadable;
use crate::key::{KEY_LEN, MasterKey};
use crate::store::{Inner, fact};

/// The fact that has the keyring.
pub(crate) const KEYRING: &str = "store.keyring";
/// The key of a database that never had its master key changed: that master key.
const FIRST: &str = "0";
/// In the place of a wrapped key: it is the master key itself.
const ITSELF: &str = "itself";

/// The keyring as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Ring {
    /// What new values are sealed under.
    pub(crate) current: String,
    /// Its keys, by id.
    pub(crate) keys: BTreeMap<String, Wraps>,
    /// The fingerprint of the master key that was added last.
    pub(crate) newest: String,
    /// When that was.
    pub(crate) newest_at: Timestamp,
    /// When values under other keys than the current one were last known to be there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) rewrapping: Option<Timestamp>,
}

/// Keys, opened, by id.
pub(crate) type Keys = BTreeMap<String, Arc<MasterKey>>;

/// One key, wrapped with each master key that is valid, by that one's fingerprint.
pub(crate) type Wraps = BTreeMap<String, String>;

impl Ring {
    /// Of a database that has none yet.
    pub(crate) fn first(master: &MasterKey) -> Result<Self> {
        let newest = master.fingerprint()?;
        let wraps = Wraps::from([(newest.clone(), ITSELF.to_owned())]);
        Ok(Self {
            current: FIRST.to_owned(),
            newest,
            newest_at: Timestamp::from_millis(0),
            keys: BTreeMap::from([(FIRST.to_owned(), wraps)]),
            rewrapping: None,
        })
    }

    pub(crate) fn parse(text: &str) -> Result<Self> {
        from_json("fact", KEYRING, text)
    }

    /// The fingerprints of the master keys that open it.
    pub(crate) fn masters(&self) -> Vec<String> {
        self.keys.get(&self.current).map(|wraps| wraps.keys().cloned().collect()).unwrap_or_default()
    }

    /// Its keys, opened.
    ///
    /// # Errors
    /// When this is none of the master keys that open it, with the fingerprints of both; when it
    /// was altered.
    pub(crate) fn open(&self, master: &MasterKey) -> Result<Keys> {
        let own = master.fingerprint()?;
        if !self.masters().contains(&own) {
            return Err(wrong_key(&own, &self.masters()));
        }
        let mut keys = BTreeMap::new();
        for (id, wraps) in &self.keys {
            let wrapped =
                wraps.get(&own).ok_or_else(|| unreadable("fact", KEYRING, "a key of it is missing"))?;
            let key = match wrapped.as_str() {
                ITSELF => MasterKey::from_bytes(*master.bytes()),
                wrapped => crypto::unwrap(master, id, wrapped)?,
            };
            keys.insert(id.clone(), Arc::new(key));
        }
        Ok(keys)
    }

    /// Makes another master key valid beside the present one, and has new values sealed under a
    /// new key. Says whether it was not valid before.
    pub(crate) fn add_master(&mut self, present: &MasterKey, new: &MasterKey) -> Result<bool> {
        let fingerprint = new.fingerprint()?;
        if self.masters().contains(&fingerprint) {
            return Ok(false);
        }
        let mut opened = self.open(present)?;
        let mut id = [0_u8; 6];
        getrandom::fill(&mut id)
            .map_err(|e| Error::internal("the operating system gives no random bytes", e.to_string()))?;
        let id: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
        let fresh = MasterKey::generate()?;
        let wraps = Wraps::from([(present.fingerprint()?, crypto::wrap(present, &id, &fresh)?)]);
        self.keys.insert(id.clone(), wraps);
        opened.insert(id.clone(), Arc::new(fresh));
        for (id, wraps) in &mut self.keys {
            let key = opened.get(id).ok_or_else(|| unreadable("fact", KEYRING, "a key of it is missing"))?;
            wraps.insert(fingerprint.clone(), crypto::wrap(new, id, key)?);
        }
        self.current = id;
        self.newest = fingerprint;
        self.newest_at = Timestamp::now();
        self.rewrapping = Some(self.newest_at);
        Ok(true)
    }

    /// Leaves this master key as the only one that is valid.
    pub(crate) fn keep_master(&mut self, only: &str) {
        for wraps in self.keys.values_mut() {
            wraps.retain(|fingerprint, _| fingerprint == only);
        }
    }
}

fn wrong_key(own: &str, masters: &[String]) -> Error {
    Error::new(
        Code::Internal,
        format!(
            "the master key is not the one this database was encrypted with: its fingerprint is {own}, that of the right one {}",
            masters.join(" or ")
        ),
    )
    .fix("put back the master key that belongs to this database; nothing was changed")
}

/// Refuses a master key that does not open a database with this keyring, or with this proof where
/// it has none yet. `None` when there is neither.
pub(crate) fn opens(master: &MasterKey, ring: Option<&str>, proof: Option<&str>) -> Result<Option<()>> {
    match (ring, proof) {
        (Some(ring), _) => Ring::parse(ring)?.open(master).map(|_| Some(())),
        (None, Some(proof)) if crypto::proves(master, proof) => Ok(Some(())),
        (None, Some(_)) => Err(Error::new(
            Code::Internal,
            format!(
                "the master key is not the one this database was encrypted with: its fingerprint is {}",
                master.fingerprint()?
            ),
        )
        .fix("put back the master.key that belongs to this database; nothing was changed")),
        (None, None) => Ok(None),
    }
}

/// The keyring of an open store.
pub(crate) struct Keyring {
    pub(crate) master: MasterKey,
    held: RwLock<Arc<Held>>,
}

struct Held {
    ring: Ring,
    keys: Keys,
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keyring(..)")
    }
}

impl Keyring {
    /// Before the database has been asked.
    pub(crate) fn new(master: MasterKey) -> Result<Self> {
        let ring = Ring::first(&master)?;
        let keys = ring.open(&master)?;
        Ok(Self { master, held: RwLock::new(Arc::new(Held { ring, keys })) })
    }

    fn held(&self) -> Arc<Held> {
        Arc::clone(&self.held.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes the database's keyring up.
    pub(crate) fn take(&self, text: &str) -> Result<()> {
        let ring = Ring::parse(text)?;
        let held = self.held();
        if held.ring == ring {
            return Ok(());
        }
        // The master key that this server began with may be valid no more; its keys still are.
        let known = ring.keys.keys().all(|id| held.keys.contains_key(id));
        let keys = if known { held.keys.clone() } else { ring.open(&self.master)? };
        *self.held.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(Held { ring, keys });
        Ok(())
    }

    /// Seals under the current key.
    pub(crate) fn seal(&self, belongs: Belongs<'_>, plain: &[u8]) -> Result<Sealed> {
        let held = self.held();
        let id = &held.ring.current;
        let mut sealed = crypto::seal(held.key(id)?, belongs, plain)?;
        sealed.wrapped_key = named(id, sealed.wrapped_key);
        Ok(sealed)
    }

    /// Opens what was sealed under any of its keys; `None` when it does not know the key.
    pub(crate) fn unseal(&self, belongs: Belongs<'_>, sealed: &Sealed) -> Result<Option<Zeroizing<Vec<u8>>>> {
        let held = self.held();
        let (id, wrapped_key) = split(&sealed.wrapped_key);
        let Some(key) = held.keys.get(id) else { return Ok(None) };
        let sealed = Sealed { wrapped_key: wrapped_key.to_owned(), value: sealed.value.clone() };
        crypto::unseal(key, belongs, &sealed).map(Some)
    }

    /// The same data key under the current key; `None` when it is under it already.
    pub(crate) fn rewrap(&self, belongs: Belongs<'_>, wrapped_key: &str) -> Result<Option<String>> {
        let held = self.held();
        let current = &held.ring.current;
        let (id, wrapped) = split(wrapped_key);
        if id == current {
            return Ok(None);
        }
        let new = crypto::rewrap(held.key(id)?, held.key(current)?, belongs, wrapped)?;
        Ok(Some(named(current, new)))
    }

    /// What is written before what is under the current key.
    pub(crate) fn prefix(&self) -> Option<String> {
        let held = self.held();
        (held.ring.current != FIRST).then(|| format!("{}:", held.ring.current))
    }

    /// A key for another purpose: of the oldest key, so that what was made of it stays what it is.
    pub(crate) fn derive(&self, purpose: &str) -> Result<SecretBox<[u8; KEY_LEN]>> {
        crypto::derive(self.held().key(FIRST)?, purpose)
    }

    /// A code of a text, see [`crypto::keyed_hash`].
    pub(crate) fn keyed_hash(&self, purpose: &str, text: &str) -> Result<String> {
        crypto::keyed_hash(self.held().key(FIRST)?, purpose, text)
    }
}

impl Held {
    fn key(&self, id: &str) -> Result<&MasterKey> {
        self.keys
            .get(id)
            .map(Arc::as_ref)
            .ok_or_else(|| unreadable("fact", KEYRING, "a key of it is missing"))
    }
}

fn named(id: &str, wrapped: String) -> String {
    if id == FIRST { wrapped } else { format!("{id}:{wrapped}") }
}

/// Which key a data key is wrapped with, and how.
fn split(text: &str) -> (&str, &str) {
    text.split_once(':').unwrap_or((FIRST, text))
}

impl Inner {
    /// Opens what is sealed. Another server may have changed the keyring since it was read.
    pub(crate) async fn unseal(&self, belongs: Belongs<'_>, sealed: &Sealed) -> Result<Zeroizing<Vec<u8>>> {
        if let Some(plain) = self.keyring.unseal(belongs, sealed)? {
            return Ok(plain);
        }
        self.refresh_keyring(&self.reader).await?;
        self.keyring.unseal(belongs, sealed)?.ok_or_else(crypto::altered)
    }

    /// Takes up the keyring as the database has it.
    pub(crate) async fn refresh_keyring(&self, on: &impl ConnectionTrait) -> Result<()> {
        match fact(on, KEYRING).await? {
            Some(text) => self.keyring.take(&text),
            None => Ok(()),
        }
    }
}

/// The fact as it is written.
pub(crate) fn text(ring: &Ring) -> Result<String> {
    to_json(ring)
}
