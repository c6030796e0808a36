//! How this server and the others of its database reach one another.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;

use async_trait::async_trait;
use clawfarm_client::Endpoint;
use clawfarm_model::{Code, Error};
use clawfarm_server::{PeerConnect, PeerStream, plain_address};

/// Connects as a client does.
pub(crate) struct Connector {
    /// The authorities to trust; the system's when absent.
    pub(crate) ca: Option<PathBuf>,
}

#[async_trait]
impl PeerConnect for Connector {
    async fn connect(&self, address: &str) -> Result<Box<dyn PeerStream>, Error> {
        if let Some((plain, machine)) = address.split_once('#')
            && self::machine().as_deref() != Some(machine)
        {
            return Err(Error::new(
                Code::Unavailable,
                format!("the server which this is for is reached at {plain} on its own machine alone"),
            )
            .field("address")
            .fix("ask that server itself, or start it with --listen or --peer-address at an address that other machines reach"));
        }
        let mut endpoint = read(plain_address(address))?;
        if let Endpoint::Https { ca, .. } = &mut endpoint {
            ca.clone_from(&self.ca);
        }
        Ok(Box::new(clawfarm_client::connect(&endpoint).await?))
    }
}

/// Where the others reach this server: what was said, or where it listens.
pub(crate) fn address(
    said: Option<&str>,
    listens: Option<SocketAddr>,
    tls: bool,
    allow_plaintext: bool,
) -> Result<Option<String>, Error> {
    if let Some(said) = said {
        let endpoint = read(said)?;
        if endpoint.in_the_clear() && !allow_plaintext {
            return Err(Error::invalid("--peer-address", format!("'{said}' can be read on the way"))
                .fix("give an https address (with --tls-cert), or insist with --allow-plaintext"));
        }
        return Ok(Some(endpoint.to_string()));
    }
    // Listening everywhere says nothing of where it can be reached.
    let Some(at) = listens.filter(|at| !at.ip().is_unspecified()) else { return Ok(None) };
    let address = format!("{}://{at}", if tls { "https" } else { "http" });
    if !at.ip().is_loopback() {
        return Ok(Some(address));
    }
    // On another machine somebody else may listen there.
    Ok(machine().map(|machine| format!("{address}#{machine}")))
}

/// What is the same for two processes that have one loopback: the boot of the machine, and the
/// network namespace (proc_sys_kernel(5), network_namespaces(7)).
fn machine() -> Option<String> {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let network = fs::read_link("/proc/self/ns/net").ok()?;
    let network: String = network.to_str()?.chars().filter(char::is_ascii_digit).collect();
    Some(format!("{}-{network}", boot.trim()))
}

fn read(address: &str) -> Result<Endpoint, Error> {
    match address.parse() {
        Ok(endpoint @ (Endpoint::Http { .. } | Endpoint::Https { .. })) => Ok(endpoint),
        _ => {
            let shown: String = address.chars().take(100).flat_map(char::escape_default).collect();
            Err(Error::invalid("--peer-address", format!("'{shown}' is no address of a server"))
                .fix("give https://host[:port], or http://127.0.0.1:port for servers of one machine"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_the_one_given_or_the_listeners() {
        let of = |said, listens: Option<&str>, tls| {
            address(said, listens.map(|l| l.parse().unwrap()), tls, false).unwrap()
        };
        assert_eq!(of(None, None, false), None);
        let here = machine().expect("it has /proc");
        assert_eq!(
            of(None, Some("127.0.0.1:8420"), false),
            Some(format!("http://127.0.0.1:8420#{here}")),
            "loopback is good on this machine alone"
        );
        assert_eq!(of(None, Some("[::1]:8420"), true), Some(format!("https://[::1]:8420#{here}")));
        assert_eq!(of(None, Some("10.0.0.1:8420"), true).as_deref(), Some("https://10.0.0.1:8420"));
        assert_eq!(of(None, Some("0.0.0.0:8420"), true), None);
        assert_eq!(
            of(Some("https://a.example"), Some("0.0.0.0:1"), true).as_deref(),
            Some("https://a.example:443")
        );
        for wrong in ["", "/run/x.sock", "http://10.0.0.1:80", "ftp://x:1", "https://u:p@h"] {
            let error = address(Some(wrong), None, false, false).unwrap_err();
            assert_eq!(error.field_name(), Some("--peer-address"), "{wrong}");
        }
    }
    #[tokio::test]
    async fn a_loopback_address_of_another_machine_is_not_tried() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = address(None, listener.local_addr().ok(), false, false).unwrap().unwrap();
        let connector = Connector { ca: None };
        connector.connect(&address).await.expect("this machine's");
        let Err(error) = connector.connect(&format!("{address}0")).await else { panic!("it was tried") };
        assert_eq!(error.field_name(), Some("address"), "{error}");
    }
}
