//! How secrets reach the claw: as environment variables that `openclaw.json` refers to, so
//! that no secret is in a file which the claw rewrites, backs up and shows in its dashboard.

use clawfarm_model::secret::SecretRef;
use serde_json::{Value, json};

pub(super) use crate::shared::secrets::{value, variable};

/// The variable that holds the token which its gateway asks for: its password, in OpenClaw's
/// words, since a claw that trusts a proxy takes no token.
pub(super) const GATEWAY_TOKEN: &str = "OPENCLAW_GATEWAY_PASSWORD";
/// The variable that holds the key for clawfarm's own model endpoint.
pub(super) const MODEL_KEY: &str = "CLAWFARM_MODEL_KEY";

/// A reference to a variable, as OpenClaw writes it.
pub(super) fn env_reference(variable: &str) -> Value {
    json!({ "source": "env", "provider": "default", "id": variable })
}

/// A reference to a secret.
pub(super) fn reference(secret: &SecretRef) -> Value {
    env_reference(&variable(&secret.secret))
}

/// A secret inside a text, for a key that takes no reference: OpenClaw puts the variable's value
/// in when it reads its configuration, and its file has the name only.
pub(super) fn inserted(secret: &SecretRef) -> String {
    format!("${{{}}}", variable(&secret.secret))
}

/// A text as it is: what looks like a variable in it is none. OpenClaw's own way to say so is
/// one `$` more, and only before what it would take for a variable.
pub(super) fn literal(text: &str) -> String {
    let is_variable = |rest: &str| {
        let name = rest.split_once('}').map_or("", |(name, _)| name);
        !name.is_empty()
            && !name.starts_with(|c: char| c.is_ascii_digit())
            && name.bytes().all(|b| matches!(b, b'A'..=b'Z' | b'0'..=b'9' | b'_'))
    };
    let mut pieces = text.split("${");
    let mut out = pieces.next().unwrap_or_default().to_owned();
    let mut at = out.len();
    for piece in pieces {
        at += "${".len();
        out.push_str(if is_variable(&text[at..]) { "$${" } else { "${" });
        out.push_str(piece);
        at += piece.len();
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What OpenClaw 2026.9.6 makes of a text (its `substituteString`), without variables.
    fn read(text: &str) -> String {
        let chars: Vec<char> = text.chars().collect();
        let name = |at: usize| {
            let length = chars.get(at..)?.iter().position(|c| *c == '}')?;
            let name: String = chars[at..at + length].iter().collect();
            let good = name.starts_with(|c: char| c.is_ascii_uppercase() || c == '_')
                && name.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_');
            good.then_some((name, at + length + 1))
        };
        let (mut out, mut at) = (String::new(), 0);
        while at < chars.len() {
            let here = &chars[at..];
            if here.starts_with(&['$', '$', '{'])
                && let Some((name, end)) = name(at + 3)
            {
                out.push_str(&format!("${{{name}}}"));
                at = end;
            } else if here.starts_with(&['$', '{'])
                && let Some((_, end)) = name(at + 2)
            {
                out.push_str("A VARIABLE");
                at = end;
            } else {
                out.push(chars[at]);
                at += 1;
            }
        }
        out
    }

    proptest::proptest! {
        #[test]
        fn a_text_is_read_as_it_was_meant(text in "([$]|[{]|[}]|A|b|1|_|é){0,24}") {
            proptest::prop_assert_eq!(read(&literal(&text)), text);
        }
    }

    #[test]
    fn only_what_would_be_a_variable_is_marked() {
        for (text, marked) in [("${A}", "$${A}"), ("$${A}", "$$${A}"), ("${5} $ ${a", "${5} $ ${a")] {
            assert_eq!(literal(text), marked);
        }
    }
}
