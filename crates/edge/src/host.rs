//! Which claw a request is for, by its host name.

use clawfarm_model::{ClawId, Error, Result};
use http::header::HOST;
use http::{HeaderMap, Request, Uri};

/// The longest host name there can be (RFC 1035).
const HOST_MAX: usize = 253;

/// What a host name stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// The base domain: its own page.
    Base,
    /// The base domain, whose page is at another name.
    AtPage,
    /// A claw.
    Claw(ClawId),
    /// No name of ours.
    Unknown,
}

/// The base domain: claws are one label below it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseDomain {
    name: String,
    /// Where its own page is: the domain itself, as a rule.
    page: String,
}

/// The page below `localhost`: a cookie of `localhost` itself would go to whatever else of this
/// machine is opened under that name. No claw can be called so: their ids have a suffix.
const LOCAL_PAGE: &str = "clawfarm.localhost";

impl BaseDomain {
    /// Checks and takes a domain (`claws.example.com`, `localhost`).
    ///
    /// # Errors
    /// `InvalidInput` when it is no host name.
    pub fn new(text: &str) -> Result<Self> {
        let name = text.trim_end_matches('.').to_ascii_lowercase();
        let label = |label: &str| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        // A claw's id and a dot come before it.
        if name.len() + ClawId::MAX + 1 > HOST_MAX || !name.split('.').all(label) {
            let shown: String = text.chars().take(80).flat_map(char::escape_default).collect();
            return Err(Error::invalid("base_domain", format!("'{shown}' is no domain name"))
                .fix("give a name of letters, digits, '-' and '.', such as claws.example.com"));
        }
        let page = if name == "localhost" { LOCAL_PAGE.to_owned() } else { name.clone() };
        Ok(Self { name, page })
    }

    /// The name of its own page.
    #[must_use]
    pub fn page(&self) -> &str {
        &self.page
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.name
    }

    /// What a host stands for; `host` may have a port, a trailing dot, and capitals.
    #[must_use]
    pub fn place(&self, host: &str) -> Place {
        let name = name_of(host);
        if name.len() > HOST_MAX + 1 {
            return Place::Unknown;
        }
        let name = name.strip_suffix('.').unwrap_or(name);
        if name.eq_ignore_ascii_case(&self.page) {
            return Place::Base;
        }
        if name.eq_ignore_ascii_case(&self.name) {
            return Place::AtPage;
        }
        let below = name
            .len()
            .checked_sub(self.name.len() + 1)
            .filter(|at| name.is_char_boundary(*at) && name.as_bytes()[*at] == b'.')
            .filter(|at| name[at + 1..].eq_ignore_ascii_case(&self.name));
        match below.map(|at| ClawId::new(name[..at].to_ascii_lowercase())) {
            Some(Ok(id)) => Place::Claw(id),
            _ => Place::Unknown,
        }
    }
}

/// A host without its port.
pub(crate) fn name_of(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    }
}

/// The host that a request names, which is one: a request whose parts disagree was made to be
/// read differently by two readers.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn of<B>(request: &Request<B>) -> Result<String, &'static str> {
    of_head(request.uri(), request.headers())
}

/// The same of a request's target and headers.
///
/// # Errors
/// What is wrong with it.
fn of_head(uri: &Uri, headers: &HeaderMap) -> Result<String, &'static str> {
    let mut hosts = headers.get_all(HOST).iter();
    let header = hosts.next();
    if hosts.next().is_some() {
        return Err("the request has more than one Host");
    }
    let header =
        header.map(|value| value.to_str().map_err(|_| "the request's Host is no text")).transpose()?;
    let target = authority(uri)?;
    let host = match (target, header) {
        (Some(target), Some(header)) if !target.eq_ignore_ascii_case(header) => {
            return Err("the request names two hosts");
        }
        (Some(host), _) | (None, Some(host)) => host,
        (None, None) => return Err("the request names no host"),
    };
    if !is_plain(host) {
        return Err("the request's Host is no host name");
    }
    Ok(host.to_owned())
}

/// Whether a text can be a host with a port, and nothing else.
pub(crate) fn is_plain(host: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b':' | b'[' | b']');
    !host.is_empty() && host.bytes().all(plain)
}

fn authority(uri: &Uri) -> Result<Option<&str>, &'static str> {
    match uri.authority().map(http::uri::Authority::as_str) {
        Some(text) if text.contains('@') => Err("the request's address has a user in it"),
        other => Ok(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_below_the_base_domain_are_claws() {
        let base = BaseDomain::new("Claws.Example.com").unwrap();
        let claw = |id: &str| Place::Claw(ClawId::new(id).unwrap());
        for (host, place) in [
            ("claws.example.com", Place::Base),
            ("claws.example.com:443", Place::Base),
            ("CLAWS.example.com.", Place::Base),
            ("alice-x7k2m.claws.example.com", claw("alice-x7k2m")),
            ("ALICE-x7k2m.claws.example.com.:8443", claw("alice-x7k2m")),
            // One label, no more and no less.
            ("a.alice-x7k2m.claws.example.com", Place::Unknown),
            (".claws.example.com", Place::Unknown),
            ("alice-x7k2mclaws.example.com", Place::Unknown),
            ("example.com", Place::Unknown),
            ("alice.claws.example.com.evil.test", Place::Unknown),
            ("-a.claws.example.com", Place::Unknown),
            ("a_b.claws.example.com", Place::Unknown),
            ("127.0.0.1:80", Place::Unknown),
            ("[::1]:80", Place::Unknown),
            ("é.claws.example.com", Place::Unknown),
            ("", Place::Unknown),
        ] {
            assert_eq!(base.place(host), place, "{host}");
        }
        let long = format!("{}.claws.example.com", "a".repeat(41));
        assert_eq!(base.place(&long), Place::Unknown);
    }

    #[test]
    fn the_page_of_localhost_has_a_name_of_its_own() {
        let base = BaseDomain::new("localhost").unwrap();
        assert_eq!(base.place("localhost:8421"), Place::AtPage);
        assert_eq!(base.place("clawfarm.localhost:8421"), Place::Base);
        assert_eq!(base.page(), "clawfarm.localhost");
    }

    #[test]
    fn what_is_no_domain_is_refused() {
        for good in ["localhost", "claws.example.com", "x.y."] {
            BaseDomain::new(good).unwrap();
        }
        for bad in ["", ".", "a..b", "-a.b", "a b", "a/b", "*.example.com", &"a.".repeat(120)] {
            assert_eq!(BaseDomain::new(bad).unwrap_err().field_name(), Some("base_domain"), "{bad}");
        }
    }

    #[test]
    fn a_request_names_one_host() {
        let host = |uri: &str, hosts: &[&str]| {
            let mut request = http::Request::builder().uri(uri);
            for host in hosts {
                request = request.header(HOST, *host);
            }
            of(&request.body(()).unwrap())
        };
        assert_eq!(host("/", &["a.test"]), Ok("a.test".into()));
        assert_eq!(host("http://a.test/", &["A.test"]), Ok("a.test".into()));
        assert_eq!(host("https://a.test/", &[]), Ok("a.test".into()));
        for (uri, hosts) in [
            ("/", &[][..]),
            ("/", &["a.test", "b.test"]),
            ("/", &["a.test", "a.test"]),
            ("http://a.test/", &["b.test"]),
            ("http://u@a.test/", &["a.test"]),
            ("/", &["a.test/x"]),
            ("/", &["a.test, b.test"]),
            ("/", &["u@a.test"]),
            ("/", &[""]),
        ] {
            assert!(host(uri, hosts).is_err(), "{uri} {hosts:?}");
        }
    }
}
