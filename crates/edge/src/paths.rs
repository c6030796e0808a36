//! Whether a path is one of a list, however it is written.
//!
//! The edge and the claw may read a path differently: `/api/../admin`, `//admin`, `/%61dmin`,
//! `/ADMIN`. Who closes a path has to close every reading of it, so a path is closed when any
//! reading is.

use clawfarm_model::edge::PathRules;

/// How many times a path may be decoded: a proxy and a claw may each do it once, and a careless
/// claw twice.
const DECODINGS: usize = 3;

/// What the rules say of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Nobody outside reaches it.
    Closed,
    /// A message for the claw.
    Inbox,
    /// Anything else.
    Usual,
}

/// What the rules say of a path.
pub(crate) fn kind(rules: &PathRules, path: &str) -> Kind {
    if rules.closed.iter().any(|closed| is_any_reading_below(path, closed)) {
        return Kind::Closed;
    }
    // A message is one only as it stands: the looser reading would let a stranger past the door.
    if rules.inbox.iter().any(|inbox| is_below(path, inbox)) && is_plain(path) {
        return Kind::Inbox;
    }
    Kind::Usual
}

fn is_below(path: &str, root: &str) -> bool {
    path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Whether a path can be read in one way only.
fn is_plain(path: &str) -> bool {
    !path.contains(['%', '\\', ';'])
        && path.split('/').skip(1).all(|part| !matches!(part, "." | ".."))
        && !path.contains("//")
}

/// Whether any reading of a path leads below a root. Claws rewrite beginnings (OpenClaw serves
/// `/__openclaw__/cap/…/api/…` as `/api/…`, and takes `//host/path` for a path on a host), so it
/// counts wherever it stands; and where dots, encodings or doubled slashes leave doubt, its parts
/// count even with others between them.
fn is_any_reading_below(path: &str, root: &str) -> bool {
    let root: Vec<&[u8]> = root.split('/').filter(|part| !part.is_empty()).map(str::as_bytes).collect();
    if is_plain(path) {
        let parts = parts_of(path.as_bytes());
        return parts.windows(root.len()).any(|run| run.iter().zip(&root).all(|(part, root)| part == root));
    }
    let mut text = path.as_bytes().to_vec();
    for _ in 0..=DECODINGS {
        if has_in_order(&parts_of(&text), &root) {
            return true;
        }
        let decoded = decode(&text);
        if decoded == text {
            return false;
        }
        text = decoded;
    }
    // What is still encoded after that was made to be misread.
    true
}

/// The parts of a path as the most careless reader has them: without case, parameters, blanks.
fn parts_of(path: &[u8]) -> Vec<Vec<u8>> {
    path.split(|b| matches!(b, b'/' | b'\\' | b'?' | b'#'))
        .map(|part| {
            let part = part.split(|b| *b == b';').next().unwrap_or_default();
            part.iter().filter(|b| !b.is_ascii_control() && **b != b' ').map(u8::to_ascii_lowercase).collect()
        })
        .filter(|part: &Vec<u8>| !part.is_empty() && part != b".")
        .collect()
}

/// Whether `parts` has all of `root` in this order, whatever is between.
fn has_in_order(parts: &[Vec<u8>], root: &[&[u8]]) -> bool {
    let mut wanted = root.iter().peekable();
    for part in parts {
        if wanted.peek().is_some_and(|root| part == *root) {
            wanted.next();
        }
    }
    wanted.peek().is_none()
}

fn decode(text: &[u8]) -> Vec<u8> {
    let digit = |b: Option<&u8>| b.and_then(|b| char::from(*b).to_digit(16));
    let mut out = Vec::with_capacity(text.len());
    let mut at = 0;
    while let Some(byte) = text.get(at) {
        match (byte, digit(text.get(at + 1)), digit(text.get(at + 2))) {
            (b'%', Some(high), Some(low)) => {
                out.push(u8::try_from(high * 16 + low).unwrap_or_default());
                at += 3;
            }
            _ => {
                out.push(*byte);
                at += 1;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rules() -> PathRules {
        PathRules { closed: vec!["/api/v1/admin".into()], inbox: vec!["/hooks".into()] }
    }

    #[test]
    fn a_closed_path_is_closed_however_it_is_written() {
        for path in [
            "/api/v1/admin",
            "/api/v1/admin/rpc",
            "/api/v1/admin/",
            "/API/v1/Admin/rpc",
            "//api/v1/admin/rpc",
            "/api//v1/admin",
            "/api/./v1/admin",
            "/x/../api/v1/admin",
            "/api/v1/x/../admin/rpc",
            "/api/v1/admin/..",
            "/api/v1/%61dmin/rpc",
            "/api%2Fv1%2fadmin",
            "/%2e%2e/api/v1/admin",
            "/x/%2e%2e/api/v1/admin",
            "/api/v1/%2561dmin",
            "/api/v1/%25252561dmin",
            "/api\\v1\\admin",
            "/api%5cv1%5Cadmin",
            "/api;a=b/v1/admin;c/rpc",
            "/api/v1/admin%00/rpc",
            "/api/v1/admin%20",
            "/api/v1/ad%09min",
            // What OpenClaw makes of these was tried: all are its admin interface.
            "/__openclaw__/cap/x/api/v1/admin/rpc",
            "//evil/api/v1/admin/rpc",
            "/\\evil/api/v1/admin/rpc",
            "/a%2fb/%2e%2e/api/v1/admin/rpc",
            "/api%3f/v1/x/%2e%2e/admin",
        ] {
            assert_eq!(kind(&rules(), path), Kind::Closed, "{path}");
        }
        for path in [
            "/",
            "/api/v1/administrator",
            "/api/v1",
            "/api/v2/admin",
            "/api/x/v1/admin",
            "/v1/models",
            "/%zz",
            "/a%2Fb",
            "*",
        ] {
            assert_eq!(kind(&rules(), path), Kind::Usual, "{path}");
        }
    }

    #[test]
    fn a_message_is_one_only_as_it_stands() {
        for path in ["/hooks", "/hooks/wake", "/hooks/agent/x"] {
            assert_eq!(kind(&rules(), path), Kind::Inbox, "{path}");
        }
        for path in [
            "/hooksx",
            "/HOOKS",
            "/hooks/../v1/models",
            "/hooks/%2e%2e/v1",
            "/hooks//x",
            "/hooks/..",
            "/hooks\\..",
        ] {
            assert_eq!(kind(&rules(), path), Kind::Usual, "{path}");
        }
    }

    proptest! {
        /// Any letter of a closed path may be encoded, once or twice, and capitals and needless
        /// parts may be put in.
        #[test]
        fn no_writing_of_a_closed_path_gets_through(
            how in proptest::collection::vec(0_u8..9, 14),
        ) {
            let mut path = String::new();
            for (letter, how) in "/api/v1/admin/".chars().zip(how) {
                match how {
                    0 => path.push(letter),
                    1 => path.push(letter.to_ascii_uppercase()),
                    2 => path.push_str(&format!("%{:02x}", u32::from(letter))),
                    3 => path.push_str(&format!("%25{:02X}", u32::from(letter))),
                    4 if letter == '/' => path.push_str("//"),
                    5 if letter == '/' => path.push_str("/./"),
                    6 if letter == '/' => path.push_str("/x/../"),
                    7 if letter == '/' => path.push_str("/a%2fb/%2e%2e/"),
                    8 if letter == '/' => path.push_str("/\\"),
                    _ => path.push(letter),
                }
            }
            path.push_str("rpc");
            prop_assert_eq!(kind(&rules(), &path), Kind::Closed, "{}", path);
        }
    }
}
