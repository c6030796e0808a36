//! Reading along in what a client says on a WebSocket, as far as it tells talk from mere signs of
//! life: pings and pongs are sent by programs that nobody looks at.

/// Follows the frames of one direction, wherever they are cut into pieces.
#[derive(Default)]
pub(crate) struct Frames {
    head: [u8; 14],
    have: usize,
    /// Bytes of the present frame that are still to come.
    left: u64,
}

impl Frames {
    /// Takes the next bytes; whether a frame with data began in them (RFC 6455, 5.2).
    pub(crate) fn talk(&mut self, mut bytes: &[u8]) -> bool {
        let mut talk = false;
        while !bytes.is_empty() {
            if self.left > 0 {
                let part = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
                bytes = &bytes[part..];
                self.left -= part as u64;
                continue;
            }
            self.head[self.have] = bytes[0];
            self.have += 1;
            bytes = &bytes[1..];
            if self.have < 2 || self.have < self.head_len() {
                continue;
            }
            // Continuation, text and binary; 8 and above are signs of life, and the end.
            talk |= self.head[0] & 0x0f < 8;
            self.left = self.payload();
            self.have = 0;
        }
        talk
    }

    fn extended(&self) -> usize {
        match self.head[1] & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        }
    }

    fn head_len(&self) -> usize {
        2 + self.extended() + if self.head[1] & 0x80 != 0 { 4 } else { 0 }
    }

    fn payload(&self) -> u64 {
        let short = u64::from(self.head[1] & 0x7f);
        let long = &self.head[2..2 + self.extended()];
        if long.is_empty() { short } else { long.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(opcode: u8, length: usize) -> Vec<u8> {
        let mut bytes = vec![0x80 | opcode];
        match length {
            0..126 => bytes.push(0x80 | u8::try_from(length).unwrap()),
            126..0x1_0000 => {
                bytes.push(0x80 | 126);
                bytes.extend(u16::try_from(length).unwrap().to_be_bytes());
            }
            _ => {
                bytes.push(0x80 | 127);
                bytes.extend((length as u64).to_be_bytes());
            }
        }
        bytes.extend([1, 2, 3, 4]);
        // What would be a text frame, were it taken for a head.
        bytes.extend(std::iter::repeat_n(0x81, length));
        bytes
    }

    #[test]
    fn signs_of_life_are_no_talk_however_they_are_cut() {
        for piece in [1, 2, 3, 7, 10_000_000] {
            let told = |frames: &[(u8, usize)]| -> usize {
                let bytes: Vec<u8> =
                    frames.iter().flat_map(|(opcode, length)| frame(*opcode, *length)).collect();
                let mut read = Frames::default();
                bytes.chunks(piece).filter(|chunk| read.talk(chunk)).count()
            };
            assert_eq!(told(&[(9, 0), (10, 5), (9, 125), (8, 2)]), 0, "in pieces of {piece}");
            assert!(
                told(&[(9, 3), (1, 0)]) == 1
                    && told(&[(2, 70_000)]) == 1
                    && told(&[(10, 4), (0, 300), (9, 1)]) == 1
            );
        }
    }

    #[test]
    fn fuzz_frames() {
        let seeds: [&[u8]; 2] =
            [&[0x81, 0x85, 1, 2, 3, 4, 9, 9, 9, 9, 9], &[0x82, 0xff, 0, 0, 0, 0, 0, 1, 0, 0, 1, 2, 3, 4]];
        clawfarm_fuzz::fuzz(&seeds, |bytes| {
            let whole = Frames::default().talk(bytes);
            let mut read = Frames::default();
            let mut parts = false;
            for byte in bytes {
                parts |= read.talk(std::slice::from_ref(byte));
            }
            assert_eq!(whole, parts);
        });
    }
}
