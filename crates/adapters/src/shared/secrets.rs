//! The values of secrets.

use std::collections::BTreeMap;

use clawfarm_model::secret::{SecretName, SecretRef};
use clawfarm_model::{Code, Error, Result};
use secrecy::SecretString;

/// The value of a secret that some field of the config refers to.
///
/// # Errors
/// `InvalidInput` when there is no such secret, or its value can't be an environment variable.
pub(crate) fn value<'a>(
    secrets: &'a BTreeMap<SecretName, SecretString>,
    secret: &SecretRef,
    field: &str,
) -> Result<&'a SecretString> {
    use secrecy::ExposeSecret as _;
    let name = &secret.secret;
    let value = secrets.get(name).ok_or_else(|| {
        Error::new(Code::InvalidInput, format!("there is no secret '{name}'"))
            .field(field)
            .fix(format!("set it: clawfarm secret set {name}"))
    })?;
    if value.expose_secret().contains('\0') {
        return Err(Error::invalid(field, format!("secret '{name}' contains a NUL byte"))
            .fix(format!("set it again as text: clawfarm secret set {name}")));
    }
    Ok(value)
}

/// The variable that holds a secret. OpenClaw accepts references to `[A-Z][A-Z0-9_]*` only,
/// so for all types names that differ in case or punctuation get a hash to stay apart.
pub(crate) fn variable(name: &SecretName) -> String {
    let name = name.as_str();
    let upper: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' }).collect();
    let plain = name.chars().all(|c| matches!(c, 'a'..='z' | '0'..='9' | '-'));
    if plain {
        format!("CLAWFARM_SECRET_{upper}")
    } else {
        format!("CLAWFARM_SECRET_{upper}_X{:016X}", fnv(name))
    }
}

/// FNV-1a, 64 bits: stable over versions and machines, which `std`'s hasher does not promise.
fn fnv(text: &str) -> u64 {
    text.bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_apart() {
        let of = |n: &str| variable(&SecretName::new(n).unwrap());
        assert_eq!(of("openai-key"), "CLAWFARM_SECRET_OPENAI_KEY");
        let names = ["a-b", "a_b", "a.b", "A-B", "A_b"].map(of);
        for (i, name) in names.iter().enumerate() {
            assert!(!names[..i].contains(name), "{name}");
            assert!(name.len() <= 128 && name.chars().all(|c| matches!(c, 'A'..='Z' | '0'..='9' | '_')));
        }
        assert!(of(&"Z".repeat(SecretName::MAX)).len() <= 128);
    }
}
