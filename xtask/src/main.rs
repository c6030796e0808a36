//! Checks of the repository itself (`cargo xtask check`), and what is generated in it
//! (`cargo xtask openapi`, `cargo xtask docs`).

mod arrows;
mod docs;
mod failpoints;
mod manifests;
mod metadata;
mod openapi;
mod pages;
mod text;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};

const USAGE: &str = "usage: cargo xtask check
       cargo xtask openapi [--check]
       cargo xtask docs
       cargo xtask links <BOOK>

  check     the crates' dependency arrows, what every crate inherits, lib docs, words that no
            file may hold, and the pages of docs/: what is generated, quoted and linked in them;
            and that failpoints are for tests
  openapi   writes docs/openapi.json anew; with --check only says whether it is current
  docs      writes the generated pages and drawings of docs/ anew
  links     checks the links of docs/ in the book that was built from it";

fn main() -> ExitCode {
    match run(&std::env::args().skip(1).collect::<Vec<_>>()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> Result<()> {
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["check"] => check(&root()?),
        ["openapi"] => openapi::write(&root()?),
        ["openapi", "--check"] => openapi::check(&root()?),
        ["docs"] => docs::write(&root()?),
        ["links", book] => {
            let root = root()?;
            pages::links(&root, &text::files(&root)?, Path::new(book))
        }
        ["help" | "--help" | "-h"] => {
            println!("{USAGE}");
            Ok(())
        }
        _ => bail!("{USAGE}"),
    }
}

/// The folder of the workspace, wherever in it this was called.
fn root() -> Result<PathBuf> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    Ok(here.parent().context("xtask has no folder above it")?.to_owned())
}

fn check(root: &Path) -> Result<()> {
    let packages = metadata::packages(root)?;
    let files = text::files(root)?;
    let mut problems = arrows::problems(&packages);
    problems.extend(failpoints::problems(&packages));
    problems.extend(manifests::problems(&packages)?);
    problems.extend(text::problems(root, &files)?);
    problems.extend(docs::problems(root)?);
    problems.extend(pages::problems(root, &files)?);
    for problem in &problems {
        eprintln!("error: {problem}");
    }
    if !problems.is_empty() {
        bail!("{} problems", problems.len());
    }
    println!("checked {} crates and {} files: nothing to say", packages.len(), files.len());
    Ok(())
}
