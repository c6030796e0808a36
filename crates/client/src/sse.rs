//! A parser of event streams, as the HTML standard describes them (section 9.2.6): lines
//! end in LF, CR or CRLF, a blank line ends an event, a colon begins a comment.

/// One event of a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SseEvent {
    /// Its `event:`; empty when it had none.
    pub kind: String,
    /// Its `id:`, when it had one.
    pub id: Option<String>,
    /// Its `data:` lines, joined by LF.
    pub data: String,
}

/// Takes the bytes of a stream, however they are cut, and gives its events.
#[derive(Debug, Default)]
pub struct Parser {
    line: Vec<u8>,
    event: SseEvent,
    has_data: bool,
    /// The byte before was a CR: an LF now belongs to it.
    after_cr: bool,
    /// A byte order mark may stand at the very beginning.
    begun: bool,
}

/// A longer line or event is a broken or hostile server, and would fill the memory.
const EVENT_MAX: usize = 16 << 20;

impl Parser {
    /// A parser at the beginning of a stream.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next bytes, and adds the events they complete to `events`.
    ///
    /// # Errors
    /// When an event is longer than 16 MiB; the stream is of no more use then.
    pub fn push(&mut self, bytes: &[u8], events: &mut Vec<SseEvent>) -> Result<(), String> {
        for &byte in bytes {
            let after_cr = std::mem::replace(&mut self.after_cr, byte == b'\r');
            match byte {
                b'\n' if after_cr => {}
                b'\n' | b'\r' => self.end_line(events),
                _ => self.line.push(byte),
            }
            if self.line.len() + self.event.data.len() > EVENT_MAX {
                return Err(format!("an event is longer than {EVENT_MAX} bytes"));
            }
        }
        Ok(())
    }

    fn end_line(&mut self, events: &mut Vec<SseEvent>) {
        let bytes = std::mem::take(&mut self.line);
        let mut line = String::from_utf8_lossy(&bytes);
        if !std::mem::replace(&mut self.begun, true)
            && let Some(rest) = line.strip_prefix('\u{feff}')
        {
            line = rest.to_owned().into();
        }
        if line.is_empty() {
            self.end_event(events);
        } else {
            self.field(&line);
        }
        self.line = bytes;
        self.line.clear();
    }

    fn field(&mut self, line: &str) {
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match name {
            "event" => value.clone_into(&mut self.event.kind),
            "id" if !value.contains('\0') => self.event.id = Some(value.to_owned()),
            "data" => {
                if self.has_data {
                    self.event.data.push('\n');
                }
                self.has_data = true;
                self.event.data.push_str(value);
            }
            // Comments (the name is empty), `retry`, and what the standard may yet bring.
            _ => {}
        }
    }

    fn end_event(&mut self, events: &mut Vec<SseEvent>) {
        let event = std::mem::take(&mut self.event);
        if std::mem::take(&mut self.has_data) {
            events.push(event);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(chunks: &[&[u8]]) -> Vec<SseEvent> {
        let mut parser = Parser::new();
        let mut events = Vec::new();
        for chunk in chunks {
            parser.push(chunk, &mut events).unwrap();
        }
        events
    }

    fn event(kind: &str, id: Option<&str>, data: &str) -> SseEvent {
        SseEvent { kind: kind.into(), id: id.map(Into::into), data: data.into() }
    }

    const SAMPLE: &str = "\u{feff}: hello\r\n\r\nevent: log\nid: 7\ndata: {\"a\":\rdata:  1}\r\n\r\nretry: 5\n\nid: 9\n\ndata\n\ndata: \u{e9}\u{1f600}\n\nevent: cut\ndata: off";

    fn expected() -> Vec<SseEvent> {
        vec![event("log", Some("7"), "{\"a\":\n 1}"), event("", None, ""), event("", None, "\u{e9}\u{1f600}")]
    }

    #[test]
    fn reads_all_line_ends_comments_and_several_data_lines() {
        assert_eq!(parse(&[SAMPLE.as_bytes()]), expected());
    }

    #[test]
    fn every_cut_into_two_gives_the_same() {
        let bytes = SAMPLE.as_bytes();
        for at in 0..=bytes.len() {
            assert_eq!(parse(&[&bytes[..at], &bytes[at..]]), expected(), "cut at {at}");
        }
    }

    proptest! {
        #[test]
        fn any_cut_gives_the_same(mut cuts in prop::collection::vec(0..SAMPLE.len(), 0..12)) {
            cuts.sort_unstable();
            let mut chunks = Vec::new();
            let mut from = 0;
            for cut in cuts {
                chunks.push(&SAMPLE.as_bytes()[from..cut]);
                from = cut;
            }
            chunks.push(&SAMPLE.as_bytes()[from..]);
            prop_assert_eq!(parse(&chunks), expected());
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut events = Vec::new();
            prop_assert!(Parser::new().push(&bytes, &mut events).is_ok());
        }
    }

    #[test]
    fn an_endless_line_is_refused() {
        let mut parser = Parser::new();
        let mut events = Vec::new();
        let chunk = vec![b'x'; 1 << 20];
        let refused = (0..17).find_map(|_| parser.push(&chunk, &mut events).err());
        assert!(refused.is_some_and(|e| e.contains("longer than")));
    }

    #[test]
    fn fuzz_event_streams() {
        clawfarm_fuzz::fuzz(
            &[SAMPLE.as_bytes(), b"event: end\ndata: {}\n\n", b"id: 7\r\ndata: a\r\ndata: b\r\n\r\n"],
            |bytes| {
                // However it is cut, it says the same.
                let whole = |pieces: &[&[u8]]| {
                    let (mut parser, mut events) = (Parser::new(), Vec::new());
                    let outcome = pieces.iter().try_for_each(|piece| parser.push(piece, &mut events));
                    (outcome.is_ok(), events)
                };
                let (a, b) = bytes.split_at(bytes.len() / 2);
                assert_eq!(whole(&[bytes]), whole(&[a, b]));
            },
        );
    }
}
