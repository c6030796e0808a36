//! The ACME server.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::resolver::Resolver;
use crate::{answers, end, free_port};

/// How it is to be.
#[derive(Debug)]
pub struct Setup<'a> {
    /// Where it looks for proofs by HTTP.
    pub http: u16,
    /// Its resolver; one of its own when none is given.
    pub dns: Option<u16>,
    /// For how long its certificates are good.
    pub validity: Duration,
    /// An account that ours has to belong to: its id and key.
    pub external: Option<(&'a str, &'a str)>,
}

impl Default for Setup<'_> {
    fn default() -> Self {
        Self { http: 1, dns: None, validity: Duration::from_secs(90 * 24 * 3600), external: None }
    }
}

/// A real ACME server.
#[derive(Debug)]
pub struct Pebble {
    folder: TempDir,
    setup: (u16, u16),
    port: u16,
    child: Option<Child>,
    dns: Option<Resolver>,
}

impl Pebble {
    /// Starts one.
    ///
    /// # Panics
    /// When pebble is not installed or does not start; with its log.
    #[must_use]
    pub fn start(setup: &Setup<'_>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        authority(folder.path());
        let dns = setup.dns.is_none().then(Resolver::start);
        let resolver = setup.dns.unwrap_or_else(|| dns.as_ref().unwrap().port);
        let mut this = Self { folder, setup: (setup.http, resolver), port: 0, child: None, dns };
        // A port that was free a moment ago may be taken by now.
        for _ in 0..5 {
            this.port = free_port();
            this.configure(setup);
            if this.run() {
                return this;
            }
        }
        panic!("pebble does not start: {}", this.log());
    }

    fn configure(&self, setup: &Setup<'_>) {
        let mut config = serde_json::json!({ "pebble": {
            "listenAddress": format!("127.0.0.1:{}", self.port),
            "managementListenAddress": "127.0.0.1:0",
            "certificate": self.path("server.pem"),
            "privateKey": self.path("server.key"),
            "httpPort": self.setup.0,
            "tlsPort": 1,
            "ocspResponderURL": "",
            "certificateValidityPeriod": setup.validity.as_secs(),
        } });
        if let Some((id, key)) = setup.external {
            config["pebble"]["externalAccountBindingRequired"] = true.into();
            config["pebble"]["externalAccountMACKeys"] = serde_json::json!({ id: key });
        }
        fs::write(self.path("config.json"), config.to_string()).unwrap();
    }

    /// Starts it; says whether it answers.
    fn run(&mut self) -> bool {
        let log = File::options().create(true).append(true).open(self.path("log")).unwrap();
        let mut child = Command::new("pebble")
            .arg("-config")
            .arg(self.path("config.json"))
            .args(["-dnsserver", &format!("127.0.0.1:{}", self.setup.1)])
            // It waits for up to 15 s before it looks at a proof, unless told not to; one of
            // twenty requests it refuses with a bad nonce, as it comes.
            .env("PEBBLE_VA_NOSLEEP", "1")
            .env("PEBBLE_AUTHZREUSE", "0")
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .stdin(Stdio::null())
            .spawn()
            .expect("pebble is installed (scripts/test-setup)");
        let answers = answers(&mut child, self.port);
        self.child = Some(child);
        answers
    }

    /// As if its machine had gone.
    pub fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            end(&mut child);
        }
    }

    /// After [`Self::stop`]: it has forgotten everything, as it keeps nothing.
    ///
    /// # Panics
    /// When it does not start; with its log.
    pub fn start_again(&mut self) {
        assert!(self.run(), "{}", self.log());
    }

    /// The address of its directory.
    #[must_use]
    pub fn directory(&self) -> String {
        format!("https://127.0.0.1:{}/dir", self.port)
    }

    /// The file with the authority that its own certificate is from.
    #[must_use]
    pub fn root(&self) -> PathBuf {
        self.path("root.pem")
    }

    /// Its resolver.
    ///
    /// # Panics
    /// When it was given another one.
    #[must_use]
    pub fn resolver(&self) -> &Resolver {
        self.dns.as_ref().unwrap()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// What it has said.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// How many orders were made.
    #[must_use]
    pub fn orders(&self) -> usize {
        self.log().matches("Added order").count()
    }
}

impl Drop for Pebble {
    fn drop(&mut self) {
        self.stop();
    }
}

fn authority(folder: &Path) {
    let mut of = rcgen::CertificateParams::new(Vec::<String>::new()).unwrap();
    of.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let root = rcgen::CertifiedIssuer::self_signed(of, rcgen::KeyPair::generate().unwrap()).unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let of = rcgen::CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
    fs::write(folder.join("root.pem"), root.pem()).unwrap();
    fs::write(folder.join("server.pem"), of.signed_by(&key, &root).unwrap().pem()).unwrap();
    fs::write(folder.join("server.key"), key.serialize_pem()).unwrap();
}
