//! Options about who may reach the edge how: proxies before it, limits, claws below one name.

use std::ffi::OsString;

use clap::{Args, ValueEnum};
use clawfarm_edge::{Limits, Proxies};
use clawfarm_model::Result;
use ipnet::IpNet;

/// How people reach a proxy before the edge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Scheme {
    Http,
    Https,
}

#[derive(Debug, Args)]
pub(super) struct ReachArgs {
    /// Addresses of proxies before the edge: what they say of a caller (X-Forwarded-For, -Proto, -Host, -Port) counts, and nobody else's word does
    #[arg(long, value_name = "NETWORK", value_delimiter = ',', value_parser = network)]
    edge_trusted_proxy: Vec<IpNet>,
    /// How people reach the proxy before the edge; https when there is one
    #[arg(long, value_name = "SCHEME", requires = "edge_trusted_proxy")]
    edge_public_scheme: Option<Scheme>,
    /// Also take requests for DOMAIN/c/CLAWID/, for programs where DNS can't have a wildcard
    #[arg(long)]
    edge_paths: bool,
    /// Set a limit; 0 is none (see docs/edge.md)
    #[arg(long, value_name = "NAME=NUMBER")]
    edge_limit: Vec<String>,
}

/// A network, or one address.
fn network(text: &str) -> std::result::Result<IpNet, String> {
    let one = text.parse::<std::net::IpAddr>().map(IpNet::from);
    let net = one
        .or_else(|_| text.parse::<IpNet>())
        .map_err(|_| "give an address or a network, such as 127.0.0.1 or 10.0.0.0/8".to_owned())?;
    Ok(net.trunc())
}

impl ReachArgs {
    /// The same options for a server in the background.
    pub(super) fn pass_on(&self) -> Vec<OsString> {
        let mut arguments: Vec<OsString> = Vec::new();
        for network in &self.edge_trusted_proxy {
            arguments.extend(["--edge-trusted-proxy".into(), network.to_string().into()]);
        }
        if let Some(scheme) = self.edge_public_scheme.and_then(|it| it.to_possible_value()) {
            arguments.extend(["--edge-public-scheme".into(), scheme.get_name().into()]);
        }
        if self.edge_paths {
            arguments.push("--edge-paths".into());
        }
        for limit in &self.edge_limit {
            arguments.extend(["--edge-limit".into(), limit.into()]);
        }
        arguments
    }

    pub(super) fn limits(&self) -> Result<Limits> {
        let mut limits = Limits::default();
        for limit in &self.edge_limit {
            limits.set(limit)?;
        }
        Ok(limits)
    }

    pub(super) const fn paths(&self) -> bool {
        self.edge_paths
    }

    /// The proxies, and how people reach them.
    pub(super) fn proxies(&self, port: Option<u16>) -> Option<Proxies> {
        if self.edge_trusted_proxy.is_empty() {
            return None;
        }
        let tls = self.edge_public_scheme != Some(Scheme::Http);
        let port = port.unwrap_or(if tls { 443 } else { 80 });
        Some(Proxies { networks: self.edge_trusted_proxy.clone(), tls, port })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_network_of_one() {
        assert_eq!(network("127.0.0.1").unwrap().to_string(), "127.0.0.1/32");
        assert_eq!(network("10.1.2.3/8").unwrap().to_string(), "10.0.0.0/8");
        assert_eq!(network("fd00::/8").unwrap().to_string(), "fd00::/8");
        for bad in ["", "localhost", "10.0.0.0/33", "10.0.0.0/"] {
            assert!(network(bad).is_err(), "{bad}");
        }
    }
}
