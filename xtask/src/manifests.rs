//! What every crate takes from the workspace, and that it says what it is for.

use anyhow::{Context, Result};

use crate::metadata::Package;

/// Keys of `[package]` that are the workspace's.
const INHERITED: [&str; 5] = ["version", "edition", "rust-version", "license", "publish"];

pub(crate) fn problems(packages: &[Package]) -> Result<Vec<String>> {
    let mut problems = Vec::new();
    for package in packages {
        let manifest = std::fs::read_to_string(&package.manifest_path)
            .with_context(|| format!("{} can't be read", package.manifest_path.display()))?;
        problems.extend(inherits(&package.name, &manifest));
        for target in &package.targets {
            if target.kind.iter().any(|kind| matches!(kind.as_str(), "lib" | "bin" | "proc-macro")) {
                let source = std::fs::read_to_string(&target.src_path)
                    .with_context(|| format!("{} can't be read", target.src_path.display()))?;
                if !has_doc(&source) {
                    problems.push(format!(
                        "crate {} has no doc: begin {} with `//!` and what it is for",
                        package.name,
                        target.src_path.display()
                    ));
                }
            }
        }
    }
    Ok(problems)
}

fn inherits(name: &str, manifest: &str) -> Vec<String> {
    let mut problems: Vec<String> = INHERITED
        .iter()
        .filter(|key| !says(manifest, "package", &format!("{key}.workspace=true")))
        .map(|key| format!("crate {name} has its own {key}; write `{key}.workspace = true`"))
        .collect();
    if !says(manifest, "lints", "workspace=true") {
        problems.push(format!("crate {name} has its own lints; write `[lints]` and `workspace = true`"));
    }
    problems
}

/// Whether a section has this line, blanks apart.
fn says(manifest: &str, section: &str, wanted: &str) -> bool {
    let heading = format!("[{section}]");
    let mut inside = false;
    manifest.lines().any(|line| {
        let line: String = line.split('#').next().unwrap_or_default().split_whitespace().collect();
        if line.starts_with('[') {
            inside = line == heading;
        }
        inside && line == wanted
    })
}

fn has_doc(source: &str) -> bool {
    source
        .lines()
        .find(|line| !line.trim().is_empty())
        .is_some_and(|line| line.trim().len() > 4 && line.starts_with("//!"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "[package]\nname = \"x\"\nversion.workspace = true\nedition.workspace=true\n\
        rust-version.workspace = true # why\nlicense.workspace = true\npublish.workspace = true\n\n\
        [lints]\nworkspace = true\n";

    #[test]
    fn what_is_not_inherited_is_named() {
        assert_eq!(inherits("x", GOOD), Vec::<String>::new());
        for key in INHERITED {
            let own = GOOD.replace(&format!("\n{key}.workspace"), &format!("\n# {key}"));
            assert_eq!(inherits("x", &own).len(), 1, "{key}");
            assert!(inherits("x", &own)[0].contains(key));
        }
        assert!(inherits("x", &GOOD.replace("[lints]", "[other]"))[0].contains("lints"));
    }

    #[test]
    fn a_doc_comes_first_and_says_something() {
        assert!(has_doc("\n//! What it is for.\nuse x;"));
        assert!(!has_doc("use x;\n//! Too late."));
        assert!(!has_doc("//!\n"));
        assert!(!has_doc(""));
    }
}
