//! Another program holds the database's lock for longer than the server waits for it.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::Signal;

use super::{asked, serve, signal};
use crate::support::{Home, finish};

/// A program that holds the lock until it is ended.
struct Holder(Child);

impl Holder {
    fn of(database: &Path) -> Self {
        let script = "import sqlite3, sys\n\
            c = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=30)\n\
            c.execute('begin immediate')\n\
            print('held', flush=True)\n\
            sys.stdin.read()";
        let mut child = Command::new("python3")
            .args(["-c", script])
            .arg(database)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("starts");
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().expect("a pipe")).read_line(&mut line).expect("read");
        assert_eq!(line, "held\n");
        Self(child)
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn while_the_database_is_locked_it_is_read_and_changes_are_refused() {
    let home = Home::new();
    let server = serve(&home, home.command(&["serve"]));
    home.run(&["new", "openclaw", "alice", "--runtime", "sim"]).ends(0);
    let holder = Holder::of(&home.farm().join("clawfarm.db"));
    let before = home.run(&["events", "--json"]).ends(0).out;
    // At once: one waits for the lock, the other for the one connection that writes.
    let refused = std::thread::scope(|scope| {
        let at = &home;
        let ask = |path| scope.spawn(move || asked(at, "POST", path));
        let asks = [ask("/api/v1/instances/alice/stop"), ask("/api/v1/instances/alice/token/rotate")];
        let status = home.run(&["status", "alice", "--json"]).ends(0).json();
        assert_eq!(status["instance"]["phase"], "ready", "it can be read meanwhile");
        asks.map(|ask| ask.join().expect("an answer"))
    });
    for answer in refused {
        assert!(answer.starts_with("http/1.1 503 ") && answer.contains("retry-after:"), "{answer}");
        assert!(
            answer.contains("locked by another program") && answer.contains("end the program"),
            "{answer}"
        );
    }
    assert_eq!(home.run(&["events", "--json"]).ends(0).out, before, "nothing was changed");
    drop(holder);
    assert!(home.run(&["stop", "alice"]).ends(0).out.contains("is stopped"));
    assert!(home.run(&["start", "alice"]).ends(0).out.contains("is ready"));
    signal(&server, Signal::SIGTERM);
    finish(server).ends(0);
}
