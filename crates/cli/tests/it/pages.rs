//! What the pages of the book say is done here: their commands are typed, the API's examples
//! are asked, and the files they list are looked for.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;

use crate::support::{Home, LIMIT};

pub(crate) fn page(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs").join(name);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// What a page says is typed, in its order.
pub(crate) fn typed(page: &str) -> Vec<Vec<String>> {
    let mut console = false;
    let mut typed = Vec::new();
    for line in page.lines() {
        if let Some(language) = line.strip_prefix("```") {
            console = language == "console";
        } else if let Some(command) = line.strip_prefix("$ clawfarm ").filter(|_| console) {
            typed.push(shell_words::split(command).expect("words"));
        }
    }
    typed
}

/// Types a page's commands, with simulated claws. A secret that is asked for is given.
fn type_all(home: &Home, name: &str) {
    let all = typed(&page(name));
    assert!(all.len() >= 2, "{name} shows {} commands", all.len());
    for words in all {
        let mut words: Vec<&str> = words.iter().map(String::as_str).collect();
        if words[0] == "new" {
            words.extend(["--runtime", "sim"]);
        }
        let done = home.run_with_input(&words, "typed at the prompt\n");
        assert_eq!(done.code, Some(0), "{name}: clawfarm {}: {done:?}", words.join(" "));
    }
}

#[test]
fn the_first_steps_can_be_typed_as_they_are_shown() {
    let home = Home::new();
    type_all(&home, "getting-started.md");
    // The page ends with the server's end and the claw's removal.
    assert_eq!(home.run(&["ps", "-q"]).ends(0).out, "");
}

#[test]
fn the_guides_can_be_typed_as_they_are_shown() {
    let home = Home::new();
    home.run(&["new", "openclaw", "alice", "--runtime", "sim"]).ends(0);
    type_all(&home, "sleep.md");
    type_all(&home, "update.md");
    type_all(&home, "secrets.md");
    home.run(&["rm", "alice", "--purge", "--force"]).ends(0);
}

/// A request as the reference shows it.
#[derive(Debug)]
struct Example {
    method: String,
    path: String,
    body: String,
}

fn examples() -> Vec<Example> {
    let page = page("api.md").replace("\\\n", " ");
    let mut examples = Vec::new();
    let (_, requests) = page.split_once("\n## Errors").expect("the requests follow the errors");
    for line in requests.lines().filter(|l| l.starts_with("curl ")) {
        let words = shell_words::split(line).expect("words");
        let after = |flag: &str| words.iter().skip_while(|w| *w != flag).nth(1).cloned();
        let url = words.last().expect("an address");
        assert_eq!(after("--unix-socket").as_deref(), Some("~/.clawfarm/clawfarm.sock"), "{line}");
        assert_eq!(after("-H").as_deref(), Some("@auth"), "the token comes from a file: {line}");
        examples.push(Example {
            method: after("-X").unwrap_or_else(|| "GET".to_owned()),
            path: url.strip_prefix("http://localhost").expect("an address of the server").to_owned(),
            body: after("--data").unwrap_or_default(),
        });
    }
    examples
}

/// Asks over the socket, and returns the status. A stream is not read further.
fn ask(home: &Home, example: &Example) -> u16 {
    let token = fs::read_to_string(home.farm().join("admin.token")).expect("a token");
    let mut socket = UnixStream::connect(home.farm().join("clawfarm.sock")).expect("a server");
    socket.set_read_timeout(Some(LIMIT)).expect("set");
    let Example { method, path, body } = example;
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\nauthorization: Bearer {}\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        token.trim(),
        body.len()
    );
    socket.write_all(head.as_bytes()).expect("asked");
    let mut status = [0; 12];
    socket.read_exact(&mut status).expect("answered");
    std::str::from_utf8(&status[9..]).expect("digits").parse().expect("a status")
}

#[test]
fn every_example_of_the_reference_is_understood() {
    let home = Home::new();
    let mut examples = examples();
    assert!(examples.len() >= 30, "{} examples", examples.len());
    home.run(&["new", "openclaw", "alice", "--runtime", "sim"]).ends(0);
    // What ends things comes last, whatever the page's order is.
    // An instance that is removed may be gone before what is its own is asked for.
    let is_alice = |e: &Example| e.path.split('?').next() == Some("/api/v1/instances/alice");
    examples.sort_by_key(|e| (e.path.ends_with("/shutdown"), e.method == "DELETE", is_alice(e)));
    for example in &mut examples {
        if example.method == "POST" && example.path == "/api/v1/instances" {
            example.body = example.body.replacen('{', "{\"runtime\":\"sim\",", 1).replace("alice", "another");
        }
        let status = ask(&home, example);
        // Names that stand for something are not there (a ticket is the credential, too); and one of two verbs that exclude each
        // other is in conflict with the other.
        let stands = [
            "/OPERATION",
            "/TICKET",
            "/MESSAGE",
            "/ROLLOUT",
            "/datasets/",
            "/secrets/",
            "/targets/",
            "/certificates/",
            "/vm-images?",
        ]
        .iter()
        .any(|s| example.path.contains(s));
        // What is a WebSocket asks for one.
        let upgrade = example.path.ends_with("/port-forward") && status == 426;
        // There is no engine here that a socket or an image could be of.
        let engine = ["/api/v1/targets", "/api/v1/images", "/api/v1/images/pull", "/api/v1/images/log"];
        let path = example.path.split('?').next().unwrap_or_default();
        let no_engine = engine.contains(&path)
            && (example.method != "GET" || path.ends_with("/log"))
            && matches!(status, 400 | 422);
        // An archive is no text that could stand there.
        let archive = example.path.starts_with("/api/v1/restore") && status == 415;
        let fine = (200..300).contains(&status)
            || upgrade
            || archive
            || no_engine
            || status == 409
            || (stands && matches!(status, 400 | 401 | 404));
        assert!(fine, "{status}: {example:?}");
    }
    let gone = crate::support::eventually("the server that was shut down to be gone", || {
        UnixStream::connect(home.farm().join("clawfarm.sock")).is_err().then_some(true)
    });
    assert!(gone);
    home.run(&["rm", "another", "--purge", "--force"]).ends(0);
}

/// The files that `files.md` lists in one of its tables, with their modes.
fn listed(table: &str) -> BTreeMap<String, u32> {
    let page = page("files.md");
    let (_, rest) = page.split_once(&format!("<!-- files: {table} -->")).expect("the table");
    let mut listed = BTreeMap::new();
    for row in rest.lines().skip_while(|l| !l.starts_with('|')).skip(2).take_while(|l| l.starts_with('|')) {
        let cells: Vec<&str> = row.split(" | ").collect();
        let mode = cells[1].rsplit(' ').next().expect("a mode");
        let mode = u32::from_str_radix(mode, 8).unwrap_or_else(|_| panic!("no mode in {row}"));
        for name in cells[0].split('`').skip(1).step_by(2) {
            listed.insert(name.to_owned(), mode);
        }
    }
    listed
}

/// Holds a folder against a table of `files.md`; some of what is listed need not be there.
pub(crate) fn is_as_documented(folder: &Path, table: &str, later: &[&str]) {
    let listed = listed(table);
    let mut there = BTreeMap::new();
    for entry in fs::read_dir(folder).expect("the folder").map(|e| e.expect("an entry")) {
        let name = entry.file_name().into_string().expect("text");
        // What is being written is moved into place under its name in a moment.
        if name.starts_with('.') {
            continue;
        }
        let mode = entry.metadata().expect("looked at").permissions().mode() & 0o777;
        there.insert(name, mode);
    }
    for (name, mode) in &there {
        let said = listed.get(name);
        assert_eq!(
            said,
            Some(mode),
            "{name} in {}: docs/files.md says {said:?}, it is {mode:o}",
            folder.display()
        );
    }
    for name in listed.keys().filter(|name| !later.contains(&name.as_str())) {
        assert!(there.contains_key(name), "docs/files.md lists {name}, which is not in {}", folder.display());
    }
}

#[test]
fn a_home_holds_what_the_page_lists() {
    let home = Home::new();
    home.run(&["new", "openclaw", "alice", "--runtime", "sim"]).ends(0);
    // The cache is elsewhere in tests; a simulated claw has its folder in its own world.
    is_as_documented(
        &home.farm(),
        "home",
        &[
            "authority",
            "backups",
            "cache",
            "claws",
            "datasets",
            "images",
            "targets",
            "types",
            "vm-accelerator.json",
        ],
    );
    home.run(&["rm", "alice", "--purge", "--force"]).ends(0);
}
