//! Envelope encryption: each value under a fresh data key, the data key under a key of the
//! [keyring](crate::keyring), both with AES-256-GCM. What each ciphertext belongs to is bound into
//! it, so that one moved to another row, or to the other layer, does not open there.

use aes_gcm::aead::{Aead, Payload};
use aes_gcm::{Aes256Gcm, Key, KeyInit};
use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use clawfarm_model::{Code, Error, Result};
use hmac::{Hmac, Mac};
use secrecy::{ExposeSecret, SecretBox};
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::key::{KEY_LEN, MasterKey};

/// GCM's nonce. A data key encrypts one value once; the master key would have to wrap 2^32
/// data keys before a random nonce is likely enough to repeat to matter (NIST SP 800-38D).
const NONCE_LEN: usize = 12;

/// A value and its data key, as they are stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sealed {
    pub(crate) wrapped_key: String,
    pub(crate) value: String,
}

/// What a ciphertext belongs to: the tenant, the instance or what else it is for (or nothing) and
/// the name.
pub(crate) type Belongs<'a> = [&'a str; 3];

pub(crate) fn seal(master: &MasterKey, belongs: Belongs<'_>, plain: &[u8]) -> Result<Sealed> {
    let mut data_key = Zeroizing::new([0; KEY_LEN]);
    random(data_key.as_mut())?;
    Ok(Sealed {
        wrapped_key: encrypt(master.bytes(), &bind("key", belongs), data_key.as_ref())?,
        value: encrypt(&data_key, &bind("value", belongs), plain)?,
    })
}

/// The data key of what is sealed, wrapped again with another key. The value stays as it is.
pub(crate) fn rewrap(
    old: &MasterKey,
    new: &MasterKey,
    belongs: Belongs<'_>,
    wrapped_key: &str,
) -> Result<String> {
    let aad = bind("key", belongs);
    let data_key = decrypt(old.bytes(), &aad, wrapped_key)?;
    encrypt(new.bytes(), &aad, &data_key)
}

/// A key of the keyring, wrapped with a master key.
pub(crate) fn wrap(master: &MasterKey, id: &str, key: &MasterKey) -> Result<String> {
    encrypt(master.bytes(), &bind("root", ["", "", id]), key.bytes())
}

/// The key that [`wrap`] wrapped.
pub(crate) fn unwrap(master: &MasterKey, id: &str, wrapped: &str) -> Result<MasterKey> {
    let bytes = decrypt(master.bytes(), &bind("root", ["", "", id]), wrapped)?;
    Ok(MasterKey::from_bytes(bytes.as_slice().try_into().map_err(|_| altered())?))
}

pub(crate) fn unseal(
    master: &MasterKey,
    belongs: Belongs<'_>,
    sealed: &Sealed,
) -> Result<Zeroizing<Vec<u8>>> {
    let data_key = decrypt(master.bytes(), &bind("key", belongs), &sealed.wrapped_key)?;
    let data_key: Zeroizing<[u8; KEY_LEN]> =
        Zeroizing::new(data_key.as_slice().try_into().map_err(|_| altered())?);
    decrypt(&data_key, &bind("value", belongs), &sealed.value)
}

/// A value that only the holder of this master key can have made.
pub(crate) fn proof(master: &MasterKey) -> Result<String> {
    encrypt(master.bytes(), &bind("proof", ["", "", ""]), b"clawfarm")
}

/// Whether this master key made the proof.
pub(crate) fn proves(master: &MasterKey, proof: &str) -> bool {
    decrypt(master.bytes(), &bind("proof", ["", "", ""]), proof).is_ok()
}

/// A key for another purpose, which tells nothing of the master key: HMAC-SHA-256 of the
/// purpose under it (HKDF's expansion, RFC 5869, of one block; the master key is random already).
pub(crate) fn derive(master: &MasterKey, purpose: &str) -> Result<SecretBox<[u8; KEY_LEN]>> {
    let mut mac = Hmac::<Sha256>::new_from_slice(master.bytes())
        .map_err(|e| Error::internal("a key can't be derived", e))?;
    mac.update(b"clawfarm ");
    mac.update(purpose.as_bytes());
    mac.update(&[1]);
    Ok(SecretBox::new(Box::new(mac.finalize().into_bytes().into())))
}

/// A code of a text under a key for one purpose, in hexadecimal (HMAC-SHA-256): the same for the
/// same text, and nothing that could be tried out without the master key.
pub(crate) fn keyed_hash(master: &MasterKey, purpose: &str, text: &str) -> Result<String> {
    let key = derive(master, purpose)?;
    let mut mac = Hmac::<Sha256>::new_from_slice(key.expose_secret())
        .map_err(|e| Error::internal("a code can't be made", e))?;
    mac.update(text.as_bytes());
    Ok(mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The associated data. Each part goes with its length, so that no two lists of parts come
/// out as the same bytes.
fn bind(layer: &str, belongs: Belongs<'_>) -> Vec<u8> {
    let mut data = b"clawfarm secret v1".to_vec();
    for part in [layer].into_iter().chain(belongs) {
        data.extend_from_slice(&(part.len() as u64).to_le_bytes());
        data.extend_from_slice(part.as_bytes());
    }
    data
}

fn random(bytes: &mut [u8]) -> Result<()> {
    getrandom::fill(bytes)
        .map_err(|e| Error::internal("the operating system gives no random bytes", e.to_string()))
}

fn encrypt(key: &[u8; KEY_LEN], aad: &[u8], plain: &[u8]) -> Result<String> {
    let mut nonce = [0; NONCE_LEN];
    random(&mut nonce)?;
    let cipher = Aes256Gcm::new(<&Key<Aes256Gcm>>::from(key))
        .encrypt(&nonce.into(), Payload { msg: plain, aad })
        .map_err(|_| Error::new(Code::Internal, "a secret can't be encrypted"))?;
    Ok(STANDARD_NO_PAD.encode([&nonce[..], &cipher].concat()))
}

fn decrypt(key: &[u8; KEY_LEN], aad: &[u8], text: &str) -> Result<Zeroizing<Vec<u8>>> {
    let bytes = STANDARD_NO_PAD.decode(text).map_err(|_| altered())?;
    let (nonce, cipher) = bytes.split_first_chunk::<NONCE_LEN>().ok_or_else(altered)?;
    Aes256Gcm::new(<&Key<Aes256Gcm>>::from(key))
        .decrypt(&(*nonce).into(), Payload { msg: cipher, aad })
        .map(Zeroizing::new)
        .map_err(|_| altered())
}

pub(crate) fn altered() -> Error {
    Error::new(
        Code::Internal,
        "a stored secret can't be decrypted: it was altered, or moved from another place",
    )
    .fix("set the secret again; if you did not change the database yourself, find out who did")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> MasterKey {
        MasterKey::from_bytes([byte; KEY_LEN])
    }

    #[test]
    fn opens_only_where_it_belongs() {
        let belongs = ["t", "alice-12345", "key"];
        let sealed = seal(&key(1), belongs, b"sesame").unwrap();
        assert_eq!(unseal(&key(1), belongs, &sealed).unwrap().as_slice(), b"sesame");
        for other in [
            ["u", "alice-12345", "key"],
            ["t", "", "key"],
            ["t", "alice-12345", "other"],
            ["talice-12345", "", "key"],
        ] {
            assert!(unseal(&key(1), other, &sealed).is_err(), "{other:?}");
        }
        assert!(unseal(&key(2), belongs, &sealed).is_err());
    }

    #[test]
    fn a_swap_of_layers_or_values_does_not_open() {
        let belongs = ["t", "", "key"];
        let one = seal(&key(1), belongs, &[7; KEY_LEN]).unwrap();
        let two = seal(&key(1), belongs, &[8; KEY_LEN]).unwrap();
        assert_ne!(one.value, two.value);
        let mixed = Sealed { wrapped_key: one.wrapped_key.clone(), value: two.value };
        assert!(unseal(&key(1), belongs, &mixed).is_err());
        let turned = Sealed { wrapped_key: one.value, value: one.wrapped_key };
        assert!(unseal(&key(1), belongs, &turned).is_err());
        for junk in ["", "AAAA", "not base64!", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"] {
            let junk = Sealed { wrapped_key: junk.into(), value: junk.into() };
            assert!(unseal(&key(1), belongs, &junk).is_err());
        }
    }

    #[test]
    fn every_sealing_differs_and_a_flipped_bit_is_noticed() {
        let belongs = ["t", "", "key"];
        let sealed = seal(&key(1), belongs, b"sesame").unwrap();
        assert_ne!(sealed, seal(&key(1), belongs, b"sesame").unwrap());
        let mut bytes = STANDARD_NO_PAD.decode(&sealed.value).unwrap();
        for index in 0..bytes.len() {
            bytes[index] ^= 1;
            let changed = Sealed { value: STANDARD_NO_PAD.encode(&bytes), ..sealed.clone() };
            assert!(unseal(&key(1), belongs, &changed).is_err(), "byte {index}");
            bytes[index] ^= 1;
        }
    }

    #[test]
    fn a_proof_is_one_keys() {
        let proof = proof(&key(1)).unwrap();
        assert!(proves(&key(1), &proof));
        assert!(!proves(&key(2), &proof));
    }

    #[test]
    fn fuzz_envelopes() {
        let belongs = ["t", "", "key"];
        let sealed = seal(&key(1), belongs, b"sesame").unwrap();
        clawfarm_fuzz::fuzz_text(&[&sealed.value, &sealed.wrapped_key], |text| {
            let changed = Sealed { value: text.to_owned(), ..sealed.clone() };
            assert!(text == sealed.value || unseal(&key(1), belongs, &changed).is_err());
            let changed = Sealed { wrapped_key: text.to_owned(), ..sealed.clone() };
            assert!(text == sealed.wrapped_key || unseal(&key(1), belongs, &changed).is_err());
        });
    }
}
