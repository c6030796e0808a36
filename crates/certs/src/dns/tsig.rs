//! A key for DNS updates, from a file as BIND's tools write it (`tsig-keygen`).

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clawfarm_model::{Error, Result};
use hickory_proto::rr::TSigner;
use hickory_proto::rr::rdata::tsig::TsigAlgorithm;

use super::ask::name;

/// How far the server's clock may be from this machine's, in seconds: what BIND uses.
const FUDGE: u16 = 300;

/// Reads a key.
pub(super) fn read(path: &Path) -> Result<TSigner> {
    let text = std::fs::read_to_string(path).map_err(|error| unusable(path, &error.to_string()))?;
    parse(&text).map_err(|why| unusable(path, &why))
}

fn unusable(path: &Path, why: &str) -> Error {
    Error::invalid("acme_dns_key_file", format!("{} can't be used: {why}", path.display())).fix(
        "give a file that 'tsig-keygen -a hmac-sha256 NAME' wrote: key \"NAME\" { algorithm hmac-sha256; secret \"...\"; };",
    )
}

fn parse(text: &str) -> std::result::Result<TSigner, String> {
    // Words, with what stands in quotation marks as one.
    let spaced: String = text
        .lines()
        .filter(|line| !line.trim_start().starts_with(['#', '/']))
        .flat_map(|line| line.chars().chain(['\n']))
        .map(|c| if matches!(c, '{' | '}' | ';' | '"') { ' ' } else { c })
        .collect();
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let after = |word: &str| {
        words
            .iter()
            .position(|it| *it == word)
            .and_then(|at| words.get(at + 1))
            .copied()
            .ok_or(format!("it has no '{word}'"))
    };
    let algorithm = match after("algorithm")?.to_ascii_lowercase().as_str() {
        "hmac-sha256" => TsigAlgorithm::HmacSha256,
        "hmac-sha384" => TsigAlgorithm::HmacSha384,
        "hmac-sha512" => TsigAlgorithm::HmacSha512,
        other => return Err(format!("its algorithm '{other}' is too weak or unknown; use hmac-sha256")),
    };
    let secret = STANDARD.decode(after("secret")?).map_err(|_| "its secret is no base64".to_owned())?;
    let signer = name(after("key")?).map_err(|error| error.message().to_owned())?;
    TSigner::new(secret, algorithm, signer, FUDGE).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_binds_tools_write_is_read() {
        let good = "# made today\nkey \"claws\" {\n\talgorithm hmac-sha256;\n\tsecret \"c2VjcmV0IHNlY3JldA==\";\n};\n";
        let key = parse(good).unwrap();
        assert_eq!(key.signer_name().to_string(), "claws.");
        assert_eq!(key.key(), b"secret secret");
        for bad in [
            "",
            "key \"a\" { algorithm hmac-md5; secret \"eA==\"; };",
            "key \"a\" { algorithm hmac-sha256; };",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        let told = parse("key \"a\" { algorithm hmac-sha256; secret \"se*cret\"; };").err().unwrap();
        assert!(!told.contains("se*cret"));
    }
}
