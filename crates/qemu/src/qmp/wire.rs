//! Lines and messages of QMP.

use std::io;

use clawfarm_model::{Code, Error, Result};
use serde::Deserialize;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::found::Version;
use crate::text::tame;

/// The longest line that is taken, in bytes. The longest that QEMU 10 sends us is how a migration
/// goes, or a list of devices: some KiB. Read, a line may take thirty times its length in memory
/// (a list of numbers).
const MAX_LINE: usize = 256 << 10;
/// The longest line of an event: some of them are kept for who reads them later, and the longest of
/// those that QEMU 10 documents has some hundred bytes.
const MAX_EVENT: usize = 4 << 10;

/// Marks an error as QEMU's own refusal.
pub(super) const REFUSED: &str = "qmp";

/// Something that happened in the machine.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Its name, such as `SHUTDOWN`.
    pub name: String,
    /// What it says; null when it has nothing to say.
    pub data: Value,
}

#[derive(Debug)]
pub(super) enum Message {
    Greeting(Version),
    Answer(u64, Result<Value>),
    Event(Event),
}

#[derive(Deserialize)]
struct Raw {
    #[serde(rename = "QMP")]
    greeting: Option<Greeting>,
    event: Option<String>,
    #[serde(default)]
    data: Value,
    id: Option<u64>,
    #[serde(default, rename = "return", deserialize_with = "there")]
    returned: Option<Value>,
    error: Option<Refused>,
}

/// A `return` of null is an answer, too.
fn there<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(from).map(Some)
}

#[derive(Deserialize)]
struct Greeting {
    version: Versions,
}

#[derive(Deserialize)]
struct Versions {
    qemu: Version,
}

#[derive(Deserialize)]
struct Refused {
    class: String,
    desc: String,
}

impl Message {
    pub(super) fn parse(line: &[u8]) -> io::Result<Self> {
        let raw: Raw = serde_json::from_slice(line).map_err(|e| {
            io::Error::new(io::ErrorKind::InvalidData, format!("it sent what is no message of QMP: {e}"))
        })?;
        let message = match raw {
            Raw { greeting: Some(greeting), .. } => Self::Greeting(greeting.version.qemu),
            Raw { event: Some(_), .. } if line.len() > MAX_EVENT => {
                return Err(invalid(&format!("it told of an event in more than {MAX_EVENT} bytes")));
            }
            Raw { event: Some(name), data, .. } => Self::Event(Event { name, data }),
            Raw { id: Some(id), returned: Some(value), .. } => Self::Answer(id, Ok(value)),
            Raw { id: Some(id), error: Some(refused), .. } => Self::Answer(id, Err(refused.into())),
            // To a line that it could not read, which then has no number.
            Raw { error: Some(refused), .. } => {
                return Err(invalid(&format!("it could not read a command: {}", refused.desc)));
            }
            _ => return Err(invalid("it sent a message without a meaning")),
        };
        Ok(message)
    }
}

impl From<Refused> for Error {
    fn from(refused: Refused) -> Self {
        let code = match refused.class.as_str() {
            "CommandNotFound" => Code::Unsupported,
            "DeviceNotFound" => Code::NotFound,
            _ => Code::Conflict,
        };
        Self::new(code, tame(&refused.desc)).field(REFUSED)
    }
}

fn invalid(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.to_owned())
}

/// A stream taken apart into messages. `next` may be dropped at any time and called again.
pub(super) struct Lines<R> {
    read: R,
    buffer: Vec<u8>,
    /// How much of the buffer was taken. It goes when more is read, and not with each line: of
    /// many short ones that would be most of the work.
    taken: usize,
    /// How much of the buffer has no line feed, what was taken counted.
    looked: usize,
}

impl<R: AsyncRead + Unpin> Lines<R> {
    pub(super) const fn new(read: R) -> Self {
        Self { read, buffer: Vec::new(), taken: 0, looked: 0 }
    }

    /// The next message; `None` at the end of the stream.
    pub(super) async fn next(&mut self) -> io::Result<Option<Message>> {
        loop {
            let fresh = self.buffer.get(self.looked..).unwrap_or_default();
            if let Some(at) = fresh.iter().position(|b| *b == b'\n') {
                let end = self.looked + at;
                let line = self.buffer.get(self.taken..end).unwrap_or_default();
                let message = match line.trim_ascii() {
                    [] => None,
                    line => Some(Message::parse(line)),
                };
                (self.taken, self.looked) = (end + 1, end + 1);
                match message {
                    Some(message) => return message.map(Some),
                    None => continue,
                }
            }
            self.buffer.drain(..self.taken);
            self.taken = 0;
            self.looked = self.buffer.len();
            if self.buffer.len() > MAX_LINE {
                return Err(invalid(&format!("it sent a line of more than {MAX_LINE} bytes")));
            }
            if self.read.read_buf(&mut self.buffer).await? == 0 {
                return Ok(None);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_told_apart() {
        let parse = |text: &str| Message::parse(text.as_bytes());
        assert!(matches!(
            parse(
                r#"{"QMP":{"version":{"qemu":{"micro":2,"minor":0,"major":10},"package":"x"},"capabilities":["oob"]}}"#
            ),
            Ok(Message::Greeting(Version { major: 10, minor: 0, micro: 2 }))
        ));
        assert!(matches!(parse(r#"{"return":{"a":1},"id":7}"#), Ok(Message::Answer(7, Ok(_)))));
        assert!(matches!(parse(r#"{"return":null,"id":7}"#), Ok(Message::Answer(7, Ok(Value::Null)))));
        let Ok(Message::Answer(8, Err(error))) =
            parse(r#"{"id":8,"error":{"class":"DeviceNotFound","desc":"no \u001b[2J'x'"}}"#)
        else {
            panic!("an answer")
        };
        assert_eq!((error.code(), error.message()), (Code::NotFound, "no [2J'x'"));
        assert!(matches!(
            parse(r#"{"event":"STOP","timestamp":{"seconds":1,"microseconds":2}}"#),
            Ok(Message::Event(Event { data: Value::Null, .. }))
        ));
        for nonsense in
            ["", "{}", "[]", "1", "{\"return\":{}}", "{\"id\":1}", "{\"id\":-1,\"return\":{}}", "\u{fffd}"]
        {
            assert!(parse(nonsense).is_err(), "{nonsense}");
        }
    }

    #[tokio::test]
    async fn lines_come_whole_however_they_are_cut() {
        let text = b"\r\n{\"return\":1,\"id\":1}\n{\"event\":\"A\"}\r\n{\"ret";
        for size in 1..text.len() {
            let (mut write, read) = tokio::io::duplex(size);
            let sender = tokio::spawn(async move {
                tokio::io::AsyncWriteExt::write_all(&mut write, text).await.unwrap();
            });
            let mut lines = Lines::new(read);
            assert!(matches!(lines.next().await, Ok(Some(Message::Answer(1, Ok(_))))));
            assert!(matches!(lines.next().await, Ok(Some(Message::Event(_)))));
            assert!(matches!(lines.next().await, Ok(None)));
            sender.await.unwrap();
        }
    }

    #[tokio::test]
    async fn an_endless_line_is_refused() {
        let mut lines = Lines::new(tokio::io::repeat(b'x'));
        let error = lines.next().await.unwrap_err();
        assert!(error.to_string().contains("more than"), "{error}");
    }

    #[tokio::test]
    async fn a_large_event_is_refused_and_a_large_answer_is_not() {
        let long = "x".repeat(MAX_EVENT);
        let text = format!("{{\"id\":1,\"return\":\"{long}\"}}\n{{\"event\":\"{long}\"}}\n");
        let mut lines = Lines::new(text.as_bytes());
        assert!(matches!(lines.next().await, Ok(Some(Message::Answer(1, Ok(_))))));
        let error = lines.next().await.unwrap_err();
        assert!(error.to_string().contains("event in more than"), "{error}");
    }

    #[test]
    fn fuzz_messages() {
        let seeds: [&[u8]; 4] = [
            br#"{"QMP":{"version":{"qemu":{"micro":2,"minor":0,"major":10},"package":""},"capabilities":[]}}"#,
            br#"{"return":{},"id":3}"#,
            br#"{"id":3,"error":{"class":"GenericError","desc":"x"}}"#,
            br#"{"event":"MIGRATION","data":{"status":"active"}}"#,
        ];
        clawfarm_fuzz::fuzz(&seeds, |bytes| {
            let _ = Message::parse(bytes);
        });
    }
}
