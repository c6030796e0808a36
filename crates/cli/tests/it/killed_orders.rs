//! A server that is killed while it gets a certificate.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use clawfarm_test_acme::{Pebble, Setup};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::certificates::{connect, serve, text, untrusting};
use crate::support::{Home, eventually};

/// A program that tells pebble's DNS server what to say, once the file `gate` is there; it waits no
/// longer than a test does.
fn hook(folder: &Path, manage: u16) -> PathBuf {
    let program = folder.join("dns-hook");
    let script = format!(
        r#"#!/bin/bash
set -eu
echo "$1 $CLAWFARM_DNS_NAME" >>{0}/calls
for _ in {{1..600}}; do [ ! -e {0}/gate ] || break; sleep 0.1; done
case $1 in present) path=set-txt;; cleanup) path=clear-txt;; *) exit 9;; esac
body="{{\"host\":\"$CLAWFARM_DNS_NAME.\",\"value\":\"$CLAWFARM_DNS_VALUE\"}}"
exec 3<>/dev/tcp/127.0.0.1/{manage}
printf 'POST /%s HTTP/1.0\r\nContent-Length: %s\r\n\r\n%s' "$path" "${{#body}}" "$body" >&3
read -r _ status _ <&3
[ "$status" = 200 ]
"#,
        folder.display()
    );
    fs::write(&program, script).expect("written");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o700)).expect("set");
    program
}

/// All files below a folder.
fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder").flatten() {
        let kind = entry.file_type().expect("a kind");
        if kind.is_dir() {
            files(&entry.path(), found);
        } else if kind.is_file() {
            found.push(entry.path());
        }
    }
}

#[test]
fn an_order_of_a_server_that_was_killed_is_gone_on_with() {
    let home = Home::new();
    let pebble = Pebble::start(&Setup::default());
    let program = hook(home.path(), pebble.resolver().manage);
    let (root, directory) = (pebble.root(), pebble.directory());
    let look_at = format!("127.0.0.1:{}", pebble.resolver().port);
    let options = [
        "--base-domain",
        "claws.test",
        "--edge-tls",
        "acme",
        "--acme-directory",
        &directory,
        "--acme-root",
        text(&root),
        "--acme-accept-terms",
        "--acme-dns",
        "hook",
        "--acme-dns-hook",
        text(&program),
        "--acme-dns-check",
        &look_at,
    ];
    let calls = || fs::read_to_string(home.path().join("calls")).unwrap_or_default().lines().count();
    serve(&home, &options);
    eventually("a proof to be given", || (calls() > 0).then_some(()));
    let pid = home.server_pid().expect("a server");
    kill(Pid::from_raw(i32::try_from(pid).expect("a pid")), Signal::SIGKILL).expect("sent");
    assert_eq!(pebble.orders(), 1);

    let before = calls();
    let (port, _) = serve(&home, &options);
    // First the lease of the one that is gone has to run out.
    eventually("the next server to go on", || (calls() > before).then_some(()));
    fs::write(home.path().join("gate"), "").expect("written");
    let told = eventually("a certificate", || {
        let found = home.run(&["cert", "show", "claws.test", "--json"]).ends(0).json();
        (found["state"] == "valid").then_some(found)
    });
    assert_eq!(told["names"], serde_json::json!(["claws.test", "*.claws.test"]));
    assert_eq!((pebble.orders(), told.get("error")), (1, None), "the same order");
    connect(port, "nobody-12345.claws.test", &untrusting()).expect("the wildcard is shown");

    let mut all = Vec::new();
    files(&home.farm(), &mut all);
    assert!(all.len() > 3, "{all:?}");
    for file in &all {
        let text = fs::read(file).expect("read");
        let found = text.windows(11).any(|it| it == b"PRIVATE KEY");
        assert!(!found, "a key can be read in {}", file.display());
    }
    let mode = |name: &str| fs::metadata(home.farm().join(name)).expect("there").permissions().mode() & 0o777;
    assert_eq!((mode("master.key"), mode("clawfarm.db")), (0o600, 0o600));
}
