//! The API is as its description says: schemathesis asks what the description allows, and what
//! it does not, and holds each answer against it.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::server::Server;
use crate::support::finish_within;

/// Requests for each operation and phase that are made up; some hundred more come from the
/// edges of the description.
const EXAMPLES: &str = "20";
/// The operations that `schemathesis.toml` leaves out.
const LEFT_OUT: usize = 7;
/// Enough to install schemathesis as well, where nobody did before. A run takes two minutes by
/// itself, and took nine where others held the machine.
const LIMIT: Duration = Duration::from_secs(1_500);

/// With `CLAWFARM_TEST_SEED` and `CLAWFARM_TEST_EXAMPLES` another run, or a longer one: `make fuzz`.
#[test]
fn e2e_the_api_is_as_its_description_says() {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let found = Command::new(repository.join("scripts/schemathesis")).output().expect("the script runs");
    assert!(found.status.success(), "{}", String::from_utf8_lossy(&found.stderr));
    let schemathesis = String::from_utf8(found.stdout).expect("a path");

    let server = Server::start(6);
    let operations = server.get("/api/v1/operations");
    let operations: Vec<&str> =
        operations["items"].as_array().expect("a list").iter().filter_map(|o| o["id"].as_str()).collect();
    let from_env = |name: &str, usual: &str| std::env::var(name).unwrap_or_else(|_| usual.to_owned());
    let (seed, examples) =
        (from_env("CLAWFARM_TEST_SEED", "20261121"), from_env("CLAWFARM_TEST_EXAMPLES", EXAMPLES));
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/schemathesis");
    let run = Command::new(schemathesis.trim())
        .arg("--config-file")
        .arg(tests.join("schemathesis.toml"))
        .arg("run")
        .arg(format!("http://{}/api/v1/openapi.json", server.address))
        .args(["--header", &format!("Authorization: Bearer {}", server.token)])
        // Its stateful phase trips over links that it infers itself.
        .args(["--phases", "examples,coverage,fuzzing"])
        .args(["--max-examples", &examples, "--seed", &seed])
        .args(["--generation-database", "none", "--no-color", "--request-timeout", "20"])
        .env("SCHEMATHESIS_HOOKS", tests.join("hooks.py"))
        .env("CLAWFARM_IDS", server.claws.join(","))
        .env("CLAWFARM_OPERATIONS", operations.join(","))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .current_dir(server.home.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("schemathesis starts");
    let done = finish_within(run, LIMIT);
    println!("{}", done.out);
    assert_eq!(done.code, Some(0), "seed {seed}: {}\n{}", done.err, server.log());
    let cases: u32 = done
        .out
        .split_once(" generated,")
        .and_then(|(before, _)| before.rsplit(char::is_whitespace).next())
        .and_then(|n| n.replace(',', "").parse().ok())
        .expect("the number of cases");
    assert!(cases > 500, "only {cases} cases were made");
    let description = server.get("/api/v1/openapi.json");
    let all: usize = description["paths"]
        .as_object()
        .expect("paths")
        .values()
        .filter_map(|p| p.as_object())
        .map(|p| p.len())
        .sum();
    let tested = format!("Tested: {}", all - LEFT_OUT);
    assert!(done.out.contains(&tested), "{tested} is missing: has an operation been left out?");
    server.is_whole();
}
