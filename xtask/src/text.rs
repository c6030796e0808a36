//! Words that no file of the repository may hold: hosts of package registries (whoever builds
//! has their own, by their tools' configuration) and folders of one person's machine.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// The words, cut in two so that this file does not hold them.
const FORBIDDEN: [(&str, &str); 10] = [
    ("registry.", "npmjs"),
    ("npmjs.", "com"),
    ("index.", "crates.io"),
    ("static.", "crates.io"),
    ("pypi.", "org"),
    ("pythonhosted", ".org"),
    ("proxy.", "golang.org"),
    ("deb.", "debian.org"),
    ("/ro", "ot/"),
    ("/wo", "rk/"),
];

/// Folders of root's in a guest, which is nobody's machine, cut in two as above.
const OF_GUESTS: [(&str, &str); 2] = [("/ro", "ot/.ssh"), ("/ro", "ot/.openclaw")];

/// Files whose contents are not ours to choose.
const EXEMPT: [&str; 1] = ["Cargo.lock"];

/// Every file that is or would be checked in.
pub(crate) fn files(root: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root)
        .output()
        .context("git can't be run")?;
    if !output.status.success() {
        bail!("git ls-files failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let names = String::from_utf8(output.stdout).context("a file's name is no UTF-8")?;
    let mut files: Vec<PathBuf> = names.split_terminator('\0').map(PathBuf::from).collect();
    files.sort();
    files.dedup();
    Ok(files)
}

pub(crate) fn problems(root: &Path, files: &[PathBuf]) -> Result<Vec<String>> {
    let mut problems = Vec::new();
    for file in files.iter().filter(|file| !EXEMPT.iter().any(|exempt| Path::new(exempt) == *file)) {
        let path = root.join(file);
        // Listed and gone: removed, not yet checked in. A link is checked where it leads.
        if !path.is_file() || path.is_symlink() {
            continue;
        }
        let contents = std::fs::read(&path).with_context(|| format!("{} can't be read", file.display()))?;
        problems.extend(in_text(file, &String::from_utf8_lossy(&contents)));
    }
    Ok(problems)
}

fn in_text(file: &Path, text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    for (head, tail) in FORBIDDEN {
        let word = format!("{head}{tail}");
        for (number, line) in text.lines().enumerate() {
            let own = OF_GUESTS.iter().map(|(head, tail)| format!("{head}{tail}"));
            let line = own.fold(line.to_owned(), |line, folder| line.replace(&folder, ""));
            if line.contains(&word) {
                problems.push(format!(
                    "{}:{}: '{word}' must not be in the repository",
                    file.display(),
                    number + 1
                ));
            }
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forbidden_word_is_found_with_its_line() {
        for (head, tail) in FORBIDDEN {
            let text = format!("first\nsee {head}{tail} here\n");
            let problems = in_text(Path::new("a.md"), &text);
            assert_eq!(problems.len(), 1, "{problems:?}");
            assert!(problems[0].starts_with("a.md:2:"), "{problems:?}");
        }
        assert!(in_text(Path::new("a.md"), "the network/works, a root user").is_empty());
        for (head, tail) in OF_GUESTS {
            assert!(in_text(Path::new("a.md"), &format!("{head}{tail}/x in a guest")).is_empty());
        }
    }
}
