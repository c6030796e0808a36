//! The edge's certificates, as callers see them.

use std::fs;
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;

use clawfarm_test_acme::{Pebble, Setup};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::support::{Home, LIMIT, eventually};

pub(crate) type Secure = StreamOwned<ClientConnection, TcpStream>;

/// Whom a caller trusts.
fn trusting(pem: &[u8]) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        roots.add(certificate.expect("PEM")).expect("a certificate");
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    // A session that is taken up again shows what it showed before.
    config.resumption = rustls::client::Resumption::disabled();
    Arc::new(config)
}

/// Connects to the edge under a name, and shakes hands.
pub(crate) fn connect(port: u16, name: &str, config: &Arc<ClientConfig>) -> Result<Secure, String> {
    let tcp = TcpStream::connect(("127.0.0.1", port)).map_err(|e| e.to_string())?;
    tcp.set_read_timeout(Some(LIMIT)).expect("set");
    let name = ServerName::try_from(name.to_owned()).expect("a name");
    let client = ClientConnection::new(Arc::clone(config), name).expect("a client");
    let mut stream = StreamOwned::new(client, tcp);
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock).map_err(|e| e.to_string())?;
    }
    Ok(stream)
}

fn leaf(stream: &Secure) -> Vec<u8> {
    stream.conn.peer_certificates().expect("some")[0].to_vec()
}

/// Asks for a page on a connection that stays open, and reads the head of the answer.
fn ask(stream: &mut (impl std::io::Read + std::io::Write), host: &str, first: &str) -> String {
    write!(stream, "{first} HTTP/1.1\r\nhost: {host}\r\ncontent-length: 0\r\n\r\n").expect("sent");
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        assert_eq!(stream.read(&mut byte).expect("read"), 1, "{}", String::from_utf8_lossy(&head));
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).expect("text").to_ascii_lowercase();
    let length = head
        .lines()
        .find_map(|it| it.strip_prefix("content-length: "))
        .map_or(0, |it| it.parse().expect("a number"));
    stream.read_exact(&mut vec![0; length]).expect("read");
    head
}

/// Runs a server in the background; says where its edge listens, with and without TLS.
pub(crate) fn serve(home: &Home, options: &[&str]) -> (u16, Option<u16>) {
    let mut arguments = vec!["serve", "--background", "--edge", "127.0.0.1:0"];
    arguments.extend(options);
    home.run(&arguments).ends(0);
    let log = fs::read_to_string(home.farm().join("server.log")).expect("a log");
    let port = |what: &str| {
        let line = log.lines().rfind(|it| it.contains(what))?;
        let digits = line.split("127.0.0.1:").nth(1)?;
        digits.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
    };
    (port("the edge listens").unwrap_or_else(|| panic!("{log}")), port("callers without TLS"))
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().expect("text")
}

/// A certificate for the domain and what is below it, in two files.
fn write(cert: &Path, key: &Path) -> String {
    let names = ["claws.test".to_owned(), "*.claws.test".to_owned()];
    let made = rcgen::generate_simple_self_signed(names).expect("a certificate");
    fs::write(key, made.signing_key.serialize_pem()).expect("written");
    fs::write(cert, made.cert.pem()).expect("written");
    made.cert.pem()
}

/// What `doctor` says of the certificate.
fn doctor(home: &Home) -> (String, String) {
    let found = home.run(&["doctor", "--json"]).json();
    let checks = found["server"].as_array().expect("checks").clone();
    let check =
        checks.iter().find(|it| it["name"] == "certificate claws.test").expect("one of the certificate");
    let word = |key: &str| check[key].as_str().unwrap_or_default().to_owned();
    (word("level"), word("detail"))
}

#[test]
fn new_files_are_taken_while_connections_are_open() {
    let home = Home::new();
    let (cert, key) = (home.path().join("c.pem"), home.path().join("k.pem"));
    let first = write(&cert, &key);
    let (port, _) = serve(
        &home,
        &["--base-domain", "claws.test", "--edge-tls-cert", text(&cert), "--edge-tls-key", text(&key)],
    );
    let mut open = connect(port, "claws.test", &trusting(first.as_bytes())).expect("a connection");
    let head = ask(&mut open, "claws.test", "GET /");
    assert!(head.contains("strict-transport-security: max-age=31536000\r\n"), "{head}");

    let second = write(&cert, &key);
    let trust = trusting(second.as_bytes());
    eventually("the new certificate", || connect(port, "x.claws.test", &trust).ok());
    assert!(ask(&mut open, "claws.test", "GET /").starts_with("http/1.1 "), "the open connection goes on");

    fs::write(&key, "no key").expect("written");
    let (level, detail) = eventually("doctor to say so", || Some(doctor(&home)).filter(|it| it.0 != "ok"));
    assert!(level == "warning" && detail.contains("k.pem can't be used"), "{level}: {detail}");
    connect(port, "claws.test", &trust).expect("the one before is shown");
    assert!(ask(&mut open, "claws.test", "GET /").starts_with("http/1.1 "));
    let listed = home.run(&["cert", "ls"]).ends(0);
    assert!(listed.out.contains("failing") && listed.err.contains("k.pem"), "{listed:?}");
    let refused = home.run(&["cert", "renew", "claws.test"]);
    assert!(refused.code != Some(0) && refused.err.contains("from files"), "{refused:?}");
    home.run(&["cert", "show", "other.test"]).ends(3);
    assert!(
        home.run(&[
            "serve",
            "--restart",
            "--edge",
            "127.0.0.1:0",
            "--edge-tls-cert",
            text(&cert),
            "--edge-tls-key",
            text(&key)
        ])
        .err
        .contains("k.pem")
    );
}

#[test]
fn the_homes_own_authority_is_trusted_by_who_wants_to() {
    let home = Home::new();
    let (port, plain) =
        serve(&home, &["--base-domain", "claws.test", "--edge-tls", "local", "--edge-http", "127.0.0.1:0"]);
    let authority = home.run(&["cert", "ca"]).ends(0);
    assert!(authority.err.contains("update-ca-certificates"), "{authority:?}");
    let trust = trusting(authority.out.as_bytes());
    let mut open = connect(port, "claws.test", &trust).expect("trusted");
    let first = leaf(&open);
    assert_eq!(leaf(&connect(port, "nobody-12345.claws.test", &trust).expect("trusted")), first);
    let head = ask(&mut open, "claws.test", "GET /");
    assert!(!head.contains("strict-transport-security"), "{head}");
    home.run(&["cert", "renew", "claws.test"]).ends(0);
    assert!(leaf(&connect(port, "claws.test", &trust).expect("trusted")) != first, "another is shown");
    assert!(ask(&mut open, "claws.test", "GET /").starts_with("http/1.1 "));

    let mut plain = TcpStream::connect(("127.0.0.1", plain.expect("a port"))).expect("connected");
    plain.set_read_timeout(Some(LIMIT)).expect("set");
    let head = ask(&mut plain, "alice-x7k2m.claws.test", "GET /a?b");
    assert!(
        head.starts_with("http/1.1 301 ")
            && head.contains(&format!("location: https://alice-x7k2m.claws.test:{port}/a?b\r\n")),
        "{head}"
    );
    assert!(!head.contains("strict-transport-security"));
    assert!(ask(&mut plain, "claws.test", "POST /").starts_with("http/1.1 308 "));
    let head = ask(&mut plain, "evil.test", "GET /");
    assert!(head.starts_with("http/1.1 404 ") && !head.contains("location"), "{head}");
}

#[test]
fn options_that_say_nothing_together_are_refused() {
    let home = Home::new();
    for (options, field) in [
        (&["--acme-dns", "hook"][..], "acme_dns"),
        (&["--edge-http", "127.0.0.1:0"], "edge_http"),
        (&["--edge-tls", "acme", "--base-domain", "claws.test"], "acme_accept_terms"),
        (&["--edge-tls", "acme", "--base-domain", "claws.test", "--acme-accept-terms"], "edge_http"),
        (&["--edge-tls", "acme", "--acme-accept-terms", "--edge-http", "127.0.0.1:0"], "base_domain"),
        (
            &[
                "--edge-tls",
                "acme",
                "--base-domain",
                "claws.test",
                "--acme-accept-terms",
                "--acme-dns",
                "cloudflare",
            ],
            "acme_dns_token_file",
        ),
    ] {
        let arguments: Vec<&str> = ["serve"].iter().chain(options).copied().collect();
        let refused = home.run(&arguments).ends(2);
        assert!(
            refused.err.contains(&format!("field: {field}")) && refused.err.contains("fix:"),
            "{refused:?}"
        );
    }
}

#[test]
fn an_acme_server_gives_one_to_the_domain_and_to_each_claw_that_there_is() {
    let home = Home::new();
    // Where the authority looks must be known before it starts, and the authority before we do.
    let plain = clawfarm_test_acme::free_port();
    let pebble = Pebble::start(&Setup { http: plain, ..Setup::default() });
    let (root, address) = (pebble.root(), format!("127.0.0.1:{plain}"));
    let directory = pebble.directory();
    let (port, _) = serve(
        &home,
        &[
            "--base-domain",
            "claws.test",
            "--edge-tls",
            "acme",
            "--edge-http",
            &address,
            "--acme-directory",
            &directory,
            "--acme-root",
            text(&root),
            "--acme-contact",
            "farm@claws.test",
            "--acme-accept-terms",
        ],
    );
    let shown = |name: &str| {
        let found = home.run(&["cert", "show", name, "--json"]);
        (found.code == Some(0)).then(|| found.json()).filter(|it| it["state"] == "valid")
    };
    let told = eventually("a certificate", || shown("claws.test"));
    assert!(told["issuer"].as_str().expect("text").contains("Pebble") && told["source"] == "acme", "{told}");
    let trust = untrusting();
    let mut base = connect(port, "claws.test", &trust).expect("a connection");
    assert!(ask(&mut base, "claws.test", "GET /").contains("strict-transport-security: max-age=31536000"));

    let made = home.run(&["new", "openclaw", "alice", "--runtime", "sim", "--json"]).ends(0).json();
    let id = made["id"]
        .as_str()
        .or_else(|| made["instance"]["id"].as_str())
        .unwrap_or_else(|| panic!("{made}"))
        .to_owned();
    let claw = format!("{id}.claws.test");
    let orders = pebble.orders();
    eventually("a certificate for the claw", || connect(port, &claw, &trust).ok());
    for stranger in ["nobody-12345.claws.test", "other.test"] {
        connect(port, stranger, &trust).expect_err("nothing to show");
    }
    assert_eq!(pebble.orders(), orders + 1);
    assert_eq!(doctor(&home).0, "ok");

    let before = leaf(&base);
    home.run(&["cert", "renew", "claws.test"]).ends(0);
    assert!(leaf(&connect(port, "claws.test", &trust).expect("a connection")) != before, "another is shown");
    assert!(ask(&mut base, "claws.test", "GET /").starts_with("http/1.1 "), "the open connection goes on");
    // What watches the farm sees until when each is good, and how getting them goes.
    let until = shown("claws.test").expect("shown")["not_after"].as_str().expect("a time").to_owned();
    let until = clawfarm_model::Timestamp::parse(&until).expect("a time").as_millis() / 1000;
    let measured = |what: &str| {
        let text = crate::faults::asked(&home, "GET", "/metrics");
        let line = text.lines().find_map(|line| line.strip_prefix(what));
        line.and_then(|it| it.trim().parse::<f64>().ok())
    };
    #[expect(clippy::cast_precision_loss, reason = "seconds of this era fit")]
    eventually("its end to be measured", || {
        let there = measured("clawfarm_certificate_expiry_timestamp_seconds{name=\"claws.test\"}")?;
        (there == until as f64).then_some(())
    });
    let claws = measured(&format!("clawfarm_certificate_expiry_timestamp_seconds{{name=\"{claw}\"}}"));
    assert!(claws.is_some_and(|at| at > 0.0), "{claws:?}");
    let got = measured("clawfarm_certificate_renewals_total{outcome=\"ok\"}");
    assert!(got.is_some_and(|count| count >= 3.0), "{got:?}");
    // Its key is in no log.
    let log = fs::read_to_string(home.farm().join("server.log")).expect("a log");
    assert!(!log.contains("PRIVATE KEY"));
}

#[test]
fn of_two_servers_with_one_database_one_asks_and_both_show_it() {
    let database = clawfarm_test_postgres::Database::new();
    let url = database.url();
    let plain = clawfarm_test_acme::free_port();
    let pebble = Pebble::start(&Setup { http: plain, ..Setup::default() });
    let (root, directory) = (pebble.root(), pebble.directory());
    let begin = |home: &Home, node: &str, http: &str| {
        let options = [
            "--database",
            &url,
            "--node",
            node,
            "--base-domain",
            "claws.test",
            "--edge-tls",
            "acme",
            "--edge-http",
            http,
            "--acme-directory",
            &directory,
            "--acme-root",
            text(&root),
            "--acme-accept-terms",
        ];
        serve(home, &options).0
    };
    let (one, two) = (Home::new(), Home::new());
    // The authority comes to the first, whichever of them asked.
    let first_port = begin(&one, "one", &format!("127.0.0.1:{plain}"));
    fs::create_dir(two.farm()).expect("made");
    fs::copy(one.farm().join("master.key"), two.farm().join("master.key")).expect("copied");
    let second_port = begin(&two, "two", "127.0.0.1:0");
    let trust = untrusting();
    let shown = |port: u16| {
        eventually("a certificate", || connect(port, "claws.test", &trust).ok().map(|it| leaf(&it)))
    };
    let first = shown(first_port);
    assert!(shown(second_port) == first, "both show the same");
    assert_eq!(pebble.orders(), 1);
    two.run(&["cert", "renew", "claws.test"]).ends(0);
    let second = shown(second_port);
    assert!(second != first, "another was got");
    eventually("the first to show it", || (shown(first_port) == second).then_some(()));
    assert_eq!(pebble.orders(), 2);
    // Nothing of a key is readable in the database.
    let dump = database.dump();
    assert!(dump.contains("store.certificates.document.cert/claws.test") && !dump.contains("PRIVATE KEY"));
}

/// pebble makes another root at each start, which nobody trusts: what is shown is looked at alone.
pub(crate) fn untrusting() -> Arc<ClientConfig> {
    #[derive(Debug)]
    struct Anything(Arc<rustls::crypto::CryptoProvider>);
    impl rustls::client::danger::ServerCertVerifier for Anything {
        fn verify_server_cert(
            &self,
            end_entity: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            name: &ServerName<'_>,
            _: &[u8],
            _: rustls::pki_types::UnixTime,
        ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
            // That it is for this name is looked at all the same.
            let parsed = rustls::server::ParsedCertificate::try_from(end_entity)?;
            rustls::client::verify_server_name(&parsed, name)?;
            Ok(rustls::client::danger::ServerCertVerified::assertion())
        }

        fn verify_tls12_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            signature: &rustls::DigitallySignedStruct,
        ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
            rustls::crypto::verify_tls12_signature(
                message,
                cert,
                signature,
                &self.0.signature_verification_algorithms,
            )
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            signature: &rustls::DigitallySignedStruct,
        ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
            rustls::crypto::verify_tls13_signature(
                message,
                cert,
                signature,
                &self.0.signature_verification_algorithms,
            )
        }

        fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
            self.0.signature_verification_algorithms.supported_schemes()
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anything(provider)))
        .with_no_client_auth();
    // A session that is taken up again shows what it showed before.
    config.resumption = rustls::client::Resumption::disabled();
    Arc::new(config)
}
