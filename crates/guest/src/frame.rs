//! Pieces of what crosses the line: bounded, marked off by a zero byte that occurs nowhere else
//! (COBS), and with a checksum, so that whoever begins to listen in the middle finds the next
//! beginning by itself.

use bytes::Bytes;

/// The most that one frame carries, in bytes.
pub const MAX_BODY: usize = 32 * 1024;
/// Kind, stream and checksum.
const AROUND: usize = 1 + 4 + 4;
/// COBS adds a byte to each 254, and one.
const MAX_CODED: usize = (MAX_BODY + AROUND) + (MAX_BODY + AROUND) / 254 + 1;

/// What a frame is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// [`crate::message::Hello`]: from here on.
    Hello = 1,
    /// The host asks something: [`crate::message::Request`]. Its stream is new.
    Open = 2,
    /// Input of a command.
    Input = 3,
    /// The input of a command ends.
    InputEnd = 4,
    /// The terminal has another size: [`crate::message::Size`].
    Resize = 5,
    /// A signal to a command: its number as text in JSON.
    Signal = 6,
    /// So many more bytes may be sent on this stream: a number in JSON.
    Credit = 7,
    /// The host wants nothing more of this stream.
    Close = 8,
    /// What was asked was done: JSON.
    Answer = 9,
    /// It was not: [`crate::message::Refusal`].
    Refused = 10,
    /// Standard output of a command, or its terminal's.
    Output = 11,
    /// Standard error of a command.
    Errors = 12,
    /// A command has ended: [`crate::message::Exit`].
    Exit = 13,
}

impl Kind {
    fn of(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Hello,
            2 => Self::Open,
            3 => Self::Input,
            4 => Self::InputEnd,
            5 => Self::Resize,
            6 => Self::Signal,
            7 => Self::Credit,
            8 => Self::Close,
            9 => Self::Answer,
            10 => Self::Refused,
            11 => Self::Output,
            12 => Self::Errors,
            13 => Self::Exit,
            _ => return None,
        })
    }
}

/// One piece.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// What it is about.
    pub kind: Kind,
    /// Which conversation it belongs to; 0 for [`Kind::Hello`].
    pub stream: u32,
    /// What it says, at most [`MAX_BODY`] bytes.
    pub body: Bytes,
}

impl Frame {
    /// A frame with `body`, of which what is above [`MAX_BODY`] would not be taken.
    #[must_use]
    pub fn new(kind: Kind, stream: u32, body: impl Into<Bytes>) -> Self {
        Self { kind, stream, body: body.into() }
    }

    /// Its bytes on the line, with the mark at its end.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut raw = Vec::with_capacity(self.body.len() + AROUND);
        raw.push(self.kind as u8);
        raw.extend_from_slice(&self.stream.to_le_bytes());
        raw.extend_from_slice(&self.body);
        let sum = crc32fast::hash(&raw);
        raw.extend_from_slice(&sum.to_le_bytes());
        let mut coded = cobs::encode_vec(&raw);
        coded.push(0);
        coded
    }

    fn decode(coded: &[u8]) -> Option<Self> {
        let raw = cobs::decode_vec(coded).ok()?;
        let (rest, sum) = raw.split_last_chunk::<4>()?;
        if crc32fast::hash(rest) != u32::from_le_bytes(*sum) {
            return None;
        }
        let (&kind, rest) = rest.split_first()?;
        let (stream, body) = rest.split_first_chunk::<4>()?;
        if body.len() > MAX_BODY {
            return None;
        }
        let body = Bytes::copy_from_slice(body);
        Some(Self { kind: Kind::of(kind)?, stream: u32::from_le_bytes(*stream), body })
    }
}

/// Finds frames in what comes; what is none is passed over.
#[derive(Debug, Default)]
pub struct Decoder {
    /// What has come since the last mark.
    held: Vec<u8>,
    /// It was longer than a frame can be: everything up to the next mark is thrown away.
    too_long: bool,
    /// Pieces between marks that were no frames.
    passed_over: u64,
}

impl Decoder {
    /// Takes what came and gives the frames that are whole now, in order.
    pub fn push(&mut self, mut bytes: &[u8]) -> Vec<Frame> {
        let mut frames = Vec::new();
        while let Some(mark) = bytes.iter().position(|&byte| byte == 0) {
            let (piece, rest) = bytes.split_at(mark);
            bytes = rest.get(1..).unwrap_or_default();
            self.keep(piece);
            if !self.too_long && !self.held.is_empty() {
                match Frame::decode(&self.held) {
                    Some(frame) => frames.push(frame),
                    None => self.passed_over += 1,
                }
            } else if self.too_long {
                self.passed_over += 1;
            }
            self.held.clear();
            self.too_long = false;
        }
        self.keep(bytes);
        frames
    }

    /// How many pieces were no frames so far.
    #[must_use]
    pub const fn passed_over(&self) -> u64 {
        self.passed_over
    }

    fn keep(&mut self, piece: &[u8]) {
        if self.too_long || self.held.len() + piece.len() > MAX_CODED {
            self.too_long = true;
            self.held.clear();
        } else {
            self.held.extend_from_slice(piece);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_largest_frame_passes_and_a_longer_one_does_not() {
        let full = Frame::new(Kind::Output, 7, vec![0xff; MAX_BODY]);
        assert!(full.encode().len() <= MAX_CODED + 1);
        assert_eq!(Decoder::default().push(&full.encode()), [full]);
        let long = Frame::new(Kind::Output, 7, vec![0xff; MAX_BODY + 1]);
        let mut decoder = Decoder::default();
        assert_eq!(decoder.push(&long.encode()), []);
        assert_eq!(decoder.passed_over(), 1);
    }

    #[test]
    fn an_endless_piece_takes_no_memory() {
        let mut decoder = Decoder::default();
        for _ in 0..1000 {
            assert!(decoder.push(&[1; 4096]).is_empty());
            assert!(decoder.held.len() <= MAX_CODED);
        }
        let frame = Frame::new(Kind::Hello, 0, "x");
        decoder.push(&[0]);
        assert_eq!(decoder.push(&frame.encode()), [frame]);
    }

    proptest! {
        #[test]
        fn frames_are_found_behind_any_rubbish_however_it_is_cut(
            rubbish in proptest::collection::vec(any::<u8>(), 0..600),
            bodies in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..700), 1..5),
            cut in 1_usize..50,
        ) {
            let frames: Vec<_> = bodies
                .into_iter()
                .enumerate()
                .map(|(i, body)| Frame::new(Kind::Input, i as u32, body))
                .collect();
            let mut line = rubbish;
            line.push(0);
            for frame in &frames {
                line.extend(frame.encode());
            }
            let mut decoder = Decoder::default();
            let found: Vec<_> = line.chunks(cut).flat_map(|piece| decoder.push(piece)).collect();
            prop_assert!(found.ends_with(&frames), "{found:?}");
            // Rubbish that has a right checksum by chance: one in four thousand million.
            prop_assert_eq!(found.len(), frames.len());
        }

        #[test]
        fn a_flipped_bit_is_noticed(body in proptest::collection::vec(any::<u8>(), 0..200), at in any::<prop::sample::Index>(), bit in 0_u8..8) {
            let frame = Frame::new(Kind::Answer, 3, body);
            let mut line = frame.encode();
            let at = at.index(line.len());
            line[at] ^= 1 << bit;
            line.push(0);
            prop_assert!(!Decoder::default().push(&line).contains(&frame) || at == line.len() - 2);
        }
    }
}
