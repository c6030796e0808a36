//! What looks like a credential, and what has the name of one.

use std::sync::LazyLock;

use regex::{Captures, Regex};

use super::redact::REDACTED;

/// Names that say what they hold, also as a part of a longer one: `bot_token`, `X-Api-Key`.
const NAMES: &str = "token|secret|passwo?r?d|passphrase|authorization|credential|cookie|(?:api|private|access|master)[_-]?key";

/// Patterns. What their first group matched stays before the mark, their second after it.
static PATTERNS: LazyLock<Vec<Regex>> = LazyLock::new(|| {
    let keyed = format!(
        // A name, and what is set to it: taken out already, quoted within something quoted,
        // quoted, or a word.
        r#"(?i)((?:{NAMES}|[_-]key|\bkey)[\w.-]*\\*["']?[ \t]*[:=][ \t]*)(?:\[redacted\]|\\+["'](?:[^"'\\\n]|\\+[^"'\\\n])*(?:\\+["'])?|"(?:[^"\\\n]|\\.)*"?|'[^'\n]*'?|(?:(?:bearer|basic)[ \t]+)?[^\s,;&"']+)"#
    );
    [
        // The whole block, also one that was cut off at its end or its beginning.
        r"(?s)-----BEGIN [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----.*?(?:-----END [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----|\z)",
        r"\A[A-Za-z0-9+/=\s]+-----END [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----",
        // user:password@ in a URL.
        r#"([A-Za-z][A-Za-z0-9+.-]*://)[^/\s:@"'<>]*:[^/\s@"'<>]+(@)"#,
        // ?token= and its kin, in a query or a fragment.
        r#"(?i)([?&#;][\w.-]*(?:token|key|secret|passw(?:or)?d|auth|sig|signature|code)=)[^&\s"'<>#;]+"#,
        r"(?i)\b((?:bearer|basic)\s+)[A-Za-z0-9._~+/=-]{6,}",
        // JSON web tokens.
        r"\beyJ[\w-]{5,}\.[\w-]{5,}(?:\.[\w-]*)?",
        // Keys by what they begin with: OpenAI, Anthropic, Stripe; GitHub, GitLab, npm, Hugging
        // Face; Slack; AWS, Google.
        r"\b(?:sk|rk|pk)[-_][\w-]{12,}",
        r"\b(?:gh[pousr]_|github_pat_|glpat-|npm_|hf_)[\w-]{12,}",
        r"\bxox[abeprs]-[A-Za-z0-9-]{8,}",
        r"\b(?:(?:AKIA|ASIA)[0-9A-Z]{16}|AIza[\w-]{30,})",
        // Telegram's bot tokens.
        r"\b[0-9]{6,12}:[\w-]{30,}",
        // What clawfarm's own tokens look like, also those that were replaced; digests with them.
        r"\b[0-9a-fA-F]{64}\b",
        &keyed,
    ]
    .into_iter()
    .map(compiled)
    .collect()
});

static SECRET_NAME: LazyLock<Regex> =
    LazyLock::new(|| compiled(&format!(r"(?i:{NAMES})|(?i:(?:^|[_.-])key$)|[a-z0-9]Key$")));

/// Patterns are our own, and a test compiles each.
fn compiled(pattern: &str) -> Regex {
    Regex::new(pattern).unwrap_or_else(|error| panic!("a pattern is broken: {error}"))
}

/// Whether a field of this name holds a secret.
pub(super) fn is_secret_name(name: &str) -> bool {
    SECRET_NAME.is_match(name)
}

/// Takes out what looks like a credential. As many lines are left as there were.
pub(super) fn take_out(text: &str) -> String {
    let mut text = text.to_owned();
    for pattern in PATTERNS.iter() {
        let taken = pattern.replace_all(&text, |found: &Captures<'_>| {
            let kept = found.get(1).map_or("", |kept| kept.as_str());
            let lines = "\n".repeat(found[0][kept.len()..].matches('\n').count());
            let after = found.get(2).map_or("", |after| after.as_str());
            format!("{kept}{REDACTED}{lines}{after}")
        });
        text = taken.into_owned();
    }
    text
}
