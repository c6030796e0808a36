//! Server-sent events, from bytes that arrive in any pieces.

use clawfarm_model::{Code, Error, Result};

/// The longest event, in bytes: an answer's largest single piece is a few kB.
const EVENT_MAX: usize = 1 << 20;

/// Collects bytes and gives whole events' data.
#[derive(Default)]
pub(crate) struct Parser {
    /// Bytes of a line whose end has not come yet.
    line: Vec<u8>,
    /// The data lines of an event whose end has not come yet.
    data: Vec<u8>,
    has_data: bool,
    after_cr: bool,
    begun: bool,
}

impl Parser {
    /// Takes the next bytes, and gives the data of every event that they complete.
    ///
    /// # Errors
    /// `Unavailable` for an event larger than [`EVENT_MAX`].
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Result<Vec<String>> {
        let mut events = Vec::new();
        for &byte in bytes {
            // A line ends with CR, LF, or both together.
            let second_of_crlf = self.after_cr && byte == b'\n';
            self.after_cr = byte == b'\r';
            match byte {
                _ if second_of_crlf => {}
                b'\r' | b'\n' => events.extend(self.end_of_line()),
                _ if self.line.len() + self.data.len() >= EVENT_MAX => {
                    return Err(Error::new(
                        Code::Unavailable,
                        format!("the claw sent an event of more than {EVENT_MAX} bytes"),
                    ));
                }
                _ => self.line.push(byte),
            }
        }
        Ok(events)
    }

    fn end_of_line(&mut self) -> Option<String> {
        let mut line = std::mem::take(&mut self.line);
        if !self.begun {
            self.begun = true;
            if line.starts_with(b"\xef\xbb\xbf") {
                line.drain(..3);
            }
        }
        if line.is_empty() {
            return self.end_of_event();
        }
        let (field, value) = match line.iter().position(|b| *b == b':') {
            Some(colon) => (&line[..colon], &line[colon + 1..]),
            None => (&line[..], &line[..0]),
        };
        // Comments (no field) and the fields `event`, `id` and `retry` say nothing here.
        if field == b"data" {
            if self.has_data {
                self.data.push(b'\n');
            }
            self.has_data = true;
            self.data.extend_from_slice(value.strip_prefix(b" ").unwrap_or(value));
        }
        None
    }

    fn end_of_event(&mut self) -> Option<String> {
        let data = std::mem::take(&mut self.data);
        std::mem::take(&mut self.has_data).then(|| String::from_utf8_lossy(&data).into_owned())
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn fuzz_event_streams_of_a_claw() {
        let seeds: [&[u8]; 3] = [
            b"data: {\"choices\":[]}\n\ndata: [DONE]\n\n",
            b"\xef\xbb\xbf: comment\r\nevent: x\r\ndata:a\r\ndata\r\n\r\n",
            b"data: a\rdata: b\r\r",
        ];
        clawfarm_fuzz::fuzz(&seeds, |bytes| {
            let whole = super::Parser::default().push(bytes);
            let mut parser = super::Parser::default();
            let pieces: Result<Vec<_>, _> = bytes.iter().map(|byte| parser.push(&[*byte])).collect();
            // However it arrives, it says the same.
            assert_eq!(whole.ok(), pieces.ok().map(|pieces| pieces.concat()));
        });
    }

    use proptest::prelude::*;

    use super::*;

    fn whole(bytes: &[u8]) -> Vec<String> {
        Parser::default().push(bytes).unwrap()
    }

    #[test]
    fn follows_the_standard() {
        assert_eq!(whole(b"data: a\n\ndata: [DONE]\n\n"), ["a", "[DONE]"]);
        assert_eq!(whole(b"\xef\xbb\xbfdata: a\r\ndata:b\r\n\r\n"), ["a\nb"]);
        assert_eq!(whole(b"data: a\r\rdata: b\r\r"), ["a", "b"]);
        assert_eq!(whole(b": ping\n\nevent: x\nid: 1\ndata\n\n"), [""]);
        assert_eq!(whole(b"data:  two spaces\n\ndatax: no\n\n"), [" two spaces"]);
        assert_eq!(whole(b"data: never ended"), Vec::<String>::new());
    }

    #[test]
    fn an_endless_event_is_refused() {
        let mut parser = Parser::default();
        let piece = vec![b'x'; EVENT_MAX / 4];
        let refused = (0..8).find_map(|_| parser.push(&piece).err());
        assert_eq!(refused.expect("refused").code(), Code::Unavailable);
        let mut parser = Parser::default();
        let lines = b"data: xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\n".repeat(EVENT_MAX / 20);
        assert!(parser.push(&lines).is_err());
    }

    proptest! {
        /// However the bytes are cut, the events are the same; and none is invented.
        #[test]
        fn cuts_change_nothing(
            texts in prop::collection::vec("[ -~é\u{1f980}]{0,20}(\n[ -~]{0,5})?", 0..6),
            crlf in any::<bool>(),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
        ) {
            let end = if crlf { "\r\n" } else { "\n" };
            let stream: String = texts
                .iter()
                .map(|t| t.split('\n').map(|l| format!("data: {l}{end}")).collect::<String>() + end)
                .collect();
            let bytes = stream.as_bytes();
            let mut at: Vec<usize> = cuts.iter().map(|c| c.index(bytes.len() + 1)).collect();
            at.extend([0, bytes.len()]);
            at.sort_unstable();
            let mut parser = Parser::default();
            let mut got = Vec::new();
            for pair in at.windows(2) {
                got.extend(parser.push(&bytes[pair[0]..pair[1]]).unwrap());
            }
            prop_assert_eq!(got, texts);
        }

        /// Nothing that can be sent makes it panic.
        #[test]
        fn takes_anything(bytes in prop::collection::vec(prop_oneof![Just(b'\n'), Just(b'\r'), Just(b':'), any::<u8>()], 0..200)) {
            let _ = Parser::default().push(&bytes);
        }
    }
}
