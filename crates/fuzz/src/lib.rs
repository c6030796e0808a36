//! Nearly right input for the parsers of foreign text.
//!
//! A target is a test whose name begins with `fuzz_`, beside the parser that it is of. It hands
//! [`fuzz`] some texts that its parser really meets, and asserts what must hold for any bytes:
//! no panic, no end of memory, and, where there is a way back, that it leads back. The suite
//! runs each with a few thousand inputs; `make fuzz` as long as it is told to
//! (`CLAWFARM_FUZZ_SECS`, for each target). What fails is made as small as it gets, and printed.

use std::fmt;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use proptest::test_runner::{Config, TestError, TestRunner};

/// Inputs of a target in the suite: a second of an unoptimised build at most.
const INPUTS: u32 = 2_000;
/// How long a target runs instead, in seconds.
const SECS: &str = "CLAWFARM_FUZZ_SECS";
/// How often a piece may be repeated: nesting and lengths beyond the limits that parsers have.
const TIMES: usize = 3_000;

/// Bytes that are shown as text.
#[derive(Clone)]
struct Input(Vec<u8>);

impl fmt::Debug for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "b\"{}\"", self.0.escape_ascii())
    }
}

/// A change of a text. Places are taken modulo its length.
#[derive(Clone, Debug)]
enum Edit {
    Put(usize, u8),
    Insert(usize, &'static [u8]),
    Remove(usize, usize),
    Repeat(usize, usize, usize),
    Cut(usize),
}

/// What parsers stumble over.
const PIECES: [&[u8]; 30] = [
    b"\0",
    b"\n",
    b"\r\n",
    b"\n\n",
    b"\x1b[2J",
    b"\xff\xfe",
    "\u{2028}".as_bytes(),
    "\u{202e}".as_bytes(),
    b"\"",
    b"\\",
    b"\\u0000",
    b"\\ud800",
    b"{",
    b"}",
    b"[",
    b"]",
    b":",
    b",",
    b"=",
    b"//",
    b"/*",
    b"../",
    b"null",
    b"-1",
    b"1e999",
    b"18446744073709551616",
    b"-9223372036854775809",
    b"0.1",
    b" ",
    b"%00",
];

fn edit() -> impl Strategy<Value = Edit> {
    let place = || any::<usize>();
    prop_oneof![
        (place(), any::<u8>()).prop_map(|(at, byte)| Edit::Put(at, byte)),
        (place(), prop::sample::select(&PIECES[..])).prop_map(|(at, piece)| Edit::Insert(at, piece)),
        (place(), 1_usize..40).prop_map(|(at, length)| Edit::Remove(at, length)),
        (place(), 1_usize..12, prop_oneof![2..4_usize, 2..TIMES])
            .prop_map(|(at, length, times)| Edit::Repeat(at, length, times)),
        place().prop_map(Edit::Cut),
    ]
}

fn apply(text: &mut Vec<u8>, edit: &Edit) {
    let place = |at: usize| if text.is_empty() { 0 } else { at % text.len() };
    match *edit {
        Edit::Put(at, byte) => {
            let at = place(at);
            if let Some(there) = text.get_mut(at) {
                *there = byte;
            }
        }
        Edit::Insert(at, piece) => {
            let at = place(at);
            text.splice(at..at, piece.iter().copied());
        }
        Edit::Remove(at, length) => {
            let at = place(at);
            let end = text.len().min(at + length);
            text.drain(at..end);
        }
        Edit::Repeat(at, length, times) => {
            let at = place(at);
            let piece = text[at..text.len().min(at + length)].to_vec();
            text.splice(at..at, piece.repeat(times));
        }
        Edit::Cut(at) => text.truncate(place(at)),
    }
}

fn nearly(seeds: &[&[u8]]) -> impl Strategy<Value = Input> + use<> {
    let seeds: Vec<Vec<u8>> = seeds.iter().map(|seed| seed.to_vec()).collect();
    let changed =
        (prop::sample::select(seeds), prop::collection::vec(edit(), 0..5)).prop_map(|(mut text, edits)| {
            edits.iter().for_each(|edit| apply(&mut text, edit));
            Input(text)
        });
    prop_oneof![
        4 => changed,
        1 => prop::collection::vec(any::<u8>(), 0..200).prop_map(Input),
    ]
}

/// Gives `target` texts that are nearly one of `seeds`, and some that are nothing at all. The
/// first are the seeds themselves.
///
/// # Panics
/// With the smallest input for which `target` panics.
pub fn fuzz(seeds: &[&[u8]], target: impl Fn(&[u8])) {
    seeds.iter().for_each(|seed| target(seed));
    let limit = std::env::var(SECS).ok().and_then(|secs| secs.parse().ok()).map(Duration::from_secs);
    let begun = Instant::now();
    loop {
        let config = Config { cases: INPUTS, failure_persistence: None, ..Config::default() };
        let outcome = TestRunner::new(config).run(&nearly(seeds), |input| {
            target(&input.0);
            Ok(())
        });
        match outcome {
            Ok(()) => {}
            Err(TestError::Fail(why, input)) => panic!("{why}\nfor {input:?}"),
            Err(TestError::Abort(why)) => panic!("{why}"),
        }
        if limit.is_none_or(|limit| begun.elapsed() >= limit) {
            return;
        }
    }
}

/// As [`fuzz`], for a parser of text: what is no UTF-8 is mended first.
///
/// # Panics
/// As [`fuzz`] does.
pub fn fuzz_text(seeds: &[&str], target: impl Fn(&str)) {
    let seeds: Vec<&[u8]> = seeds.iter().map(|seed| seed.as_bytes()).collect();
    fuzz(&seeds, |bytes| target(&String::from_utf8_lossy(bytes)));
}

#[cfg(test)]
mod tests {
    use std::panic::catch_unwind;

    use super::*;

    #[test]
    fn what_breaks_a_parser_is_found_and_made_small() {
        let broken = catch_unwind(|| {
            fuzz_text(&["key=value"], |text| {
                let (_, value) = text.split_once('=').unwrap_or_default();
                assert!(!value.contains('\0'), "a NUL came through");
            });
        });
        let told = *broken.expect_err("it breaks").downcast::<String>().expect("a text");
        assert!(told.contains("a NUL came through") && told.contains("b\""), "{told}");
        assert!(told.len() < 200, "{told}");
    }

    #[test]
    fn seeds_come_as_they_are() {
        let seen = std::cell::Cell::new(0);
        fuzz(&[b"a", b"b"], |bytes| seen.set(seen.get() + u32::from(bytes == b"a" || bytes == b"b")));
        assert!(seen.get() >= 2);
    }
}
