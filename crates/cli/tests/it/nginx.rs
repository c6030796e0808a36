//! A real nginx with TLS before the edge, by the configuration that clawfarm writes.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::support::{Home, LIMIT, eventually};

/// An nginx of its own, not root's: its files are all in one folder.
pub(crate) struct Nginx {
    folder: tempfile::TempDir,
    pub(crate) port: u16,
    trusted: CertificateDer<'static>,
    running: Option<Child>,
}

impl Nginx {
    /// With a certificate for a domain and the names below it.
    pub(crate) fn new(domain: &str) -> Self {
        let folder = tempfile::Builder::new().prefix("cfx").tempdir().expect("a folder");
        let names = vec![domain.to_owned(), format!("*.{domain}")];
        let made = rcgen::generate_simple_self_signed(names).expect("a certificate");
        fs::write(folder.path().join("cert.pem"), made.cert.pem()).expect("written");
        fs::write(folder.path().join("key.pem"), made.signing_key.serialize_pem()).expect("written");
        // Nobody else asks for it meanwhile: nginx can't say which one it chose.
        let port = TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr()).expect("a port").port();
        let it = Self { folder, port, trusted: made.cert.der().clone(), running: None };
        for inner in ["conf.d", "temp"] {
            fs::create_dir(it.at(inner)).expect("a folder");
        }
        let temp = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|what| format!("{what}_temp_path {}/temp/{what};", it.folder.path().display()))
            .join("\n");
        let config = format!(
            "pid {0}/pid;\nerror_log {0}/error.log;\nworker_processes 1;\nevents {{}}\nhttp {{\naccess_log off;\n{temp}\ninclude {0}/conf.d/*.conf;\n}}\n",
            it.folder.path().display()
        );
        fs::write(it.at("nginx.conf"), config).expect("written");
        it
    }

    pub(crate) fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The options of `clawfarm nginx` for it.
    pub(crate) fn options(&self, domain: &str, edge: u16) -> Vec<String> {
        let path = |name: &str| self.at(name).to_str().expect("UTF-8").to_owned();
        let listen = format!("127.0.0.1:{}", self.port);
        [
            "nginx",
            "--base-domain",
            domain,
            "--no-redirect",
            "--edge",
            &format!("127.0.0.1:{edge}"),
            "--listen",
            &listen,
            "--cert",
            &path("cert.pem"),
            "--key",
            &path("key.pem"),
            "--to",
            &path("conf.d/clawfarm.conf"),
            "--nginx-conf",
            &path("nginx.conf"),
        ]
        .map(str::to_owned)
        .to_vec()
    }

    pub(crate) fn start(&mut self) {
        let child = Command::new("nginx")
            .args(["-g", "daemon off;", "-c"])
            .arg(self.at("nginx.conf"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("`make test` installs nginx");
        self.running = Some(child);
        eventually("nginx to listen", || TcpStream::connect(("127.0.0.1", self.port)).ok());
    }

    /// A connection over TLS, to a name.
    pub(crate) fn connect(&self, host: &str) -> StreamOwned<ClientConnection, TcpStream> {
        let mut roots = RootCertStore::empty();
        roots.add(self.trusted.clone()).expect("a certificate");
        let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        let name = ServerName::try_from(host.to_owned()).expect("a name");
        let client = ClientConnection::new(Arc::new(config), name).expect("a client");
        let tcp = TcpStream::connect(("127.0.0.1", self.port)).expect("it listens");
        tcp.set_read_timeout(Some(LIMIT * 2)).expect("set");
        StreamOwned::new(client, tcp)
    }

    /// The answer to a request over TLS, head and all.
    pub(crate) fn ask(&self, host: &str, path: &str, more: &str) -> String {
        let mut stream = self.connect(host);
        let head =
            format!("GET {path} HTTP/1.1\r\nhost: {host}:{}\r\nconnection: close\r\n{more}\r\n", self.port);
        stream.write_all(head.as_bytes()).expect("sent");
        let mut answer = Vec::new();
        // nginx may end without a word of TLS.
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let Some(mut child) = self.running.take() else { return };
        // Its workers end with it.
        let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).expect("a pid"));
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        let _ = child.wait();
    }
}

/// A server in the foreground behind it; ended when its home goes.
fn serve(home: &Home, domain: &str) -> u16 {
    let arguments = ["serve", "--base-domain", domain, "--edge-trusted-proxy", "127.0.0.1"];
    let mut command = home.command(&arguments);
    let mut server = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the program starts");
    // It ends with its home.
    std::thread::spawn(move || server.wait());
    let port = home.farm().join("edge.port");
    eventually("the edge to listen", || {
        let port = fs::read_to_string(&port).ok()?.trim().parse().ok()?;
        TcpStream::connect(("127.0.0.1", port)).ok().map(|_| port)
    })
}

#[test]
fn nginx_passes_on_to_the_edge_who_says_what_it_takes_its_word_for() {
    let home = Home::new();
    let edge = serve(&home, "claws.test");
    let mut nginx = Nginx::new("claws.test");
    let options = nginx.options("claws.test", edge);
    let write = |more: &[&str]| {
        let all: Vec<&str> = options.iter().map(String::as_str).chain(more.iter().copied()).collect();
        home.run(&all)
    };
    let placed = write(&[]).ends(0);
    assert!(placed.err.contains("nginx does not run"), "{placed:?}");
    nginx.start();
    assert!(write(&[]).ends(0).err.contains("is as it was"));

    let port = nginx.port;
    // Led to where people are: over TLS, at nginx's port.
    let page = nginx.ask("x-11111.claws.test", "/chat", "accept: text/html\r\n");
    assert!(page.starts_with("HTTP/1.1 303"), "{page}");
    let to = format!("https://claws.test:{port}/_clawfarm/go?claw=x-11111&to=%2Fchat");
    assert!(page.contains(&to), "{page}");
    let door = nginx.ask("claws.test", "/", "");
    assert!(
        door.contains("Your clawfarm token") && door.contains(&format!("https://*.claws.test:{port}")),
        "{door}"
    );
    // What a caller says of itself is nginx's to say.
    let forged = nginx.ask("claws.test", "/", "x-forwarded-host: evil.test\r\nx-forwarded-proto: http\r\n");
    assert!(forged.contains(&format!("https://*.claws.test:{port}")), "{forged}");
    assert!(forged.to_ascii_lowercase().contains("x-request-id: "), "{forged}");

    // With a map nginx answers names of nobody's itself, and knows of those who come and go.
    home.run(&["new", "openclaw", "alice", "--runtime", "sim"]).ends(0);
    let id = home.run(&["ps", "-q"]).ends(0).out.trim().to_owned();
    let all: Vec<&str> = options.iter().map(String::as_str).chain(["--map", "--watch"]).collect();
    let watching = home.command(&all).stderr(Stdio::null()).stdout(Stdio::null()).spawn().expect("it starts");
    let _watching = Ended(watching);
    let status = |name: &str| {
        nginx.ask(&format!("{name}.claws.test"), "/", "").lines().next().unwrap_or_default().to_owned()
    };
    eventually("nginx knows who there is", || (status("x-11111").contains("404")).then_some(()));
    assert!(status(&id).contains("401"), "{}", status(&id));
    home.run(&["new", "openclaw", "bob", "--runtime", "sim"]).ends(0);
    let bob = home
        .run(&["ps", "-q"])
        .ends(0)
        .out
        .lines()
        .find(|it| it.starts_with("bob"))
        .expect("it is there")
        .to_owned();
    eventually("nginx knows of the new one", || status(&bob).contains("401").then_some(()));
    home.run(&["rm", "bob", "--purge", "--force"]).ends(0);
    eventually("nginx knows that it went", || status(&bob).contains("404").then_some(()));
    assert!(status(&id).contains("401"));
}

struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn what_nginx_refuses_changes_nothing() {
    let home = Home::new();
    let nginx = Nginx::new("claws.test");
    let options = nginx.options("claws.test", 8421);
    let write = |more: &[&str]| {
        let all: Vec<&str> = options.iter().map(String::as_str).chain(more.iter().copied()).collect();
        home.run(&all)
    };
    let file = nginx.at("conf.d/clawfarm.conf");
    // By itself: a certificate that is none.
    fs::copy(nginx.at("cert.pem"), nginx.at("good.pem")).expect("copied");
    fs::write(nginx.at("cert.pem"), "none").expect("written");
    let refused = write(&[]);
    assert!(refused.code != Some(0) && refused.err.contains("nginx refuses"), "{refused:?}");
    assert!(refused.err.contains("cert.pem") && !file.exists(), "{refused:?}");
    fs::rename(nginx.at("good.pem"), nginx.at("cert.pem")).expect("renamed");
    write(&[]).ends(0);
    let before = fs::read_to_string(&file).expect("it is there");
    // As a part of the whole: what another file has defined already.
    fs::write(nginx.at("conf.d/other.conf"), "upstream clawfarm_edge { server 127.0.0.1:1; }")
        .expect("written");
    let edge = nginx.options("claws.test", 9999);
    let refused = home.run(&edge);
    assert!(refused.code != Some(0) && refused.err.contains("duplicate upstream"), "{refused:?}");
    assert_eq!(fs::read_to_string(&file).expect("it is there"), before, "what was there is there");
    fs::remove_file(nginx.at("conf.d/other.conf")).expect("removed");
    home.run(&edge).ends(0);
    assert!(fs::read_to_string(&file).expect("it is there").contains("127.0.0.1:9999"));
    // Somebody else's file is somebody else's.
    fs::write(&file, "server {}").expect("written");
    let refused = write(&[]).ends(4);
    assert!(refused.err.contains("was not written by clawfarm"), "{refused:?}");
    assert_eq!(fs::read_to_string(&file).expect("it is there"), "server {}");
    let left: Vec<_> =
        fs::read_dir(nginx.at("conf.d")).expect("read").flatten().map(|it| it.file_name()).collect();
    assert_eq!(left, ["clawfarm.conf"], "nothing beside it");
    // Without --to it is printed, and nothing else.
    let printed =
        home.run(&["nginx", "--base-domain", "claws.test", "--cert", "/etc/a.pem", "--key", "/etc/a.key"]);
    let printed = printed.ends(0).out;
    assert!(printed.contains("listen 0.0.0.0:443 ssl http2;") && printed.contains("return 308"), "{printed}");
    let bad =
        home.run(&["nginx", "--base-domain", "a;b", "--cert", "/etc/a.pem", "--key", "/etc/a.key"]).ends(2);
    assert!(bad.err.contains("is no domain name"), "{bad:?}");
}

#[test]
fn port_80_leads_to_claws_and_nowhere_else() {
    let home = Home::new();
    let mut nginx = Nginx::new("claws.test");
    let plain = TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr()).expect("a port");
    let mut options = nginx.options("claws.test", 8421);
    options.retain(|it| it != "--no-redirect");
    options.extend(["--redirect".to_owned(), plain.to_string()]);
    home.run(&options).ends(0);
    nginx.start();
    let ask = |host: &str| {
        let mut stream = TcpStream::connect(plain).expect("it listens");
        stream.set_read_timeout(Some(LIMIT)).expect("set");
        write!(stream, "GET /x?y=1 HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n").expect("asked");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("answered");
        answer
    };
    for host in ["claws.test", "a-1.claws.test", "A-1.Claws.Test:80"] {
        let answer = ask(host);
        let name = host.trim_end_matches(":80").to_lowercase();
        let to = format!("\r\nLocation: https://{name}:{}/x?y=1\r\n", nginx.port);
        assert!(answer.starts_with("HTTP/1.1 308") && answer.contains(&to), "{host}: {answer}");
    }
    for host in
        ["evil.test", "claws.test.evil.test", "evilclaws.test", "a.b.claws.test", "clawsxtest", "127.0.0.1"]
    {
        let answer = ask(host);
        assert!(answer.starts_with("HTTP/1.1 404") && !answer.contains("Location"), "{host}: {answer}");
    }
}

/// In nginx's place: it refuses (`refuses`), can't be told (`deaf`) or stands still (`stands`) while
/// there is a file of that name, and writes to `reads` when it reads its configuration.
fn pretended(nginx: &Nginx) -> PathBuf {
    let script = r#"#!/bin/sh
case "$*" in
*reload*)
    if [ -e FOLDER/deaf ]; then
        echo 'nginx: [alert] kill(1, 1) failed (1: Operation not permitted)' >&2
        exit 1
    fi
    echo read >> FOLDER/reads ;;
*"FOLDER/nginx.conf -t"*)
    while [ -e FOLDER/stands ]; do sleep 0.05; done
    if [ -e FOLDER/refuses ]; then
        echo 'nginx: [emerg] no' >&2
        exit 1
    fi ;;
esac
"#;
    let program = nginx.at("pretended");
    fs::write(&program, script.replace("FOLDER", nginx.folder.path().to_str().expect("UTF-8")))
        .expect("written");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("set");
    program
}

/// The options of `clawfarm nginx` with something in nginx's place.
fn with(program: &Path, nginx: &Nginx, edge: u16) -> Vec<String> {
    let mut options = nginx.options("claws.test", edge);
    options.extend(["--nginx".to_owned(), program.to_str().expect("UTF-8").to_owned()]);
    options
}

#[test]
fn what_nginx_was_not_told_of_is_told_at_the_next_look() {
    let (home, nginx) = (Home::new(), Nginx::new("claws.test"));
    let options = with(&pretended(&nginx), &nginx, 8421);
    let reads = || fs::read_to_string(nginx.at("reads")).unwrap_or_default().lines().count();
    fs::write(nginx.at("deaf"), "").expect("written");
    for _ in 0..2 {
        let deaf = home.run(&options);
        assert!(deaf.code != Some(0) && deaf.err.contains("could not be told"), "{deaf:?}");
    }
    assert!(nginx.at("conf.d/clawfarm.conf").exists(), "nginx refuses nothing of it");
    fs::remove_file(nginx.at("deaf")).expect("removed");
    let told = home.run(&options).ends(0);
    assert!(told.err.contains("nginx reads it"), "{told:?}");
    assert_eq!(reads(), 1);
    // Then it is known, and is not told again.
    assert!(home.run(&options).ends(0).err.contains("is as it was"));
    assert_eq!((reads(), beside(&nginx)), (1, vec![]));
}

#[test]
fn who_is_ended_half_way_leaves_what_the_next_takes_back() {
    let (home, nginx) = (Home::new(), Nginx::new("claws.test"));
    let program = pretended(&nginx);
    let file = nginx.at("conf.d/clawfarm.conf");
    let mut before = None;
    for edge in [8421, 9999] {
        let options = with(&program, &nginx, edge);
        fs::write(nginx.at("stands"), "").expect("written");
        let mut half = home.command(&options);
        let half = half.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts");
        let half = Ended(half);
        let new = format!("127.0.0.1:{edge}");
        eventually("the new one to be in place", || {
            fs::read_to_string(&file).ok().filter(|text| text.contains(&new))
        });
        drop(half);
        let left = beside(&nginx);
        assert!(!left.is_empty() && left.iter().all(|name| name.starts_with('.')), "{left:?}");
        fs::remove_file(nginx.at("stands")).expect("removed");
        // It was never seen that nginx does not like it.
        fs::write(nginx.at("refuses"), "").expect("written");
        let refused = home.run(&options);
        assert!(refused.code != Some(0) && refused.err.contains("nginx refuses"), "{refused:?}");
        assert_eq!(fs::read_to_string(&file).ok(), before, "what was there is there");
        assert!(beside(&nginx).is_empty());
        fs::remove_file(nginx.at("refuses")).expect("removed");
        home.run(&options).ends(0);
        before = fs::read_to_string(&file).ok();
        assert!(before.as_ref().is_some_and(|text| text.contains(&new)));
    }
}

/// The names of what is beside our file.
fn beside(nginx: &Nginx) -> Vec<String> {
    let all = fs::read_dir(nginx.at("conf.d")).expect("read").flatten();
    all.map(|it| it.file_name().into_string().expect("UTF-8")).filter(|it| it != "clawfarm.conf").collect()
}
