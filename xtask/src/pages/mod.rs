//! What pages for people are held against: their links, and what they quote from the program.

mod links;
mod markdown;
mod quoted;
mod sources;

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

/// What is wrong with the pages as they are written.
pub(crate) fn problems(root: &Path, files: &[PathBuf]) -> Result<Vec<String>> {
    let mut problems = links::problems(root, files)?;
    problems.extend(quoted::problems(root, files)?);
    Ok(problems)
}

/// Checks the links of the pages, and of the book that was built from them.
pub(crate) fn links(root: &Path, files: &[PathBuf], book: &Path) -> Result<()> {
    let mut problems = links::problems(root, files)?;
    problems.extend(links::problems_of_book(root, files, book)?);
    for problem in &problems {
        eprintln!("error: {problem}");
    }
    if !problems.is_empty() {
        bail!("{} problems in the book", problems.len());
    }
    Ok(())
}
