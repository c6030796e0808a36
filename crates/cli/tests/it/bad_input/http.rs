//! HTTP by hand: what a proper client would never send must be sendable.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// How long an answer may take.
const LIMIT: Duration = Duration::from_secs(30);

/// A request, byte by byte.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) method: &'static str,
    pub(super) target: String,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) body: Vec<u8>,
}

impl Request {
    pub(super) fn new(method: &'static str, target: impl Into<String>, body: impl Into<Vec<u8>>) -> Self {
        Self { method, target: target.into(), headers: Vec::new(), body: body.into() }
    }

    pub(super) fn get(target: &str) -> Self {
        Self::new("GET", target, "")
    }

    pub(super) fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// As it goes over the wire. What a proper request has is added where it is not given.
    pub(super) fn bytes(&self, token: &str) -> Vec<u8> {
        let mut head = format!("{} {} HTTP/1.1\r\nhost: x\r\n", self.method, self.target);
        let given = |name| self.headers.iter().any(|(n, _)| n.eq_ignore_ascii_case(name));
        if !given("connection") {
            head.push_str("connection: close\r\n");
        }
        if !given("authorization") {
            head.push_str(&format!("authorization: Bearer {token}\r\n"));
        }
        if !self.body.is_empty() && !given("content-type") {
            head.push_str("content-type: application/json\r\n");
        }
        if !given("content-length") && !given("transfer-encoding") {
            head.push_str(&format!("content-length: {}\r\n", self.body.len()));
        }
        for (name, value) in self.headers.iter().filter(|(_, value)| value != ABSENT) {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        let mut bytes = head.into_bytes();
        bytes.extend_from_slice(&self.body);
        bytes
    }
}

/// The value of a header that is left out, though a proper request has it.
pub(super) const ABSENT: &str = "(absent)";

/// An answer.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    /// The head, in lower case.
    pub(super) head: String,
    pub(super) body: Vec<u8>,
}

impl Answer {
    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).chars().take(600).collect()
    }
}

/// Sends bytes, and reads the answer up to the connection's end.
pub(super) fn ask(address: &str, request: &[u8]) -> Answer {
    let stream = TcpStream::connect(address).expect("connected");
    stream.set_read_timeout(Some(LIMIT)).expect("set");
    stream.set_write_timeout(Some(LIMIT)).expect("set");
    let mut writer = stream.try_clone().expect("another handle");
    let mut reader = stream;
    std::thread::scope(|scope| {
        // The server may answer, and stop to read, before a large body was sent.
        scope.spawn(move || {
            let _ = writer.write_all(request);
        });
        let mut bytes = Vec::new();
        let mut piece = [0; 16 << 10];
        loop {
            match reader.read(&mut piece) {
                Ok(0) => break,
                Ok(n) => bytes.extend_from_slice(&piece[..n]),
                // It hung up on what it did not read; what it said before counts.
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => break,
                Err(error) => panic!("no answer: {error}; so far {:?}", String::from_utf8_lossy(&bytes)),
            }
        }
        // Lets the writer go, when it still writes.
        let _ = reader.shutdown(std::net::Shutdown::Both);
        parse(&bytes)
    })
}

fn parse(bytes: &[u8]) -> Answer {
    let end = bytes.windows(4).position(|w| w == b"\r\n\r\n").unwrap_or(bytes.len());
    let head = String::from_utf8_lossy(&bytes[..end]).to_lowercase();
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok());
    let status = status.unwrap_or_else(|| panic!("no answer: {head:?}"));
    Answer { status, head, body: bytes.get(end + 4..).unwrap_or_default().to_vec() }
}
