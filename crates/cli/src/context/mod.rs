//! Named servers, kept in one file of the user's own, with the tokens they are reached with.
//!
//! The file lies in the user's configuration folder, which no claw can read, and not in a
//! server's home: it says where servers are.

mod choice;
mod file;

use std::path::PathBuf;

use clawfarm_client::Endpoint;
use clawfarm_model::Error;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};

pub(crate) use choice::{Choice, Typed, choose, unknown};
pub(crate) use file::{Changing, Contexts, config_folder, read};

/// This machine's own server, which is always there and needs no entry.
pub(crate) const LOCAL: &str = "local";
/// The longest name of a context, in characters.
const NAME_MAX: usize = 64;

/// A server by name.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Named {
    /// Where: a URL, or the path of a socket.
    pub(crate) server: String,
    /// A PEM file of the authorities to trust instead of the system's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ca: Option<PathBuf>,
    /// What to present to it.
    #[serde(serialize_with = "file::write_token", deserialize_with = "file::read_token")]
    pub(crate) token: SecretString,
}

impl Named {
    /// Where it is, with its authorities.
    pub(crate) fn endpoint(&self) -> Result<Endpoint, Error> {
        endpoint(&self.server, self.ca.clone())
    }
}

/// Reads where a server is.
///
/// # Errors
/// `InvalidInput` for what is no address, and for authorities where there is no TLS.
pub(crate) fn endpoint(server: &str, authorities: Option<PathBuf>) -> Result<Endpoint, Error> {
    match (server.parse::<Endpoint>()?, authorities) {
        (Endpoint::Https { host, port, .. }, ca) => Ok(Endpoint::Https { host, port, ca }),
        (other, None) => Ok(other),
        (other, Some(_)) => Err(Error::invalid("--ca", format!("{other} is reached without TLS"))
            .fix("leave out --ca, or give the address as https://")),
    }
}

/// Reads a context's name: it goes into a file and onto terminals.
pub(crate) fn name(text: &str) -> Result<String, String> {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if text.is_empty() || text.len() > NAME_MAX || !text.chars().all(good) || text.starts_with(['-', '.']) {
        return Err(format!(
            "'{}' is no context's name: give 1 to {NAME_MAX} letters, digits, '-', '_' and '.'",
            text.escape_debug()
        ));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_plain_words() {
        for good in ["a", "prod", "eu-west.1", "A_b", &"x".repeat(64)] {
            assert_eq!(name(good).as_deref(), Ok(good));
        }
        for bad in ["", "-a", ".a", "a b", "a/b", "é", "a\u{1b}", &"x".repeat(65)] {
            assert!(name(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn authorities_belong_to_tls() {
        let ca = Some(PathBuf::from("/ca.pem"));
        assert!(matches!(endpoint("https://h:1", ca.clone()), Ok(Endpoint::Https { ca: Some(_), .. })));
        let refused = endpoint("http://127.0.0.1:1", ca).expect_err("no TLS");
        assert_eq!(refused.field_name(), Some("--ca"));
    }
}
