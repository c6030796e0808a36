//! The ACME server's DNS server.

use std::process::{Child, Command, Stdio};

use crate::{answers, end, free_port};

/// pebble's own DNS server: every name is this machine, and TXT records are what it is told.
#[derive(Debug)]
pub struct Resolver {
    /// Where it answers questions.
    pub port: u16,
    /// Where it is told what to say, by HTTP.
    pub manage: u16,
    child: Child,
}

impl Resolver {
    /// Starts one.
    ///
    /// # Panics
    /// When it is not installed or does not start.
    #[must_use]
    pub fn start() -> Self {
        for _ in 0..5 {
            let (port, manage) = (free_port(), free_port());
            let mut child = Command::new("pebble-challtestsrv")
                .args(["-dns01", &format!("127.0.0.1:{port}")])
                .args(["-management", &format!("127.0.0.1:{manage}")])
                .args(["-defaultIPv4", "127.0.0.1", "-defaultIPv6", ""])
                .args(["-http01", "", "-https01", "", "-tlsalpn01", ""])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .expect("pebble-challtestsrv is installed (scripts/test-setup)");
            if answers(&mut child, manage) && answers(&mut child, port) {
                return Self { port, manage, child };
            }
            end(&mut child);
        }
        panic!("pebble-challtestsrv does not start");
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}
