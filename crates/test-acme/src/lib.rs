//! A private ACME server (pebble, with its DNS server) and a private BIND, for tests.
//!
//! Each is a process of its own on loopback, on ports that were free a moment before, and ends with
//! the value that it is.

mod bind;
mod pebble;
mod resolver;

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::Child;
use std::time::{Duration, Instant};

pub use bind::Bind;
pub use pebble::{Pebble, Setup};
pub use resolver::Resolver;

/// How long a program may take to start on a machine that is busy.
const LIMIT: Duration = Duration::from_secs(60);

/// A port that nobody has at the moment.
///
/// # Panics
/// When this machine has none.
#[must_use]
pub fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    listener.local_addr().expect("an address").port()
}

/// Waits until a program listens; says whether it does.
#[expect(
    clippy::disallowed_methods,
    reason = "a test waits for a program to start, before anything else goes on"
)]
fn answers(child: &mut Child, port: u16) -> bool {
    let began = Instant::now();
    while began.elapsed() < LIMIT {
        if child.try_wait().unwrap().is_some() {
            return false;
        }
        if TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    false
}

fn end(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}
