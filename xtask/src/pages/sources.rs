//! The words in the sources, to hold pages against.

use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, Result};
use proc_macro2::{TokenStream, TokenTree};

/// A text in the sources.
#[derive(Debug)]
pub(super) struct Literal {
    /// The text; in a format string with `…` for each value that is put in.
    pub(super) text: String,
    /// Whether its file measures something: it uses one of the macros of `metrics`.
    pub(super) measures: bool,
}

/// The macros that describe or change a measurement.
const MEASURING: [&str; 6] =
    ["counter", "gauge", "histogram", "describe_counter", "describe_gauge", "describe_histogram"];

/// Every text in the crates' sources, without their tests' own files.
pub(super) fn literals(root: &Path, files: &[PathBuf]) -> Result<Vec<Literal>> {
    let mut literals = Vec::new();
    for file in files {
        let name = file.to_string_lossy();
        let source = name.starts_with("crates/") && name.contains("/src/") && name.ends_with(".rs");
        if !source || name.ends_with("/tests.rs") || !root.join(file).is_file() {
            continue;
        }
        let text = fs::read_to_string(root.join(file)).with_context(|| format!("{name} can't be read"))?;
        literals.extend(in_source(&text).with_context(|| format!("{name} is no Rust"))?);
    }
    Ok(literals)
}

fn in_source(source: &str) -> Result<Vec<Literal>> {
    let tokens = TokenStream::from_str(source).map_err(|e| anyhow::anyhow!("{e}"))?;
    let mut found = Found::default();
    found.walk(tokens);
    let measures = found.measures;
    Ok(found.texts.into_iter().map(|text| Literal { text: without_values(&text), measures }).collect())
}

#[derive(Default)]
struct Found {
    texts: Vec<String>,
    measures: bool,
}

impl Found {
    fn walk(&mut self, tokens: TokenStream) {
        let mut before_test = 0_u8;
        for token in tokens {
            match token {
                TokenTree::Group(group) => {
                    // `#[cfg(test)] mod tests { … }`: what tests say nobody reads.
                    if before_test == 2 && group.delimiter() == proc_macro2::Delimiter::Brace {
                        before_test = 0;
                        continue;
                    }
                    if group.delimiter() == proc_macro2::Delimiter::Bracket
                        && group.stream().to_string() == "cfg (test)"
                    {
                        before_test = 1;
                    }
                    self.walk(group.stream());
                }
                TokenTree::Literal(literal) => {
                    if let Ok(text) = syn::parse_str::<syn::LitStr>(&literal.to_string()) {
                        self.texts.push(text.value());
                    }
                }
                TokenTree::Ident(ident) => {
                    let word = ident.to_string();
                    self.measures |= MEASURING.contains(&word.as_str());
                    if before_test == 1 && word == "mod" {
                        before_test = 2;
                    }
                }
                TokenTree::Punct(punct) if punct.as_char() == ';' => before_test = 0,
                TokenTree::Punct(_) => {}
            }
        }
    }
}

/// A format string with `…` for each of its values, and its doubled braces as one.
fn without_values(format: &str) -> String {
    let mut text = String::new();
    let mut letters = format.chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            '{' if letters.peek() == Some(&'{') => {
                letters.next();
                text.push('{');
            }
            '}' if letters.peek() == Some(&'}') => {
                letters.next();
                text.push('}');
            }
            '{' => {
                for inside in letters.by_ref() {
                    if inside == '}' {
                        break;
                    }
                }
                text.push('…');
            }
            _ => text.push(letter),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_found_in_macros_and_calls_but_not_in_tests() {
        let source = r##"
            fn a() { Error::new(format!("there is no '{id}' in {:>5} {{x}}", b)).fix("two \
                lines"); let c = r#"raw "one""#; }
            #[cfg(test)]
            mod tests { fn t() { "only a test" } }
            #[cfg(test)] use x;
            mod other { fn u() { gauge!("clawfarm_x") } }
        "##;
        let texts: Vec<_> = in_source(source).unwrap();
        let all: Vec<&str> = texts.iter().map(|l| l.text.as_str()).collect();
        assert_eq!(all, ["there is no '…' in … {x}", "two lines", "raw \"one\"", "clawfarm_x"]);
        assert!(texts[0].measures);
        assert!(!in_source("fn a() { \"x\" }").unwrap()[0].measures);
    }
}
