//! Behind another proxy: what it says of a caller counts when the proxy is one of ours, and else not.

use std::net::{IpAddr, SocketAddr};

use http::HeaderMap;
use ipnet::IpNet;

use crate::edge::Caller;
use crate::host;

/// The proxies before the edge, which say who calls (`X-Forwarded-For`, `-Proto`, `-Host`, `-Port`).
#[derive(Clone, Debug)]
pub struct Proxies {
    /// Where they are.
    pub networks: Vec<IpNet>,
    /// Whether people reach them over TLS, when they don't say.
    pub tls: bool,
    /// The port at which people reach them.
    pub port: u16,
}

/// Who called the proxy, and for what.
pub(crate) struct Seen {
    pub(crate) caller: Caller,
    /// The host, with its port, when the proxy's differs from the request's.
    pub(crate) host: Option<String>,
}

impl Proxies {
    /// Whether an address is one of them.
    pub(crate) fn are_at(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.networks.iter().any(|network| network.contains(&address))
    }

    /// What one of them says of a request.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn seen(&self, proxy: Caller, headers: &HeaderMap, asked: &str) -> Result<Seen, &'static str> {
        let scheme = last(headers, "x-forwarded-proto")?;
        let tls = match scheme.map(str::to_ascii_lowercase).as_deref() {
            Some("https" | "wss") => true,
            Some("http" | "ws") => false,
            Some(_) => return Err("the proxy says neither http nor https in X-Forwarded-Proto"),
            None => self.tls,
        };
        let mut name = last(headers, "x-forwarded-host")?.unwrap_or(asked).to_owned();
        if !host::is_plain(&name) {
            return Err("the proxy's X-Forwarded-Host is no host name");
        }
        // nginx's `$host` has no port, and a browser's origin has.
        if host::name_of(&name).len() == name.len() {
            let port = match last(headers, "x-forwarded-port")? {
                Some(text) => text.parse().map_err(|_| "the proxy's X-Forwarded-Port is no port")?,
                None if tls == self.tls => self.port,
                None => usual_port(tls),
            };
            if port != usual_port(tls) {
                name.push_str(&format!(":{port}"));
            }
        }
        let address = self.first_of_others(headers).unwrap_or(proxy.address);
        let host = (name != asked).then_some(name);
        Ok(Seen { caller: Caller { address, tls }, host })
    }

    /// The last address that is not one of ours: what stands before it was said by its owner.
    fn first_of_others(&self, headers: &HeaderMap) -> Option<IpAddr> {
        let all: Vec<&[u8]> = headers
            .get_all("x-forwarded-for")
            .iter()
            .flat_map(|value| value.as_bytes().split(|b| *b == b','))
            .map(<[u8]>::trim_ascii)
            .collect();
        let mut found = None;
        for text in all.iter().rev() {
            // What can't be read ends what can be believed.
            let Some(address) = address(text) else { break };
            found = Some(address);
            if !self.are_at(address) {
                break;
            }
        }
        found
    }
}

const fn usual_port(tls: bool) -> u16 {
    if tls { 443 } else { 80 }
}

/// The last that a header says: the nearest proxy's word.
fn last<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, &'static str> {
    let Some(value) = headers.get_all(name).iter().next_back() else { return Ok(None) };
    let text = value.to_str().map_err(|_| "the proxy's headers are no text")?;
    Ok(text.rsplit(',').next().map(str::trim).filter(|text| !text.is_empty()))
}

/// `192.0.2.1`, `192.0.2.1:5000`, `2001:db8::1`, `[2001:db8::1]:5000`.
fn address(text: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(text).ok()?;
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    bare.parse::<IpAddr>().ok().or_else(|| text.parse::<SocketAddr>().ok().map(|it| it.ip()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies() -> Proxies {
        let networks = vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()];
        Proxies { networks, tls: true, port: 443 }
    }

    fn seen(pairs: &[(&str, &str)], asked: &str) -> Result<(String, bool, String), &'static str> {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(name.parse::<http::HeaderName>().unwrap(), value.parse().unwrap());
        }
        let proxy = Caller { address: "10.0.0.1".parse().unwrap(), tls: false };
        let seen = proxies().seen(proxy, &headers, asked)?;
        let host = seen.host.unwrap_or_else(|| asked.to_owned());
        Ok((seen.caller.address.to_string(), seen.caller.tls, host))
    }

    #[test]
    fn the_nearest_stranger_is_the_caller() {
        let from = |text: &str| seen(&[("x-forwarded-for", text)], "a.test").unwrap().0;
        for (text, caller) in [
            ("192.0.2.1", "192.0.2.1"),
            // What its caller wrote before is the caller's own invention.
            ("6.6.6.6, 192.0.2.1", "192.0.2.1"),
            ("6.6.6.6, 192.0.2.1, 10.1.2.3", "192.0.2.1"),
            ("192.0.2.1:5000", "192.0.2.1"),
            ("[2001:db8::1]:5000", "2001:db8::1"),
            ("[2001:db8::1]", "2001:db8::1"),
            ("::ffff:10.0.0.9", "::ffff:10.0.0.9"),
            ("10.1.2.3", "10.1.2.3"),
            ("192.0.2.1, junk", "10.0.0.1"),
            ("", "10.0.0.1"),
        ] {
            assert_eq!(from(text), caller, "{text}");
        }
        let two = [("x-forwarded-for", "6.6.6.6"), ("x-forwarded-for", "192.0.2.1")];
        assert_eq!(seen(&two, "a.test").unwrap().0, "192.0.2.1");
    }

    #[test]
    fn the_origin_is_what_people_see() {
        let of = |pairs: &[(&str, &str)], asked: &str| seen(pairs, asked).map(|(_, tls, host)| (tls, host));
        assert_eq!(of(&[], "a.test"), Ok((true, "a.test".into())));
        assert_eq!(of(&[("x-forwarded-proto", "http")], "a.test"), Ok((false, "a.test".into())));
        assert_eq!(of(&[("x-forwarded-host", "b.test")], "127.0.0.1:8421"), Ok((true, "b.test".into())));
        assert_eq!(of(&[("x-forwarded-host", "forged, b.test")], "x"), Ok((true, "b.test".into())));
        assert_eq!(of(&[("x-forwarded-port", "8443")], "a.test"), Ok((true, "a.test:8443".into())));
        assert_eq!(of(&[("x-forwarded-port", "8443")], "a.test:444"), Ok((true, "a.test:444".into())));
        for bad in [
            ("x-forwarded-proto", "gopher"),
            ("x-forwarded-host", "a/b"),
            ("x-forwarded-host", "u@a.test"),
            ("x-forwarded-port", "x"),
        ] {
            assert!(of(&[bad], "a.test").is_err(), "{bad:?}");
        }
    }
}
