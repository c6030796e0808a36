//! Several servers by name.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use serde_json::json;

use crate::support::{Done, Home, eventually, finish};

/// Someone's home folder, from which servers elsewhere are used.
struct Desk {
    home: Home,
}

impl Desk {
    fn new() -> Self {
        Self { home: Home::new() }
    }

    /// The program as it is used at a desk: no variable names a server.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.home.command(arguments);
        command.env_remove("CLAWFARM_HOME").env_remove("XDG_CONFIG_HOME");
        command
    }

    fn run(&self, arguments: &[&str]) -> Done {
        finish(self.command(arguments).spawn().expect("starts"))
    }

    fn run_in(&self, variables: &[(&str, &str)], arguments: &[&str]) -> Done {
        finish(self.command(arguments).envs(variables.iter().copied()).spawn().expect("starts"))
    }

    fn file(&self) -> PathBuf {
        self.home.path().join(".config/clawfarm/contexts.json")
    }

    /// The home of the server that answers.
    fn server(&self, done: &Done) -> String {
        done.json()["server"]["home"].as_str().expect("a home").to_owned()
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        let farm = self.home.path().join(".clawfarm");
        if farm.join("clawfarm.sock").exists() {
            self.run(&["--home", &text(&farm), "down"]);
        }
    }
}

fn text(path: &Path) -> String {
    path.to_str().expect("text").to_owned()
}

/// A server with TLS by an authority of its own: the process, its address, its certificate.
fn with_tls(home: &Home) -> (Child, String, PathBuf) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let (cert, key) = (home.path().join("cert.pem"), home.path().join("key.pem"));
    fs::write(&cert, made.cert.pem()).expect("written");
    fs::write(&key, made.signing_key.serialize_pem()).expect("written");
    let child = home
        .command(&["serve", "--listen", "127.0.0.1:0", "--tls-cert", &text(&cert), "--tls-key", &text(&key)])
        .spawn()
        .expect("starts");
    let listen = eventually("the server to listen", || {
        home.run(&["version", "--json"]).json()["server"]["listen"].as_str().map(str::to_owned)
    });
    let port = listen.rsplit_once(':').expect("a port").1.to_owned();
    (child, format!("https://localhost:{port}"), cert)
}

#[test]
fn two_servers_are_used_by_name() {
    let (unix, tls, desk) = (Home::new(), Home::new(), Desk::new());
    unix.run(&["ps"]).ends(0);
    let (server, url, authority) = with_tls(&tls);
    let token = |home: &Home| text(&home.farm().join("admin.token"));

    let socket = text(&unix.farm().join("clawfarm.sock"));
    desk.run(&["context", "add", "near", "--server", &socket, "--token-file", &token(&unix)]).ends(0);
    // The token comes through a pipe here, as from a password store.
    let mut adding = desk.command(&["context", "add", "far", "--server", &url, "--ca", &text(&authority)]);
    adding.stdin(fs::File::open(token(&tls)).expect("a token"));
    finish(adding.spawn().expect("starts")).ends(0);
    assert_eq!(fs::metadata(desk.file()).expect("there").permissions().mode() & 0o777, 0o600);

    let (near, far) = (text(&unix.farm()), text(&tls.farm()));
    let version = ["version", "--json"];
    // Neither is current: this machine's own, which does not run.
    assert!(desk.run(&version).ends(0).json()["server"].is_null());
    assert_eq!(desk.server(&desk.run(&["--context", "near", "version", "--json"]).ends(0)), near);
    desk.run(&["context", "use", "far"]).ends(0);
    assert_eq!(desk.server(&desk.run(&version)), far);
    assert_eq!(desk.run(&["ps", "--json"]).ends(0).json(), json!({ "items": [] }));
    // A variable before the current one, an option before the variable.
    assert_eq!(desk.server(&desk.run_in(&[("CLAWFARM_CONTEXT", "near")], &version)), near);
    let both =
        desk.run_in(&[("CLAWFARM_CONTEXT", "near")], &["--context", "far", "version", "--json"]).ends(0);
    assert_eq!(desk.server(&both), far);
    // A home that is named is that home, whatever is current.
    let own = desk.run(&["--home", &near, "version", "--json"]).ends(0);
    assert_eq!(desk.server(&own), near);
    let own = desk.run_in(&[("CLAWFARM_HOME", &near)], &version).ends(0);
    assert_eq!(desk.server(&own), near);
    let shown = desk.run(&["context", "show", "--json"]).ends(0).json();
    assert_eq!((&shown["name"], &shown["server"]), (&json!("far"), &json!(url)));

    // Wherever names are shown, tokens are not.
    for arguments in [
        &["context", "ls"][..],
        &["context", "ls", "--json"],
        &["context", "show", "near"],
        &["context", "show", "far", "--json"],
    ] {
        let done = desk.run(arguments).ends(0);
        for home in [&unix, &tls] {
            let secret = fs::read_to_string(home.farm().join("admin.token")).expect("a token");
            assert!(!done.out.contains(secret.trim()) && !done.err.contains(secret.trim()), "{done:?}");
        }
    }
    // A server of one's own is started for `local` alone.
    assert!(desk.run(&["serve", "--restart", "--context", "far"]).ends(1).err.contains("from here"));
    desk.run(&["context", "rm", "far"]).ends(0);
    assert!(desk.run(&version).ends(0).json()["server"].is_null(), "back to this machine's own");
    desk.run(&["--context", "far", "ps"]).ends(3);
    tls.run(&["down"]).ends(0);
    finish(server).ends(0);
}

#[test]
fn what_is_refused_says_why_and_changes_nothing() {
    let desk = Desk::new();
    let token = desk.home.path().join("token");
    fs::write(&token, "tok\n").expect("written");
    let token = text(&token);
    let add = |name: &str, more: &[&str]| {
        let mut arguments = vec!["context", "add", name, "--token-file", &token];
        arguments.extend(more);
        desk.run(&arguments)
    };
    add("a", &["--server", "https://farm.example"]).ends(0);
    let kept = fs::read_to_string(desk.file()).expect("kept");
    for (done, code, words) in [
        (add("a", &["--server", "https://x"]), 4, "--replace"),
        (add("local", &["--server", "https://x"]), 2, "always there"),
        (add("../b", &["--server", "https://x"]), 2, "no context's name"),
        (add("b", &["--server", "ftp://x"]), 2, "field: --server"),
        (add("b", &["--server", "http://127.0.0.1:1", "--ca", &token]), 2, "field: --ca"),
        (add("b", &["--server", "https://x", "--ca", "/nothing/here"]), 2, "field: --ca"),
        (desk.run(&["context", "use", "nobody"]), 3, "context ls"),
        (desk.run(&["context", "rm", "a", "nobody"]), 3, "nobody"),
        (desk.run(&["--context", "nobody", "ps"]), 3, "nobody"),
        (desk.run(&["--context", "a", "--host", "http://127.0.0.1:1", "ps"]), 2, "--host"),
        (desk.run(&["--context", "a", "--token-file", &token, "ps"]), 2, "--token-file"),
    ] {
        assert!(done.code == Some(code) && done.err.contains(words), "{words}: {done:?}");
    }
    assert_eq!(fs::read_to_string(desk.file()).expect("kept"), kept);
    fs::set_permissions(desk.file(), fs::Permissions::from_mode(0o644)).expect("set");
    let refused = desk.run(&["ps"]).ends(1);
    assert!(refused.err.contains("chmod 600") && !refused.err.contains("tok\""), "{refused:?}");
    // This machine's own server needs no contexts.
    desk.run(&["--home", &text(&desk.home.farm()), "version"]).ends(0);
}
