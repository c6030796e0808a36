//! A server ends although its clients are stuck.

use std::process::Stdio;

use nix::sys::signal::Signal;

use super::{sent, serve, signal, until_said};
use crate::support::{Home, finish};

#[test]
fn it_ends_within_its_limit_whatever_its_clients_do() {
    let home = Home::new();
    let server = serve(&home, home.command(&["serve"]));
    home.run(&["new", "openclaw", "alice", "--runtime", "sim"]).ends(0);

    let mut events = sent(&home, "GET", "/api/v1/events?follow=true", "accept: text/event-stream\r\n\r\n");
    until_said(&mut events, "200 OK");
    let mut logs = sent(&home, "GET", "/api/v1/instances/alice/logs?follow=true", "\r\n");
    until_said(&mut logs, "200 OK");
    // A head that never ends, a body that never ends, a poll, and one that says nothing at all.
    let head = sent(&home, "GET", "/api/v1/instances", "x-more: ");
    let body = sent(
        &home,
        "POST",
        "/api/v1/instances",
        "content-type: application/json\r\ncontent-length: 1000\r\n\r\n{\"claw_type\":",
    );
    let silent =
        std::os::unix::net::UnixStream::connect(home.farm().join("clawfarm.sock")).expect("connected");
    // A console whose program reads for ever; it has said something, so it is open.
    let mut console =
        home.command(&["exec", "-i", "alice", "--", "cat"]).stdin(Stdio::piped()).spawn().expect("starts");
    let mut input = console.stdin.take().expect("a pipe");
    std::io::Write::write_all(&mut input, b"x").expect("written");
    let mut said = [0];
    std::io::Read::read_exact(console.stdout.as_mut().expect("a pipe"), &mut said).expect("an echo");

    signal(&server, Signal::SIGTERM);
    let done = finish(server).ends(0);
    assert!(!done.err.contains("panicked"), "{done:?}");
    assert!(!home.farm().join("clawfarm.sock").exists(), "the socket is left");
    drop((events, logs, head, body, silent, input));
    // It is told that the server went away, and does not hang.
    assert_ne!(finish(console).code, Some(0));
    // The next server has the claw as it was.
    assert_eq!(home.run(&["ps", "-q"]).ends(0).out.lines().count(), 1);
}
