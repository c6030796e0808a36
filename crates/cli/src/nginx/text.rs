//! The configuration as nginx reads it.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clawfarm_edge::BaseDomain;
use clawfarm_model::{ClawId, Error, Result};

/// What nginx is to do.
#[derive(Debug)]
pub(crate) struct Front {
    /// The base domain of the edge.
    pub(crate) base: BaseDomain,
    /// Where the edge listens.
    pub(crate) edge: SocketAddr,
    /// Where nginx listens.
    pub(crate) listen: Vec<SocketAddr>,
    /// The certificate chain and its key.
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
    /// Where nginx listens without TLS, to lead on to where there is.
    pub(crate) redirect: Vec<SocketAddr>,
}

/// The first line, by which a file is known to be ours.
pub(crate) const MARK: &str = "# Written by clawfarm: changes made here are lost.";

impl Front {
    /// The whole file. With `claws`, names of others are answered by nginx itself.
    ///
    /// # Errors
    /// `InvalidInput` for a file whose name can't stand in nginx's configuration.
    pub(crate) fn text(&self, claws: Option<&[ClawId]>) -> Result<String> {
        let (certificate, key) = (quoted(&self.certificate, "certificate")?, quoted(&self.key, "key")?);
        let base = self.base.as_str();
        let mut text = format!("{MARK}\n");
        let mut put = |line: std::fmt::Arguments<'_>| {
            // Writing to a string can't fail.
            let _ = writeln!(text, "{line}");
        };
        put(format_args!("upstream clawfarm_edge {{\n    server {};\n    keepalive 64;\n}}", self.edge));
        put(format_args!("map $http_upgrade $clawfarm_connection {{\n    default upgrade;\n    '' '';\n}}"));
        if let Some(claws) = claws {
            put(format_args!("map $clawfarm_id $clawfarm_port {{\n    default 0;"));
            for id in claws {
                // An id is letters, digits and '-'.
                put(format_args!("    \"{id}\" {};", self.edge.port()));
            }
            put(format_args!("}}"));
        }
        for (name, is_claw) in [(base.to_owned(), false), (claw_names(base), true)] {
            put(format_args!("server {{"));
            for address in &self.listen {
                put(format_args!("    listen {address} ssl http2;"));
            }
            put(format_args!("    server_name {name};"));
            put(format_args!("    ssl_certificate {certificate};\n    ssl_certificate_key {key};"));
            put(format_args!("    ssl_protocols TLSv1.2 TLSv1.3;"));
            if is_claw && claws.is_some() {
                put(format_args!("    if ($clawfarm_port = 0) {{\n        return 404;\n    }}"));
            }
            put(format_args!("{PASS}}}"));
        }
        for address in &self.redirect {
            // The only server of an address answers all names, and would send people to any.
            put(format_args!(
                "server {{\n    listen {address};\n    server_name {base} *.{base};\n    if ($host !~ \"{}\") {{\n        return 404;\n    }}\n    return 308 https://$host{}$request_uri;\n}}",
                all_names(base),
                self.public_port()
            ));
        }
        Ok(text)
    }

    /// The port of addresses, as it stands in them.
    fn public_port(&self) -> String {
        match self.listen.first().map(SocketAddr::port) {
            None | Some(443) => String::new(),
            Some(port) => format!(":{port}"),
        }
    }
}

/// All of it goes to the edge as it comes: nothing is gathered, nothing tried twice.
const PASS: &str = "    client_max_body_size 0;
    location / {
        proxy_pass http://clawfarm_edge;
        proxy_http_version 1.1;
        proxy_set_header Host $http_host;
        proxy_set_header X-Forwarded-For $remote_addr;
        proxy_set_header X-Forwarded-Proto $scheme;
        proxy_set_header X-Forwarded-Host $http_host;
        proxy_set_header X-Forwarded-Port '';
        proxy_set_header X-Request-Id $request_id;
        proxy_set_header Upgrade $http_upgrade;
        proxy_set_header Connection $clawfarm_connection;
        proxy_buffering off;
        proxy_request_buffering off;
        proxy_next_upstream off;
        proxy_redirect off;
        proxy_read_timeout 1h;
        proxy_send_timeout 60s;
    }
";

/// One label below the domain, which nginx keeps as `$clawfarm_id`.
fn claw_names(base: &str) -> String {
    format!("~^(?<clawfarm_id>[a-z0-9-]+)\\.{}$", base.replace('.', "\\."))
}

/// The domain, and one label below it.
fn all_names(base: &str) -> String {
    format!("^([a-z0-9-]+\\.)?{}$", base.replace('.', "\\."))
}

/// A file's name in nginx's quotes. What would end them, or name a variable, is refused.
fn quoted(path: &Path, field: &'static str) -> Result<String> {
    let refused = |why: &str| {
        Error::invalid(field, format!("'{}' {why}", path.display().to_string().escape_default()))
            .fix("give the whole name of a file, made of letters, digits and _ . - + @ =")
    };
    let text = path.to_str().ok_or_else(|| refused("is no text"))?;
    let plain = |c: char| c.is_ascii_alphanumeric() || "/_.-+@=".contains(c);
    if !path.is_absolute() {
        return Err(refused("is no whole name"));
    }
    if !text.chars().all(plain) {
        return Err(refused("has something in it that nginx would read in a way of its own"));
    }
    Ok(format!("\"{text}\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn front() -> Front {
        Front {
            base: BaseDomain::new("claws.example.com").unwrap(),
            edge: "127.0.0.1:8421".parse().unwrap(),
            listen: vec!["0.0.0.0:443".parse().unwrap(), "[::]:443".parse().unwrap()],
            certificate: "/etc/ssl/claws.pem".into(),
            key: "/etc/ssl/claws.key".into(),
            redirect: vec!["0.0.0.0:80".parse().unwrap()],
        }
    }

    #[test]
    fn it_is_the_map_and_the_servers_of_the_claws() {
        let ids = [ClawId::new("alice-x7k2m").unwrap(), ClawId::new("bob-22222").unwrap()];
        insta::assert_snapshot!(front().text(Some(&ids)).unwrap());
        let open = front().text(None).unwrap();
        assert!(!open.contains("clawfarm_port"), "without a map the edge answers all names alike: {open}");
    }

    #[test]
    fn what_nginx_would_read_otherwise_is_refused() {
        for bad in [
            "",
            "claws.pem",
            "/a b",
            "/a\"; include /x; \"",
            "/a;b",
            "/$host",
            "/a\nb",
            "/a\\b",
            "/{a}",
            "/ä",
        ] {
            let error = Front { certificate: bad.into(), ..front() }.text(None).unwrap_err();
            assert_eq!(error.field_name(), Some("certificate"), "{bad}");
            assert!(Front { key: bad.into(), ..front() }.text(None).is_err(), "{bad}");
        }
    }
}
