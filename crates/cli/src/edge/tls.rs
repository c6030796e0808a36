//! Options of `serve` about the edge's certificates.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum};
use clawfarm_certs::Files;
use clawfarm_certs::acme::{AcmeConfig, External, LETS_ENCRYPT, Timing};
use clawfarm_certs::dns::{Cloudflare, Dns, Hook, Provider, Rfc2136};
use clawfarm_edge::EdgeConfig;
use clawfarm_model::{Error, Result};
use secrecy::SecretString;

/// Where certificates come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum How {
    /// From an authority made for this home; see 'clawfarm cert ca'
    Local,
    /// From an authority that is asked by ACME: Let's Encrypt, or --acme-directory
    Acme,
}

/// Who puts records into the DNS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum DnsKind {
    /// Cloudflare, with --acme-dns-token-file
    Cloudflare,
    /// A server that takes signed updates (RFC 2136), with --acme-dns-server and --acme-dns-key-file
    Rfc2136,
    /// A program of yours, with --acme-dns-hook
    Hook,
}

/// Options of `serve` about the edge's certificates.
#[derive(Debug, Args)]
pub(crate) struct TlsArgs {
    /// The certificate chain for --edge, as PEM: for the domain and for all names below it. New files are taken without a restart
    #[arg(long, value_name = "FILE", requires = "edge", requires = "edge_tls_key")]
    edge_tls_cert: Option<PathBuf>,
    /// The certificate's private key, as PEM
    #[arg(long, value_name = "FILE", requires = "edge_tls_cert")]
    edge_tls_key: Option<PathBuf>,
    /// Get the edge's certificates instead of reading them from files
    #[arg(long, value_name = "HOW", value_enum, conflicts_with = "edge_tls_cert")]
    edge_tls: Option<How>,
    /// Where callers without TLS come in, who are sent on to TLS; ACME's proofs by HTTP need it at port 80 of the domain
    #[arg(long, value_name = "ADDRESS:PORT")]
    edge_http: Option<SocketAddr>,
    /// For how many seconds browsers are told to come over TLS alone; 0 to tell them nothing. A year when not given, and nothing with --edge-tls local
    #[arg(long, value_name = "SECONDS")]
    edge_hsts: Option<u64>,
    /// The ACME authority's directory [default: Let's Encrypt]
    #[arg(long, value_name = "URL")]
    acme_directory: Option<String>,
    /// Whom to trust when the ACME authority is asked, as PEM; the system's by default
    #[arg(long, value_name = "FILE")]
    acme_root: Option<PathBuf>,
    /// A mail address at which the authority reaches you; may be given again
    #[arg(long, value_name = "MAIL")]
    acme_contact: Vec<String>,
    /// You have read the authority's terms of service and accept them
    #[arg(long)]
    acme_accept_terms: bool,
    /// The id of your account at the authority, where it wants one (external account binding)
    #[arg(long, value_name = "ID", requires = "acme_eab_key_file")]
    acme_eab_id: Option<String>,
    /// The file with the key of that account
    #[arg(long, value_name = "FILE", requires = "acme_eab_id")]
    acme_eab_key_file: Option<PathBuf>,
    /// Prove the domain by the DNS, and get a wildcard; without it each name gets its own, proven by HTTP
    #[arg(long, value_name = "PROVIDER", value_enum)]
    acme_dns: Option<DnsKind>,
    /// The file with Cloudflare's API token, which may edit the zone's DNS
    #[arg(long, value_name = "FILE")]
    acme_dns_token_file: Option<PathBuf>,
    /// Where Cloudflare's API is, when it is not at Cloudflare
    #[arg(long, value_name = "URL")]
    acme_dns_api: Option<String>,
    /// The DNS server that takes signed updates
    #[arg(long, value_name = "ADDRESS:PORT")]
    acme_dns_server: Option<SocketAddr>,
    /// The file with the key for them, as 'tsig-keygen' writes it
    #[arg(long, value_name = "FILE")]
    acme_dns_key_file: Option<PathBuf>,
    /// The zone to update; asked of the server when not given
    #[arg(long, value_name = "DOMAIN")]
    acme_dns_zone: Option<String>,
    /// The program that is run with 'present' or 'cleanup', and CLAWFARM_DNS_NAME and CLAWFARM_DNS_VALUE set
    #[arg(long, value_name = "FILE")]
    acme_dns_hook: Option<PathBuf>,
    /// A DNS server to look at until the record is there; the domain's own are found when not given. May be given again
    #[arg(long, value_name = "ADDRESS:PORT")]
    acme_dns_check: Vec<SocketAddr>,
}

/// Where certificates come from, checked.
pub(super) enum Wanted {
    /// Files.
    Files(Files),
    /// The home's own authority.
    Local,
    /// An authority that is asked.
    Acme(Box<AcmeConfig>),
}

impl TlsArgs {
    /// Where callers without TLS come in.
    pub(super) const fn http(&self) -> Option<SocketAddr> {
        self.edge_http
    }

    /// For how long browsers are to come over TLS alone.
    pub(super) fn hsts(&self, base: &str) -> Option<Duration> {
        match self.edge_hsts {
            Some(0) => None,
            Some(seconds) => Some(Duration::from_secs(seconds)),
            // Whoever tries things out is not to be kept from plain HTTP for a year.
            None if self.edge_tls == Some(How::Local) || base == "localhost" => None,
            None => Some(EdgeConfig::HSTS),
        }
    }

    /// Where certificates come from; `None` without TLS.
    pub(super) fn wanted(&self, base: &str) -> Result<Option<Wanted>> {
        if self.edge_tls != Some(How::Acme)
            && let Some(option) = self.acme_options().first()
        {
            return Err(Error::invalid(*option, "it says nothing without --edge-tls acme")
                .fix("give --edge-tls acme, or leave it out"));
        }
        match (self.edge_tls, &self.edge_tls_cert, &self.edge_tls_key) {
            (Some(How::Local), ..) => Ok(Some(Wanted::Local)),
            (Some(How::Acme), ..) => Ok(Some(Wanted::Acme(Box::new(self.acme(base)?)))),
            (None, Some(certificate), Some(key)) => {
                Ok(Some(Wanted::Files(Files { certificate: certificate.clone(), key: key.clone() })))
            }
            _ if self.edge_http.is_some() => {
                Err(Error::invalid("edge_http", "there is no TLS to send callers on to")
                    .fix("give --edge-tls or --edge-tls-cert, or leave it out"))
            }
            _ => Ok(None),
        }
    }

    fn acme(&self, base: &str) -> Result<AcmeConfig> {
        if !self.acme_accept_terms {
            return Err(Error::invalid(
                "acme_accept_terms",
                "the authority gives certificates to those who accept its terms of service",
            )
            .fix(
                "read them (Let's Encrypt: https://letsencrypt.org/repository/) and give --acme-accept-terms",
            ));
        }
        if self.acme_dns.is_none() && self.edge_http.is_none() {
            return Err(Error::invalid(
                "edge_http",
                "without a provider of DNS the authority looks at port 80",
            )
            .fix("give --edge-http 0.0.0.0:80, or --acme-dns"));
        }
        if let Some(mail) = self.acme_contact.iter().find(|mail| !is_mail(mail)) {
            return Err(Error::invalid("acme_contact", format!("'{mail}' is no mail address"))
                .fix("give it as name@example.com"));
        }
        let external = match (&self.acme_eab_id, &self.acme_eab_key_file) {
            (Some(id), Some(file)) => {
                let key = std::fs::read_to_string(file).map_err(|error| {
                    Error::invalid("acme_eab_key_file", format!("{} can't be read: {error}", file.display()))
                })?;
                Some(External { id: id.clone(), key: SecretString::from(key) })
            }
            _ => None,
        };
        Ok(AcmeConfig {
            directory: self.acme_directory.clone().unwrap_or_else(|| LETS_ENCRYPT.to_owned()),
            root: self.acme_root.clone(),
            contact: self.acme_contact.clone(),
            external,
            base: base.to_owned(),
            dns: self.acme_dns.map(|kind| self.dns(kind)).transpose()?,
            timing: Timing::default(),
        })
    }

    fn dns(&self, kind: DnsKind) -> Result<Dns> {
        let provider: Box<dyn Provider> = match kind {
            DnsKind::Cloudflare => {
                let token = needed("acme_dns_token_file", self.acme_dns_token_file.as_deref())?;
                Box::new(Cloudflare::new(token, self.acme_dns_api.as_deref())?)
            }
            DnsKind::Rfc2136 => {
                let server = *needed("acme_dns_server", self.acme_dns_server.as_ref())?;
                let key = needed("acme_dns_key_file", self.acme_dns_key_file.as_deref())?;
                Box::new(Rfc2136::new(server, key, self.acme_dns_zone.as_deref())?)
            }
            DnsKind::Hook => {
                let program = needed("acme_dns_hook", self.acme_dns_hook.as_deref())?;
                let program =
                    std::path::absolute(program).ok().filter(|path| path.is_file()).ok_or_else(|| {
                        Error::invalid("acme_dns_hook", format!("there is no file {}", program.display()))
                    })?;
                Box::new(Hook { program })
            }
        };
        Ok(Dns { provider, look_at: self.acme_dns_check.clone() })
    }

    /// The options that are about ACME alone, of those that were given.
    fn acme_options(&self) -> Vec<&'static str> {
        let given = [
            ("acme_directory", self.acme_directory.is_some()),
            ("acme_root", self.acme_root.is_some()),
            ("acme_contact", !self.acme_contact.is_empty()),
            ("acme_accept_terms", self.acme_accept_terms),
            ("acme_eab_id", self.acme_eab_id.is_some()),
            ("acme_dns", self.acme_dns.is_some()),
            ("acme_dns_token_file", self.acme_dns_token_file.is_some()),
            ("acme_dns_api", self.acme_dns_api.is_some()),
            ("acme_dns_server", self.acme_dns_server.is_some()),
            ("acme_dns_key_file", self.acme_dns_key_file.is_some()),
            ("acme_dns_zone", self.acme_dns_zone.is_some()),
            ("acme_dns_hook", self.acme_dns_hook.is_some()),
            ("acme_dns_check", !self.acme_dns_check.is_empty()),
        ];
        given.into_iter().filter(|(_, given)| *given).map(|(option, _)| option).collect()
    }

    /// The same options for a server in the background.
    pub(super) fn pass_on(&self) -> Result<Vec<OsString>> {
        let mut arguments: Vec<OsString> = Vec::new();
        let files = [
            ("--edge-tls-cert", &self.edge_tls_cert),
            ("--edge-tls-key", &self.edge_tls_key),
            ("--acme-root", &self.acme_root),
            ("--acme-eab-key-file", &self.acme_eab_key_file),
            ("--acme-dns-token-file", &self.acme_dns_token_file),
            ("--acme-dns-key-file", &self.acme_dns_key_file),
            ("--acme-dns-hook", &self.acme_dns_hook),
        ];
        for (option, file) in files {
            if let Some(file) = file {
                arguments.extend([option.into(), absolute(option, file)?.into()]);
            }
        }
        let word = |value: &dyn Fn() -> Option<clap::builder::PossibleValue>| {
            value().map(|it| it.get_name().to_owned())
        };
        let texts = [
            ("--edge-tls", word(&|| self.edge_tls.as_ref()?.to_possible_value())),
            ("--edge-http", self.edge_http.map(|it| it.to_string())),
            ("--edge-hsts", self.edge_hsts.map(|it| it.to_string())),
            ("--acme-directory", self.acme_directory.clone()),
            ("--acme-eab-id", self.acme_eab_id.clone()),
            ("--acme-dns", word(&|| self.acme_dns.as_ref()?.to_possible_value())),
            ("--acme-dns-api", self.acme_dns_api.clone()),
            ("--acme-dns-server", self.acme_dns_server.map(|it| it.to_string())),
            ("--acme-dns-zone", self.acme_dns_zone.clone()),
        ];
        let lists = [
            ("--acme-contact", self.acme_contact.clone()),
            ("--acme-dns-check", self.acme_dns_check.iter().map(ToString::to_string).collect()),
        ];
        let many =
            lists.into_iter().flat_map(|(option, list)| list.into_iter().map(move |it| (option, Some(it))));
        for (option, text) in texts.into_iter().chain(many) {
            if let Some(text) = text {
                arguments.extend([option.into(), text.into()]);
            }
        }
        if self.acme_accept_terms {
            arguments.push("--acme-accept-terms".into());
        }
        Ok(arguments)
    }
}

fn needed<'a, T: ?Sized>(option: &'static str, value: Option<&'a T>) -> Result<&'a T> {
    value.ok_or_else(|| {
        let typed = format!("--{}", option.replace('_', "-"));
        Error::invalid(option, format!("the provider of DNS needs {typed}")).fix(format!("give {typed}"))
    })
}

fn is_mail(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_graphic() && !matches!(b, b',' | b'?' | b'"');
    text.bytes().all(plain) && text.split('@').filter(|part| !part.is_empty()).count() == 2
}

fn absolute(option: &str, file: &Path) -> Result<PathBuf> {
    std::path::absolute(file)
        .map_err(|error| Error::invalid(option, format!("{} can't be used: {error}", file.display())))
}
