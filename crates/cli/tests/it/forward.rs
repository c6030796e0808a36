//! `port-forward` with simulated claws: their gateway, as a browser would reach it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::Child;

use crate::support::{Home, LIMIT};

/// The command, and the local addresses that it has printed.
pub(crate) struct Forward {
    child: Child,
    locals: Vec<String>,
}

impl Forward {
    pub(crate) fn open(home: &Home, arguments: &[&str], count: usize) -> Self {
        let mut command = vec!["port-forward", "--json"];
        command.extend(arguments);
        let mut child = home.command(&command).spawn().expect("starts");
        let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        let locals = (0..count)
            .map(|_| {
                let line = lines.next().expect("a line").expect("read");
                let line: serde_json::Value = serde_json::from_str(&line).expect("JSON");
                line["local"].as_str().expect("an address").to_owned()
            })
            .collect();
        Self { child, locals }
    }

    pub(crate) fn get(&self, local: usize, path: &str) -> String {
        let mut stream = TcpStream::connect(&self.locals[local]).expect("connected");
        stream.set_read_timeout(Some(LIMIT)).expect("set");
        write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").expect("asked");
        let mut answer = String::new();
        // A connection that is refused is hung up on before what was asked is read.
        let _ = stream.read_to_string(&mut answer);
        answer
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_gateway_is_reached_again_and_again_and_a_sleeper_wakes() {
    let home = Home::new();
    home.run(&["new", "openclaw", "alice", "--runtime", "sim"]).ends(0);
    let port = home.run(&["status", "alice", "--json"]).ends(0).json()["instance"]["port"].to_string();
    // The gateway by default and by its number, at ports that are chosen.
    let forward = Forward::open(&home, &["alice"], 1);
    assert!(forward.get(0, "/healthz").starts_with("HTTP/1.1 200"), "{}", forward.get(0, "/healthz"));
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| assert!(forward.get(0, "/healthz").starts_with("HTTP/1.1 200")));
        }
    });
    home.run(&["suspend", "alice"]).ends(0);
    assert!(forward.get(0, "/healthz").starts_with("HTTP/1.1 200"), "it is woken");
    assert_eq!(home.run(&["status", "alice", "--json"]).ends(0).json()["instance"]["phase"], "ready");

    // A port that it does not listen on is refused connection by connection, with a word.
    let mut two = Forward::open(&home, &["alice", &port, "9"], 2);
    assert!(two.get(0, "/healthz").starts_with("HTTP/1.1 200"));
    assert_eq!(two.get(1, "/healthz"), "");
    home.run(&["stop", "alice"]).ends(0);
    assert_eq!(two.get(0, "/healthz"), "");
    two.child.kill().expect("killed");
    let mut said = String::new();
    two.child.stderr.take().expect("a pipe").read_to_string(&mut said).expect("read");
    assert!(said.contains("does not listen on port 9") && said.contains("clawfarm start"), "{said}");

    let taken = forward.locals[0].rsplit_once(':').expect("a port").1.to_owned();
    let refused = home.run(&["port-forward", "alice", &format!("{taken}:80")]).ends(4);
    assert!(refused.err.contains(&taken) && refused.err.contains("field: PORTS"), "{refused:?}");
    home.run(&["port-forward", "nobody"]).ends(3);
    home.run(&["port-forward", "alice", "80:0"]).ends(2);
}
