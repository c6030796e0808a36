//! What clients ask.

use std::time::Duration;

use clawfarm_model::{Code, Error, Result};
use secrecy::ExposeSecret;

use super::Keeper;
use super::connection::{Connection, Mode};
use crate::protocol::{Hello, HelloOk, Request};

impl Keeper {
    /// Answers one line.
    pub(super) fn answer(&mut self, id: u64, line: &[u8]) {
        let Some(connection) = self.connection(id) else { return };
        if matches!(connection.mode, Mode::Hello) {
            return self.welcome(id, line);
        }
        match parse(line) {
            Ok(request) => self.act(id, request),
            Err(error) => connection.reply::<()>(Err(error)),
        }
    }

    fn welcome(&mut self, id: u64, line: &[u8]) {
        let welcome = self.check_hello(line);
        let Some(connection) = self.connection(id) else { return };
        match welcome {
            Ok(hello) => {
                connection.mode = Mode::Asking;
                connection.reply(Ok(hello));
            }
            Err(error) => connection.refuse(error),
        }
    }

    fn check_hello(&self, line: &[u8]) -> Result<HelloOk> {
        let hello: Hello = serde_json::from_slice(line).map_err(|_| {
            Error::invalid("hello", "the first line is no hello").fix("send version and token as JSON")
        })?;
        if !same(hello.token.as_bytes(), self.token.expose_secret().as_bytes()) {
            return Err(Error::new(Code::Unauthenticated, "the token is not this shim's")
                .field("token")
                .fix("read run/shim.token in the instance's folder again"));
        }
        Ok(HelloOk {
            version: hello.agree()?,
            software: env!("CARGO_PKG_VERSION").into(),
            run: self.state.run,
            shim_pid: self.state.shim_pid,
        })
    }

    fn act(&mut self, id: u64, request: Request) {
        match request {
            Request::Status => {}
            Request::Stop { grace_ms } => {
                self.stop(Duration::from_millis(grace_ms));
                return self.await_end(id);
            }
            Request::Kill => {
                self.requested = true;
                self.kill_all();
                return self.await_end(id);
            }
            Request::Freeze => {
                let done = self.freeze();
                return self.reply_status(id, done);
            }
            Request::Thaw => {
                let done = self.thaw().map_err(|reason| Error::new(Code::Internal, reason));
                return self.reply_status(id, done);
            }
            Request::Usage => {
                let usage = self.usage();
                return self.with(id, |connection| connection.reply(Ok(usage)));
            }
            Request::Watch => self.with(id, |connection| connection.mode = Mode::Watching),
            Request::Exec(request) => return self.exec(id, request),
        }
        self.reply_status(id, Ok(()));
    }

    fn await_end(&mut self, id: u64) {
        self.with(id, |connection| connection.mode = Mode::AwaitingEnd);
    }

    fn reply_status(&mut self, id: u64, done: Result<()>) {
        let status = done.map(|()| self.status());
        self.with(id, |connection| connection.reply(status));
    }

    fn with(&mut self, id: u64, act: impl FnOnce(&mut Connection)) {
        if let Some(connection) = self.connection(id) {
            act(connection);
        }
    }
}

fn parse(line: &[u8]) -> Result<Request> {
    serde_json::from_slice(line).map_err(|error| {
        let verb = serde_json::from_slice::<serde_json::Value>(line)
            .ok()
            .and_then(|value| Some(value.get("verb")?.as_str()?.to_owned()));
        match verb {
            Some(verb) if !VERBS.contains(&verb.as_str()) => {
                let verb: String = verb.chars().take(40).collect();
                Error::new(Code::Unsupported, format!("this shim does not know the verb '{verb}'"))
                    .field("verb")
                    .fix("restart the instance, so that it gets a shim of the server's version")
            }
            _ => Error::invalid("request", format!("the line is no request: {error}"))
                .fix("send one JSON object with a verb"),
        }
    })
}

const VERBS: [&str; 8] = ["status", "stop", "kill", "freeze", "thaw", "usage", "watch", "exec"];

/// Compares without telling by its duration how much is right.
fn same(given: &[u8], token: &[u8]) -> bool {
    let differs = given.iter().zip(token).fold(0, |sum, (a, b)| sum | (a ^ b));
    given.len() == token.len() && std::hint::black_box(differs) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_the_same_only_as_a_whole() {
        assert!(same(b"abc", b"abc"));
        assert!(
            !same(b"ab", b"abc") && !same(b"abcd", b"abc") && !same(b"abd", b"abc") && !same(b"", b"abc")
        );
    }

    #[test]
    fn new_verbs_are_told_from_nonsense() {
        assert_eq!(parse(br#"{"verb":"snapshot"}"#).unwrap_err().code(), Code::Unsupported);
        assert_eq!(parse(br#"{"verb":"stop"}"#).unwrap_err().code(), Code::InvalidInput);
        assert_eq!(parse(b"x").unwrap_err().code(), Code::InvalidInput);
        assert_eq!(parse(br#"{"verb":"status","later":1}"#).unwrap(), Request::Status);
    }

    #[test]
    fn fuzz_requests() {
        let seeds: [&[u8]; 3] = [
            br#"{"verb":"stop","grace_ms":1000}"#,
            br#"{"verb":"exec","argv":["ls"],"tty":null}"#,
            br#"{"verb":"status"}"#,
        ];
        clawfarm_fuzz::fuzz(&seeds, |bytes| {
            if let Err(error) = parse(bytes) {
                assert!(error.field_name().is_some() && error.fix_text().is_some(), "{error}");
            }
        });
    }
}
