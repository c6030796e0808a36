//! What goes wrong around a server: its files, its disk, its clients, others like it.

mod clock;
mod docker;
mod ending;
mod full;
mod home;
mod locked;
mod many_at_once;
mod points;
mod processes;
mod socket;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

pub(crate) use home::may_mount;

use crate::support::{Home, LIMIT, eventually};

/// Starts a server and waits until it serves.
fn serve(home: &Home, mut command: Command) -> Child {
    let mut child = command.spawn().expect("starts");
    eventually("the server to serve", || {
        let ended = child.try_wait().expect("waited");
        assert!(ended.is_none(), "the server ended: {ended:?}");
        let found = home.command(&["version", "--json"]).output().expect("runs");
        String::from_utf8_lossy(&found.stdout).contains("\"pid\"").then_some(())
    });
    child
}

fn signal(child: &Child, signal: Signal) {
    kill(Pid::from_raw(i32::try_from(child.id()).expect("a pid")), signal).expect("sent");
}

/// A connection over which this was sent.
fn sent(home: &Home, method: &str, path: &str, more: &str) -> UnixStream {
    let token = std::fs::read_to_string(home.farm().join("admin.token")).expect("a token");
    let mut stream = UnixStream::connect(home.farm().join("clawfarm.sock")).expect("connected");
    stream.set_read_timeout(Some(LIMIT)).expect("set");
    let head =
        format!("{method} {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n{more}", token.trim());
    stream.write_all(head.as_bytes()).expect("sent");
    stream
}

/// What is answered to a request without a body, head and all, in lower case.
pub(crate) fn asked(home: &Home, method: &str, path: &str) -> String {
    let mut stream = sent(home, method, path, "connection: close\r\ncontent-length: 0\r\n\r\n");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("an answer");
    text.to_lowercase()
}

/// Reads from a stream until this is in what it said.
fn until_said(stream: &mut UnixStream, words: &str) {
    stream.set_read_timeout(Some(Duration::from_millis(200))).expect("set");
    let mut said = Vec::new();
    eventually(words, || {
        let mut piece = [0; 4096];
        let n = stream.read(&mut piece).unwrap_or(0);
        said.extend_from_slice(&piece[..n]);
        String::from_utf8_lossy(&said).contains(words).then_some(())
    });
}
