//! Values that are known, in every form they may have been written in.

use std::collections::BTreeMap;

use aho_corasick::AhoCorasick;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};

use super::redact::REDACTED;

/// Shorter values are not looked for: they would be found everywhere.
const SHORTEST: usize = 6;
/// Lines of a value of several (a PEM key) that are looked for each by itself.
const LINE: usize = 12;
/// What is looked for is the beginning of each form; the rest is compared where one is found. So
/// the automaton of thousands of long keys stays small.
const BEGINNING: usize = 12;

/// What finds them.
///
/// White space is left out, of the forms as of the texts: a value that was wrapped, or cut into
/// two lines because it was long, is found all the same.
pub(super) struct Values {
    finder: Option<AhoCorasick>,
    /// The forms with each beginning.
    forms: Vec<Vec<Vec<u8>>>,
    pub(super) known: usize,
    pub(super) too_short: usize,
}

impl Values {
    pub(super) fn new<'a>(values: impl Iterator<Item = &'a str>) -> Self {
        let (mut forms, mut known, mut too_short) = (Vec::new(), 0, 0);
        for value in values.map(str::trim) {
            if value.bytes().filter(|byte| !is_space(*byte)).count() < SHORTEST {
                too_short += 1;
                continue;
            }
            known += 1;
            add_forms(value, &mut forms);
            if value.contains('\n') {
                value.lines().filter(|line| line.len() >= LINE).for_each(|line| add_forms(line, &mut forms));
            }
        }
        let mut by_beginning: BTreeMap<Vec<u8>, Vec<Vec<u8>>> = BTreeMap::new();
        forms.sort_unstable();
        forms.dedup();
        for form in forms.iter().map(|form| compact(form).0).filter(|form| form.len() >= SHORTEST) {
            by_beginning.entry(form[..form.len().min(BEGINNING)].to_owned()).or_default().push(form);
        }
        let finder = (!by_beginning.is_empty()).then(|| {
            let finder = AhoCorasick::new(by_beginning.keys());
            // It can only have too many states; and without it nothing may be shown.
            finder.unwrap_or_else(|error| panic!("values that can't be looked for: {error}"))
        });
        Self { finder, forms: by_beginning.into_values().collect(), known, too_short }
    }

    /// The text without them. As many lines are left as there were.
    pub(super) fn take_out(&self, text: &str) -> String {
        let (compacted, places) = compact(text);
        let mut taken = String::with_capacity(text.len());
        let mut at = 0;
        for (begin, end) in self.found(&compacted) {
            // A digit of an encoding is a whole character, and so is the end of a value: a match
            // that ends within one is a chance, and then the whole character is taken out.
            let begin = floor(text, places[begin]).max(at);
            let end = ceil(text, places[end - 1] + 1).max(begin);
            taken.push_str(&text[at..begin]);
            taken.push_str(REDACTED);
            taken.extend(text[begin..end].chars().filter(|c| *c == '\n'));
            at = end;
        }
        taken.push_str(&text[at..]);
        taken
    }

    /// Where they are, those that overlap as one: of two, neither's rest may stay.
    fn found(&self, compacted: &[u8]) -> Vec<(usize, usize)> {
        let mut found = Vec::new();
        for beginning in self.finder.iter().flat_map(|finder| finder.find_overlapping_iter(compacted)) {
            let rest = &compacted[beginning.start()..];
            let forms = &self.forms[beginning.pattern().as_usize()];
            let longest = forms.iter().filter(|form| rest.starts_with(form)).map(Vec::len).max();
            found.extend(longest.map(|length| (beginning.start(), beginning.start() + length)));
        }
        found.sort_unstable();
        let mut apart: Vec<(usize, usize)> = Vec::new();
        for (begin, end) in found {
            match apart.last_mut() {
                Some(last) if begin < last.1 => last.1 = last.1.max(end),
                _ => apart.push((begin, end)),
            }
        }
        apart
    }
}

const fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n')
}

fn floor(text: &str, mut at: usize) -> usize {
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

fn ceil(text: &str, mut at: usize) -> usize {
    while !text.is_char_boundary(at) {
        at += 1;
    }
    at
}

/// The bytes that are looked at, and where each was.
fn compact(text: &str) -> (Vec<u8>, Vec<usize>) {
    text.bytes().enumerate().filter(|(_, byte)| !is_space(*byte)).map(|(at, byte)| (byte, at)).unzip()
}

/// A value as it is, in JSON, in a URL, in hexadecimal, in base64 alone and within something else.
fn add_forms(value: &str, forms: &mut Vec<String>) {
    let quoted = |text: &str| {
        let json = serde_json::Value::from(text).to_string();
        json[1..json.len() - 1].to_owned()
    };
    let json = quoted(value);
    // JSON within JSON.
    forms.extend([value.to_owned(), quoted(&json), json]);
    for digits in [b"0123456789ABCDEF", b"0123456789abcdef"] {
        let pair =
            |byte: u8| [digits[usize::from(byte >> 4)], digits[usize::from(byte & 15)]].map(char::from);
        forms.push(value.bytes().flat_map(pair).collect());
        // What stays as it is in a URL differs from writer to writer.
        for stays in [&b"-_.~"[..], b"-_.*", b"", b"-_.!~*'()", b"-_.~!$&'()*+,;=:@/?"] {
            let mut url = String::new();
            for byte in value.bytes() {
                if byte.is_ascii_alphanumeric() || stays.contains(&byte) {
                    url.push(char::from(byte));
                } else {
                    url.push('%');
                    url.extend(pair(byte));
                }
            }
            // A form has '+' where a path has '%20'.
            forms.push(url.replace("%20", "+"));
            forms.push(url);
        }
    }
    for before in 0..3 {
        let mut shifted = vec![0_u8; before];
        shifted.extend(value.bytes());
        for engine in [STANDARD_NO_PAD, URL_SAFE_NO_PAD] {
            let text = engine.encode(&shifted);
            if before == 0 {
                forms.push(text.clone());
            }
            // The first and the last digits depend on what stands beside the value.
            let first = [0, 2, 3][before];
            let last = shifted.len() / 3 * 4;
            if let Some(core) = text.get(first..last.max(first)).filter(|core| core.len() >= SHORTEST) {
                forms.push(core.to_owned());
            }
        }
    }
}
