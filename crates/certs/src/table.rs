//! Which certificate a caller is shown, by the name that it asks for.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use rustls::ServerConfig;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::Chain;
use crate::local::Authority;

/// The certificates that are shown now. They can be replaced while connections are open: those
/// keep what they were shown.
#[derive(Default)]
pub struct Table {
    shown: RwLock<Arc<Shown>>,
    /// Makes certificates for names that have none, where there is such an authority.
    authority: Option<Authority>,
}

#[derive(Default)]
pub(crate) struct Shown {
    by_name: HashMap<String, Arc<Chain>>,
    /// By the domain that a wildcard is directly below.
    below: HashMap<String, Arc<Chain>>,
    /// For callers that ask for no name, or for one that has none.
    usual: Option<Arc<Chain>>,
    /// Whether that one is shown to those who ask for another name, too.
    whatever: bool,
}

impl Shown {
    /// One certificate for all callers, whatever they ask for: what files are.
    pub(crate) fn only(chain: Arc<Chain>) -> Self {
        let mut shown = Self::of([chain]);
        shown.whatever = true;
        shown
    }

    /// Certificates by their names; the first is for callers that ask for none.
    pub(crate) fn of(chains: impl IntoIterator<Item = Arc<Chain>>) -> Self {
        let mut shown = Self::default();
        for chain in chains {
            for name in &chain.facts.names {
                let (table, name) = match name.strip_prefix("*.") {
                    Some(domain) => (&mut shown.below, domain),
                    None => (&mut shown.by_name, name.as_str()),
                };
                // Of two for a name, the one that lasts longer.
                let there = table.get(name).is_some_and(|it| it.facts.not_after >= chain.facts.not_after);
                if !there {
                    table.insert(name.to_owned(), Arc::clone(&chain));
                }
            }
            shown.usual.get_or_insert(chain);
        }
        shown
    }

    fn named(&self, name: &str) -> Option<&Arc<Chain>> {
        let below = || name.split_once('.').and_then(|(_, domain)| self.below.get(domain));
        self.by_name.get(name).or_else(below)
    }
}

impl Table {
    pub(crate) fn with_authority(authority: Authority) -> Self {
        Self { authority: Some(authority), ..Self::default() }
    }

    pub(crate) const fn authority(&self) -> Option<&Authority> {
        self.authority.as_ref()
    }

    pub(crate) fn show(&self, shown: Shown) {
        *self.shown.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(shown);
    }

    fn now(&self) -> Arc<Shown> {
        Arc::clone(&self.shown.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether there is a certificate for a name.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.now().named(&name.to_ascii_lowercase()).is_some()
    }

    /// What is shown to who asks for a name, or for none.
    #[must_use]
    pub fn find(&self, name: Option<&str>) -> Option<Arc<Chain>> {
        let shown = self.now();
        let usual = || shown.usual.clone();
        let Some(name) = name.map(str::to_ascii_lowercase) else { return usual() };
        let made = || self.authority.as_ref().and_then(|authority| authority.for_name(&name));
        match shown.named(&name) {
            Some(chain) => Some(Arc::clone(chain)),
            None => made().or_else(|| if shown.whatever { usual() } else { None }),
        }
    }
}

impl std::fmt::Debug for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Table").finish_non_exhaustive()
    }
}

impl ResolvesServerCert for Table {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.find(hello.server_name()).map(|chain| Arc::clone(&chain.certified))
    }
}

/// TLS 1.2 and 1.3 with the suites that rustls offers (all with forward secrecy and authenticated
/// encryption), for HTTP/2 and HTTP/1.1.
///
/// # Errors
/// None that is to be expected.
pub fn server_config(table: Arc<Table>) -> clawfarm_model::Result<Arc<ServerConfig>> {
    let mut config = ServerConfig::builder_with_provider(crate::provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| clawfarm_model::Error::internal("TLS can't be set up", error))?
        .with_no_client_auth()
        .with_cert_resolver(table);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(names: &[&str]) -> Arc<Chain> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        let (chain, key) = (made.cert.pem(), made.signing_key.serialize_pem());
        Arc::new(Chain::from_pem(chain.as_bytes(), key.as_bytes()).unwrap())
    }

    fn serial(table: &Table, name: Option<&str>) -> Option<String> {
        table.find(name).map(|chain| chain.facts.serial.clone())
    }

    #[test]
    fn a_name_gets_its_own_then_the_wildcard_then_nothing() {
        let (base, one) = (chain(&["c.test", "*.c.test"]), chain(&["alice-1.c.test"]));
        let table = Table::default();
        assert_eq!(serial(&table, None), None);
        table.show(Shown::of([Arc::clone(&base), Arc::clone(&one)]));
        let is = |name: &str, chain: &Chain| serial(&table, Some(name)).as_ref() == Some(&chain.facts.serial);
        assert!(is("c.test", &base) && is("C.Test", &base) && is("bob-2.c.test", &base));
        assert!(is("alice-1.c.test", &one));
        assert_eq!(serial(&table, None).as_ref(), Some(&base.facts.serial));
        for stranger in ["a.alice-1.c.test", "test", "other.test", ""] {
            assert_eq!(serial(&table, Some(stranger)), None, "{stranger}");
        }
    }

    #[test]
    fn one_from_files_is_shown_whatever_is_asked_for() {
        let only = chain(&["c.test"]);
        let table = Table::default();
        table.show(Shown::only(Arc::clone(&only)));
        assert_eq!(serial(&table, Some("alice-1.c.test")).as_ref(), Some(&only.facts.serial));
    }
}
